"""What a reviewer reads on the pages of the model and of its versions in MLflow, in Markdown."""

import math
from dataclasses import dataclass

from bc_tasks import grouping
from bc_tasks.config import RegistryConfig
from bc_tasks.records import Evaluation, Interval, ModelScores, Override, Run, Snapshot, TrainedModel, Verdict

TITLES = {"auc": "area under the ROC curve", "brier": "Brier score (lower is better)", "f1": "F1"}
OF_GROUPS = ("recall", "specificity", "f1", "auc")
"""Shown by breast and by patient too; MLflow has the others."""
CELL_END = "&emsp;"  # MLflow draws tables without any space between their columns


@dataclass(frozen=True)
class Night:
    """The records of a run that a version is made of."""

    run: Run
    trained: TrainedModel
    evaluation: Evaluation
    verdict: Verdict
    snapshot: Snapshot
    override: Override | None = None


def describe_model(config: RegistryConfig) -> str:
    """Say what the model is for, what its aliases mean, and how a version is called."""
    return f"""Calls cancer, or no cancer, on single mammograms. It is retrained as new labelled images arrive.

Each version is the best model of one night, and passed the gate, unless its description says who let it through, and \
why. The newest has the alias \
`{config.challenger_alias}`. The alias `{config.champion_alias}` is given by a person only; every later night is \
measured against that version.

```python
model = mlflow.pyfunc.load_model("models:/{config.model_name}@{config.challenger_alias}")
model.predict("mammogram.dcm")  # a path, an image's bytes, or a list of either: JPEG, PNG or DICOM
```

The answer holds the probability of cancer, the call at the version's operating point, and that point. \
It is no diagnosis.
"""


def describe_version(night: Night) -> str:
    """Say how the version did, how it compares with the champion, why the gate passed it, and what it was made of."""
    verdict = night.verdict
    return "\n\n".join(
        (
            *_overridden(night.override),
            verdict.summary,  # first and without markup: the list of versions shows its beginning as it stands
            _calls(night.evaluation.challenger),
            _table(night.evaluation, night.run.config.evaluation.confidence),
            f"**What the gate saw** ({verdict.kind}; evidence: {verdict.grade or 'nothing to compare with'})",
            "\n".join(f"- {'' if rule.passed else '**against it:** '}{rule.sentence}" for rule in verdict.rules),
            "**How far this holdout can be trusted**",
            "\n".join(f"- {sentence}" for sentence in (verdict.power.sentence, *verdict.notes)),
            "**What it was made of**",
            _origin(night),
        )
    )


def _overridden(override: Override | None) -> tuple[str, ...]:
    if override is None:
        return ()
    return (f"Registered by {override.by} against the verdict, on {override.at:%Y-%m-%d}: {override.reason}",)


def _calls(model: ModelScores) -> str:
    counts = model.confusion
    num_cancer = counts.num_true_positive + counts.num_false_negative
    num_healthy = counts.num_true_negative + counts.num_false_positive
    num_patients = len({score.patient_id for score in model.scores})
    return (
        f"On the holdout, {num_cancer + num_healthy:,} images of {num_patients:,} patients, it finds "
        f"{counts.num_true_positive:,} of {num_cancer:,} images with cancer and misses {counts.num_false_negative:,}; "
        f"of {num_healthy:,} images without, it calls {counts.num_false_positive:,} cancer. "
        f"It calls cancer from a probability of {model.spec.operating_point:.3f} on. {_groups(model)}"
    )


def _groups(model: ModelScores) -> str:
    breasts, patients = grouping.by_breast(model.scores), grouping.by_patient(model.scores)
    left_out = f"; images of an unknown side, in no breast: {breasts.num_left_out:,}" if breasts.num_left_out else ""
    return (
        "A breast or a patient is called cancer where any of its images is: here "
        f"{len(breasts):,} breasts, {breasts.labels.sum():,} of them with cancer, and "
        f"{len(patients):,} patients, {patients.labels.sum():,} of them with cancer{left_out}."
    )


def _table(evaluation: Evaluation, confidence: float) -> str:
    ours, champion = _shown(evaluation.challenger), evaluation.champion
    header = [f"holdout, with {confidence:.0%} intervals", "this version"]
    rows = [[name, _figure(metric)] for name, metric in ours.items()]
    if champion is not None:
        header += [f"champion, version {evaluation.champion_version}", "difference"]
        theirs = _shown(champion)
        for row, (name, metric) in zip(rows, ours.items(), strict=True):
            row += [_figure(theirs[name]), f"{metric.value - theirs[name].value:+.3f}"]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (_spaced(header), ["---"] * len(header), *map(_spaced, rows))
    )


def _shown(model: ModelScores) -> dict[str, Interval]:
    """Return the rows of the table: every metric of images, and a few of breasts and patients."""
    groups = {"": model.metrics, " by breast": model.by_breast, " by patient": model.by_patient}
    return {
        f"{TITLES.get(name, name.replace('_', ' '))}{ending}": metric
        for ending, metrics in groups.items()
        for name, metric in metrics.items()
        if not ending or name in OF_GROUPS
    }


def _spaced(cells: list[str]) -> list[str]:
    return [f"{cell}{CELL_END}" for cell in cells]


def _figure(metric: Interval) -> str:
    bounds = "" if math.isnan(metric.low) else f" ({metric.low:.3f} to {metric.high:.3f})"
    if metric.low == metric.high:  # which a reader would take for certainty
        bounds = " (no resample differed)"
    return f"{metric.value:.3f}{bounds}"


def _origin(night: Night) -> str:
    trained, snapshot, holdout = night.trained, night.snapshot, night.evaluation.challenger.holdout_fingerprint
    return (
        f"Snapshot {snapshot.number} (`{snapshot.fingerprint[:12]}`): {trained.num_training_images:,} images for "
        f"training and {trained.num_tuning_images:,} for tuning, at {trained.spec.image_size_px} px. "
        f"Started from {trained.started_from}; epoch {trained.best_epoch} of {trained.num_epochs} was the best. "
        f"{_fitted(trained)} "
        f"Run `{night.run.run_uri}`, code `{night.run.code_version}`, holdout `{holdout[:12]}`."
    )


def _fitted(trained: TrainedModel) -> str:
    scale = trained.calibration
    note = f" ({scale.note})" if scale.note else ""
    errors = "" if scale.num_images == 0 else f", calibration error {scale.error_before:.3f} to {scale.error_after:.3f}"
    return (
        f"On tuning, probabilities were calibrated with temperature {scale.temperature:.3f}{note}{errors}, and the "
        f"operating point was fitted by the policy `{trained.operating_point_policy}`"
        f"{': ' + trained.operating_point_reached if trained.operating_point_reached else '.'}"
    )

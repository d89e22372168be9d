"""What a reviewer reads on the pages of the model and of its versions in MLflow, in Markdown."""

import math
from dataclasses import dataclass

from bc_tasks.config import RegistryConfig
from bc_tasks.records import Evaluation, Interval, ModelScores, Run, Snapshot, TrainedModel, Verdict

TITLES = {
    "recall": "recall",
    "precision": "precision",
    "specificity": "specificity",
    "f1": "F1",
    "accuracy": "accuracy",
    "auc": "area under the ROC curve",
    "average_precision": "average precision",
    "brier": "Brier score (lower is better)",
}


@dataclass(frozen=True)
class Night:
    """The records of a run that a version is made of."""

    run: Run
    trained: TrainedModel
    evaluation: Evaluation
    verdict: Verdict
    snapshot: Snapshot


def describe_model(config: RegistryConfig) -> str:
    """Say what the model is for, what its aliases mean, and how a version is called."""
    return f"""Calls cancer, or no cancer, on single mammograms. It is retrained as new labelled images arrive.

Each version is the best model of one night, and passed the gate. The newest has the alias `{config.challenger_alias}`. \
The alias `{config.champion_alias}` is given by a person only; every later night is measured against that version.

```python
model = mlflow.pyfunc.load_model("models:/{config.model_name}@{config.challenger_alias}")
model.predict("mammogram.dcm")  # a path, an image's bytes, or a list of either: JPEG, PNG or DICOM
```

The answer holds the probability of cancer, the call at the version's operating point, and that point. It is no diagnosis.
"""


def describe_version(night: Night) -> str:
    """Say what this version is, how it compares with the champion, why the gate passed it, and what it was made of."""
    name = night.run.run_uri.rsplit("/", 1)[1]
    return "\n\n".join(
        (
            f"**{night.trained.spec.backbone}**, the best model of the night `{name}`. {_calls(night.evaluation.challenger)}",
            _table(night.evaluation, night.run.config.evaluation.confidence),
            f"**Verdict: {night.verdict.kind}.** {night.verdict.summary}",
            "\n".join(f"- {rule.sentence}" for rule in night.verdict.rules),
            _origin(night),
        )
    )


def _calls(model: ModelScores) -> str:
    counts = model.confusion
    num_cancer = counts.num_true_positive + counts.num_false_negative
    num_healthy = counts.num_true_negative + counts.num_false_positive
    num_patients = len({score.patient_id for score in model.scores})
    return (
        f"On the holdout, {num_cancer + num_healthy:,} images of {num_patients:,} patients, it finds "
        f"{counts.num_true_positive:,} of {num_cancer:,} images with cancer and misses {counts.num_false_negative:,}; "
        f"of {num_healthy:,} images without, it calls {counts.num_false_positive:,} cancer. "
        f"It calls cancer from a probability of {model.spec.operating_point:.3f} on."
    )


def _table(evaluation: Evaluation, confidence: float) -> str:
    ours, champion = evaluation.challenger.metrics, evaluation.champion
    header = [f"holdout, with {confidence:.0%} intervals", "this version"]
    rows = [[TITLES[name], _figure(metric)] for name, metric in ours.items()]
    if champion is not None:
        header += [f"champion, version {evaluation.champion_version}", "difference"]
        for row, (name, metric) in zip(rows, ours.items(), strict=True):
            theirs = champion.metrics[name]
            row += [_figure(theirs), f"{metric.value - theirs.value:+.3f}"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _figure(metric: Interval) -> str:
    bounds = "" if math.isnan(metric.low) else f" ({metric.low:.3f} to {metric.high:.3f})"
    return f"{metric.value:.3f}{bounds}"


def _origin(night: Night) -> str:
    trained, snapshot = night.trained, night.snapshot
    return (
        f"Made of snapshot {snapshot.number} (`{snapshot.fingerprint[:12]}`) with {trained.num_training_images:,} images "
        f"for training and {trained.num_tuning_images:,} for tuning, at {trained.spec.image_size_px} px, "
        f"from {trained.started_from}; epoch {trained.best_epoch} of {trained.num_epochs}; code `{night.run.code_version}`. "
        f"Measured on holdout `{night.evaluation.challenger.holdout_fingerprint[:12]}`."
    )

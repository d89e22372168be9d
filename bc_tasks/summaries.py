"""What each record says, in a few lines for a log or a terminal."""

from collections.abc import Mapping
from functools import singledispatch

from bc_tasks import grouping
from bc_tasks.records import (
    Calibration,
    Evaluation,
    Interval,
    ModelScores,
    Record,
    RegisteredModel,
    Snapshot,
    TrainedModel,
    ValidationReport,
    Verdict,
)


@singledispatch
def summarise(record: Record) -> str:
    """Return a record as text: what happened, then what to look at."""
    return f"{record.step}: done"


@summarise.register
def _(record: Snapshot) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in record.quarantined_now.items()) or "none"
    changes = f"{record.num_new} new, {record.num_revised} revised, {record.num_withdrawn} withdrawn images"
    lines = [
        f"{changes}; quarantined tonight: {reasons}",
        f"candidate snapshot {record.fingerprint[:12]}: {_counts(record)}",
    ]
    if record.waiting_batches:
        lines.append(f"still being uploaded, left for a later night: {', '.join(record.waiting_batches)}")
    return "\n".join([*lines, *record.notes])


def _counts(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    splits = ", ".join(f"{count} {split}" for split, count in counts.by_split.items())
    return (
        f"{counts.num_images} images of {counts.num_patients} patients ({splits}), "
        f"{counts.by_label.get('1', 0)} with cancer, {counts.num_quarantined} in quarantine"
    )


@summarise.register
def _(record: ValidationReport) -> str:
    return (
        f"all {len(record.expectations)} expectations hold or cost few images: {record.num_quarantined} quarantined, "
        f"{record.bad_share:.1%} of tonight's are bad, {record.leak_share:.1%} are leaks\n"
        f"snapshot {record.snapshot.number} committed: {_counts(record.snapshot)}\nData Docs: {record.data_docs_uri}"
    )


@summarise.register
def _(record: TrainedModel) -> str:
    tuning = ", ".join(f"{name} {value:.3f}" for name, value in record.tuning_metrics.items())
    return (
        f"{record.spec.backbone}: best epoch {record.best_epoch} of {record.num_epochs}, "
        f"{record.num_training_images} training images, {record.seconds:.0f} s\n"
        f"tuning ({record.num_tuning_images} images): {tuning}\n"
        f"{_calibrated(record.calibration)}\n"
        f"operating point {record.spec.operating_point:.3f} ({record.operating_point_policy}): "
        f"{record.operating_point_reached}\nweights {record.weights_uri}"
    )


def _calibrated(scale: Calibration) -> str:
    return (
        f"temperature {scale.temperature:.3f}{f' ({scale.note})' if scale.note else ''}: log loss "
        f"{scale.log_loss_before:.3f} to {scale.log_loss_after:.3f}, "
        f"calibration error {scale.error_before:.3f} to {scale.error_after:.3f}"
    )


@summarise.register
def _(record: Evaluation) -> str:
    lines = [_measured(model) for model in (record.challenger, record.champion) if model is not None]
    if record.champion_problem:
        lines.append(f"the champion could not be measured: {record.champion_problem}")
    return "\n".join(lines)


def _measured(model: ModelScores) -> str:
    breasts, patients = grouping.by_breast(model.scores), grouping.by_patient(model.scores)
    lines = [
        f"{model.name} on {len(model.scores)} holdout images: {_figures(model.metrics)}",
        f"  by breast ({len(breasts)}; images of an unknown side: {breasts.num_left_out}): {_figures(model.by_breast)}",
        f"  by patient ({len(patients)}): {_figures(model.by_patient)}",
    ]
    return "\n".join(lines)


def _figures(metrics: Mapping[str, Interval]) -> str:
    return ", ".join(f"{name} {m.value:.3f} [{m.low:.3f}, {m.high:.3f}]" for name, m in metrics.items()) or "none"


@summarise.register
def _(record: Verdict) -> str:
    rules = [f"  {'ok  ' if rule.passed else 'FAIL'} {rule.rule}: {rule.sentence}" for rule in record.rules]
    return "\n".join([record.summary, *rules, record.power.sentence, *record.notes])


@summarise.register
def _(record: RegisteredModel) -> str:
    there = " (it was there already)" if record.was_there_already else ""
    return f"{record.name} version {record.version}{there}, aliases: {', '.join(record.aliases) or 'none'}"

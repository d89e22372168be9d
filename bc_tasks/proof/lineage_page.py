"""What `bc lineage` shows: sections of rows, each a word and what there is to say of it. Pure."""

from collections.abc import Mapping

from bc_tasks.proof.lineage import Lineage, VerdictFacts
from bc_tasks.records import Interval, Run, TrainedModel

SHOWN_METRICS = ("recall", "f1", "specificity", "auc")

Rows = list[tuple[str, str]]


def sections(lineage: Lineage) -> dict[str, Rows]:
    """Return what is known, by section; a section without rows is of a record that can't be read."""
    return {
        "Version": _version(lineage),
        "Run": _run(lineage.run) if lineage.run else [],
        "Training": _training(lineage.trained) if lineage.trained else [],
        "Data": _data(lineage),
        "Verdict": _verdict(lineage.verdict, lineage.metrics) if lineage.verdict else [],
    }


def _version(lineage: Lineage) -> Rows:
    rows = [
        ("model", f"{lineage.name} version {lineage.version}, made {lineage.created_at:%Y-%m-%d %H:%M} UTC"),
        ("aliases", ", ".join(lineage.aliases) or "none"),
        ("aliases set by", "not known: MLflow keeps no history of aliases"),
        ("in MLflow", lineage.version_url),
        ("MLflow run", lineage.mlflow_run_id),
    ]
    if lineage.override:
        rows.append(("overridden by", f"{lineage.override.by}: {lineage.override.reason}"))
    if lineage.num_withdrawn_since:
        rows.append(("withdrawn since", f"{lineage.num_withdrawn_since} patients that it saw; see bc withdrawals"))
    return rows


def _run(run: Run) -> Rows:
    pods = run.config.execution.pods
    images = {"trainer image": pods.image, "data image": pods.data_image}
    return [
        ("folder", run.run_uri),
        ("started", f"{run.started_at:%Y-%m-%d %H:%M} UTC"),
        ("started by", run.trigger),
        ("code", run.code_version),
        *((what, image or "none named: the steps ran beside Airflow, or by hand") for what, image in images.items()),
        ("configuration", f"{run.run_uri}/start.json"),
    ]


def _training(trained: TrainedModel) -> Rows:
    made = trained.environment
    packages = ", ".join(f"{name} {version}" for name, version in sorted(made.packages.items()))
    return [
        ("backbone", f"{trained.spec.backbone} ({trained.spec.timm_name}), started from {trained.started_from}"),
        ("weights", trained.weights_uri),
        ("weights' sha256", trained.weights_sha256),
        ("epochs", f"{trained.best_epoch} of {trained.num_epochs} was the best; seed {trained.seed}"),
        ("made on", f"{made.device}, Python {made.python}, {made.platform}"),
        ("packages", packages),
    ]


def _data(lineage: Lineage) -> Rows:
    rows: Rows = []
    if snapshot := lineage.snapshot:
        counts = snapshot.counts
        splits = ", ".join(f"{count:,} {split}" for split, count in counts.by_split.items())
        rows += [
            ("snapshot", f"{snapshot.number}, fingerprint {snapshot.fingerprint}"),
            ("manifest", snapshot.manifest_uri),
            ("its images", f"{counts.num_images:,} of {counts.num_patients:,} patients: {splits}"),
            ("set aside", f"{counts.num_quarantined:,}"),
            ("base snapshots", _numbers(lineage)),
        ]
    if holdout := lineage.holdout:
        labels = f"{lineage.holdout_by_label.get('1', 0):,} with cancer"
        rows += [
            ("holdout", f"fingerprint {holdout.fingerprint}, fixed {holdout.created_at:%Y-%m-%d}"),
            ("its images", f"{holdout.num_images:,} of {holdout.num_patients:,} patients, {labels}"),
        ]
    return rows


def _numbers(lineage: Lineage) -> str:
    shown = [f"{number} ({fingerprint[:12]})" for number, fingerprint in lineage.base_snapshots.items()]
    more = f", and {len(shown) - 3} before" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more if shown else "none: it is the first"


def _verdict(verdict: VerdictFacts, metrics: Mapping[str, Interval]) -> Rows:
    figures = [f"{name} {metrics[name].value:.3f}" for name in SHOWN_METRICS if name in metrics]
    return [
        ("summary", verdict.summary),
        ("evidence", f"{verdict.kind}, grade: {verdict.grade or 'nothing to compare with'}"),
        ("on the holdout", ", ".join(figures)),
        ("sha256", verdict.sha256),
        *((f"rule {rule.rule}", rule.sentence) for rule in verdict.rules),
    ]

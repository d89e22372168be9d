"""What must agree for a registered version to be what it says it is, from the version back to the images. Pure."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from bc_tasks import fingerprint, gates, manifest
from bc_tasks.mammogram import Split
from bc_tasks.proof.witnesses import NOTHING, Link, agree, digest, fact, told
from bc_tasks.records import (
    Evaluation,
    ModelSpec,
    Override,
    Part,
    RegisteredModel,
    Run,
    Snapshot,
    TrainedModel,
    ValidationReport,
    Verdict,
)

if TYPE_CHECKING:
    from bc_tasks.holdout import HoldoutMark
    from bc_tasks.tracking import Entry

MLFLOW_DIGEST_LENGTH = 36


class Image(Part):
    """An image that the version learnt from, was tuned on, or was measured on."""

    image_id: str
    patient_id: str
    split: str
    sha256: str
    pixel_sha256: str


@dataclass(frozen=True)
class Found:
    """What storage has of the version's night, as it was read; what is gone, or can't be read, is None."""

    run: Run | None = None
    report: ValidationReport | None = None
    committed: Snapshot | None = None
    bases: tuple[Snapshot, ...] = ()
    manifest: pd.DataFrame | None = None
    holdout_mark: "HoldoutMark | None" = None
    holdout: pd.DataFrame | None = None
    trained: TrainedModel | None = None
    weights_sha256: str | None = None
    evaluation: Evaluation | None = None
    verdict: Verdict | None = None
    verdict_bytes: bytes | None = None
    override: Override | None = None
    registered: RegisteredModel | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot as the night's validation committed it."""
        return self.report.snapshot if self.report else None


def check(found: Found, registry: "Entry") -> tuple[Link, ...]:
    """Compare what the witnesses say, link by link, from the version back to the images."""
    links = (_of_the_version, _of_the_verdict, _of_the_model, _of_the_snapshot, _of_the_holdout)
    return tuple(link for of_one in links for link in of_one(found, registry))


def _of_the_version(found: Found, registry: "Entry") -> Iterator[Link]:
    yield agree(
        "version",
        {
            "the registry": f"{registry.name} version {registry.version}",
            "the register record": told(found.registered, lambda record: f"{record.name} version {record.version}"),
        },
    )
    yield agree(
        "run",
        {
            "the version's tag": registry.tags.get("bc.run_uri", NOTHING),
            "the start record": told(found.run, lambda run: run.run_uri),
        },
    )
    yield agree(
        "code version",
        {
            "the version's tag": registry.tags.get("bc.code_version", NOTHING),
            "the start record": told(found.run, lambda run: run.code_version),
        },
    )
    yield agree(
        "MLflow run",
        {
            "the registry": registry.mlflow_run_id,
            "the training record": told(found.trained, lambda trained: trained.mlflow_run_id),
            "the evaluation": told(found.evaluation, lambda evaluation: evaluation.challenger_mlflow_run_id),
            "the register record": told(found.registered, lambda record: record.mlflow_run_id),
        },
    )


def _of_the_verdict(found: Found, registry: "Entry") -> Iterator[Link]:
    in_mlflow = digest(registry.verdict) if registry.verdict is not None else NOTHING
    record = told(found.verdict_bytes, digest)
    yield agree("verdict, byte for byte", {"the run's record": record, "the artifact in MLflow": in_mlflow})
    if found.override is not None:
        yield agree("verdict overridden", {"the override": found.override.verdict_sha256, "the run's record": record})
    if found.verdict is not None:
        overridden = found.override is not None and gates.may_be_overridden(found.verdict)
        allowed = found.verdict.passed or overridden
        by = f", because {found.override.by} overrode it" if found.override else ""
        sentence = f"the version may be registered{by}" if allowed else f"it forbids it: {found.verdict.summary}"
        yield fact("verdict's word", allowed, sentence)
    if found.evaluation is not None:
        yield _figures(found.evaluation, registry.metrics)


def _of_the_model(found: Found, registry: "Entry") -> Iterator[Link]:
    yield agree(
        "weights",
        {
            "the training record": told(found.trained, lambda trained: trained.weights_sha256),
            "the evaluation": told(found.evaluation, lambda evaluation: evaluation.challenger.weights_sha256),
            "the version's tag": registry.tags.get("bc.weights_sha256", NOTHING),
            "the file in the registry": registry.weights_sha256 or NOTHING,
            "the file in the run's folder": found.weights_sha256,
        },
    )
    yield agree(
        "specification",
        {
            "the training record": told(found.trained, lambda trained: _spec_digest(trained.spec)),
            "the evaluation": told(found.evaluation, lambda evaluation: _spec_digest(evaluation.challenger.spec)),
            "the file in the registry": _spec_digest(registry.spec) if registry.spec is not None else NOTHING,
        },
    )


def _of_the_snapshot(found: Found, registry: "Entry") -> Iterator[Link]:
    snapshot = found.snapshot
    yield agree(
        "snapshot",
        {
            "the validation record": told(snapshot, lambda record: record.fingerprint),
            "the committed snapshot": told(found.committed, lambda record: record.fingerprint),
            "the manifest itself": told(found.manifest, fingerprint.of_manifest),
            "the training record": told(found.trained, lambda trained: trained.snapshot_fingerprint),
            "the version's tag": registry.tags.get("bc.snapshot_fingerprint", NOTHING),
        },
    )
    if snapshot is not None:
        kept = snapshot.fingerprint[:MLFLOW_DIGEST_LENGTH]
        in_mlflow = kept if kept in registry.dataset_digests else ", ".join(registry.dataset_digests) or NOTHING
        yield agree("data set in MLflow", {"the validation record": kept, "the MLflow run": in_mlflow})
        yield _base_snapshots(snapshot, found.bases)
    yield agree(
        "snapshot's record",
        {
            "the validation record": told(snapshot, _record_digest),
            "the committed snapshot": told(found.committed, _record_digest),
        },
    )
    yield agree(
        "images learnt from and tuned on",
        {
            "the training record": told(
                found.trained, lambda it: f"{it.num_training_images} and {it.num_tuning_images}"
            ),
            "the manifest itself": told(found.manifest, _num_learnt_from),
        },
    )


def _of_the_holdout(found: Found, registry: "Entry") -> Iterator[Link]:
    yield agree(
        "holdout",
        {
            "the holdout's mark": told(found.holdout_mark, lambda mark: mark.fingerprint),
            "the holdout's manifest itself": told(found.holdout, fingerprint.of_manifest),
            "the snapshot": told(found.snapshot, lambda snapshot: snapshot.holdout_fingerprint),
            "the evaluation": told(found.evaluation, lambda it: it.challenger.holdout_fingerprint),
            "the version's tag": registry.tags.get("bc.holdout_fingerprint", NOTHING),
        },
    )
    yield agree(
        "images measured on",
        {
            "the holdout's manifest itself": told(found.holdout, lambda rows: _ids_digest(rows["image_id"])),
            "the evaluation": told(
                found.evaluation, lambda it: _ids_digest(score.image_id for score in it.challenger.scores)
            ),
        },
    )
    if found.manifest is not None and found.holdout is not None:
        yield _kept_apart(found.manifest, found.holdout)


def _figures(evaluation: Evaluation, metrics: Mapping[str, float]) -> Link:
    ours = {name: value for name, value in evaluation.challenger.figures.items() if math.isfinite(value)}
    other = sorted(name for name, value in ours.items() if metrics.get(name) != value)
    seen = ", ".join(f"{name} is {metrics.get(name, 'missing')}, not {ours[name]}" for name in other[:3])
    sentence = f"{len(other)} of {len(ours)} are not the evaluation's: {seen}" if other else f"all {len(ours)} agree"
    return fact("figures in MLflow", not other, sentence)


def _base_snapshots(snapshot: Snapshot, bases: tuple[Snapshot, ...]) -> Link:
    seen = {base.number for base in bases}
    lost = [number for number in range(snapshot.base_number or 0, 0, -1) if number not in seen]
    there = f"the records of all {len(seen)} are there" if seen else "none: it is the first"
    return fact("base snapshots", not lost, f"the records of {lost[:10]} are gone or can't be read" if lost else there)


def _kept_apart(learnt_from: pd.DataFrame, holdout: pd.DataFrame) -> Link:
    learnt = _learnt_from(learnt_from)
    shared = [
        f"{len(both)} {things}"
        for column, things in (("patient_id", "patients"), ("pixel_sha256", "pictures"), ("source_stem", "sources"))
        if (both := set(learnt[column]) & set(holdout[column]))
    ]
    fine = "no patient, picture or source of the holdout was learnt from or tuned on"
    return fact("holdout kept apart", not shared, f"learnt from as well: {', '.join(shared)}" if shared else fine)


def images(learnt_from: pd.DataFrame | None, holdout: pd.DataFrame | None) -> Iterator[Image]:
    """Yield all images behind a version: those learnt from and tuned on, then those of the holdout."""
    parts = (None if learnt_from is None else _learnt_from(learnt_from), holdout)
    for rows in (part for part in parts if part is not None):
        for row in rows.sort_values(["split", "image_id"]).to_dict("records"):
            yield Image(**{name: str(row[name]) for name in Image.model_fields})


def _learnt_from(frame: pd.DataFrame) -> pd.DataFrame:
    rows = manifest.usable(frame)
    return rows[rows["split"] != Split.HOLDOUT.value]


def _num_learnt_from(frame: pd.DataFrame) -> str:
    splits = manifest.usable(frame)["split"]
    return f"{(splits == Split.TRAINING.value).sum()} and {(splits == Split.TUNING.value).sum()}"


def _record_digest(record: Part) -> str:
    return digest(record.model_dump_json().encode())


def _spec_digest(spec: ModelSpec | bytes) -> str:
    try:
        read = ModelSpec.model_validate_json(spec) if isinstance(spec, bytes) else spec
    except ValueError:
        return "what is no specification"
    return fingerprint.of_mapping(read.model_dump(mode="json"))


def _ids_digest(ids: Iterable[str]) -> str:
    return digest("\n".join(sorted(ids)).encode())

"""register: makes a version of the night's best model in MLflow, where reviewers find it as the challenger."""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bc_tasks import gates, runs, snapshots
from bc_tasks.errors import BcError, DataError
from bc_tasks.records import (
    Evaluation,
    Override,
    RegisteredModel,
    Run,
    TrainedModel,
    ValidationReport,
    Verdict,
    trained_file_name,
)
from bc_tasks.storage import Storage, join
from bc_tasks.tracking.package import WEIGHTS_FILE

if TYPE_CHECKING:
    from bc_tasks.tracking import Tracking


def run(run_uri: str, *, storage: Storage, tracking: "Tracking") -> RegisteredModel:
    """Register the model that the gate passed, and write the record; done twice, there is one version.

    Raises:
        RecordMissing: a step before has not finished.
        BcError: the verdict doesn't allow it.
        DataError: the weights are not those that were measured, or an override is of another verdict.
    """
    verdict, override = runs.read(storage, run_uri, Verdict), _override(storage, run_uri)
    _refuse_unless_allowed(run_uri, verdict, override)
    evaluation = runs.read(storage, run_uri, Evaluation)
    trained = runs.read(storage, run_uri, TrainedModel, trained_file_name(evaluation.challenger_backbone))
    snapshot = runs.read(storage, run_uri, ValidationReport).snapshot
    with tempfile.TemporaryDirectory() as folder:
        registered = tracking.register(
            run=runs.read(storage, run_uri, Run),
            trained=trained,
            evaluation=evaluation,
            verdict=verdict,
            override=override,
            snapshot=snapshot,
            weights=_download_measured(storage, trained, evaluation.challenger.weights_sha256, Path(folder)),
        )
    snapshots.finish(storage, snapshot, run_uri)
    runs.write(storage, run_uri, registered)
    return registered


def _override(storage: Storage, run_uri: str) -> Override | None:
    """Return a person's override of this very verdict."""
    if not runs.exists(storage, run_uri, Override.usual_name()):
        return None
    override = runs.read(storage, run_uri, Override)
    if override.verdict_sha256 != hashlib.sha256(storage.read(join(run_uri, Verdict.usual_name()))).hexdigest():
        raise DataError(f"{run_uri} has an override by {override.by}, but of another verdict than it has now")
    return override


def _refuse_unless_allowed(run_uri: str, verdict: Verdict, override: Override | None) -> None:
    if not verdict.passed and not (override and gates.may_be_overridden(verdict)):
        raise BcError(f"{run_uri} may not be registered: its verdict says: {verdict.summary}")
    if verdict.dry_run:
        raise BcError(f"{run_uri} may not be registered: it is a dry run; start one without gate.dry_run")


def _download_measured(storage: Storage, trained: TrainedModel, measured_sha256: str, folder: Path) -> Path:
    """Download the trained weights; they must be the very ones that the evaluation measured."""
    weights = folder / WEIGHTS_FILE
    storage.download(trained.weights_uri, weights)
    with weights.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if not seen == trained.weights_sha256 == measured_sha256:
        raise DataError(
            f"{trained.weights_uri} has digest {seen[:12]}; training recorded {trained.weights_sha256[:12]}, and the "
            f"evaluation measured {measured_sha256[:12]}: start the night again, in a new run"
        )
    return weights

"""train: fine-tunes one backbone on the committed snapshot's training split, and fits its operating point on tuning.

Trained anew from `start.json` and `validate.json` alone, a CPU gives the same weights to the bit, where the packages,
torch's instruction set and its number of threads are the same: the record's `environment` says all three, and
OMP_NUM_THREADS sets the last. With other threads, sums are added in another order. Of the head alone no more comes
than 1e-5; where stages are trained too, AdamW makes a whole step of the smallest gradient, and the weights grow apart
without a bound worth naming (benchmarks/RESULTS.md, "Training twice"). A GPU isn't asked for the same bits: that
would cost speed.
"""

import logging
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bc_tasks import holdout, manifest, runs, snapshots
from bc_tasks.config import BackboneName
from bc_tasks.errors import DataError
from bc_tasks.holdout import Holdout
from bc_tasks.leaks import leakage
from bc_tasks.mammogram import Split
from bc_tasks.records import (
    Environment,
    Run,
    TrainedModel,
    ValidationReport,
    trained_file_name,
)
from bc_tasks.steps import fitting
from bc_tasks.steps.fine_tuning import NOT_OF_THE_RESULT, Job, fetch, fine_tune
from bc_tasks.storage import Storage, join
from bc_tasks.tracking.package import SERVING_PACKAGES, SPEC_FILE, WEIGHTS_FILE
from bc_tasks.training import backbones, scoring, weights

if TYPE_CHECKING:
    from bc_tasks.tracking import Tracking

logger = logging.getLogger(__name__)


def run(run_uri: str, backbone: BackboneName, *, storage: Storage, tracking: "Tracking", cache: Path) -> TrainedModel:
    """Train, store the weights and their specification, and write the record; tried again, go on from the checkpoint.

    Raises:
        RecordMissing: the snapshot has not been validated.
        DataError: a split has one label only, or shares a patient with another split or the holdout.
        ConfigError: the first weights are not to be had, or the training can't run as it is configured.
        TrainingDiverged: the loss became NaN or infinite.
        OutOfMemory: a batch is too large for the GPU or the machine.
        Interrupted: SIGTERM came; the checkpoint is stored.
    """
    if runs.exists(storage, run_uri, trained_file_name(backbone)):
        return runs.read(storage, run_uri, TrainedModel, trained_file_name(backbone))
    started = time.monotonic()
    config = runs.read(storage, run_uri, Run).config
    snapshot = runs.read(storage, run_uri, ValidationReport).snapshot
    spec = backbones.specify(backbone, config, snapshot.preprocessing_sha256)
    job = Job(run_uri, spec, config, snapshot, cache)
    rows = manifest.usable(snapshots.read_manifest(storage, snapshot))
    fixed = holdout.load(storage, config.data_uri, config.holdout.fingerprint)
    _refuse_leaks(rows, fixed)
    training, tuning = fetch(job, rows, storage)

    with tracking.training_run(run_uri, backbone, params=_params(job), tags=_tags(job)) as training_run:
        logger.info("MLflow, live: %s", tracking.run_url(training_run.mlflow_run_id))
        trained, started_from = fine_tune(job, training, tuning, storage, tracking, training_run)
        path = job.folder / WEIGHTS_FILE
        weights_sha256 = weights.write(trained.weights, path)
        fitted = fitting.fit(job, path, rows, fixed, storage)
        training_run.log_metrics(fitted.figures, 0)
        storage.upload(path, join(job.model_uri, WEIGHTS_FILE))
        storage.write(join(job.model_uri, SPEC_FILE), fitted.spec.model_dump_json(indent=1).encode())
        record = TrainedModel(
            spec=fitted.spec,
            weights_uri=join(job.model_uri, WEIGHTS_FILE),
            weights_sha256=weights_sha256,
            mlflow_run_id=training_run.mlflow_run_id,
            snapshot_fingerprint=snapshot.fingerprint,
            num_training_images=len(training.labels),
            num_tuning_images=len(tuning.labels),
            num_epochs=trained.num_epochs,
            best_epoch=trained.best_epoch,
            tuning_metrics=fitted.tuning_metrics,
            calibration=fitted.calibration,
            operating_point_policy=config.operating_point.policy,
            operating_point_reached=fitted.reached,
            started_from=started_from,
            seed=config.training.seed,
            environment=_environment(job.num_processes),
            seconds=time.monotonic() - started,
        )
        runs.write(storage, run_uri, record)
    _forget_checkpoints(job, storage)
    return record


def _refuse_leaks(rows: pd.DataFrame, fixed: Holdout) -> None:
    """Refuse rows that would let a model learn what it is measured on.

    Validation has looked for this already; what it is measured on is worth a second look.
    """
    learnt_from = rows[rows["split"] != Split.HOLDOUT.value]
    copies = leakage.is_copy_of(learnt_from, fixed.pixel_digests)
    splits = rows.groupby("patient_id")["split"].transform("nunique")
    for leaks, what in (
        (learnt_from[fixed.holds(learnt_from) | copies], "belong to patients, or show pictures, of the holdout"),
        (rows[splits > 1], "belong to patients that are in more than one split"),
    ):
        if len(leaks):
            raise DataError(
                f"{len(leaks)} images of the snapshot {what}, e.g. {list(leaks['image_id'].head(10))}; nothing was "
                "trained. The snapshot was changed after validation, or splits.salt or the holdout before it"
            )


def _params(job: Job) -> Mapping[str, Any]:
    fields = job.config.training.model_dump(mode="json", exclude={"augmentation", *NOT_OF_THE_RESULT})
    augmentation = job.config.training.augmentation.model_dump(mode="json")
    operating_point = job.config.operating_point.model_dump(mode="json")
    return {
        "timm_name": job.spec.timm_name,
        **fields,
        **augmentation,
        **{f"operating_point_{name}": value for name, value in operating_point.items()},
    }


def _tags(job: Job) -> Mapping[str, str]:
    return {
        "snapshot": str(job.snapshot.number),
        "snapshot_fingerprint": job.snapshot.fingerprint,
        "holdout_fingerprint": job.snapshot.holdout_fingerprint,
    }


def _environment(num_processes: int) -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=f"{num_processes} x {scoring.device_name()}" if num_processes > 1 else scoring.device_name(),
        num_threads=scoring.num_threads(),
        instruction_set=scoring.instruction_set(),
        packages={name: version(name) for name in SERVING_PACKAGES},
    )


def _forget_checkpoints(job: Job, storage: Storage) -> None:
    """Remove what only an unfinished training needs."""
    for stored in storage.list(f"{job.checkpoints_uri}/"):
        storage.delete(stored.uri)
    shutil.rmtree(job.folder)

"""train: fine-tunes one backbone on the committed snapshot's training split, and fits its operating point on tuning."""

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from bc_tasks import holdout, interruption, manifest, metrics, runs, snapshots
from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import DataError, Interrupted
from bc_tasks.holdout import Holdout
from bc_tasks.mammogram import Split
from bc_tasks.records import (
    Environment,
    ModelSpec,
    Run,
    Snapshot,
    TrainedModel,
    ValidationReport,
    trained_file_name,
)
from bc_tasks.storage import Storage, join, open_storage
from bc_tasks.tracking.package import SERVING_PACKAGES, SPEC_FILE, WEIGHTS_FILE
from bc_tasks.training import backbones, checkpoints, memory, scoring, weights
from bc_tasks.training.checkpoints import Checkpoint
from bc_tasks.training.data import LabelledImages, fetch_split
from bc_tasks.training.distributed import ALONE, Workers
from bc_tasks.training.inputs import InputFormat
from bc_tasks.training.launcher import launch
from bc_tasks.training.loop import EpochResult, Trained, Watcher, train
from bc_tasks.training.progress import show

if TYPE_CHECKING:
    from torch import nn

    from bc_tasks.tracking import Tracking, TrainingRun

logger = logging.getLogger(__name__)

NOT_OF_THE_RESULT = {"backbones", "train_if_nothing_new", "num_workers"}
"""Fields of the training's configuration that don't change what comes out of it."""


@dataclass(frozen=True)
class _Job:
    """What is to be trained, on what, and where its files go."""

    run_uri: str
    spec: ModelSpec
    config: RunConfig
    snapshot: Snapshot
    cache: Path

    @property
    def num_processes(self) -> int:
        """One for each GPU of the pod."""
        return max(1, self.config.execution.pods.train.gpus_per_pod)

    @property
    def folder(self) -> Path:
        """A folder of this job's own in the cache, found again when it is tried again."""
        name = hashlib.sha256(self.run_uri.encode()).hexdigest()[:16]
        return self.cache / "training" / f"{name}-{self.spec.backbone}"

    @property
    def checkpoints(self) -> Path:
        """Where the last checkpoint is kept here."""
        return self.folder / "checkpoints"

    @property
    def first_weights(self) -> Path:
        """Where the processes of a training find what to start from."""
        return self.folder / "first.safetensors"

    @property
    def checkpoints_uri(self) -> str:
        """Where another machine finds the last checkpoint."""
        return join(self.run_uri, "checkpoints", self.spec.backbone)

    @property
    def model_uri(self) -> str:
        """Where the weights and their specification go."""
        return join(self.run_uri, "models", self.spec.backbone)


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
    job = _Job(run_uri, spec, config, snapshot, cache)
    rows = manifest.usable(snapshots.read_manifest(storage, snapshot))
    _refuse_leaks(rows, holdout.load(storage, config.data_uri, config.holdout.fingerprint))
    training, tuning = _fetch(job, rows, storage)

    with tracking.training_run(run_uri, backbone, params=_params(job), tags=_tags(job)) as training_run:
        logger.info("MLflow, live: %s", tracking.run_url(training_run.mlflow_run_id))
        trained, started_from = _fine_tune(job, training, tuning, storage, tracking, training_run)
        path = job.folder / WEIGHTS_FILE
        weights_sha256 = weights.write(trained.weights, path)
        spec, tuning_metrics = _fit_operating_point(job, path, tuning)
        training_run.log_metrics({f"best_tuning_{name}": value for name, value in tuning_metrics.items()}, 0)
        storage.upload(path, join(job.model_uri, WEIGHTS_FILE))
        storage.write(join(job.model_uri, SPEC_FILE), spec.model_dump_json(indent=1).encode())
        record = TrainedModel(
            spec=spec,
            weights_uri=join(job.model_uri, WEIGHTS_FILE),
            weights_sha256=weights_sha256,
            mlflow_run_id=training_run.mlflow_run_id,
            snapshot_fingerprint=snapshot.fingerprint,
            num_training_images=len(training.labels),
            num_tuning_images=len(tuning.labels),
            num_epochs=trained.num_epochs,
            best_epoch=trained.best_epoch,
            tuning_metrics=tuning_metrics,
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
    of_holdout = (
        learnt_from["patient_id"].isin(fixed.patient_ids)
        | learnt_from["source_stem"].isin(fixed.source_stems)
        | learnt_from["pixel_sha256"].isin(fixed.pixel_digests)
    )
    splits = rows.groupby("patient_id")["split"].transform("nunique")
    for leaks, what in (
        (learnt_from[of_holdout], "belong to patients, or show pictures, of the holdout"),
        (rows[splits > 1], "belong to patients that are in more than one split"),
    ):
        if len(leaks):
            raise DataError(
                f"{len(leaks)} images of the snapshot {what}, e.g. {list(leaks['image_id'].head(10))}; nothing was "
                "trained. The snapshot was changed after validation, or splits.salt or the holdout before it"
            )


def _params(job: _Job) -> Mapping[str, Any]:
    fields = job.config.training.model_dump(mode="json", exclude={"augmentation", *NOT_OF_THE_RESULT})
    augmentation = job.config.training.augmentation.model_dump(mode="json")
    return {"timm_name": job.spec.timm_name, **fields, **augmentation}


def _tags(job: _Job) -> Mapping[str, str]:
    return {
        "snapshot": str(job.snapshot.number),
        "snapshot_fingerprint": job.snapshot.fingerprint,
        "holdout_fingerprint": job.snapshot.holdout_fingerprint,
    }


def _fetch(job: _Job, rows: pd.DataFrame, storage: Storage) -> tuple[LabelledImages, LabelledImages]:
    training, tuning = (
        fetch_split(storage, job.config.data_uri, rows, split, job.cache) for split in (Split.TRAINING, Split.TUNING)
    )
    return training, tuning


def _fine_tune(
    job: _Job,
    training: LabelledImages,
    tuning: LabelledImages,
    storage: Storage,
    tracking: "Tracking",
    training_run: "TrainingRun",
) -> tuple[Trained, str]:
    """Train from the first weights, or from the last checkpoint; return the result, and where it had started from."""
    model = backbones.build(job.spec.timm_name, job.config.training.seed)
    started_from = _first_weights(job, model, storage, tracking)
    identity = _identity(job, started_from)
    checkpoints.pull(storage, job.checkpoints_uri, job.checkpoints, identity)
    if job.num_processes == 1:
        return _train(ALONE, job, identity, model, training, tuning, storage, training_run), started_from
    weights.write(model.state_dict(), job.first_weights)
    launch(
        _take_part,
        (job, identity, training_run.mlflow_run_id),
        count=job.num_processes,
        grace_seconds=job.config.execution.pods.grace_seconds,
    )
    last = checkpoints.load(job.checkpoints, identity)
    assert last is not None
    return Trained(last.best, last.best_epoch, last.epoch), started_from


def _take_part(workers: Workers, job: _Job, identity: str, mlflow_run_id: str) -> None:
    """Train in a process of its own, as one of several; what comes of it is the last checkpoint."""
    from bc_tasks.tracking import TrainingRun, open_tracking

    storage = open_storage(job.config.storage)
    training, tuning = _fetch(job, manifest.usable(snapshots.read_manifest(storage, job.snapshot)), storage)
    model = backbones.build(job.spec.timm_name)
    weights.load_tensors(model, weights.read(job.first_weights), origin=job.first_weights.name)
    training_run = TrainingRun(mlflow_run_id, open_tracking(job.config.registry))
    _train(workers, job, identity, model, training, tuning, storage, training_run)


def _train(
    workers: Workers,
    job: _Job,
    identity: str,
    model: "nn.Module",
    training: LabelledImages,
    tuning: LabelledImages,
    storage: Storage,
    training_run: "TrainingRun",
) -> Trained:
    """Train, alone or as one of several; the first of them tells of it and stores the checkpoints."""
    config, device = job.config.training, scoring.best_device()

    def keep(checkpoint: Checkpoint) -> None:
        if workers.is_first:
            checkpoints.save(job.checkpoints, checkpoint, identity)
            checkpoints.push(storage, job.checkpoints, job.checkpoints_uri)
        workers.any(False)  # nobody ends before it is stored

    def on_epoch(result: EpochResult) -> None:
        progress.epoch(result)
        if workers.is_first:
            training_run.log_metrics(_figures(result), result.epoch)

    with (
        interruption.noted() as is_stopping,
        memory.explained(
            device,
            batch_size=config.batch_size,
            image_size_px=config.image_size_px,
            lower="training.batch_size or training.image_size_px",
        ),
        show(Console(quiet=not workers.is_first), job.spec.backbone, config.epochs) as progress,
    ):
        try:
            return train(
                model,
                backbones.lookup(job.spec.backbone),
                InputFormat.of(job.spec),
                config,
                training=training,
                tuning=tuning,
                device=device,
                resume=checkpoints.load(job.checkpoints, identity),
                watcher=Watcher(on_step=progress.step, on_epoch=on_epoch, on_checkpoint=keep),
                workers=workers,
                is_stopping=is_stopping,
            )
        except Interrupted as error:
            raise Interrupted(
                f"{error}; its checkpoint is at {job.checkpoints_uri}: a retry goes on from there"
            ) from None


def _first_weights(job: _Job, model: "nn.Module", storage: Storage, tracking: "Tracking") -> str:
    champion = tracking.champion() if job.config.training.warm_start else None
    if champion is None or champion.spec.timm_name != job.spec.timm_name:
        backbone, source = backbones.lookup(job.spec.backbone), job.config.training.weights
        return weights.initialise(model, backbone, source, download=storage.download, cache=job.cache)
    origin = f"champion, version {champion.version}"
    path = tracking.download_weights(champion, job.folder / "champion")
    weights.load_tensors(model, weights.read(path), origin=origin)
    return origin


def _identity(job: _Job, started_from: str) -> str:
    """Return a digest of all that decides the weights; a checkpoint of another one is of no use."""
    config = job.config.training.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    decides = [job.spec.timm_name, config, job.snapshot.fingerprint, started_from]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _figures(result: EpochResult) -> dict[str, float]:
    return {
        "learning_rate": result.learning_rate,
        "training_loss": result.training_loss,
        "images_per_second": result.images_per_second,
        **{f"tuning_{name}": value for name, value in result.tuning.items()},
    }


def _fit_operating_point(job: _Job, path: Path, tuning: LabelledImages) -> tuple[ModelSpec, dict[str, float]]:
    """Score tuning with the weights as they were written, as evaluation will; fit the operating point on that."""
    batch_size = job.config.evaluation.batch_size
    with memory.explained(
        scoring.best_device(),
        batch_size=batch_size,
        image_size_px=job.spec.image_size_px,
        lower="evaluation.batch_size",
    ):
        scores = scoring.score(scoring.load_model(job.spec, path), job.spec, tuning.images, batch_size=batch_size)
    point = metrics.best_f1_operating_point(tuning.labels, scores)
    return job.spec.model_copy(update={"operating_point": point}), metrics.summarise(tuning.labels, scores, point)


def _environment(num_processes: int) -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=f"{num_processes} x {scoring.device_name()}" if num_processes > 1 else scoring.device_name(),
        packages={name: version(name) for name in SERVING_PACKAGES},
    )


def _forget_checkpoints(job: _Job, storage: Storage) -> None:
    """Remove what only an unfinished training needs."""
    for stored in storage.list(f"{job.checkpoints_uri}/"):
        storage.delete(stored.uri)
    shutil.rmtree(job.folder)

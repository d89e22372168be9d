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

from bc_tasks import holdout, manifest, metrics, runs, snapshots
from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import DataError
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
from bc_tasks.storage import Storage, join
from bc_tasks.tracking.package import SERVING_PACKAGES, SPEC_FILE, WEIGHTS_FILE
from bc_tasks.training import backbones, checkpoints, scoring, weights
from bc_tasks.training.checkpoints import Checkpoint
from bc_tasks.training.data import LabelledImages, fetch_split
from bc_tasks.training.inputs import InputFormat
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
    storage: Storage
    cache: Path

    @property
    def folder(self) -> Path:
        """A folder of this job's own in the cache, found again when it is tried again."""
        name = hashlib.sha256(self.run_uri.encode()).hexdigest()[:16]
        return self.cache / "training" / f"{name}-{self.spec.backbone}"

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
    """
    if runs.exists(storage, run_uri, trained_file_name(backbone)):
        return runs.read(storage, run_uri, TrainedModel, trained_file_name(backbone))
    started = time.monotonic()
    config = runs.read(storage, run_uri, Run).config
    snapshot = runs.read(storage, run_uri, ValidationReport).snapshot
    spec = backbones.specify(backbone, config, snapshot.preprocessing_sha256)
    job = _Job(run_uri, spec, config, snapshot, storage, cache)
    rows = manifest.usable(snapshots.read_manifest(storage, snapshot))
    _refuse_leaks(rows, holdout.load(storage, config.data_uri, config.holdout.fingerprint))
    training = fetch_split(storage, config.data_uri, rows, Split.TRAINING, cache)
    tuning = fetch_split(storage, config.data_uri, rows, Split.TUNING, cache)

    with tracking.training_run(run_uri, backbone, params=_params(job), tags=_tags(job)) as training_run:
        logger.info("MLflow, live: %s", tracking.run_url(training_run.mlflow_run_id))
        trained, started_from = _fine_tune(job, training, tuning, tracking, training_run)
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
            environment=_environment(),
            seconds=time.monotonic() - started,
        )
        runs.write(storage, run_uri, record)
    _forget_checkpoints(job)
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


def _fine_tune(
    job: _Job, training: LabelledImages, tuning: LabelledImages, tracking: "Tracking", training_run: "TrainingRun"
) -> tuple[Trained, str]:
    """Train from the first weights, or from the last checkpoint; return the result, and where it had started from."""
    config, backbone = job.config.training, backbones.lookup(job.spec.backbone)
    model = backbones.build(job.spec.timm_name, config.seed)
    started_from = _first_weights(job, model, tracking)
    identity, folder = _identity(job, started_from), job.folder / "checkpoints"
    checkpoints.pull(job.storage, job.checkpoints_uri, folder, identity)

    def keep(checkpoint: Checkpoint) -> None:
        checkpoints.save(folder, checkpoint, identity)
        checkpoints.push(job.storage, folder, job.checkpoints_uri)

    with show(Console(), job.spec.backbone, config.epochs) as progress:

        def on_epoch(result: EpochResult) -> None:
            progress.epoch(result)
            training_run.log_metrics(_figures(result), result.epoch)

        trained = train(
            model,
            backbone,
            InputFormat.of(job.spec),
            config,
            training=training,
            tuning=tuning,
            device=scoring.best_device(),
            resume=checkpoints.load(folder, identity),
            watcher=Watcher(on_step=progress.step, on_epoch=on_epoch, on_checkpoint=keep),
        )
    return trained, started_from


def _first_weights(job: _Job, model: "nn.Module", tracking: "Tracking") -> str:
    champion = tracking.champion() if job.config.training.warm_start else None
    if champion is None or champion.spec.timm_name != job.spec.timm_name:
        backbone, source = backbones.lookup(job.spec.backbone), job.config.training.weights
        return weights.initialise(model, backbone, source, download=job.storage.download, cache=job.cache)
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
    model = scoring.load_model(job.spec, path)
    scores = scoring.score(model, job.spec, tuning.images, batch_size=job.config.evaluation.batch_size)
    point = metrics.best_f1_operating_point(tuning.labels, scores)
    return job.spec.model_copy(update={"operating_point": point}), metrics.summarise(tuning.labels, scores, point)


def _environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=scoring.device_name(),
        packages={name: version(name) for name in SERVING_PACKAGES},
    )


def _forget_checkpoints(job: _Job) -> None:
    """Remove what only an unfinished training needs."""
    for stored in job.storage.list(f"{job.checkpoints_uri}/"):
        job.storage.delete(stored.uri)
    shutil.rmtree(job.folder)

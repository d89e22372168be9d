"""Fine-tuning, the heart of `train`: on one GPU in this process, or on several in a process for each."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from bc_tasks import interruption, manifest, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.errors import Interrupted
from bc_tasks.mammogram import Split
from bc_tasks.records import ModelSpec, Snapshot
from bc_tasks.storage import Storage, join, open_storage
from bc_tasks.training import backbones, checkpoints, memory, scoring, weights
from bc_tasks.training.checkpoints import Checkpoint, EpochResult
from bc_tasks.training.data import LabelledImages, fetch_split
from bc_tasks.training.distributed import ALONE, Workers
from bc_tasks.training.inputs import InputFormat
from bc_tasks.training.launcher import launch
from bc_tasks.training.loop import Trained, Watcher, train
from bc_tasks.training.progress import show

if TYPE_CHECKING:
    from torch import nn

    from bc_tasks.tracking import Tracking, TrainingRun

NOT_OF_THE_RESULT = {"backbones", "train_if_nothing_new", "num_workers"}
"""Fields of the training's configuration that don't change what comes out of it."""


@dataclass(frozen=True)
class Job:
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


def fetch(job: Job, rows: pd.DataFrame, storage: Storage) -> tuple[LabelledImages, LabelledImages]:
    """Return the images that are learnt from, and those by which the best epoch is chosen."""
    training, tuning = (
        fetch_split(storage, job.config.data_uri, rows, split, job.cache) for split in (Split.TRAINING, Split.TUNING)
    )
    return training, tuning


def fine_tune(
    job: Job,
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
    job.folder.mkdir(parents=True, exist_ok=True)
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


def _take_part(workers: Workers, job: Job, identity: str, mlflow_run_id: str) -> None:
    """Train in a process of its own, as one of several; what comes of it is the last checkpoint."""
    from bc_tasks.tracking import TrainingRun, open_tracking

    storage = open_storage(job.config.storage)
    training, tuning = fetch(job, manifest.usable(snapshots.read_manifest(storage, job.snapshot)), storage)
    model = backbones.build(job.spec.timm_name)
    weights.load_tensors(model, weights.read(job.first_weights), origin=job.first_weights.name)
    training_run = TrainingRun(mlflow_run_id, open_tracking(job.config.registry))
    _train(workers, job, identity, model, training, tuning, storage, training_run)


def _train(
    workers: Workers,
    job: Job,
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

    def log(result: EpochResult) -> None:
        if workers.is_first:
            training_run.log_metrics(_figures(result), result.epoch)

    def on_epoch(result: EpochResult) -> None:
        progress.epoch(result)
        log(result)

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
        resume = checkpoints.load(job.checkpoints, identity)
        if resume is not None and resume.result is not None:
            log(resume.result)  # once more: the last machine may have gone before it could
        try:
            return train(
                model,
                backbones.lookup(job.spec.backbone),
                InputFormat.of(job.spec),
                config,
                training=training,
                tuning=tuning,
                device=device,
                resume=resume,
                watcher=Watcher(on_step=progress.step, on_epoch=on_epoch, on_checkpoint=keep),
                workers=workers,
                is_stopping=is_stopping,
            )
        except Interrupted as error:
            raise Interrupted(
                f"{error}; its checkpoint is at {job.checkpoints_uri}: a retry goes on from there"
            ) from None


def _first_weights(job: Job, model: "nn.Module", storage: Storage, tracking: "Tracking") -> str:
    champion = tracking.champion() if job.config.training.warm_start else None
    if champion is None or champion.spec.timm_name != job.spec.timm_name:
        backbone, source = backbones.lookup(job.spec.backbone), job.config.training.weights
        return weights.initialise(model, backbone, source, download=storage.download, cache=job.cache)
    origin = f"champion, version {champion.version}"
    path = tracking.download_weights(champion, job.folder / "champion")
    weights.load_tensors(model, weights.read(path), origin=origin)
    return origin


def _identity(job: Job, started_from: str) -> str:
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

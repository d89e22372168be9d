"""A training's state after an epoch or, where it was stopped, within one; started again from it, here or on another
machine, a training goes on with the very next batch and ends with the same weights.

    <folder>/epoch-0003.safetensors              all tensors after epoch 3
    <folder>/epoch-0003-step-00012.safetensors   12 steps later, in epoch 4
    <folder>/checkpoint.json                     the rest, and the digest of the tensors: written last, the commit mark

Every step draws its randomness from the seed and its own number, so no generator's state is kept.
"""

import hashlib
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from bc_tasks.errors import ObjectNotFound
from bc_tasks.training import weights

if TYPE_CHECKING:
    from bc_tasks.storage import Storage

MARK = "checkpoint.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch (from 1) came to; `tuning` has the keys of `metrics.METRICS`."""

    epoch: int
    learning_rate: float
    training_loss: float
    tuning: dict[str, float]
    images_per_second: float
    is_best: bool


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` (from 1) and some steps more, and the best weights so far with their tuning score.

    `result` is that of `epoch`; None before the first one. `losses` (num_steps,) are those of the steps that were done
    of the epoch after `epoch`.
    """

    epoch: int
    result: EpochResult | None
    losses: Tensor
    best_epoch: int
    best_score: float
    loss_scale: dict[str, int | float]
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class _Mark(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    identity: str
    epoch: int
    result: EpochResult | None
    num_steps: int
    best_epoch: int
    best_score: float
    loss_scale: dict[str, int | float]
    tensors: str
    tensors_sha256: str

    @property
    def model_is_best(self) -> bool:
        """Whether the best weights are the model's own, and not written twice."""
        return self.best_epoch == self.epoch and self.num_steps == 0


def save(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Write a checkpoint of the training that `identity` names, then remove the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    num_steps = len(checkpoint.losses)
    name = f"epoch-{checkpoint.epoch:04d}" + (f"-step-{num_steps:05d}" if num_steps else "")
    path = folder / f"{name}.safetensors"
    parts = {"model": checkpoint.model, "optimizer": checkpoint.optimizer, "epoch": {"losses": checkpoint.losses}}
    if checkpoint.best is not checkpoint.model:
        parts["best"] = checkpoint.best
    mark = _Mark(
        identity=identity,
        epoch=checkpoint.epoch,
        result=checkpoint.result,
        num_steps=num_steps,
        best_epoch=checkpoint.best_epoch,
        best_score=checkpoint.best_score,
        loss_scale=checkpoint.loss_scale,
        tensors=path.name,
        tensors_sha256=weights.write(
            {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}, path
        ),
    )
    _commit(folder, mark)


def load(folder: Path, identity: str) -> Checkpoint | None:
    """Read the last committed checkpoint; None, and a line in the log, where there is none that can be used."""
    mark = _read_mark(folder, identity)
    if mark is None:
        return None
    path = folder / mark.tensors
    if not path.exists() or _sha256(path) != mark.tensors_sha256:
        logger.info("the checkpoint in %s is not whole and is left out", folder)
        return None
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in weights.read(path).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Checkpoint(
        epoch=mark.epoch,
        result=mark.result,
        best_epoch=mark.best_epoch,
        best_score=mark.best_score,
        loss_scale=mark.loss_scale,
        model=parts["model"],
        losses=parts["epoch"]["losses"],
        best=parts["model"] if mark.model_is_best else parts["best"],
        optimizer=parts["optimizer"],
    )


def push(storage: "Storage", folder: Path, uri: str) -> None:
    """Copy the checkpoint that was just saved below `uri`, the mark last, then remove the one before it."""
    mark = _Mark.model_validate_json((folder / MARK).read_bytes())
    storage.upload(folder / mark.tensors, f"{uri}/{mark.tensors}")
    storage.upload(folder / MARK, f"{uri}/{MARK}")
    for stored in storage.list(f"{uri}/"):
        if not stored.uri.endswith((f"/{MARK}", f"/{mark.tensors}")):
            storage.delete(stored.uri)


def pull(storage: "Storage", uri: str, folder: Path, identity: str) -> None:
    """Copy the checkpoint below `uri` into `folder`, if it is of this training and further than the one there."""
    try:
        mark = _parse(storage.read(f"{uri}/{MARK}"), uri, identity)
        here = _read_mark(folder, identity)
        if mark is not None and (here is None or _place(here) < _place(mark)):
            storage.download(f"{uri}/{mark.tensors}", folder / mark.tensors)
            _commit(folder, mark)
    except ObjectNotFound:
        logger.info("no checkpoint under %s", uri)


def _place(mark: _Mark) -> tuple[int, int]:
    return mark.epoch, mark.num_steps


def _commit(folder: Path, mark: _Mark) -> None:
    partial = folder / f"{MARK}.partial"
    partial.write_text(mark.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(folder / MARK)
    for path in folder.iterdir():
        if path.name not in (MARK, mark.tensors):
            path.unlink()


def _read_mark(folder: Path, identity: str) -> _Mark | None:
    path = folder / MARK
    return _parse(path.read_bytes(), str(folder), identity) if path.exists() else None


def _parse(data: bytes, where: str, identity: str) -> _Mark | None:
    try:
        mark = _Mark.model_validate_json(data)
    except ValidationError:
        logger.info("the checkpoint in %s can't be read and is left out", where)
        return None
    if mark.identity != identity:
        logger.info("the checkpoint in %s is of another configuration or snapshot and is left out", where)
        return None
    return mark


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

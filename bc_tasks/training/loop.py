"""The training loop, in the order in which it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bc_tasks import metrics
from bc_tasks.config import TrainingConfig
from bc_tasks.errors import TrainingDiverged
from bc_tasks.training import scoring
from bc_tasks.training.augment import augment
from bc_tasks.training.backbones import Backbone
from bc_tasks.training.checkpoints import Checkpoint
from bc_tasks.training.data import LabelledImages, epoch_batches, read_batches
from bc_tasks.training.freezing import fold_frozen_norms, freeze
from bc_tasks.training.inputs import InputFormat, normalise, resize
from bc_tasks.training.schedule import class_weights, learning_rate, reduced_precision

SELECTION_METRIC = "average_precision"
"""Of tuning; decides which epoch is best. It needs no operating point and minds the rarer label."""
STEPS_BETWEEN_LOSS_CHECKS = 20
"""Looking at the loss makes a GPU wait, so it is looked at now and then; a NaN doesn't go away meanwhile."""


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
class Watcher:
    """Who is told: of each step (epoch, step, steps of the epoch), of each epoch, and of each state to be kept."""

    on_step: Callable[[int, int, int], None]
    on_epoch: Callable[[EpochResult], None]
    on_checkpoint: Callable[[Checkpoint], None]


@dataclass(frozen=True)
class Trained:
    """The weights of the best epoch, and how many epochs were run."""

    weights: dict[str, Tensor]
    best_epoch: int
    num_epochs: int


def train(  # noqa: PLR0915 - in plain sight, top to bottom
    model: nn.Module,
    backbone: Backbone,
    input_format: InputFormat,
    config: TrainingConfig,
    *,
    training: LabelledImages,
    tuning: LabelledImages,
    device: torch.device,
    resume: Checkpoint | None,
    watcher: Watcher,
) -> Trained:
    """Fine-tune `model` and return the weights of the epoch with the best tuning score.

    With the same seed, data, device and number of threads a CPU gives the same weights to the bit, also
    when the training was stopped after any epoch and resumed from its checkpoint.

    Raises:
        ConfigError: the backbone hasn't so many stages, or the device not that precision.
        TrainingDiverged: the loss or the tuning scores became NaN or infinite.
    """
    # On a GPU this would cost speed. On a CPU it costs nothing, if new memory isn't filled for good measure.
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # missing in torch's types
    precision = reduced_precision(config, device)
    autocast = partial(torch.autocast, device.type, dtype=precision, enabled=precision is not None)
    memory_format = _memory_format(config, backbone)

    model.to(device).to(memory_format=memory_format)
    trainable = freeze(model, backbone, config.trainable_stages)
    optimizer = torch.optim.AdamW(_decayed_and_not(model, config.weight_decay), lr=config.learning_rate)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weight = torch.tensor(class_weights(config, training.labels), device=device)
    loss_of = nn.CrossEntropyLoss(weight=weight)
    # float16's range is small: the loss is scaled up, and the gradients down again before they are clipped.
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    state = resume or Checkpoint(epoch=0, best_epoch=0, best_score=-1, loss_scale={}, model={}, best={}, optimizer={})
    if resume is not None:
        model.load_state_dict(resume.model)
        scaler.load_state_dict(resume.loss_scale)
        _restore(optimizer, parameters, resume.optimizer)
    network = fold_frozen_norms(model, trainable)

    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.early_stop_epochs:
        epoch = state.epoch + 1
        started = time.perf_counter()
        draw = np.random.default_rng([config.seed, epoch])
        batches = epoch_batches(len(training.labels), config.batch_size, draw)
        augmenting = torch.Generator().manual_seed(int(draw.integers(2**63)))
        torch.manual_seed(int(draw.integers(2**63)))  # for dropout, where a network has any
        losses: list[Tensor] = []
        network.train()

        for step, pixels in enumerate(read_batches(training.images, batches, config.num_workers)):
            rate = learning_rate((epoch - 1) * len(batches) + step, config, len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            grey = resize(pixels.to(device, non_blocking=True), input_format.size_px)
            inputs = normalise(augment(grey, config.augmentation, augmenting), input_format, memory_format)
            labels = torch.from_numpy(training.labels[batches[step]]).to(device)
            with autocast():
                logits = network(inputs)
            loss = loss_of(logits.float(), labels)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.detach())
            if len(losses) % STEPS_BETWEEN_LOSS_CHECKS == 0 or len(losses) == len(batches):
                _refuse_divergence(losses, epoch)
            watcher.on_step(epoch, step + 1, len(batches))
        images_per_second = len(training.labels) / (time.perf_counter() - started)

        with autocast():
            scores = scoring.probabilities(
                network, input_format, tuning.images, batch_size=config.batch_size, device=device
            )
        summary = _summarise(tuning.labels, scores, epoch)
        is_best = summary[SELECTION_METRIC] > state.best_score
        weights = _copied(model.state_dict())
        state = Checkpoint(
            epoch=epoch,
            best_epoch=epoch if is_best else state.best_epoch,
            best_score=summary[SELECTION_METRIC] if is_best else state.best_score,
            loss_scale=scaler.state_dict(),
            model=weights,
            best=weights if is_best else state.best,
            optimizer=_state_of(optimizer, parameters),
        )
        training_loss = float(torch.stack(losses).mean())
        watcher.on_epoch(EpochResult(epoch, rate, training_loss, summary, images_per_second, is_best))
        watcher.on_checkpoint(state)
    return Trained(state.best, state.best_epoch, state.epoch)


def _memory_format(config: TrainingConfig, backbone: Backbone) -> torch.memory_format:
    wanted = config.channels_last == "on" or (config.channels_last == "auto" and backbone.gains_from_channels_last)
    return torch.channels_last if wanted else torch.contiguous_format


def _decayed_and_not(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trainable parameters: norms' and biases are vectors, and decay would only pull them to nothing."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _refuse_divergence(losses: Sequence[Tensor], epoch: int) -> None:
    finite = torch.stack(list(losses)).isfinite().cpu()
    if not finite.all():
        step = int((~finite).nonzero()[0, 0]) + 1
        raise TrainingDiverged(
            f"the loss became NaN or infinite in step {step} of epoch {epoch}. Try a lower training.learning_rate, "
            'a longer training.warmup_epochs, a smaller training.max_grad_norm, or training.precision "float32"'
        )


def _summarise(labels: npt.NDArray[np.int64], scores: scoring.Probabilities, epoch: int) -> dict[str, float]:
    if not np.isfinite(scores).all():
        raise TrainingDiverged(
            f"the tuning scores became NaN in epoch {epoch}. Try a lower training.learning_rate, "
            'or training.precision "float32"'
        )
    return metrics.summarise(labels, scores, metrics.best_f1_operating_point(labels, scores))


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _state_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    return _copied(
        {
            f"{index}.{name}": value
            for index, parameter in enumerate(parameters)
            for name, value in optimizer.state[parameter].items()
        }
    )


def _restore(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        # In the parameter's own layout, as AdamW made it: the sums must be the same to the bit.
        layout = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
        optimizer.state[parameter][name] = layout.copy_(value).detach()

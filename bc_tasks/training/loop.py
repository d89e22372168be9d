"""The training loop, in the order in which it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bc_tasks import metrics, operating_point
from bc_tasks.config import TrainingConfig
from bc_tasks.errors import ConfigError, Interrupted, TrainingDiverged
from bc_tasks.training import scoring
from bc_tasks.training.augment import augment, draw
from bc_tasks.training.backbones import Backbone
from bc_tasks.training.checkpoints import Checkpoint, EpochResult
from bc_tasks.training.data import Indices, LabelledImages, epoch_batches, read_batches
from bc_tasks.training.distributed import ALONE, Workers
from bc_tasks.training.freezing import fold_frozen_norms, freeze
from bc_tasks.training.inputs import InputFormat, normalise, resize
from bc_tasks.training.schedule import class_weights, learning_rate, reduced_precision

SELECTION_METRIC = "average_precision"
"""Of tuning; decides which epoch is best. It needs no operating point and minds the rarer label."""
STEPS_BETWEEN_LOSS_CHECKS = 20
"""Looking at the loss makes a GPU wait, so it is looked at now and then; a NaN doesn't go away meanwhile."""
NO_LOSSES = torch.empty(0)
NOTHING_YET = Checkpoint(
    epoch=0, result=None, losses=NO_LOSSES, best_epoch=0, best_score=-1, loss_scale={}, model={}, best={}, optimizer={}
)


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
    workers: Workers = ALONE,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Trained:
    """Fine-tune `model` and return the weights of the epoch with the best tuning score.

    With the same seed, data, device and number of threads a CPU gives the same weights to the bit, also
    when the training was stopped at any time and resumed from its checkpoint. Several `workers` run this at the same
    time, with the same arguments; they come to what one alone would, but for rounding and for what dropout draws.

    Raises:
        ConfigError: the backbone hasn't so many stages, the device not that precision, or a batch too few images.
        TrainingDiverged: the loss or the tuning scores became NaN or infinite.
        Interrupted: `is_stopping` said so, and the state was handed to the watcher.
    """
    # On a GPU this would cost speed. On a CPU it costs nothing, if new memory isn't filled for good measure.
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # missing in torch's types
    precision = reduced_precision(config, device)
    autocast = partial(torch.autocast, device.type, dtype=precision, enabled=precision is not None)
    memory_format = _memory_format(config, backbone)
    _refuse_empty_shares(epoch_batches(len(training.labels), config.batch_size, np.random.default_rng()), workers)

    model.to(device).to(memory_format=memory_format)
    trainable = freeze(model, backbone, config.trainable_stages)
    optimizer = torch.optim.AdamW(_decayed_and_not(model, config.weight_decay), lr=config.learning_rate)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weight = torch.tensor(class_weights(config, training.labels), device=device)
    # float16's range is small: the loss is scaled up, and the gradients down again before they are clipped.
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    state = resume or NOTHING_YET
    if resume is not None:
        model.load_state_dict(resume.model)
        scaler.load_state_dict(resume.loss_scale)
        _restore(optimizer, parameters, resume.optimizer)
    network = fold_frozen_norms(model, trainable)
    parallel = workers.parallel(network)

    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.early_stop_epochs:
        epoch = state.epoch + 1
        started = time.perf_counter()
        batches = epoch_batches(len(training.labels), config.batch_size, np.random.default_rng([config.seed, epoch]))
        losses = list(state.losses.to(device))  # of a training that was stopped in this epoch
        to_do = batches[len(losses) :]
        own_parts = [batch[workers.share(len(batch))] for batch in to_do]
        stopping = False
        network.train()

        for pixels in read_batches(training.images, own_parts, config.num_workers):
            step = len(losses)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch - 1) * len(batches) + step, config, len(batches))
            # For the augmentation, and for dropout, where a network has any.
            generator = torch.manual_seed(int(np.random.default_rng([config.seed, epoch, step]).integers(2**63)))
            labels = torch.from_numpy(training.labels[batches[step]]).to(device)
            own = workers.share(len(labels))
            draws = draw(len(labels), generator)[:, own]
            grey = resize(pixels.to(device, non_blocking=True), input_format.size_px)
            inputs = normalise(augment(grey, config.augmentation, draws), input_format, memory_format)
            with autocast():
                logits = parallel(inputs)
            # Our part of the mean over the whole batch, in which each image has its label's weight.
            loss = F.cross_entropy(logits.float(), labels[own], weight, reduction="sum") / weight[labels].sum()
            # Of several workers' gradients the mean is taken, but the sum is wanted.
            torch.autograd.backward(scaler.scale(loss * workers.count))
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(workers.add_up(loss.detach()))
            if len(losses) % STEPS_BETWEEN_LOSS_CHECKS == 0 or len(losses) == len(batches):
                _refuse_divergence(losses, epoch)
            watcher.on_step(epoch, len(losses), len(batches))
            stopping = workers.any(is_stopping())
            if stopping:
                break
        images_per_second = sum(map(len, to_do)) / (time.perf_counter() - started)

        if not stopping:
            scores = np.zeros(len(tuning.labels))
            own = workers.share(len(scores))
            with autocast():
                scores[own] = scoring.probabilities(
                    network,
                    input_format,
                    tuning.images[own],
                    batch_size=config.batch_size,
                    device=device,
                    is_stopping=is_stopping,
                )
            scores = workers.add_up(torch.from_numpy(scores)).numpy()
            stopping = workers.any(is_stopping())
        weights = _copied(model.state_dict())
        now = replace(state, model=weights, optimizer=_state_of(optimizer, parameters), loss_scale=scaler.state_dict())
        if stopping:
            watcher.on_checkpoint(replace(now, losses=torch.stack(losses).cpu()))
            raise Interrupted(f"stopped after step {len(losses)} of {len(batches)} of epoch {epoch}")

        summary = _summarise(tuning.labels, scores, epoch)
        is_best = summary[SELECTION_METRIC] > state.best_score
        training_loss = float(torch.stack(losses).mean())
        rate = learning_rate(epoch * len(batches) - 1, config, len(batches))
        result = EpochResult(epoch, rate, training_loss, summary, images_per_second, is_best)
        state = replace(now, epoch=epoch, result=result, losses=NO_LOSSES)
        if is_best:
            state = replace(state, best_epoch=epoch, best_score=summary[SELECTION_METRIC], best=weights)
        watcher.on_checkpoint(state)  # first: whoever is told may fail, and an epoch is dear
        watcher.on_epoch(result)
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


def _refuse_empty_shares(batches: Sequence[Indices], workers: Workers) -> None:
    smallest = min(map(len, batches))
    if smallest < workers.count:
        raise ConfigError(
            f"a batch of {smallest} images is too small for {workers.count} processes: raise training.batch_size, or "
            "lower pods.train.gpus_per_pod"
        )


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
    return metrics.summarise(labels, scores, operating_point.best_f1(labels, scores))


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

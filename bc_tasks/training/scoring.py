"""From weights and pixels to probabilities of cancer; training, evaluation and the served model all come here."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bc_tasks import calibration
from bc_tasks.records import ModelSpec
from bc_tasks.training import weights as weights_file
from bc_tasks.training.backbones import build
from bc_tasks.training.data import ImageSource, read_batches
from bc_tasks.training.inputs import InputFormat, normalise, resize

Probabilities = npt.NDArray[np.float64]


def load_model(spec: ModelSpec, weights: Path) -> nn.Module:
    """Build the network of `spec` with the weights of a safetensors file, ready to score.

    Raises:
        ConfigError: the file isn't whole, or a tensor is missing, unknown or of another shape.
    """
    model = build(spec.timm_name)
    weights_file.load_tensors(model, weights_file.read(weights), origin=weights.name)
    return model.to(memory_format=torch.channels_last).eval()


def score(
    model: nn.Module,
    spec: ModelSpec,
    images: ImageSource,
    *,
    batch_size: int,
    device: torch.device | None = None,
) -> Probabilities:
    """Return the probability of cancer, 0 to 1, of each image (S, S) of uint8, as (N,); on the best device if None.

    It is calibrated by the temperature in `spec`, here and nowhere else.
    """
    device = device or best_device()
    raw = probabilities(model.to(device), InputFormat.of(spec), images, batch_size=batch_size, device=device)
    return calibration.apply(raw, spec.temperature)


@torch.inference_mode()
def probabilities(
    model: nn.Module,
    input_format: InputFormat,
    images: ImageSource,
    *,
    batch_size: int,
    device: torch.device,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Probabilities:
    """Return what `model`, put into eval mode, itself says of each image (N,); NaN from where `is_stopping` said so."""
    model.eval()
    num_batches = math.ceil(len(images) / batch_size)
    batches = np.array_split(np.arange(len(images)), num_batches) if num_batches else []
    scores = np.full(len(images), np.nan)
    for indices, batch in zip(batches, read_batches(images, batches, num_workers=0), strict=True):
        if is_stopping():
            break
        grey = resize(batch.to(device, non_blocking=True), input_format.size_px)
        logits = model(normalise(grey, input_format, torch.channels_last))
        scores[indices] = logits.double().softmax(dim=1)[:, 1].cpu().numpy()
    return scores


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def instruction_set() -> str:
    """Return which of a CPU's instructions torch uses, e.g. `AVX2`: others round otherwise."""
    return str(torch.backends.cpu.get_cpu_capability())


def num_threads() -> int:
    """Return how many threads torch divides a CPU's sums among; OMP_NUM_THREADS sets it."""
    return torch.get_num_threads()


def device_name() -> str:
    """Return what the best device is called, e.g. `NVIDIA H200` or `cpu`."""
    device = best_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

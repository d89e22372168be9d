"""From stored pixels to what a network takes; the same code for training, scoring and serving."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bc_tasks.records import ModelSpec

INTERPOLATION = "bicubic"
"""How images were resized when each of the pretrained weights was made."""


@dataclass(frozen=True)
class InputFormat:
    """The side of the square in pixels, and the mean and standard deviation (grey values 0 to 1) of each channel."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, spec: ModelSpec) -> "InputFormat":
        """Return what the model of this specification takes."""
        return cls(spec.image_size_px, spec.mean, spec.std)


def resize(images: Tensor, size_px: int) -> Tensor:
    """Turn stored images (N, S, S) of uint8 into (N, 1, size_px, size_px) of float32, 0 black to 1 white."""
    grey = images.unsqueeze(1).float() / 255
    if grey.shape[-1] == size_px:
        return grey
    # Without antialiasing a lesion of a few pixels may fall between the samples; bicubic can overshoot.
    return F.interpolate(grey, size=(size_px, size_px), mode=INTERPOLATION, antialias=True).clamp(0, 1)


def normalise(grey: Tensor, input_format: InputFormat, memory_format: torch.memory_format) -> Tensor:
    """Turn grey images (N, 1, H, W), 0 to 1, into the three channels (N, 3, H, W) that the weights expect."""
    mean = torch.tensor(input_format.mean, device=grey.device).view(1, 3, 1, 1)
    std = torch.tensor(input_format.std, device=grey.device).view(1, 3, 1, 1)
    return ((grey - mean) / std).contiguous(memory_format=memory_format)

"""Random changes of training images: flips, rotation, black rectangles; each image draws its own.

All of it works on grey images before they are normalised, so that black is 0 and stays black. The draws
are made on the CPU, whatever device the images are on: a seed gives the same images everywhere.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bc_tasks.config import AugmentationConfig

MAX_ASPECT_RATIO = 10 / 3
"""Of a rectangle's sides. Source: Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896, section 5.1."""


def augment(images: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Change each of the grey images (N, 1, S, S) of float, 0 black to 1 white, in a random way of its own."""
    images = _flip(images, config.horizontal_flip_probability, 3, generator)
    images = _flip(images, config.vertical_flip_probability, 2, generator)
    images = _rotate(images, config.rotation_degrees, generator)
    return _blacken(images, config, generator)


def _flip(images: Tensor, probability: float, dimension: int, generator: Generator) -> Tensor:
    chosen = torch.rand(len(images), generator=generator) < probability
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(dimension), images)


def _rotate(images: Tensor, max_degrees: float, generator: Generator) -> Tensor:
    """Rotate about the middle by up to `max_degrees` either way; what comes in from outside is black."""
    if max_degrees == 0:  # and no pixel is interpolated
        return images
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(max_degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blacken(images: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Put a black rectangle that lies wholly inside onto some of the images."""
    num_images, size = len(images), images.shape[-1]
    chosen, area, shape, left, top = torch.rand(5, num_images, generator=generator)
    area = config.rectangle_min_share + area * (config.rectangle_max_share - config.rectangle_min_share)
    # Height over width, even on a logarithmic scale, within what lets a rectangle of that area fit.
    limit = (1 / area).clamp(max=MAX_ASPECT_RATIO).log()
    ratio = ((2 * shape - 1) * limit).exp()
    height, width = (area * ratio).sqrt() * size, (area / ratio).sqrt() * size
    # Only what is as small as a side goes to the images' device.
    columns = _between(left * (size - width), width, size).to(images.device)
    rows = _between(top * (size - height), height, size).to(images.device)
    hit = (chosen < config.rectangle_probability).view(-1, 1, 1).to(images.device)
    hidden = rows.unsqueeze(2) & columns.unsqueeze(1) & hit
    return images.masked_fill(hidden.unsqueeze(1), 0)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return (N, size): which of `size` pixels have their middle in [start, start + length)."""
    middles = torch.arange(size) + 0.5
    return (middles >= start.unsqueeze(1)) & (middles < (start + length).unsqueeze(1))

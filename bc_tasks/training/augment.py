"""Random changes of training images: flips, rotation, black rectangles; each image draws its own.

All of it works on grey images before they are normalised, so that black is 0 and stays black. The draws
are made on the CPU, whatever device the images are on: a seed gives the same images everywhere. They are
made for a whole batch, of which several processes each take their part.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bc_tasks.config import AugmentationConfig

MAX_ASPECT_RATIO = 10 / 3
"""Of a rectangle's sides. Source: Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896, section 5.1."""
NUM_DRAWS = 8


def draw(num_images: int, generator: Generator) -> Tensor:
    """Return what decides the changes of each image: (NUM_DRAWS, N), evenly between 0 and 1."""
    return torch.rand(NUM_DRAWS, num_images, generator=generator)


def augment(images: Tensor, config: AugmentationConfig, draws: Tensor) -> Tensor:
    """Change each of the grey images (N, 1, S, S) of float, 0 black to 1 white, as its `draws` (NUM_DRAWS, N) say."""
    images = _flip(images, config.horizontal_flip_probability, 3, draws[0])
    images = _flip(images, config.vertical_flip_probability, 2, draws[1])
    images = _rotate(images, config.rotation_degrees, draws[2])
    return _blacken(images, config, draws[3:])


def _flip(images: Tensor, probability: float, dimension: int, draws: Tensor) -> Tensor:
    return torch.where((draws < probability).to(images.device).view(-1, 1, 1, 1), images.flip(dimension), images)


def _rotate(images: Tensor, max_degrees: float, draws: Tensor) -> Tensor:
    """Rotate about the middle by up to `max_degrees` either way; what comes in from outside is black."""
    if max_degrees == 0:  # and no pixel is interpolated
        return images
    angles = (draws * 2 - 1) * math.radians(max_degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blacken(images: Tensor, config: AugmentationConfig, draws: Tensor) -> Tensor:
    """Put a black rectangle that lies wholly inside onto some of the images."""
    size = images.shape[-1]
    chosen, area, shape, left, top = draws
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

"""Drawn mammograms whose geometry is known exactly, and the files they are stored in."""

import io
from typing import Any

import numpy as np
from PIL import Image

WIDTH_PX, HEIGHT_PX = 240, 320
BREAST_RIGHT_PX, BREAST_TOP_PX, BREAST_BOTTOM_PX = 120, 80, 240  # it touches the left edge


def breast(*, tissue: int = 140, label: bool = False, seed: int = 0) -> np.ndarray:
    """Half an ellipse of noisy tissue on black, (320, 240) uint8; with `label`, a burned-in one at the upper right."""
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    half_height = (BREAST_BOTTOM_PX - BREAST_TOP_PX) / 2
    inside = (columns / BREAST_RIGHT_PX) ** 2 + ((rows - BREAST_TOP_PX - half_height) / half_height) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 4, inside.shape)
    image = np.where(inside, tissue + noise, 0).clip(0, 255).astype(np.uint8)
    if label:
        image[10:14, 200:232] = 255
    return image


def stored(image: np.ndarray | Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()

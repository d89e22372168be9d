"""Images that a network can learn from in seconds: grey texture, and a blurred bright spot where there is cancer."""

import numpy as np

from bc_tasks.training.data import LabelledImages


def make_images(num_images: int, seed: int, size_px: int = 64) -> LabelledImages:
    """Return images (N, S, S) of uint8, every second one with cancer."""
    draw = np.random.default_rng(seed)
    labels = np.arange(num_images, dtype=np.int64) % 2
    return LabelledImages(np.stack([_image(draw, size_px, bool(label)) for label in labels]), labels)


def _image(draw: np.random.Generator, size_px: int, cancer: bool) -> np.ndarray:
    rows, columns = np.mgrid[:size_px, :size_px]
    image = (
        60 + draw.normal(0, 12, (size_px, size_px)) + 25 * np.sin(columns / draw.uniform(6, 14) + draw.uniform(0, 6))
    )
    if cancer:
        row, column = draw.uniform(0.2 * size_px, 0.8 * size_px, 2)
        image += 80 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * draw.uniform(5, 8) ** 2))
    return image.clip(0, 255).astype(np.uint8)

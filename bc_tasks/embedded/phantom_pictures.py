"""Draws one mammogram phantom: outline, pectoral muscle, glandular tissue, vessels, lesions and what a scanner adds.

Lengths are shares of the picture's side, with the chest wall at the left (a right breast is mirrored at the end); grey
values are 0 (air) to 1. It looks like a mammogram to a lay eye, and teaches nothing about real ones.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.interpolate import PchipInterpolator

from bc_tasks.mammogram import Density, Laterality, View

Field = np.ndarray[Any, np.dtype[Any]]  # (H, W) float32
Point = tuple[float, float]  # x, y

# How deep the breast is by height, as a share of its full depth.
OUTLINES = {
    View.CC: {0.0: 0.0, 0.08: 0.0, 0.12: 0.46, 0.18: 0.68, 0.29: 0.885, 0.4: 0.975, 0.5: 1.0}
    | {0.6: 0.975, 0.71: 0.885, 0.82: 0.68, 0.88: 0.46, 0.92: 0.0, 1.0: 0.0},
    View.MLO: {0.0: 0.52, 0.15: 0.57, 0.3: 0.7, 0.45: 0.89, 0.55: 0.98, 0.62: 1.0, 0.69: 0.975}
    | {0.78: 0.84, 0.85: 0.6, 0.9: 0.3, 0.94: 0.13, 1.0: 0.07},
}
NIPPLE_HEIGHT = {View.CC: 0.5, View.MLO: 0.62}
GLANDULAR_SHARE = {Density.A: 0.08, Density.B: 0.24, Density.C: 0.45, Density.D: 0.7}


@dataclass(frozen=True)
class Breast:
    """What the views of a breast share; `depth` is from the chest wall to the nipple."""

    depth: float
    density: Density


@dataclass(frozen=True)
class Lesion:
    """A cancer of some `radius`; `visibility` is 0 (hardly seen) to 1 (plain)."""

    kind: Literal["mass", "spiculated mass", "calcifications"]
    visibility: float
    radius: float


@dataclass(frozen=True)
class Scanner:
    """How the pictures of a machine differ."""

    gamma: float
    gain: float
    air: float
    noise: float
    blur_px: float
    has_boxed_marker: bool
    stores_inverted: bool


def draw(
    breast: Breast,
    lesion: Lesion | None,
    scanner: Scanner,
    *,
    view: View,
    laterality: Laterality,
    size_px: int,
    rng: np.random.Generator,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture (size_px, size_px) uint8 as the scanner stores it."""
    y, x = (axis.astype(np.float32) / size_px for axis in np.mgrid[:size_px, :size_px])
    skin_distance = _skin_distance(breast, view, x, y, rng)
    inside = _soft_step(skin_distance, 0.003)
    thickness = 1 - np.exp(-np.maximum(skin_distance, 0) / 0.06)

    grey = 0.3 * thickness + 0.06 * np.exp(-((skin_distance / 0.006) ** 2))
    grey += 0.03 * thickness * _clouds(rng, size_px, (14, 60))
    grey += 0.28 * thickness * _gland(breast, view, x, y, inside, rng)
    grey += 0.07 * thickness * _vessels(size_px, rng)
    if view is View.MLO:
        grey += 0.8 * _pectoral(x, y, rng) * (0.55 * thickness - grey)
    _add_benign(grey, breast, view, x, y, rng)
    if lesion:
        _add_lesion(grey, lesion, _place(breast, view, rng), x, y, rng)
    return _scan(grey * inside, scanner, f"{laterality}-{view}", laterality is Laterality.RIGHT, rng)


def _skin_distance(breast: Breast, view: View, x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Return how far inside the skin each point is, (H, W), negative outside; the nipple stands out."""
    size_px = len(x)
    heights, depths = np.array(list(OUTLINES[view].items())).T
    wobble = 1 + 0.02 * _noise(rng, size_px, (5, 1))[:, :1]
    outline = PchipInterpolator(heights, depths * breast.depth)(y[:, :1]).astype(np.float32) * wobble
    slope = np.gradient(outline[:, 0], 1 / size_px)[:, None]
    distance = (outline - x) / np.sqrt(1 + slope**2)
    height = NIPPLE_HEIGHT[view]
    nipple = 0.02 - np.hypot(x - outline[round(height * size_px), 0], y - height)
    return np.asarray(np.maximum(distance, nipple))


def _gland(breast: Breast, view: View, x: Field, y: Field, inside: Field, rng: np.random.Generator) -> Field:
    """Return how glandular the tissue is, 0 to 1 and a little more: patches and strands, most behind the nipple."""
    size_px = len(x)
    from_centre = ((x - 0.5 * breast.depth) / (0.5 * breast.depth)) ** 2 + ((y - NIPPLE_HEIGHT[view]) / 0.36) ** 2
    field = _clouds(rng, size_px, (4, 10, 28)) - 1.6 * from_centre
    threshold = float(np.quantile(field[::4, ::4][inside[::4, ::4] > 0.5], 1 - GLANDULAR_SHARE[breast.density]))
    crossings = np.maximum(1 - 4 * np.abs(_noise(rng, size_px, (40, 9))), 0)  # of smooth noise through zero
    strands = crossings * np.maximum(0.2 + _noise(rng, size_px, (14, 8)), 0)
    return np.asarray(_soft_step(field - threshold, 0.4) * (0.85 + 0.15 * strands) + 0.16 * strands)


def _vessels(size_px: int, rng: np.random.Generator) -> Field:
    """Return one to three wavy lines, 0 to 1, from the chest wall towards the nipple."""
    canvas = Image.new("L", (size_px, size_px))
    along = np.linspace(0, 1, 40)
    for _ in range(rng.integers(1, 4)):
        start, slope, bend, phase = rng.uniform((0.25, -0.4, 0.01, 0), (0.75, 0.4, 0.04, 6)).tolist()
        course = start + slope * along + bend * np.sin(9 * along + phase)
        points = np.column_stack((along, course)) * size_px
        ImageDraw.Draw(canvas).line(points.ravel().tolist(), fill=255, width=max(1, size_px // 160))
    blurred = canvas.filter(ImageFilter.BoxBlur(size_px / 400))
    return np.asarray(blurred, dtype=np.float32) / 255


def _pectoral(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Return the muscle, 0 to 1: a triangle in the upper corner of the chest wall."""
    width, height = rng.uniform((0.2, 0.4), (0.36, 0.62)).tolist()
    edge = width * (1 - y / height) + 0.012 * _noise(rng, len(x), (5, 2))
    return _soft_step(edge - x, 0.008)


def _place(breast: Breast, view: View, rng: np.random.Generator) -> Point:
    """Return a point within the gland."""
    along, across = rng.uniform((0.25, -0.2), (0.75, 0.2)).tolist()
    return along * breast.depth, NIPPLE_HEIGHT[view] + across


def _add_benign(grey: Field, breast: Breast, view: View, x: Field, y: Field, rng: np.random.Generator) -> None:
    """Add what looks suspicious and isn't: smooth faint ovals, and coarse calcifications that stand alone."""
    for _ in range(rng.poisson(0.5)):
        contrast, radius, stretch = rng.uniform((0.03, 0.015, 0.7), (0.1, 0.03, 1.4)).tolist()
        centre = _place(breast, view, rng)
        near = _near(centre, 3 * radius, grey)
        distance = np.hypot((x[near] - centre[0]) * stretch, y[near] - centre[1])
        grey[near] += contrast * _soft_step(radius - distance, 0.2 * radius)
    for _ in range(rng.poisson(0.3)):
        contrast, radius = rng.uniform((0.2, 0.004), (0.5, 0.007)).tolist()
        _add_dot(grey, _place(breast, view, rng), contrast, radius, x, y)


def _add_lesion(grey: Field, lesion: Lesion, centre: Point, x: Field, y: Field, rng: np.random.Generator) -> None:
    if lesion.kind == "calcifications":
        for place in (centre + rng.normal(0, 0.6 * lesion.radius, (rng.integers(8, 20), 2))).tolist():
            _add_dot(grey, place, 0.3 + 0.5 * lesion.visibility, 0.0035, x, y)
        return
    near = _near(centre, 4 * lesion.radius, grey)
    right, down = x[near] - centre[0], y[near] - centre[1]
    distance, angle = np.hypot(right, down), np.arctan2(down, right)
    contrast = 0.15 + 0.35 * lesion.visibility
    phases = rng.uniform(0, 6, 3).tolist()
    lobes = sum(0.1 * np.cos(n * angle + phase) for n, phase in zip((2, 3, 5), phases, strict=True))
    grey[near] += contrast * _soft_step(lesion.radius * (1 + lobes) - distance, 0.25 * lesion.radius)
    if lesion.kind == "spiculated mass":
        rays = np.maximum(np.cos(int(rng.integers(7, 12)) * angle + 2 * np.sin(2 * angle + phases[0])), 0) ** 6
        grey[near] += 0.6 * contrast * rays * np.exp(-((distance / (2 * lesion.radius)) ** 2))


def _add_dot(grey: Field, centre: Point, contrast: float, radius: float, x: Field, y: Field) -> None:
    near = _near(centre, 4 * radius, grey)
    grey[near] += contrast * np.exp(-((x[near] - centre[0]) ** 2 + (y[near] - centre[1]) ** 2) / radius**2)


def _near(centre: Point, reach: float, grey: Field) -> tuple[slice, slice]:
    """Return the rows and columns of the picture that are within reach of a point."""
    column, row, width = (round(length * len(grey)) for length in (*centre, reach))
    return slice(max(0, row - width), max(0, row + width + 1)), slice(
        max(0, column - width), max(0, column + width + 1)
    )


def _scan(grey: Field, scanner: Scanner, marker: str, mirrored: bool, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return what the machine makes of it, uint8; the marker is burned in at the upper corner away from the breast."""
    noisy = grey + scanner.noise * rng.standard_normal(grey.shape, dtype=np.float32) * (grey > 0.02)
    values = np.clip(255 * noisy, 0, 255).astype(np.uint8)
    picture = Image.fromarray(values[:, ::-1] if mirrored else values).filter(ImageFilter.BoxBlur(scanner.blur_px))
    _burn_in(picture, marker, scanner.has_boxed_marker, mirrored)
    curve = np.minimum(scanner.gain * np.linspace(0, 1, 256) ** scanner.gamma, 1)
    shown = np.rint(255 * (scanner.air + (1 - scanner.air) * curve)).astype(np.uint8)
    table = 255 - shown if scanner.stores_inverted else shown
    return np.asarray(table[np.asarray(picture)])


def _burn_in(picture: Image.Image, marker: str, boxed: bool, mirrored: bool) -> None:
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=picture.width / 28)
    margin = picture.width // 40
    width = pen.textlength(marker, font=font)
    corner = (margin if mirrored else picture.width - margin - width, margin)
    pen.text(corner, marker, fill=255, font=font)
    if boxed:
        left, top, right, bottom = pen.textbbox(corner, marker, font=font)
        pen.rectangle((left - 3, top - 3, right + 2, bottom + 2), outline=255)


def _clouds(rng: np.random.Generator, size_px: int, cells: tuple[int, ...]) -> Field:
    """Return noise of several scales, (H, W), with a standard deviation near 1; coarser scales are stronger."""
    layers = [_noise(rng, size_px, (cell, cell)) / math.sqrt(rank) for rank, cell in enumerate(cells, start=1)]
    return np.asarray(sum(layers)) / math.sqrt(sum(1 / rank for rank in range(1, len(cells) + 1)))


def _noise(rng: np.random.Generator, size_px: int, cells: tuple[int, int]) -> Field:
    """Return smooth noise, (H, W), with that many cells down and across."""
    coarse = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return 1.5 * np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))


def _soft_step(value: Field, width: float) -> Field:
    """Return 0 well below zero, 1 well above it."""
    return 1 / (1 + np.exp(np.clip(value / -width, -30, 30)))

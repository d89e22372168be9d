"""Synthetic mammograms for the demo and the tests: patients with 2 to 4 images each, written as an inbox batch.

A patient is decided by the seed and the patient's number alone, so more patients can be made later and the first ones
stay as they are. Cancers vary from plain to hardly visible, and healthy breasts hold harmless look-alikes: the task can
be learned, but not from a few dozen images. EfficientNet-Lite0 at 224 px, its last two stages fine-tuned for 8 epochs,
reached a holdout AUC near 0.72 from 90 images, 0.80 from 120 and 0.91 from 530.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from bc_tasks.embedded.phantom_pictures import Breast, Lesion, Scanner, draw
from bc_tasks.mammogram import Density, Label, Laterality, View

Choice = TypeVar("Choice")

CANCER_SHARE = 0.35  # of the patients
DENSITY_SHARES = {Density.A: 0.1, Density.B: 0.4, Density.C: 0.4, Density.D: 0.1}
IMAGE_COUNT_SHARES = {2: 0.2, 3: 0.2, 4: 0.6}
LESION_SHARES: dict[Literal["mass", "spiculated mass", "calcifications"], float] = {
    "mass": 0.4,
    "spiculated mass": 0.35,
    "calcifications": 0.25,
}
LABEL_COLUMNS = ("label", "patient_id", "image_id", "view", "laterality", "site_id", "machine_id", "age", "density")


@dataclass(frozen=True)
class Machine:
    """Where a scanner stands, and the share of the patients that it sees."""

    site_id: str
    share: float
    scanner: Scanner


MACHINES = {
    "11": Machine("1", 0.35, Scanner(1.0, 1.2, 0.0, 0.02, 0.5, has_boxed_marker=False, stores_inverted=False)),
    "12": Machine("1", 0.25, Scanner(1.35, 1.5, 0.0, 0.015, 0.4, has_boxed_marker=True, stores_inverted=False)),
    "21": Machine("2", 0.23, Scanner(0.85, 1.0, 0.05, 0.02, 0.8, has_boxed_marker=False, stores_inverted=False)),
    "22": Machine("2", 0.17, Scanner(1.1, 1.2, 0.01, 0.03, 0.5, has_boxed_marker=True, stores_inverted=True)),
}


@dataclass(frozen=True)
class Phantom:
    """A synthetic mammogram: `pixels` (H, W) uint8 as its machine stores them, `age` in years."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    patient_id: str
    image_id: str
    label: Label
    view: View
    laterality: Laterality
    site_id: str
    machine_id: str
    age: int
    density: Density


def make_patients(num_patients: int, *, seed: int, first_patient: int = 1, size_px: int = 320) -> Iterator[Phantom]:
    """Yield the images of patients `first_patient` and on, each (size_px, size_px)."""
    for number in range(first_patient, first_patient + num_patients):
        yield from _make_patient(number, np.random.default_rng((seed, number)), size_px)


def write_batch(folder: Path, phantoms: Iterable[Phantom], *, layout: Literal["folders", "labels_csv"]) -> None:
    """Write JPEGs as they arrive in the inbox: in a folder for each label, or in `images` beside a `labels.csv`."""
    rows = []
    for phantom in phantoms:
        digest = hashlib.sha256(phantom.pixels.tobytes()).hexdigest()[:32]
        place = str(int(phantom.label)) if layout == "folders" else "images"
        path = f"{place}/{phantom.patient_id}_{phantom.image_id}_png.rf.{digest}.jpg"
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.pixels).save(folder / path, quality=90)
        rows.append([path, *(getattr(phantom, column) for column in LABEL_COLUMNS)])
    if layout == "labels_csv":
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", *LABEL_COLUMNS), *rows])


def _make_patient(number: int, rng: np.random.Generator, size_px: int) -> Iterator[Phantom]:
    has_cancer = rng.random() < CANCER_SHARE
    machine_id = _choose(rng, {name: machine.share for name, machine in MACHINES.items()})
    machine = MACHINES[machine_id]
    breast = Breast(depth=rng.uniform(0.35, 0.72), density=_choose(rng, DENSITY_SHARES))
    lesion = Lesion(_choose(rng, LESION_SHARES), rng.uniform(), rng.uniform(0.03, 0.06)) if has_cancer else None
    age = int(np.clip(rng.normal(62 if has_cancer else 57, 10), 35, 90))
    sides = list(Laterality) if rng.random() < 0.5 else list(Laterality)[::-1]  # the cancer is in the first
    images = [(laterality, view) for laterality in sides for view in (View.CC, View.MLO)]
    for position, (laterality, view) in enumerate(images[: _choose(rng, IMAGE_COUNT_SHARES)]):
        cancer_here = lesion if laterality is sides[0] else None
        yield Phantom(
            pixels=draw(
                breast, cancer_here, machine.scanner, view=view, laterality=laterality, size_px=size_px, rng=rng
            ),
            patient_id=str(number),
            image_id=str(10 * number + position),
            label=Label.CANCER if cancer_here else Label.NO_CANCER,
            view=view,
            laterality=laterality,
            site_id=machine.site_id,
            machine_id=machine_id,
            age=age,
            density=breast.density,
        )


def _choose(rng: np.random.Generator, shares: dict[Choice, float]) -> Choice:
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]

"""Manifests as ingest leaves them, made up."""

from hashlib import sha256

import pandas as pd

from bc_tasks import manifest


def make_manifest(num_images: int, *, first: int = 0, batch: str = "2026-11-23") -> pd.DataFrame:
    """Return a sound manifest: three images a patient, a third with cancer, two sites, three machines, two splits.

    `first` is the number of the first image: the next batch starts where the last one ended.
    """
    return manifest.conform(pd.DataFrame([_row(number, batch) for number in range(first, first + num_images)]))


def _row(number: int, batch: str) -> dict[str, object]:
    patient = number // 3
    return {
        "key": f"inbox/{batch}/{int(number % 3 == 0)}/p{patient}_{number}.jpg",
        "batch": batch,
        "etag": f"etag-{number}",
        "num_bytes": 40_000,
        "sha256": _digest(f"file {number}"),
        "image_id": f"image-{number}",
        "patient_id": f"p{patient}",
        "source_stem": f"p{patient}_{number}",
        "label": int(number % 3 == 0),
        "view": ("CC", "MLO", None)[number % 3],
        "laterality": "LR"[number % 2],
        "site_id": ("north", "south")[patient % 2],
        "machine_id": f"machine-{patient % 3}",
        "age": None if number % 7 == 0 else 40.0 + number % 40,
        "density": "ABCD"[number % 4],
        "split": "training" if patient % 5 else "tuning",
        "source_width_px": 640,
        "source_height_px": 800,
        "was_inverted": number % 6 == 0,
        "pixel_sha256": _digest(f"pixels {number}"),
        "grey_mean": 80.0,
        "grey_std": 40.0,
        "grey_min": 0,
        "grey_max": 250,
        "black_share": 0.4,
        "shard_key": f"pixels/0123456789abcdef/{batch}.npy",
        "shard_row": number,
    }


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()

"""What a night's search for near copies costs: made-up features on the local disk, searched as the ingest step does.

    python benchmarks/copy_search.py KNOWN [--new 3000] [--holdout 1000]

Each image has 200 keypoints at random, so cells of the index are evenly full, which is its worst case; 100 of the new
images are copies. Pixels there are none. One size at a time, for the memory is the most that a process has ever had.
"""

import argparse
import logging
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from bc_tasks import manifest
from bc_tasks.cores import processes
from bc_tasks.leaks import copy_search, feature_store
from bc_tasks.near_copies import VERSION, Features
from bc_tasks.storage import open_storage

SHARD_IMAGES = 256
NUM_KEYPOINTS = 200
NUM_COPIES = 100


def main() -> None:
    """Write the features, search, and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=int, help="images that were compared before")
    parser.add_argument("--new", type=int, default=3000, help="images that are compared now")
    parser.add_argument("--holdout", type=int, default=1000, help="images of the holdout")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with TemporaryDirectory() as folder, processes() as pool:
        uri, storage = f"file://{folder}", open_storage()
        holdout, known, new = (
            stored(Path(folder), name, number)
            for name, number in (("holdout", options.holdout), ("known", options.known), ("new", options.new))
        )
        before = known.assign(near_copies="{}", near_copies_version=VERSION)
        rows = manifest.conform(pd.concat([before, new]))
        logging.info("%d known and %d new images are written", len(known), len(new))
        began = time.perf_counter()
        noted = copy_search.note_copies(storage, uri, rows, before, holdout, pool)
        seconds = time.perf_counter() - began
        num_found = int((noted["near_copies"].fillna("{}") != "{}").sum())
    ours, theirs = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        f"{options.new} new among {options.known} known and {options.holdout} of the holdout: {seconds:.0f} s; "
        f"peak memory {ours:.0f} MB, of each other process {theirs:.0f} MB; {num_found} of {NUM_COPIES} copies found"
    )


def stored(folder: Path, name: str, number: int) -> pd.DataFrame:
    """Write the features of made-up images, shard by shard, and return their rows."""
    for start in range(0, number, SHARD_IMAGES):
        some = range(start, min(start + SHARD_IMAGES, number))
        path = folder / feature_store.key_of(shard_key(name, start))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(feature_store.near_copies.pack(list(made_up(name, some))))
    rows = [
        {"key": f"{name}/{row}", "pixel_sha256": f"{name}-{row}", "shard_row": row % SHARD_IMAGES}
        for row in range(number)
    ]
    return manifest.conform(pd.DataFrame(rows).assign(shard_key=[shard_key(name, row) for row in range(number)]))


def shard_key(name: str, row: int) -> str:
    """Name the shard of an image."""
    return f"pixels/{name}/{row // SHARD_IMAGES:06}.npy"


def made_up(name: str, rows: Sequence[int]) -> Iterator[Features]:
    """Yield images of random keypoints; the first of the new ones are known ones, with some noise."""
    for row in rows:
        is_copy = name == "new" and row < NUM_COPIES
        rng = np.random.default_rng([0 if is_copy else len(name), row])
        if is_copy or name == "known":
            rng = np.random.default_rng([99, row])
        points = rng.uniform(0, 1, (NUM_KEYPOINTS, 4)) * (1, 1, 0.1, 360) + (0, 0, 0.01, 0)
        descriptors = np.sqrt(rng.exponential(1, (NUM_KEYPOINTS, 128)))
        if is_copy:
            descriptors += np.random.default_rng(row).normal(0, 0.1, descriptors.shape)
        descriptors *= 512 / np.linalg.norm(descriptors, axis=1, keepdims=True)
        yield Features(points.astype(np.float32), np.clip(np.rint(descriptors), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()

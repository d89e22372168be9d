"""A night's ingest out of S3, against `aws s3 sync` and the same decoding in a plain loop; then a night with 1 % new.

    python benchmarks/ingest.py [--images 5000] [--shard-px 256]

Same embedded S3 server, same JPEGs (640 x 640 px, made up, grey stored as RGB, about 40 KB), one after the other. Both
sides are timed as commands, start-up included; the loop decodes what sync has copied, and keeps nothing. The AWS
command line is installed into a folder of its own, which is thrown away afterwards.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from bc_tasks import holdout, runs, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.config_file import build_config
from bc_tasks.embedded import phantoms, processes, seaweedfs
from bc_tasks.environment import code_version
from bc_tasks.pixels import decode, preprocessing_sha256
from bc_tasks.records import Snapshot
from bc_tasks.steps import start
from bc_tasks.storage import Storage, join, open_storage

DATA_URI = "s3://images/data"
JPEG_PX = 640
NUM_PHANTOMS = 200
console = Console(soft_wrap=True)


class Cost(NamedTuple):
    """What a piece of work took; the second doesn't depend on what else the machine does."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Make the images, upload them, time both sides on both nights, print the table."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch, _server(Path(scratch) / "s3") as environment:
        folder = Path(scratch)
        os.environ.update(environment)
        storage, config = open_storage(), _config(options.shard_px)
        aws = _install_aws(folder / "aws")
        num_new = max(1, options.images // 100)
        _deliver(storage, folder / "first", 0, options.images)
        _fix_holdout(storage, config)
        first = _time_night("1", storage, config, folder, aws)
        _deliver(storage, folder / "second", options.images, num_new)
        second = _time_night("2", storage, config, folder, aws)
    console.print(_table(options.images, first, num_new, second))


@contextmanager
def _server(state: Path) -> Iterator[dict[str, str]]:
    try:
        yield seaweedfs.start(state).environment()
    finally:
        processes.stop(state)


def _config(shard_px: int) -> RunConfig:
    tree = {"data_uri": DATA_URI, "ingest": {"settle_minutes": 0, "pixels": {"size_px": shard_px}}}
    return build_config(tree, {"training.image_size_px": 64}, source="this benchmark")


def _install_aws(folder: Path) -> Path:
    console.print("installing the AWS command line ...")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-qq", "awscli"], check=True)
    return folder / "bin" / "aws"


def _deliver(storage: Storage, folder: Path, first: int, num_images: int) -> None:
    """Write images unlike all others into class folders, and upload them as a batch."""
    console.print(f"making and uploading {num_images} images ...")
    pictures = [
        phantom.pixels
        for phantom in islice(phantoms.make_patients(NUM_PHANTOMS, seed=1, size_px=JPEG_PX), NUM_PHANTOMS)
    ]
    for number in range(first, first + num_images):
        path = folder / str(number % 2) / f"{number % NUM_PHANTOMS}_{number}_png.jpg"  # copies are of one patient
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_dimmed(pictures[number % NUM_PHANTOMS], number)).convert("RGB").save(path, quality=94)
    storage.upload_folder(folder, join(DATA_URI, "inbox", folder.name))


def _dimmed(picture: np.ndarray, number: int) -> np.ndarray:
    """Return a picture as bright as no other copy of it."""
    return (picture * 0.98 ** (number // NUM_PHANTOMS)).astype(np.uint8)


def _fix_holdout(storage: Storage, config: RunConfig) -> None:
    rows = [{"key": f"{label}", "patient_id": "nobody", "image_id": f"{label}", "label": label} for label in (0, 1)]
    digest = preprocessing_sha256(config.ingest.pixels)
    holdout.save(storage, DATA_URI, pd.DataFrame(rows), digest, datetime.now(UTC))


def _time_night(name: str, storage: Storage, config: RunConfig, folder: Path, aws: Path) -> dict[str, Cost]:
    """Time sync, loop and ingest of what is new; then commit the snapshot, as validation would."""
    copies = folder / "copies"
    before = set(copies.rglob("*.jpg"))
    sync = [str(aws), "s3", "sync", "--quiet", join(DATA_URI, "inbox"), str(copies)]
    costs = {"aws s3 sync": _timed(lambda: subprocess.run(sync, check=True))}
    new = sorted(set(copies.rglob("*.jpg")) - before)
    costs["plain loop"] = _timed(lambda: _decode_all(new, config))
    run_uri = start.run(
        config,
        storage=storage,
        run_name=name,
        started_at=datetime.now(UTC),
        trigger="benchmark",
        code_version=code_version(),
    ).run_uri
    ingest = [sys.executable, "-m", "bc_tasks.cli", "ingest", "--run-uri", run_uri]
    costs["bc ingest"] = _timed(lambda: subprocess.run(ingest, check=True))
    _commit(storage, run_uri, len(new))
    return costs


def _timed(work: Callable[[], object]) -> Cost:
    began, used = time.perf_counter(), _cpu_seconds()
    work()
    return Cost(time.perf_counter() - began, _cpu_seconds() - used)


def _cpu_seconds() -> float:
    """Return what this process and its ended children have used of the cores; the server is not among them."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def _decode_all(paths: list[Path], config: RunConfig) -> None:
    limit = config.ingest.max_source_pixels
    for path in paths:
        decode(path.read_bytes(), name=path.name, config=config.ingest.pixels, max_source_pixels=limit)


def _commit(storage: Storage, run_uri: str, num_new: int) -> None:
    candidate = runs.read(storage, run_uri, Snapshot)
    rows = snapshots.read_manifest(storage, candidate)
    assert candidate.num_new == num_new, "both sides must have had the same work"
    assert rows["quarantine_reason"].isna().all()
    snapshots.commit(storage, DATA_URI, candidate, rows)


def _table(num_first: int, first: dict[str, Cost], num_second: int, second: dict[str, Cost]) -> Table:
    usual, ours = "sync + loop", "bc ingest"
    for night in (first, second):
        night[usual] = Cost(*map(sum, zip(night["aws s3 sync"], night["plain loop"], strict=True)))
    table = Table(
        Column("what", no_wrap=True),
        *("first night, s", "CPU, s", "second night, s", "CPU, s", "second : first"),
        title=f"{num_first} images, then {num_second} more, on {os.cpu_count()} cores",
    )
    for name in ("aws s3 sync", "plain loop", usual, ours):
        numbers = [f"{number:.1f}" for night in (first, second) for number in night[name]]
        table.add_row(name, *numbers, f"{second[name].seconds / first[name].seconds:.1%}")
    ratios = (night[usual].seconds / night[ours].seconds for night in (first, second))
    table.caption = "{} is {:.2f} and {:.2f} times as fast as {}".format(ours, *ratios, usual)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--shard-px", type=int, default=256, help="side of the squares in the shards")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Runs that are ready to be trained: a holdout, a snapshot with its pixels, and the records of the steps before."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from manifests import make_manifest
from training_images import make_images

from bc_tasks import fingerprint, holdout, manifest, runs, shards, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.records import Run, Snapshot, ValidationReport
from bc_tasks.storage import Storage

BACKBONE = "efficientnet_lite0"
DIGEST = "ab" * 32
HOLDOUT_PATIENTS = {"p0", "p1", "p2"}
QUICK = {
    "image_size_px": 32,
    "batch_size": 8,
    "epochs": 2,
    "trainable_stages": 0,
    "weights": "none",
    "early_stop_epochs": 50,
}


def store_images(storage: Storage, data_uri: str, num_images: int = 45) -> pd.DataFrame:
    """Store pixels that can be learnt from; return their manifest."""
    frame = make_manifest(num_images)
    made = make_images(2 * num_images, seed=1)
    numbers = {label: iter(np.flatnonzero(made.labels == label)) for label in (0, 1)}
    pixels = [made.images[next(numbers[int(label)])] for label in frame["label"]]
    digests = [shards.pixel_sha256(image) for image in pixels]
    key = shards.shard_key(DIGEST, digests)
    storage.write(f"{data_uri}/{key}", shards.pack(pixels))
    return frame.assign(pixel_sha256=digests, shard_key=key, shard_row=range(num_images))


def fix_holdout(storage: Storage, data_uri: str, frame: pd.DataFrame) -> holdout.Holdout:
    rows = frame[frame["patient_id"].isin(HOLDOUT_PATIENTS)]
    return holdout.save(storage, data_uri, rows, DIGEST, datetime(2026, 11, 1, tzinfo=UTC))


def begin_run(
    storage: Storage,
    data_uri: str,
    frame: pd.DataFrame,
    name: str = "night",
    num_processes: int = 1,
    operating_point: dict[str, object] | None = None,
    **training: object,
) -> str:
    """Leave the records that the steps before leave; return the run's URI."""
    run_uri = f"{data_uri}/runs/{name}"
    config = RunConfig.model_validate(
        {
            "data_uri": data_uri,
            "ingest": {"pixels": {"size_px": 64}},
            "training": {**QUICK, **training},
            "operating_point": operating_point or {},
            "execution": {"pods": {"train": {"gpus_per_pod": num_processes}}},
        }
    )
    started_at = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    runs.write(
        storage,
        run_uri,
        Run(run_uri=run_uri, started_at=started_at, trigger="test", code_version="0.1.0+test", config=config),
    )
    manifest_uri = f"{data_uri}/snapshots/{name}/manifest.parquet"
    storage.write(manifest_uri, manifest.to_parquet(frame))
    snapshot = Snapshot(
        manifest_uri=manifest_uri,
        fingerprint=fingerprint.of_manifest(manifest.conform(frame)),
        number=1,
        base_number=None,
        base_is_unfinished=False,
        preprocessing_sha256=DIGEST,
        holdout_fingerprint="f" * 64,
        num_new=len(frame),
        num_revised=0,
        num_withdrawn=0,
        counts=snapshots.describe(frame),
        quarantined_now={},
        waiting_batches=(),
        notes=(),
    )
    report = ValidationReport(
        snapshot=snapshot, expectations=(), num_quarantined=0, bad_share=0, data_docs_uri=f"{run_uri}/docs"
    )
    runs.write(storage, run_uri, report)
    return run_uri


def start_bc_train(run_uri: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bc_tasks.cli", "train", "--run-uri", run_uri, "--backbone", BACKBONE]
    return subprocess.Popen(
        [*command, "--cache", str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

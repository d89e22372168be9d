"""A model can be made again out of its run's records alone: on one machine to the bit, whatever else is there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import BACKBONE, begin_run, start_bc_train

from bc_tasks import runs
from bc_tasks.records import TrainedModel
from bc_tasks.steps import train as step
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking
from bc_tasks.training import weights

RECORDS = ("start.json", "validate.json")
"""All that a run knows before it is trained."""


def copy_records(run_uri: str, name: str, storage: Storage) -> str:
    """Begin another run with the records of one; return its URI."""
    again = f"{run_uri.rpartition('/')[0]}/{name}"
    for record in RECORDS:
        storage.write(f"{again}/{record}", storage.read(f"{run_uri}/{record}"))
    return again


def train_in_a_fresh_process(run_uri: str, storage: Storage, cache: Path, num_threads: int) -> TrainedModel:
    """Train as a person would who has the records only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(num_threads))
        with start_bc_train(run_uri, cache) as child:
            printed, _ = child.communicate(timeout=200)
    assert child.returncode == 0, printed
    return runs.read(storage, run_uri, TrainedModel, f"train-{BACKBONE}.json")


@pytest.mark.slow
def test_from_a_runs_records_alone_come_the_same_weights_to_the_bit(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    """All stages are trained, in another process, with an empty cache, as long after as one likes."""
    first_uri = begin_run(storage, data_uri, frame, trainable_stages="all")
    first = step.run(first_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path / "first")
    again_uri = copy_records(first_uri, "again", storage)
    again = train_in_a_fresh_process(again_uri, storage, tmp_path / "again", first.environment.num_threads)
    assert again.weights_uri != first.weights_uri
    assert again.weights_sha256 == first.weights_sha256
    assert (again.spec, again.calibration, again.tuning_metrics) == (
        first.spec,
        first.calibration,
        first.tuning_metrics,
    )
    assert again.environment.model_copy(update={"platform": first.environment.platform}) == first.environment


def test_another_number_of_threads_rounds_otherwise_and_that_is_noted(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    """Of the head alone no more comes of it; where stages are trained too, see benchmarks/RESULTS.md."""
    num_threads = torch.get_num_threads()
    first_uri = begin_run(storage, data_uri, frame)
    first = step.run(first_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path)
    try:
        torch.set_num_threads(1 if num_threads > 1 else 2)
        again_uri = copy_records(first_uri, "again", storage)
        again = step.run(again_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path)
    finally:
        torch.set_num_threads(num_threads)
    assert again.environment.num_threads != first.environment.num_threads == num_threads
    for name, trained in (("first", first), ("again", again)):
        storage.download(trained.weights_uri, tmp_path / f"{name}.safetensors")
    ours, theirs = (weights.read(tmp_path / f"{name}.safetensors") for name in ("first", "again"))
    for name, tensor in ours.items():
        assert np.allclose(tensor, theirs[name], atol=1e-5), name
    assert first.tuning_metrics == pytest.approx(again.tuning_metrics, abs=1e-5, nan_ok=True)

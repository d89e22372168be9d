import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loop import assert_same_bits, config, fine_tune
from torch import Tensor

from bc_tasks.storage import Storage
from bc_tasks.training import checkpoints, weights
from bc_tasks.training.checkpoints import Checkpoint, EpochResult

THIS = "a" * 64


def state(epoch: int, best_epoch: int | None = None, num_steps: int = 0) -> Checkpoint:
    def tensors(seed: int) -> dict[str, Tensor]:
        return {"conv.weight": torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))}

    best = best_epoch or epoch
    return Checkpoint(
        epoch=epoch,
        result=EpochResult(epoch, 1e-4, 0.5, {"recall": 0.25, "auc": math.nan}, 12.5, best == epoch),
        losses=torch.linspace(1, 0, num_steps),
        best_epoch=best,
        best_score=0.1 * best,
        loss_scale={"scale": 1024.0, "growth_interval": 2000},
        model=tensors(epoch),
        best=tensors(best),
        optimizer={"0.exp_avg": torch.full((2, 3), float(epoch)), "0.step": torch.tensor(7.0)},
    )


def assert_same(seen: Checkpoint | None, wanted: Checkpoint) -> None:
    assert seen is not None
    assert (seen.epoch, seen.best_epoch, seen.best_score) == (wanted.epoch, wanted.best_epoch, wanted.best_score)
    assert repr(seen.result) == repr(wanted.result)  # its NaN is unequal to itself
    assert seen.loss_scale == wanted.loss_scale
    assert {name: type(value) for name, value in seen.loss_scale.items()} == {"scale": float, "growth_interval": int}
    assert torch.equal(seen.losses, wanted.losses)
    for part in ("model", "best", "optimizer"):
        ours, theirs = getattr(seen, part), getattr(wanted, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("best_epoch", "num_steps"), [(1, 0), (3, 0), (1, 12), (3, 12)])
def test_what_is_saved_is_loaded(best_epoch: int, num_steps: int, tmp_path: Path) -> None:
    checkpoints.save(tmp_path, state(3, best_epoch, num_steps), THIS)
    assert_same(checkpoints.load(tmp_path, THIS), state(3, best_epoch, num_steps))


def test_further_steps_replace_the_epoch_before_them_and_are_replaced_by_the_next(
    storage: Storage, data_uri: str, tmp_path: Path
) -> None:
    for then in (state(1), state(1, num_steps=7), state(1, num_steps=9), state(2)):
        checkpoints.save(tmp_path / "here", then, THIS)
        checkpoints.push(storage, tmp_path / "here", data_uri)
        checkpoints.pull(storage, data_uri, tmp_path / "there", THIS)
        assert_same(checkpoints.load(tmp_path / "there", THIS), then)
        assert len(storage.list(data_uri)) == len(list((tmp_path / "here").iterdir())) == 2


def test_only_the_last_one_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoints.save(tmp_path, state(epoch), THIS)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.json", "epoch-0003.safetensors"}


def test_without_a_checkpoint_training_starts_afresh(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "nowhere", THIS) is None


def test_one_of_another_training_is_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save(tmp_path, state(3), THIS)
    with caplog.at_level("INFO"):
        assert checkpoints.load(tmp_path, "b" * 64) is None
    assert "of another configuration or snapshot" in caplog.text


@pytest.mark.parametrize("spoil", ["cut", "gone", "changed", "mark"])
def test_a_spoilt_one_is_left_out_with_a_line(spoil: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save(tmp_path, state(3), THIS)
    tensors = tmp_path / "epoch-0003.safetensors"
    if spoil == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif spoil == "gone":
        tensors.unlink()
    elif spoil == "changed":
        weights.write({"model.conv.weight": torch.zeros(2, 3)}, tensors)
    else:
        (tmp_path / "checkpoint.json").write_text('{"epoch": 3')
    with caplog.at_level("INFO"):
        assert checkpoints.load(tmp_path, THIS) is None
    assert "is left out" in caplog.text


def test_a_crash_while_saving_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, state(1), THIS)
    (tmp_path / "epoch-0002.safetensors.partial").write_bytes(b"half")
    (tmp_path / "checkpoint.json.partial").write_text("{")
    assert_same(checkpoints.load(tmp_path, THIS), state(1))
    checkpoints.save(tmp_path, state(2), THIS)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.json", "epoch-0002.safetensors"}


def test_another_machine_goes_on_from_s3(storage: Storage, data_uri: str, tmp_path: Path) -> None:
    uri = f"{data_uri}/runs/night/checkpoints/resnet50"
    for epoch in (1, 2):
        checkpoints.save(tmp_path / "here", state(epoch), THIS)
        checkpoints.push(storage, tmp_path / "here", uri)
    assert [stored.uri for stored in storage.list(uri)] == [f"{uri}/checkpoint.json", f"{uri}/epoch-0002.safetensors"]
    checkpoints.pull(storage, uri, tmp_path / "there", THIS)
    assert_same(checkpoints.load(tmp_path / "there", THIS), state(2))


def test_what_is_further_here_is_not_replaced_by_what_is_stored(
    storage: Storage, data_uri: str, tmp_path: Path
) -> None:
    checkpoints.save(tmp_path, state(1), THIS)
    checkpoints.push(storage, tmp_path, data_uri)
    checkpoints.save(tmp_path, state(2), THIS)
    checkpoints.pull(storage, data_uri, tmp_path, THIS)
    assert_same(checkpoints.load(tmp_path, THIS), state(2))


def test_a_stored_one_of_another_training_replaces_nothing(storage: Storage, data_uri: str, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "theirs", state(9), "b" * 64)
    checkpoints.push(storage, tmp_path / "theirs", data_uri)
    checkpoints.save(tmp_path / "ours", state(1), THIS)
    checkpoints.pull(storage, data_uri, tmp_path / "ours", THIS)
    assert_same(checkpoints.load(tmp_path / "ours", THIS), state(1))


def test_an_upload_that_broke_off_before_its_mark_is_no_checkpoint(
    storage: Storage, data_uri: str, tmp_path: Path
) -> None:
    checkpoints.save(tmp_path / "here", state(1), THIS)
    storage.upload(tmp_path / "here" / "epoch-0001.safetensors", f"{data_uri}/epoch-0001.safetensors")
    checkpoints.pull(storage, data_uri, tmp_path / "there", THIS)
    assert checkpoints.load(tmp_path / "there", THIS) is None


TRAINING_THAT_DIES_AFTER_EPOCH_2 = """
import os, signal, sys
from pathlib import Path
from test_loop import config, fine_tune
from bc_tasks.training import checkpoints

def keep(checkpoint):
    checkpoints.save(Path(sys.argv[1]), checkpoint, "a" * 64)
    if checkpoint.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

fine_tune(config(epochs=4), on_checkpoint=keep)
"""


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_same_weights_when_it_is_started_again(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), str(tests.parent.parent)])
    killed = subprocess.run(
        [sys.executable, "-c", TRAINING_THAT_DIES_AFTER_EPOCH_2, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=240,
    )
    assert killed.returncode == -signal.SIGKILL
    left = checkpoints.load(tmp_path, THIS)
    assert left is not None
    assert left.epoch == 2
    resumed, whole = fine_tune(config(epochs=4), resume=left), fine_tune(config(epochs=4))
    assert_same_bits(resumed.weights, whole.weights)

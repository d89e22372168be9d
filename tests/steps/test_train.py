"""Training on real S3 and a real MLflow server: all that later steps need, once, and never on the holdout."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from night_records import make_night
from training_runs import BACKBONE, begin_run, fix_holdout, start_bc_train, store_images

from bc_tasks import holdout, metrics, runs
from bc_tasks.errors import ConfigError, DataError, Interrupted, RecordMissing
from bc_tasks.records import ModelSpec, TrainedModel
from bc_tasks.steps import train as step
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking, TrainingRun
from bc_tasks.training import scoring, weights
from bc_tasks.training.backbones import build
from bc_tasks.training.data import fetch_pixels
from bc_tasks.training.progress import TrainingProgress


def train(run_uri: str, storage: Storage, tracking: Tracking, cache: Path) -> TrainedModel:
    return step.run(run_uri, BACKBONE, storage=storage, tracking=tracking, cache=cache)


def mlflow_run(tracking: Tracking, trained: TrainedModel) -> Any:
    return tracking.client.get_run(trained.mlflow_run_id)


def test_all_that_later_steps_need_is_left_behind(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame)
    trained = train(run_uri, storage, tracking, tmp_path / "cache")
    assert runs.read(storage, run_uri, TrainedModel, f"train-{BACKBONE}.json") == trained
    stored = storage.read(f"{run_uri}/models/{BACKBONE}/model.safetensors")
    assert trained.weights_uri == f"{run_uri}/models/{BACKBONE}/model.safetensors"
    assert sha256(stored).hexdigest() == trained.weights_sha256
    assert ModelSpec.model_validate_json(storage.read(f"{run_uri}/models/{BACKBONE}/spec.json")) == trained.spec
    assert (trained.num_training_images, trained.num_tuning_images) == (
        (frame["split"] == "training").sum(),
        (frame["split"] == "tuning").sum(),
    )
    assert (trained.num_epochs, trained.seed, trained.started_from) == (2, 17, "random weights")
    assert {"torch", "timm", "safetensors", "mlflow"} <= set(trained.environment.packages)


def test_the_stored_weights_and_operating_point_give_the_recorded_tuning_metrics(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    trained = train(begin_run(storage, data_uri, frame), storage, tracking, tmp_path / "cache")
    storage.download(trained.weights_uri, tmp_path / "model.safetensors")
    tuning = frame[frame["split"] == "tuning"]
    images = fetch_pixels(storage, data_uri, tuning, tmp_path / "other")
    model = scoring.load_model(trained.spec, tmp_path / "model.safetensors")
    scores = scoring.score(model, trained.spec, images, batch_size=3)
    seen = metrics.summarise(tuning["label"].to_numpy(dtype=int), scores, trained.spec.operating_point)
    assert seen == pytest.approx(trained.tuning_metrics, abs=1e-6, nan_ok=True)


def test_mlflow_shows_every_epoch_and_what_was_configured(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    trained = train(begin_run(storage, data_uri, frame), storage, tracking, tmp_path)
    seen = mlflow_run(tracking, trained)
    assert seen.info.status == "FINISHED"
    assert seen.data.params["epochs"] == "2"
    assert seen.data.params["rotation_degrees"] == "20.0"
    for name in ("training_loss", "learning_rate", "images_per_second", "tuning_auc", "tuning_average_precision"):
        history = tracking.client.get_metric_history(trained.mlflow_run_id, name)
        assert [point.step for point in history] == [1, 2], name


def test_done_again_nothing_is_trained(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame)
    trained = train(run_uri, storage, tracking, tmp_path / "cache")
    for stored in storage.list(f"{data_uri}/pixels"):
        storage.delete(stored.uri)
    assert train(run_uri, storage, tracking, tmp_path / "empty cache") == trained


def raising_at_epoch_2(told: Callable[..., None], epoch_of: Callable[..., int]) -> Callable[..., None]:
    def tell(*args: Any) -> None:
        if epoch_of(*args) == 2:
            raise KeyboardInterrupt
        told(*args)

    return tell


def break_off_in_epoch_2(patch: pytest.MonkeyPatch) -> None:
    step = raising_at_epoch_2(TrainingProgress.step, lambda _self, epoch, *_: epoch)
    patch.setattr(TrainingProgress, "step", step)


def break_off_before_epoch_2_is_told(patch: pytest.MonkeyPatch) -> None:
    log_metrics = raising_at_epoch_2(TrainingRun.log_metrics, lambda _self, _figures, epoch: epoch)
    patch.setattr(TrainingRun, "log_metrics", log_metrics)


@pytest.mark.parametrize("break_off", [break_off_in_epoch_2, break_off_before_epoch_2_is_told])
def test_an_interrupted_training_goes_on_on_another_machine_to_the_same_weights(
    break_off: Callable[[pytest.MonkeyPatch], None],
    frame: pd.DataFrame,
    storage: Storage,
    data_uri: str,
    tracking: Tracking,
    tmp_path: Path,
) -> None:
    broken, whole = (begin_run(storage, data_uri, frame, name, epochs=3) for name in ("broken", "whole"))
    with pytest.MonkeyPatch.context() as patch:
        break_off(patch)
        with pytest.raises(KeyboardInterrupt):
            train(broken, storage, tracking, tmp_path / "one machine")
    assert storage.find(f"{broken}/checkpoints/{BACKBONE}/checkpoint.json") is not None
    assert not runs.exists(storage, broken, f"train-{BACKBONE}.json")

    resumed = train(broken, storage, tracking, tmp_path / "another machine")
    assert train(whole, storage, tracking, tmp_path / "a third").weights_sha256 == resumed.weights_sha256
    points = tracking.client.get_metric_history(resumed.mlflow_run_id, "training_loss")
    assert {point.step for point in points} == {1, 2, 3}
    assert len({(point.step, point.value) for point in points}) == 3, "what is told again is the same"
    assert mlflow_run(tracking, resumed).info.status == "FINISHED"
    assert storage.list(f"{broken}/checkpoints") == []


def stop_after_epoch_1(child: subprocess.Popen[str]) -> str:
    """Send SIGTERM, and again, in the midst of training; return what was printed after the first one."""
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        seen.append(line)
        if " epoch 1/" in line:
            break
    else:
        pytest.fail("".join(seen))
    child.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    printed, _ = child.communicate(timeout=120)
    return printed


LONG_ENOUGH_TO_BE_STOPPED = {"epochs": 12, "warmup_epochs": 0}


def stop_a_training(run_uri: str, storage: Storage, cache: Path) -> None:
    """Stop `bc train` in the midst of an epoch, and check what it says and leaves."""
    with start_bc_train(run_uri, cache) as child:
        printed = stop_after_epoch_1(child)
    assert child.returncode == Interrupted.exit_code, printed
    where = f"{run_uri}/checkpoints/{BACKBONE}"
    said = re.search(
        rf"Interrupted: stopped after step (\d) of 4 of epoch (\d+); its checkpoint is at {where}", printed
    )
    assert said, printed
    assert "Traceback" not in printed
    mark = json.loads(storage.read(f"{where}/checkpoint.json"))
    assert (mark["num_steps"], mark["epoch"] + 1) == (int(said[1]), int(said[2]))
    assert not runs.exists(storage, run_uri, f"train-{BACKBONE}.json")


def assert_alike(first: TrainedModel, second: TrainedModel, storage: Storage, folder: Path) -> None:
    """Sums of another order differ in their last bits, and AdamW makes a little more of it."""
    for name, trained in (("first", first), ("second", second)):
        storage.download(trained.weights_uri, folder / f"{name}.safetensors")
    ours, theirs = (weights.read(folder / f"{name}.safetensors") for name in ("first", "second"))
    for name, tensor in ours.items():
        assert np.allclose(tensor, theirs[name], atol=1e-4, rtol=1e-4), name
    assert first.tuning_metrics == pytest.approx(second.tuning_metrics, abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_from_which_another_machine_goes_on_with_the_very_next_step(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    stopped, whole = (
        begin_run(storage, data_uri, frame, name, **LONG_ENOUGH_TO_BE_STOPPED) for name in ("stopped", "whole")
    )
    stop_a_training(stopped, storage, tmp_path / "one machine")
    resumed = train(stopped, storage, tracking, tmp_path / "another machine")
    assert resumed.weights_sha256 == train(whole, storage, tracking, tmp_path / "a third").weights_sha256


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to_also_when_they_were_stopped(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    """Whether they are two again when they go on, or whether there is one only."""
    names, counts = ("two", "alone", "whole"), (2, 1, 1)
    two, alone, whole = (
        begin_run(storage, data_uri, frame, name, count, **LONG_ENOUGH_TO_BE_STOPPED)
        for name, count in zip(names, counts, strict=True)
    )
    stop_a_training(two, storage, tmp_path / "two")
    for stored in storage.list(f"{two}/checkpoints/"):
        storage.write(stored.uri.replace(two, alone), storage.read(stored.uri))
    with start_bc_train(two, tmp_path / "two") as child:
        printed, _ = child.communicate(timeout=200)
    assert child.returncode == 0, printed
    epochs = [int(number) for number in re.findall(r" epoch (\d+)/12:", printed)]
    assert epochs == list(range(epochs[0], 13)), "one line an epoch, from the one that was stopped"
    uninterrupted = train(whole, storage, tracking, tmp_path / "whole")
    for resumed in (two, alone):
        assert_alike(train(resumed, storage, tracking, tmp_path / "alone"), uninterrupted, storage, tmp_path)


def test_an_image_of_a_holdout_patient_stops_the_training(
    storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    whole = store_images(storage, data_uri)
    fix_holdout(storage, data_uri, whole)
    run_uri = begin_run(storage, data_uri, whole)
    with pytest.raises(
        DataError, match=r"9 images of the snapshot belong to patients, or show pictures, of the holdout"
    ):
        train(run_uri, storage, tracking, tmp_path)


@pytest.mark.parametrize("column", ["source_stem", "pixel_sha256"])
def test_a_holdout_image_under_another_patients_name_stops_the_training(
    column: str, frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    theirs = holdout.load(storage, data_uri).manifest[column][0]
    frame.loc[5, column] = theirs
    with pytest.raises(DataError, match=rf"1 images .* of the holdout, e\.g\. \['{frame['image_id'][5]}'\]"):
        train(begin_run(storage, data_uri, frame), storage, tracking, tmp_path)


def test_rows_of_the_holdout_in_the_snapshot_are_not_trained_on(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    theirs = holdout.load(storage, data_uri).manifest
    trained = train(begin_run(storage, data_uri, pd.concat([frame, theirs])), storage, tracking, tmp_path)
    assert trained.num_training_images + trained.num_tuning_images == len(frame)


def test_a_patient_in_two_splits_stops_the_training(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    frame.loc[frame.index[0], "split"] = "tuning" if frame["split"][0] == "training" else "training"
    with pytest.raises(DataError, match="3 images of the snapshot belong to patients that are in more than one split"):
        train(begin_run(storage, data_uri, frame), storage, tracking, tmp_path)


@pytest.mark.parametrize("split", ["training", "tuning"])
def test_one_label_only_stops_the_training(
    split: str, frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    one_label = frame[(frame["split"] != split) | (frame["label"] == 0)]
    with pytest.raises(DataError, match=f"the {split} split needs images of both labels"):
        train(begin_run(storage, data_uri, one_label), storage, tracking, tmp_path)


def test_quarantined_images_are_not_trained_on(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    row = frame.index[frame["split"] == "training"][0]
    frame.loc[row, "quarantine_reason"] = "failed_expectation"
    trained = train(begin_run(storage, data_uri, frame), storage, tracking, tmp_path)
    assert trained.num_training_images == (frame["split"] == "training").sum() - 1


def test_nothing_is_trained_before_validation(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame)
    storage.delete(f"{run_uri}/validate.json")
    with pytest.raises(RecordMissing, match="'validate'"):
        train(run_uri, storage, tracking, tmp_path)


def test_a_training_that_fails_is_a_failed_run_in_mlflow_and_leaves_no_record(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame, trainable_stages=8)
    with pytest.raises(ConfigError, match="has 7 stages"):
        train(run_uri, storage, tracking, tmp_path)
    assert not runs.exists(storage, run_uri, f"train-{BACKBONE}.json")
    (seen,) = tracking.client.search_runs(
        [tracking.client.get_experiment_by_name(tracking.config.experiment).experiment_id]
    )
    assert seen.info.status == "FAILED"


@pytest.mark.slow
def test_a_warm_start_begins_with_the_champions_weights(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame, warm_start=True, epochs=1, learning_rate=1e-12, min_learning_rate=0)
    assert train(run_uri, storage, tracking, tmp_path).started_from == "random weights", "nobody is champion yet"

    theirs = tmp_path / "model.safetensors"
    digest = weights.write(build("tf_efficientnet_lite0.in1k", seed=9).state_dict(), theirs)
    night = make_night(
        f"{data_uri}/runs/before", mlflow_run_id=mlflow_run_of(tracking), registry=tracking.config, weights=theirs
    )
    version = tracking.register(**vars(night), weights=theirs).version
    tracking.client.set_registered_model_alias(tracking.config.model_name, "champion", version)

    again = begin_run(
        storage, data_uri, frame, "second", warm_start=True, epochs=1, learning_rate=1e-12, min_learning_rate=0
    )
    trained = train(again, storage, tracking, tmp_path)
    assert trained.started_from == f"champion, version {version}"
    storage.download(trained.weights_uri, tmp_path / "trained.safetensors")
    ours, champions = weights.read(tmp_path / "trained.safetensors"), weights.read(theirs)
    assert digest == night.trained.weights_sha256
    for name, tensor in champions.items():
        assert np.allclose(ours[name], tensor, atol=1e-6), name


def mlflow_run_of(tracking: Tracking) -> str:
    with tracking.training_run("s3://images/runs/before", BACKBONE, params={}, tags={}) as training:
        return training.mlflow_run_id

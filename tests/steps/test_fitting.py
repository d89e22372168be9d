"""Temperature and operating point are fitted on tuning alone; a holdout image stops the fit before any score."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn
from training_runs import BACKBONE, DIGEST, begin_run

from bc_tasks import calibration, holdout, manifest, metrics, runs, shards
from bc_tasks.errors import DataError
from bc_tasks.holdout import Holdout
from bc_tasks.records import ModelSpec, Run, TrainedModel, ValidationReport
from bc_tasks.steps import fitting
from bc_tasks.steps import train as step
from bc_tasks.steps.fine_tuning import Job
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking
from bc_tasks.training import backbones, scoring, weights
from bc_tasks.training.data import Pixels, fetch_pixels

Fit = Callable[[pd.DataFrame], fitting.Fitted]


@pytest.fixture
def fixed(frame: pd.DataFrame, storage: Storage, data_uri: str) -> Holdout:  # noqa: ARG001 - it fixes the holdout
    return holdout.load(storage, data_uri)


def job_of(run_uri: str, storage: Storage, cache: Path) -> Job:
    config = runs.read(storage, run_uri, Run).config
    snapshot = runs.read(storage, run_uri, ValidationReport).snapshot
    return Job(run_uri, backbones.specify(BACKBONE, config, DIGEST), config, snapshot, cache)


def untrained(job: Job, folder: Path) -> Path:
    """Write weights whose probabilities differ from image to image."""
    model = backbones.build(job.spec.timm_name, seed=3)
    weights.write(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.fixture
def fit(frame: pd.DataFrame, fixed: Holdout, storage: Storage, data_uri: str, tmp_path: Path) -> Fit:
    """The real fit of a run, on the rows of any manifest."""
    job = job_of(begin_run(storage, data_uri, frame), storage, tmp_path / "cache")
    path = untrained(job, tmp_path)
    return lambda rows: fitting.fit(job, path, rows, fixed, storage)


@pytest.fixture
def refuse_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail where anything is scored."""

    def score(*_: object, **__: object) -> None:
        pytest.fail("images were scored")

    monkeypatch.setattr(scoring, "probabilities", score)


def test_what_is_fitted_belongs_to_the_scores_of_tuning(
    fit: Fit, frame: pd.DataFrame, storage: Storage, data_uri: str, tmp_path: Path
) -> None:
    fitted = fit(frame)
    tuning = frame[frame["split"] == "tuning"]
    images = fetch_pixels(storage, data_uri, tuning, tmp_path / "other")
    scores = scoring.score(
        scoring.load_model(fitted.spec, tmp_path / "model.safetensors"), fitted.spec, images, batch_size=64
    )
    labels = tuning["label"].to_numpy(dtype=int)
    assert metrics.summarise(labels, scores, fitted.spec.operating_point) == fitted.tuning_metrics
    assert calibration.log_loss(labels, scores) == fitted.calibration.log_loss_after
    assert fitted.spec.temperature == fitted.calibration.temperature
    assert fitted.calibration.num_images == len(tuning)


def test_switched_off_the_probabilities_stay_the_networks_own(
    frame: pd.DataFrame, fixed: Holdout, storage: Storage, data_uri: str, tmp_path: Path
) -> None:
    run_uri = begin_run(storage, data_uri, frame, operating_point={"calibrate": False})
    job = job_of(run_uri, storage, tmp_path / "cache")
    fitted = fitting.fit(job, untrained(job, tmp_path), frame, fixed, storage)
    assert fitted.spec.temperature == 1
    assert "switched off" in fitted.calibration.note


def test_a_requirement_that_no_point_reaches_is_told_in_the_log(
    frame: pd.DataFrame,
    fixed: Holdout,
    storage: Storage,
    data_uri: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = {"policy": "recall_at_specificity", "min_specificity": 1.0}
    job = job_of(begin_run(storage, data_uri, frame, operating_point=policy), storage, tmp_path / "cache")
    path = untrained(job, tmp_path)
    pixels = fetch_pixels(storage, data_uri, frame, tmp_path / "cache")
    scores = scoring.score(scoring.load_model(job.spec, path), job.spec, pixels, batch_size=64)
    highest_is_healthy = frame.assign(label=(scores < scores.max()).astype(int), split="tuning")
    with caplog.at_level(logging.WARNING):
        fitted = fitting.fit(job, path, highest_is_healthy, fixed, storage)
    assert fitted.reached.startswith("No point reaches specificity 1.000")
    assert fitted.reached in caplog.text


def poisoned_by_its_own_rows(frame: pd.DataFrame, fixed: Holdout) -> pd.DataFrame:
    return pd.concat([frame, fixed.manifest.head(1).assign(split="tuning")], ignore_index=True)


def poisoned_in(column: str) -> Callable[[pd.DataFrame, Holdout], pd.DataFrame]:
    def poison(frame: pd.DataFrame, fixed: Holdout) -> pd.DataFrame:
        row = frame.index[frame["split"] == "tuning"][-1]
        return frame.assign(**{column: frame[column].where(frame.index != row, fixed.manifest[column][0])})

    return poison


@pytest.mark.usefixtures("refuse_to_score")
@pytest.mark.parametrize(
    "poison",
    [poisoned_by_its_own_rows, *map(poisoned_in, ("image_id", "patient_id", "source_stem", "pixel_sha256"))],
    ids=["its rows", "image id", "patient", "source image", "picture"],
)
def test_an_image_of_the_holdout_among_tunings_stops_the_fit_before_anything_is_scored(
    poison: Callable[[pd.DataFrame, Holdout], pd.DataFrame], fit: Fit, frame: pd.DataFrame, fixed: Holdout
) -> None:
    rows = poison(frame, fixed)
    leaked = (
        rows["image_id"].iloc[-1] if len(rows) > len(frame) else rows[rows["split"] == "tuning"]["image_id"].iloc[-1]
    )
    with pytest.raises(DataError, match=rf"^1 of \d tuning images are of the holdout, e\.g\. \['{leaked}'\]"):
        fit(rows)


@pytest.mark.usefixtures("refuse_to_score")
def test_a_refusal_names_ten_images_at_most(fit: Fit, frame: pd.DataFrame, fixed: Holdout) -> None:
    copies = pd.concat([fixed.manifest.assign(split="tuning")] * 2)
    with pytest.raises(DataError, match=r"^18 of 18 tuning images") as caught:
        fit(manifest.conform(copies))
    assert str(caught.value).count("image-") == 10
    assert len(frame) > 0


def test_a_whole_training_fits_on_the_images_of_tuning_and_no_others(
    frame: pd.DataFrame,
    fixed: Holdout,
    storage: Storage,
    data_uri: str,
    tracking: Tracking,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The snapshot holds the holdout's rows too; what is scored in order to fit is known by its picture."""
    with_holdout = pd.concat([frame, fixed.manifest])
    by_picture = dict(zip(with_holdout["pixel_sha256"], with_holdout["image_id"], strict=True))
    scored: list[str] = []
    score = scoring.score

    def score_and_note(model: nn.Module, spec: ModelSpec, images: Pixels, *, batch_size: int) -> scoring.Probabilities:
        scored.extend(by_picture[shards.pixel_sha256(image)] for image in images)
        return score(model, spec, images, batch_size=batch_size)

    monkeypatch.setattr(scoring, "score", score_and_note)
    run_uri = begin_run(storage, data_uri, with_holdout, epochs=1)
    trained = step.run(run_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path)
    assert sorted(scored) == sorted(frame[frame["split"] == "tuning"]["image_id"])
    assert not set(scored) & set(fixed.manifest["image_id"])
    assert trained.calibration.num_images == len(scored)


def test_training_records_what_was_fitted_and_mlflow_shows_it(
    frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = begin_run(
        storage, data_uri, frame, operating_point={"policy": "recall_floor", "min_recall": 0.5}, epochs=1
    )
    trained = step.run(run_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path)
    assert runs.read(storage, run_uri, TrainedModel, f"train-{BACKBONE}.json") == trained
    assert trained.operating_point_policy == "recall_floor"
    assert trained.operating_point_reached.startswith("specificity")
    assert trained.tuning_metrics["recall"] >= 0.5
    seen = tracking.client.get_run(trained.mlflow_run_id).data
    assert seen.metrics["best_tuning_temperature"] == trained.spec.temperature
    assert seen.metrics["best_tuning_log_loss"] == trained.calibration.log_loss_after
    assert seen.metrics["best_tuning_calibration_error_before_calibration"] == trained.calibration.error_before
    assert seen.params["operating_point_policy"] == "recall_floor"
    assert np.isfinite(trained.calibration.error_after)

"""Evaluation measures images, breasts and patients of the holdout with the calibrated probabilities that are served."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from night_records import model_spec
from training_runs import BACKBONE, HOLDOUT_PATIENTS, begin_run

from bc_tasks import calibration, grouping, holdout, metrics, runs
from bc_tasks.config import RunConfig
from bc_tasks.records import Evaluation, ScoredImage, TrainedModel
from bc_tasks.steps import evaluate, train
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking
from bc_tasks.training import scoring
from bc_tasks.training.data import fetch_pixels

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


@pytest.fixture
def trained(frame: pd.DataFrame, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path) -> TrainedModel:
    """A model whose temperature isn't 1, in the run `night`."""
    run_uri = begin_run(storage, data_uri, frame, epochs=1)
    model = train.run(run_uri, BACKBONE, storage=storage, tracking=tracking, cache=tmp_path)
    assert model.spec.temperature != 1
    return model


def test_images_breasts_and_patients_are_measured_at_the_calibrated_operating_point(
    trained: TrainedModel, storage: Storage, data_uri: str, tracking: Tracking, tmp_path: Path
) -> None:
    run_uri = f"{data_uri}/runs/night"
    evaluation = evaluate.run(run_uri, storage=storage, tracking=tracking, cache=tmp_path, now=NOW)
    assert str(runs.read(storage, run_uri, Evaluation)) == str(evaluation)  # NaN is not NaN
    model, rows = evaluation.challenger, holdout.load(storage, data_uri).manifest
    point = trained.spec.operating_point

    served = scoring.load_model(trained.spec, next(tmp_path.glob("challenger-*.safetensors")))
    pixels = fetch_pixels(storage, data_uri, rows, tmp_path)
    raw = scoring.score(served, trained.spec.model_copy(update={"temperature": 1.0}), pixels, batch_size=64)
    assert [image.probability for image in model.scores] == list(calibration.apply(raw, trained.spec.temperature))

    scores = rows.assign(probability=[image.probability for image in model.scores])
    for keys, measured in (
        (["image_id"], model.metrics),
        (["patient_id", "laterality"], model.by_breast),
        (["patient_id"], model.by_patient),
    ):
        groups = scores.groupby(keys, sort=False)[["label", "probability"]].max()
        wanted = metrics.summarise(groups["label"].to_numpy(dtype=int), groups["probability"].to_numpy(), point)
        assert {name: interval.value for name, interval in measured.items()} == pytest.approx(wanted, nan_ok=True)
    assert len(scores.groupby("patient_id")) == len(HOLDOUT_PATIENTS) < len(rows)

    logged = tracking.client.get_run(trained.mlflow_run_id).data.metrics
    for unit, measured in (("", model.metrics), ("breast_", model.by_breast), ("patient_", model.by_patient)):
        assert logged[f"holdout_{unit}recall"] == measured["recall"].value
        assert logged[f"holdout_{unit}auc_low"] == pytest.approx(measured["auc"].low, nan_ok=True)


def test_where_no_side_is_known_there_is_nothing_to_say_of_breasts() -> None:
    image = ScoredImage(image_id="I1", patient_id="P1", label=1, probability=0.7)
    config = RunConfig(data_uri="s3://images")
    assert evaluate._intervals(grouping.by_breast([image]), model_spec(), config) == {}
    assert evaluate._intervals(grouping.by_patient([image]), model_spec(), config)["recall"].value == 1

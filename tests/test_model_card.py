"""What reviewers read of a version."""

from dataclasses import replace
from pathlib import Path

import pytest
from night_records import make_night

from bc_tasks.config import RegistryConfig
from bc_tasks.records import Interval, TrainedModel
from bc_tasks.tracking.model_card import Night, describe_model, describe_version

REGISTRY = RegistryConfig(model_name="classifier", champion_alias="best", challenger_alias="newest")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Some file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def _night(weights: Path, champion_version: str | None) -> Night:
    return make_night(
        "s3://images/runs/night-1",
        mlflow_run_id="1" * 32,
        registry=REGISTRY,
        weights=weights,
        champion_version=champion_version,
    )


def test_a_version_is_shown_beside_the_champion_it_was_measured_against(weights: Path) -> None:
    night = _night(weights, champion_version="3")
    assert night.evaluation.champion is not None
    ours, theirs = night.evaluation.challenger.metrics["recall"], night.evaluation.champion.metrics["recall"]
    [row] = [line for line in describe_version(night).splitlines() if line.startswith("| recall&")]
    assert f"{ours.value:.3f} (" in row
    assert f"{theirs.value:.3f} ({theirs.low:.3f} to {theirs.high:.3f})" in row
    assert f"{ours.value - theirs.value:+.3f}" in row


def test_the_first_version_ever_is_shown_alone(weights: Path) -> None:
    table = [line for line in describe_version(_night(weights, None)).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {3}
    assert "a person must promote it" in describe_version(_night(weights, None))


def test_the_calls_are_told_in_images_and_patients(weights: Path) -> None:
    night = _night(weights, None)
    counts = night.evaluation.challenger.confusion
    assert f"On the holdout, 120 images of 60 patients, it finds {counts.num_true_positive} of 40" in describe_version(
        night
    )


def test_breasts_and_patients_are_told_of_with_their_counts(weights: Path) -> None:
    night = _night(weights, champion_version="3")
    assert night.evaluation.champion is not None
    text = describe_version(night)
    assert "here 119 breasts, 39 of them with cancer, and 60 patients, 40 of them with cancer" in text
    assert "; images of an unknown side, in no breast: 1." in text
    ours, theirs = night.evaluation.challenger.by_patient["recall"], night.evaluation.champion.by_patient["recall"]
    [row] = [line for line in text.splitlines() if line.startswith("| recall by patient")]
    assert f"{theirs.value:.3f} ({theirs.low:.3f} to {theirs.high:.3f})" in row
    assert f"{ours.value - theirs.value:+.3f}" in row
    assert [line.split("&")[0] for line in text.splitlines() if " by breast" in line] == [
        "| recall by breast",
        "| specificity by breast",
        "| F1 by breast",
        "| area under the ROC curve by breast",
    ]


def test_where_no_side_is_known_no_breast_is_shown(weights: Path) -> None:
    night = _night(weights, None)
    bare = night.evaluation.challenger.model_copy(update={"by_breast": {}})
    changed = Night(**{**vars(night), "evaluation": night.evaluation.model_copy(update={"challenger": bare})})
    assert "by breast" not in describe_version(changed)
    assert "| recall by patient" in describe_version(changed)


def test_calibration_and_the_operating_points_policy_are_told(weights: Path) -> None:
    text = describe_version(_night(weights, None))
    assert "temperature 1.700, calibration error 0.140 to 0.030" in text
    assert "the policy `recall_floor`: specificity 0.810 is the highest among points with recall 0.900" in text


def test_a_model_from_before_calibration_says_so(weights: Path) -> None:
    night = _night(weights, None)
    old = night.trained.model_dump(exclude={"calibration", "operating_point_policy", "operating_point_reached"})
    old["spec"].pop("temperature")
    text = describe_version(Night(**{**vars(night), "trained": TrainedModel.model_validate(old)}))
    assert "temperature 1.000 (the model is older than calibration), and the operating point was fitted" in text
    assert "the policy `best_f1`." in text


def test_a_figure_without_an_interval_shows_none(weights: Path) -> None:
    night = _night(weights, None)
    bare = night.evaluation.challenger.model_copy(
        update={"metrics": {"recall": Interval(value=0.8, low=float("nan"), high=float("nan"))}}
    )
    changed = Night(**{**vars(night), "evaluation": night.evaluation.model_copy(update={"challenger": bare})})
    assert "| recall&emsp; | 0.800&emsp; |" in describe_version(changed)


def test_an_interval_without_width_is_not_shown_as_certainty(weights: Path) -> None:
    night = _night(weights, champion_version=None)
    sure = night.evaluation.challenger.model_copy(update={"metrics": {"recall": Interval(value=1, low=1, high=1)}})
    text = describe_version(replace(night, evaluation=night.evaluation.model_copy(update={"challenger": sure})))
    assert "1.000 (no resample differed)" in text


def test_the_model_page_says_how_a_version_is_called_and_who_promotes() -> None:
    text = describe_model(REGISTRY)
    assert 'load_model("models:/classifier@newest")' in text
    assert "`best` is given by a person only" in text

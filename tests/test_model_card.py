"""What reviewers read of a version."""

from pathlib import Path

import pytest
from night_records import make_night

from bc_tasks.config import RegistryConfig
from bc_tasks.records import Interval
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
    [row] = [line for line in describe_version(night).splitlines() if line.startswith("| recall")]
    assert f"{ours.value:.3f} ({ours.low:.3f} to {ours.high:.3f})" in row
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


def test_a_figure_without_an_interval_shows_none(weights: Path) -> None:
    night = _night(weights, None)
    bare = night.evaluation.challenger.model_copy(
        update={"metrics": {"recall": Interval(value=0.8, low=float("nan"), high=float("nan"))}}
    )
    changed = Night(**{**vars(night), "evaluation": night.evaluation.model_copy(update={"challenger": bare})})
    assert "| recall&emsp; | 0.800&emsp; |" in describe_version(changed)


def test_the_model_page_says_how_a_version_is_called_and_who_promotes() -> None:
    text = describe_model(REGISTRY)
    assert 'load_model("models:/classifier@newest")' in text
    assert "`best` is given by a person only" in text

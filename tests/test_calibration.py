"""Calibration: closer to the truth on tuning, the same order, and left alone where nothing can be learnt."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as reference

from bc_tasks import calibration, metrics

PROBABILITY = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
SCORED = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=2, max_size=40)
TEMPERATURE = st.floats(calibration.LOWEST, calibration.HIGHEST)


def _overconfident(by: float, num_images: int = 4000) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Labels drawn by their true probabilities, and probabilities whose logits are `by` times too large."""
    generator = np.random.default_rng(11)
    logits = generator.normal(-0.5, 1.5, num_images)
    return (generator.random(num_images) < expit(logits)).astype(int), expit(by * logits)


@pytest.mark.parametrize("by", [0.4, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found_again(by: float) -> None:
    found = calibration.fit(*_overconfident(by))
    assert found.temperature == pytest.approx(by, rel=0.06)
    assert found.log_loss_after < found.log_loss_before
    assert found.error_after < 0.02 < found.error_before
    assert (found.num_images, found.note) == (4000, "")


@pytest.mark.parametrize("by", [0.4, 2.5])
def test_no_temperature_of_a_grid_has_a_lower_log_loss(by: float) -> None:
    labels, scores = _overconfident(by, 300)
    grid = [
        calibration.log_loss(labels, calibration.apply(scores, temperature))
        for temperature in np.geomspace(calibration.LOWEST, calibration.HIGHEST, 400)
    ]
    assert calibration.fit(labels, scores).log_loss_after <= min(grid) + 1e-9


@settings(deadline=None, max_examples=150)
@given(SCORED)
def test_calibrating_never_makes_the_log_loss_higher(scored: list[tuple[int, float]]) -> None:
    labels, scores = np.array([label for label, _ in scored]), np.array([score for _, score in scored])
    found = calibration.fit(labels, scores)
    assert found.log_loss_after <= found.log_loss_before
    assert calibration.LOWEST <= found.temperature <= calibration.HIGHEST
    assert found.log_loss_after == calibration.log_loss(labels, calibration.apply(scores, found.temperature))


@settings(deadline=None, max_examples=150)
@given(st.lists(PROBABILITY, min_size=2, max_size=30), TEMPERATURE)
def test_no_two_images_change_places(scores: list[float], temperature: float) -> None:
    ranked = np.sort(scores)
    calibrated = calibration.apply(ranked, temperature)
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1000)), min_size=2, max_size=40), st.integers(1, 50))
def test_what_needs_no_operating_point_is_the_same_after_calibration(
    scored: list[tuple[int, int]], sureness: int
) -> None:
    """By a temperature that was fitted; with another one, 0.999 and 0.9991 may both become 1."""
    labels = np.array([label for label, _ in scored])
    scores = 0.5 + (np.array([score for _, score in scored]) / 1000 - 0.5) / sureness  # timid models need most
    assume(0 < labels.sum() < len(labels))
    before = metrics.summarise(labels, scores, 0.5)
    calibrated = calibration.apply(scores, calibration.fit(labels, scores).temperature)
    after = metrics.summarise(labels, calibrated, 0.5)
    assert len(set(calibrated)) == len(set(scores))
    for name in ("auc", "average_precision"):
        assert after[name] == before[name]


@settings(deadline=None, max_examples=100)
@given(st.lists(PROBABILITY | st.just(float("nan")), max_size=30))
def test_a_temperature_of_one_changes_no_bit(scores: list[float]) -> None:
    before = np.array(scores)
    assert calibration.apply(before, 1.0).tobytes() == before.tobytes()


def test_the_probability_is_that_of_the_logits_over_the_temperature() -> None:
    logits = np.array([-8.0, -0.3, 0.0, 2.0, 11.0])
    assert calibration.apply(expit(logits), 2.5) == pytest.approx(expit(logits / 2.5), rel=1e-9)


def test_what_is_no_number_stays_none_and_a_certainty_becomes_less_of_one() -> None:
    calibrated = calibration.apply([float("nan"), 0.0, 1.0], 2.0)
    assert np.isnan(calibrated[0])
    assert 0 < calibrated[1] < 1e-7 < 1 - 1e-7 < calibrated[2] < 1
    assert calibrated[1] == pytest.approx(1 - calibrated[2])


@pytest.mark.parametrize(
    ("labels", "scores", "why"),
    [
        ([1, 1, 1], [0.2, 0.6, 0.9], "one label"),
        ([0, 0], [0.2, 0.6], "one label"),
        ([0, 1, 1], [0.4, 0.4, 0.4], "the same probability"),
    ],
)
def test_where_there_is_nothing_to_learn_the_temperature_is_one_and_says_why(
    labels: list[int], scores: list[float], why: str
) -> None:
    found = calibration.fit(labels, scores)
    assert found.temperature == 1
    assert why in found.note
    assert (found.log_loss_after, found.error_after) == (found.log_loss_before, found.error_before)


def test_a_model_that_is_right_about_itself_is_left_alone() -> None:
    labels = [1, 1, 1, 0, 1, 0, 0, 0]
    found = calibration.fit(labels, [0.75] * 4 + [0.25] * 4)  # as many cancers as it says
    assert (found.temperature, found.note) == (1, "no temperature that is allowed has a lower log loss")


def test_a_model_that_parts_all_tuning_images_does_not_get_endlessly_sure() -> None:
    scores = [0.2, 0.3, 0.7, 0.8]
    found = calibration.fit([0, 0, 1, 1], scores)
    assert found.note == "as far as a temperature may go"
    assert calibration.apply(scores, found.temperature)[-1] == pytest.approx(1 - 1e-6, abs=1e-8)


def test_a_model_that_is_always_wrong_gets_as_unsure_as_it_may() -> None:
    found = calibration.fit([1, 1, 0, 0], [0.2, 0.3, 0.7, 0.8])
    assert found.temperature == pytest.approx(calibration.HIGHEST, rel=1e-3)
    assert found.note == "as far as a temperature may go"


def test_switched_off_only_the_errors_are_measured() -> None:
    labels, scores = _overconfident(2.5)
    measured = calibration.none(labels, scores)
    assert (measured.temperature, measured.note) == (1, "switched off in the configuration")
    assert measured.error_before == measured.error_after == calibration.fit(labels, scores).error_before


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(1e-9, 1 - 1e-9)), min_size=1, max_size=40))
def test_the_log_loss_agrees_with_scikit_learn(scored: list[tuple[int, float]]) -> None:
    labels, scores = [label for label, _ in scored], [score for _, score in scored]
    assert calibration.log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores, labels=[0, 1]))


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    labels = [0, 1, 1, 1, 0]
    scores = [0.50, 0.52, 1.0, 0.94, 0.01]  # bins of 1/15: (0.50, 0.52), (1.0, 0.94), (0.01)
    gaps = [abs(0.5 - 0.51) * 2, abs(1 - 0.97) * 2, 0.01]
    assert calibration.calibration_error(labels, scores) == pytest.approx(sum(gaps) / 5)

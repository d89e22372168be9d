"""Each policy takes the point that it promises, on tuning, and never one that is no decision."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bc_tasks import metrics, operating_point
from bc_tasks.config import OperatingPointConfig

PROBABILITY = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])  # ties are common among real scores
SCORED = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=2, max_size=40)
SHARE = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 1.0])
RAISED = {"best_f1": "f1", "recall_at_specificity": "recall", "recall_floor": "specificity"}
HELD = {"recall_at_specificity": "specificity", "recall_floor": "recall"}

# Two of three cancers above every healthy image; the last cancer below half of them.
LABELS = [1, 1, 0, 0, 1, 0, 0]
SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]


def _arrays(scored: list[tuple[int, float]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    labels, scores = np.array([label for label, _ in scored]), np.array([score for _, score in scored])
    assume(0 < labels.sum() < len(labels))
    return labels, scores


def _decisions(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> list[dict[str, float]]:
    """What can be reached by calling some images cancer and some not, found by trying each score."""
    points = [point for point in scores if 0 < (scores >= point).sum() < len(scores)]
    return [metrics.summarise(labels, scores, point) for point in points]


def _config(policy: str, least: float = 0.9) -> OperatingPointConfig:
    return OperatingPointConfig.model_validate({"policy": policy, "min_specificity": least, "min_recall": least})


@settings(deadline=None, max_examples=150)
@given(SCORED, st.sampled_from(sorted(HELD)), SHARE)
def test_no_point_that_reaches_what_is_asked_is_better(
    scored: list[tuple[int, float]], policy: str, least: float
) -> None:
    labels, scores = _arrays(scored)
    allowed = [reached for reached in _decisions(labels, scores) if reached[HELD[policy]] >= least]
    found = operating_point.fit(labels, scores, _config(policy, least))
    assert found.is_met == bool(allowed) or len(set(scores)) == 1
    if allowed:
        seen = metrics.summarise(labels, scores, found.point)
        assert seen[HELD[policy]] >= least
        assert seen[RAISED[policy]] == max(reached[RAISED[policy]] for reached in allowed)


@settings(deadline=None, max_examples=150)
@given(SCORED, st.sampled_from(sorted(HELD)), SHARE)
def test_where_none_reaches_it_the_nearest_is_taken_and_told_of(
    scored: list[tuple[int, float]], policy: str, least: float
) -> None:
    labels, scores = _arrays(scored)
    reached = _decisions(labels, scores)
    found = operating_point.fit(labels, scores, _config(policy, least))
    assume(reached and not found.is_met)
    seen = metrics.summarise(labels, scores, found.point)
    assert seen[HELD[policy]] == max(other[HELD[policy]] for other in reached) < least
    assert found.sentence.startswith(f"No point reaches {HELD[policy]} {least:.3f}")


@settings(deadline=None, max_examples=150)
@given(SCORED)
def test_no_decision_has_a_higher_f1_than_the_best(scored: list[tuple[int, float]]) -> None:
    labels, scores = _arrays(scored)
    assume(len(set(scores)) > 1)
    seen = metrics.summarise(labels, scores, operating_point.best_f1(labels, scores))
    assert seen["f1"] == max(reached["f1"] for reached in _decisions(labels, scores))


@settings(deadline=None, max_examples=100)
@given(SCORED)
def test_of_equally_good_points_the_one_that_finds_most_is_taken(scored: list[tuple[int, float]]) -> None:
    labels, scores = _arrays(scored)
    assume(len(set(scores)) > 1)
    seen = metrics.summarise(labels, scores, operating_point.best_f1(labels, scores))
    as_good = [reached["recall"] for reached in _decisions(labels, scores) if reached["f1"] == seen["f1"]]
    assert seen["recall"] == max(as_good)


@settings(deadline=None, max_examples=150)
@given(SCORED, st.sampled_from(sorted(RAISED)), SHARE)
def test_a_point_never_calls_all_or_nothing_where_images_can_be_told_apart(
    scored: list[tuple[int, float]], policy: str, least: float
) -> None:
    labels, scores = _arrays(scored)
    point = operating_point.fit(labels, scores, _config(policy, least)).point
    assert 0 <= point <= 1
    called = (scores >= point).sum()
    assert called > 0
    assert called < len(scores) or len(set(scores)) == 1


@pytest.mark.parametrize(
    ("policy", "least", "point"),
    [
        ("best_f1", 0.9, 0.75),
        ("recall_at_specificity", 0.9, 0.75),
        ("recall_at_specificity", 0.5, 0.45),
        ("recall_at_specificity", 0.0, 0.45),
        ("recall_floor", 0.9, 0.45),
        ("recall_floor", 0.5, 0.75),
    ],
)
def test_a_policy_chooses_by_what_it_is_for(policy: str, least: float, point: float) -> None:
    found = operating_point.fit(LABELS, SCORES, _config(policy, least))
    assert found.point == pytest.approx(point)
    assert found.is_met


def test_what_is_asked_for_is_said_with_what_is_reached() -> None:
    assert operating_point.fit(LABELS, SCORES, _config("recall_at_specificity", 0.5)).sentence == (
        "recall 1.000 is the highest among points with specificity 0.500 or more; specificity is 0.500."
    )
    assert operating_point.fit(LABELS, SCORES, _config("best_f1")).sentence == (
        "F1 0.800 is the highest; recall is 0.667."
    )


def test_a_required_share_is_reached_exactly_and_not_missed_by_rounding() -> None:
    labels = [1, 1, 0, *[0] * 9]
    scores = np.linspace(1, 0, 12)[[0, 2, 1, *range(3, 12)]]
    assert operating_point.fit(labels, scores, _config("recall_at_specificity", 0.9)).is_met  # 9 of 10


def test_the_point_leaves_room_on_both_sides() -> None:
    assert operating_point.best_f1([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)


@pytest.mark.parametrize("scores", [[0.0, 5e-324], [0.5, np.nextafter(0.5, 1)]], ids=["smallest", "neighbours"])
def test_a_point_parts_even_neighbouring_numbers(scores: list[float]) -> None:
    assert metrics.summarise([0, 1], scores, operating_point.best_f1([0, 1], scores))["f1"] == 1


def test_images_that_cannot_be_told_apart_are_all_called_cancer() -> None:
    found = operating_point.fit([0, 1], [0.3, 0.3], _config("recall_at_specificity"))
    assert found.point == pytest.approx(0.15)
    assert not found.is_met


def test_every_policy_of_the_configuration_is_in_the_table() -> None:
    [choices] = [OperatingPointConfig.model_json_schema()["properties"]["policy"]["enum"]]
    assert list(operating_point.POLICIES) == choices == list(RAISED)

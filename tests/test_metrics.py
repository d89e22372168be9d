"""Metrics agree with scikit-learn; intervals resample patients."""

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from bc_tasks import metrics

PROBABILITY = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])  # ties are common among real scores
SCORED = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=1, max_size=40)

OF_CALLS = {
    "recall": reference.recall_score,
    "precision": reference.precision_score,
    "specificity": partial(reference.recall_score, pos_label=0),
    "f1": reference.f1_score,
    "accuracy": reference.accuracy_score,
}
OF_SCORES = {
    "auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "brier": reference.brier_score_loss,
}


def _reference(labels: npt.NDArray[Any], scores: npt.NDArray[Any], point: float) -> dict[str, float]:
    of_calls = {name: metric(labels, scores >= point) for name, metric in OF_CALLS.items()}
    return of_calls | {name: metric(labels, scores) for name, metric in OF_SCORES.items()}


def _arrays(scored: list[tuple[int, float]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return np.array([label for label, _ in scored]), np.array([score for _, score in scored])


@settings(deadline=None, max_examples=100)
@given(scored=SCORED, point=st.floats(0, 1))
def test_every_metric_agrees_with_scikit_learn(scored: list[tuple[int, float]], point: float) -> None:
    labels, scores = _arrays(scored)
    assume(0 < labels.sum() < len(labels))
    assume((scores >= point).any())
    assert metrics.summarise(labels, scores, point) == pytest.approx(_reference(labels, scores, point))


def test_the_metrics_of_a_large_holdout_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random(5000) < 0.3).astype(int)
    scores = np.round(np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 3)
    assert metrics.summarise(labels, scores, 0.5) == pytest.approx(_reference(labels, scores, 0.5))


@settings(deadline=None, max_examples=50)
@given(SCORED, st.data())
def test_a_weight_counts_like_a_copy(scored: list[tuple[int, float]], data: st.DataObject) -> None:
    """This makes a bootstrap resample by weights the same as one by copies."""
    labels, scores = _arrays(scored)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))))
    assume(weights.sum() > 0)
    images = np.arange(len(labels))
    resampled = metrics._resampled(labels, scores, 0.5, images, weights[None].astype(np.uint16))
    weighted = {name: float(value[0]) for name, value in resampled.items()}
    copied = metrics.summarise(np.repeat(labels, weights), np.repeat(scores, weights), 0.5)
    assert weighted == pytest.approx(copied, nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "scores", "undefined"),
    [
        ([1, 1], [0.9, 0.1], {"specificity", "auc"}),
        ([0, 0], [0.9, 0.1], {"recall", "auc", "average_precision"}),
        ([0, 1], [0.1, 0.2], {"precision"}),
        ([0, 1], [0.1, float("nan")], set(metrics.METRICS)),
        ([0, 1], [0.1, float("inf")], set(metrics.METRICS)),
    ],
    ids=["only cancer", "no cancer", "nothing called", "a score is NaN", "a score is infinite"],
)
def test_what_is_undefined_is_nan_and_not_a_guess(labels: list[int], scores: list[float], undefined: set[str]) -> None:
    seen = metrics.summarise(labels, scores, 0.5)
    assert {name for name, value in seen.items() if math.isnan(value)} == undefined


def test_a_probability_at_the_operating_point_is_called_cancer() -> None:
    assert metrics.summarise([1], [0.5], 0.5)["recall"] == 1


@settings(deadline=None, max_examples=50)
@given(SCORED, st.floats(0, 1))
def test_the_confusion_matrix_counts_every_image_once(scored: list[tuple[int, float]], point: float) -> None:
    labels, scores = _arrays(scored)
    counted = metrics.confusion(labels, scores, point)
    ((tn, fp), (fn, tp)) = reference.confusion_matrix(labels, scores >= point, labels=[0, 1])
    assert counted.model_dump() == {
        "num_true_positive": tp,
        "num_false_positive": fp,
        "num_true_negative": tn,
        "num_false_negative": fn,
    }


def _clustered(seed: int, num_patients: int, images_each: int) -> tuple[npt.NDArray[Any], ...]:
    """Images of a patient are all alike, so that ten images tell no more than one."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.random(num_patients) < 0.4, images_each).astype(int)
    scores = np.repeat(np.clip(generator.normal(0.5, 0.2, num_patients), 0, 1), images_each)
    return labels, scores, np.repeat(np.arange(num_patients), images_each)


def _intervals(labels: Any, scores: Any, patients: Any, **options: Any) -> Any:
    return metrics.intervals(
        labels, scores, patients, 0.5, **({"num_resamples": 400, "confidence": 0.95, "seed": 3} | options)
    )


def test_many_images_of_few_patients_do_not_make_an_interval_narrow() -> None:
    labels, scores, patients = _clustered(1, num_patients=60, images_each=10)
    by_patient, by_image = _intervals(labels, scores, patients), _intervals(labels, scores, np.arange(len(labels)))
    for name in ("recall", "auc", "brier"):
        assert by_patient[name].high - by_patient[name].low > 2 * (by_image[name].high - by_image[name].low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """The truth is 0.5 by construction; of a hundred 95 % intervals about five miss it, and hardly ever twelve."""
    misses = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        labels, scores = generator.integers(0, 2, 150), generator.random(150)
        interval = _intervals(labels, scores, np.arange(150), num_resamples=100)["accuracy"]
        misses += not interval.low <= 0.5 <= interval.high
    assert misses <= 12


def test_an_interval_holds_its_value_and_can_be_made_again() -> None:
    data = _clustered(2, num_patients=80, images_each=3)
    first, again, other = _intervals(*data), _intervals(*data), _intervals(*data, seed=4)
    assert first == again
    assert first != other
    assert all(interval.low <= interval.value <= interval.high for interval in first.values())


def test_more_confidence_is_a_wider_interval() -> None:
    data = _clustered(2, num_patients=80, images_each=3)
    narrow, wide = _intervals(*data, confidence=0.8), _intervals(*data, confidence=0.99)
    assert all(wide[name].low <= narrow[name].low <= narrow[name].high <= wide[name].high for name in metrics.METRICS)


def test_no_interval_is_made_of_what_is_undefined() -> None:
    interval = _intervals([1, 1], [0.6, 0.7], [1, 2])["specificity"]
    assert all(math.isnan(value) for value in (interval.value, interval.low, interval.high))


def test_an_interval_leaves_out_the_resamples_that_lack_a_label() -> None:
    interval = _intervals([0, 1, 1], [0.1, 0.9, 0.8], ["a", "b", "c"])["auc"]
    assert (interval.low, interval.high) == (1, 1)


def test_the_order_of_images_changes_no_value() -> None:
    labels, scores, _ = _clustered(5, num_patients=30, images_each=2)
    order = np.random.default_rng(0).permutation(len(labels))
    seen, reordered = (
        metrics.summarise(labels, scores, 0.5),
        metrics.summarise(labels[order], scores[order], 0.5),
    )
    assert seen == pytest.approx(reordered)

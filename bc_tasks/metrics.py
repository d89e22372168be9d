"""Metrics of a binary classifier, with intervals from resampling patients.

`METRICS` is the one table of them; each is a function of weighted counts or of weighted scores, so
that a bootstrap resample is a row of weights, and many rows are measured at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bc_tasks.records import ConfusionMatrix, Interval
from bc_tasks.resampling import chunks, draw_patients

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Draws = npt.NDArray[np.uint16]
NAN = float("nan")


class Calls(NamedTuple):
    """Weighted counts of images by what they are and what they were called, each (B,)."""

    true_positive: Floats
    false_positive: Floats
    true_negative: Floats
    false_negative: Floats

    @property
    def positive(self) -> Floats:
        """Images with cancer."""
        return self.true_positive + self.false_negative

    @property
    def negative(self) -> Floats:
        """Images without."""
        return self.true_negative + self.false_positive


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(whole, NAN), where=whole > 0)


class Curve(NamedTuple):
    """Weighted counts of images at each of the K distinct scores that images with cancer have, each (B, K)."""

    found: Floats
    """With cancer, at this score."""
    true_positive: Floats
    """With cancer, at or above it."""
    false_positive: Floats
    """Without, at or above it."""
    false_positive_above: Floats


def _curve(labels: Ints, scores: Floats, patients: Ints, draws: Draws) -> Curve:
    order = np.argsort(-scores, kind="stable")
    ranked, cancer = scores[order], np.flatnonzero(labels[order] == 1)
    lasts = cancer[_ends(ranked[cancer])]
    at_or_above = draws[:, patients[order]].cumsum(axis=1, dtype=np.float64)
    with_cancer = draws[:, patients[order[cancer]]].cumsum(axis=1, dtype=np.float64)
    true_positive = with_cancer[:, np.searchsorted(cancer, lasts)]
    found = np.diff(true_positive, axis=1, prepend=0)
    starts, ends = np.searchsorted(-ranked, -ranked[lasts]), np.searchsorted(-ranked, -ranked[lasts], side="right")
    above = np.where(starts > 0, at_or_above[:, starts - 1], 0)
    return Curve(found, true_positive, at_or_above[:, ends - 1] - true_positive, above - (true_positive - found))


def _ends(ranked: Floats) -> Ints:
    """Return where each run of equal values ends."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])


def _auc(curve: Curve, calls: Calls) -> Floats:
    """Return the chance that an image with cancer scores above one without; a tie counts one half."""
    below = calls.negative[:, None] - (curve.false_positive + curve.false_positive_above) / 2
    return _ratio((curve.found * below).sum(axis=1), calls.positive * calls.negative)


def _average_precision(curve: Curve, calls: Calls) -> Floats:
    """Return the mean precision over the steps of recall, without interpolation."""
    called = curve.true_positive + curve.false_positive
    precisions = np.divide(curve.true_positive, called, out=np.zeros_like(called), where=called > 0)
    return _ratio((curve.found * precisions).sum(axis=1), calls.positive)


CALL_METRICS: dict[str, Callable[[Calls], Floats]] = {
    "recall": lambda n: _ratio(n.true_positive, n.positive),
    "precision": lambda n: _ratio(n.true_positive, n.true_positive + n.false_positive),
    "specificity": lambda n: _ratio(n.true_negative, n.negative),
    "f1": lambda n: _ratio(2 * n.true_positive, 2 * n.true_positive + n.false_positive + n.false_negative),
    "accuracy": lambda n: _ratio(n.true_positive + n.true_negative, n.positive + n.negative),
}
"""Metrics of the calls at the operating point."""

CURVE_METRICS: dict[str, Callable[[Curve, Calls], Floats]] = {"auc": _auc, "average_precision": _average_precision}
"""Metrics of the order of the probabilities."""

METRICS = (*CALL_METRICS, *CURVE_METRICS, "brier")


def summarise(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> dict[str, float]:
    """Return each metric of labels (N,) in {0, 1} and probabilities (N,); NaN where it is undefined.

    An image is called cancer where its probability is at or above `operating_point`. If a probability is not a finite
    number, nothing can be said: all are NaN.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    once = np.ones((1, 1), np.uint16)
    values = _resampled(truth, scores, operating_point, np.zeros_like(truth), once)
    return {name: float(value[0]) for name, value in values.items()}


def _resampled(labels: Ints, scores: Floats, operating_point: float, patients: Ints, draws: Draws) -> dict[str, Floats]:
    """Return each metric (B,) of images (N,) whose patients (N,), numbered from 0, are drawn so often (B, P)."""
    if not np.isfinite(scores).all():
        return {name: np.full(len(draws), NAN) for name in METRICS}
    calls = _calls(labels, scores >= operating_point, patients, draws)
    curve = _curve(labels, scores, patients, draws)
    of_calls = {name: metric(calls) for name, metric in CALL_METRICS.items()}
    of_curve = {name: metric(curve, calls) for name, metric in CURVE_METRICS.items()}
    (squares,) = _sums([(scores - labels) ** 2], patients, draws)
    return of_calls | of_curve | {"brier": _ratio(squares, calls.positive + calls.negative)}


def _sums(values: Sequence[npt.NDArray[Any]], patients: Ints, draws: Draws) -> Floats:
    """Return the sum in each resample (V, B) of each of V values (N,)."""
    by_patient = np.stack([np.bincount(patients, value, draws.shape[1]) for value in values], axis=1)
    return np.asarray(draws @ by_patient, dtype=np.float64).T


def _calls(labels: Ints, called: npt.NDArray[np.bool_], patients: Ints, draws: Draws) -> Calls:
    positive = labels == 1
    kinds = (positive & called, ~positive & called, ~positive & ~called, positive & ~called)
    return Calls(*_sums(kinds, patients, draws))


def confusion(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> ConfusionMatrix:
    """Count the calls of labels (N,) and probabilities (N,) at an operating point."""
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    calls = _calls(truth, scores >= operating_point, np.zeros_like(truth), np.ones((1, 1), np.uint16))
    return ConfusionMatrix(**{f"num_{name}": int(count[0]) for name, count in calls._asdict().items()})


def intervals(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    patient_ids: npt.ArrayLike,
    operating_point: float,
    *,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    """Return each metric of N images with a percentile bootstrap interval over patients.

    Images of one patient are alike, so patients are drawn, not images. Resamples in which a metric is undefined are
    left out of its interval.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    values = summarise(truth, scores, operating_point)
    _, patients = np.unique(np.asarray(patient_ids), return_inverse=True)
    draws = draw_patients(int(patients.max()) + 1, num_resamples, seed)
    parts = [
        _resampled(truth, scores, operating_point, patients, draws[rows]) for rows in chunks(num_resamples, len(truth))
    ]
    tail = (1 - confidence) / 2
    return {name: _interval(values[name], np.concatenate([part[name] for part in parts]), tail) for name in METRICS}


def _interval(value: float, resampled: Floats, tail: float) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if len(known) == 0:
        return Interval(value=value, low=NAN, high=NAN)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))

"""Metrics of a binary classifier, with intervals from resampling patients.

`METRICS` is the one table of them; each is a function of weighted counts or of weighted scores, so
that a bootstrap resample is a vector of weights and nothing is copied.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bc_tasks.records import ConfusionMatrix, Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NAN = float("nan")


class Calls(NamedTuple):
    """Weighted counts of images by what they are and what they were called."""

    true_positive: float
    false_positive: float
    true_negative: float
    false_negative: float


def _calls(labels: Ints, called: npt.NDArray[np.bool_], weights: Floats) -> Calls:
    positive = labels == 1
    return Calls(
        true_positive=float(weights[positive & called].sum()),
        false_positive=float(weights[~positive & called].sum()),
        true_negative=float(weights[~positive & ~called].sum()),
        false_negative=float(weights[positive & ~called].sum()),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else NAN


class Curve(NamedTuple):
    """Weighted counts of images at or above each distinct score (K,), from the highest score down."""

    true_positive: Floats
    false_positive: Floats


def _curve(labels: Ints, scores: Floats, weights: Floats) -> Curve:
    order = np.argsort(-scores, kind="stable")
    ranked, positive, weight = scores[order], labels[order] == 1, weights[order]
    ends = _ends(ranked)
    return Curve(np.cumsum(weight * positive)[ends], np.cumsum(weight * ~positive)[ends])


def _ends(ranked: Floats) -> Ints:
    """Return where each run of equal values ends."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def _auc(curve: Curve) -> float:
    """Return the area under the ROC curve by the trapezoidal rule, so that a tie counts one half."""
    tp, fp = np.append(0, curve.true_positive), np.append(0, curve.false_positive)
    return _ratio(float(np.diff(fp) @ (tp[1:] + tp[:-1])) / 2, float(tp[-1] * fp[-1]))


def _average_precision(curve: Curve) -> float:
    """Return the mean precision over the steps of recall, without interpolation."""
    called = curve.true_positive + curve.false_positive
    steps = np.diff(curve.true_positive, prepend=0)
    risen = steps > 0
    precisions = curve.true_positive[risen] / called[risen]
    return _ratio(float(steps[risen] @ precisions), float(curve.true_positive[-1]))


CALL_METRICS: dict[str, Callable[[Calls], float]] = {
    "recall": lambda n: _ratio(n.true_positive, n.true_positive + n.false_negative),
    "precision": lambda n: _ratio(n.true_positive, n.true_positive + n.false_positive),
    "specificity": lambda n: _ratio(n.true_negative, n.true_negative + n.false_positive),
    "f1": lambda n: _ratio(2 * n.true_positive, 2 * n.true_positive + n.false_positive + n.false_negative),
    "accuracy": lambda n: _ratio(n.true_positive + n.true_negative, sum(n)),
}
"""Metrics of the calls at the operating point."""

SCORE_METRICS: dict[str, Callable[[Ints, Floats, Floats], float]] = {
    "auc": lambda labels, scores, weights: _auc(_curve(labels, scores, weights)),
    "average_precision": lambda labels, scores, weights: _average_precision(_curve(labels, scores, weights)),
    "brier": lambda labels, scores, weights: float(np.average((scores - labels) ** 2, weights=weights)),
}
"""Metrics of the probabilities themselves, by (labels, probabilities, weights)."""

METRICS = (*CALL_METRICS, *SCORE_METRICS)


def summarise(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> dict[str, float]:
    """Return each metric of labels (N,) in {0, 1} and probabilities (N,); NaN where it is undefined.

    An image is called cancer where its probability is at or above `operating_point`. If a probability is not a finite
    number, nothing can be said: all are NaN.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    return _weighted(truth, scores, operating_point, np.ones(len(truth)))


def _weighted(labels: Ints, scores: Floats, operating_point: float, weights: Floats) -> dict[str, float]:
    if not np.isfinite(scores).all():
        return dict.fromkeys(METRICS, NAN)
    calls = _calls(labels, scores >= operating_point, weights)
    of_calls = {name: metric(calls) for name, metric in CALL_METRICS.items()}
    return of_calls | {name: metric(labels, scores, weights) for name, metric in SCORE_METRICS.items()}


def confusion(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> ConfusionMatrix:
    """Count the calls of labels (N,) and probabilities (N,) at an operating point."""
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    calls = _calls(truth, scores >= operating_point, np.ones(len(truth)))
    return ConfusionMatrix(**{f"num_{name}": int(count) for name, count in calls._asdict().items()})


def best_f1_operating_point(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the operating point with the highest F1 on labels (N,) and finite probabilities (N,) in [0, 1]; N > 0.

    It lies midway to the next lower probability; of equally good ones it is the lowest, which finds the most cancers.
    Fit it on tuning only.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked, num_found = scores[order], np.cumsum(truth[order])
    f1 = 2 * num_found / (np.arange(1, len(truth) + 1) + truth.sum())
    candidates = _ends(ranked)
    best = candidates[np.flatnonzero(f1[candidates] == f1[candidates].max())[-1]]
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    midway = (ranked[best] + below) / 2
    return float(midway if midway > below else ranked[best])  # neighbouring numbers have no middle


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

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; cluster resampling
    as in Field & Welsh, J. R. Stat. Soc. B 69 (2007) 369-390.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    values = summarise(truth, scores, operating_point)
    draws = _draws(np.asarray(patient_ids), num_resamples, seed)
    rows = [_weighted(truth, scores, operating_point, weights) for weights in draws]
    tail = (1 - confidence) / 2
    return {name: _interval(value, np.array([row[name] for row in rows]), tail) for name, value in values.items()}


def _draws(patient_ids: npt.NDArray[Any], num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield for each resample how often each image (N,) is in it."""
    _, patient = np.unique(patient_ids, return_inverse=True)
    num_patients = int(patient.max()) + 1
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        times_drawn = np.bincount(generator.integers(num_patients, size=num_patients), minlength=num_patients)
        yield times_drawn[patient].astype(np.float64)


def _interval(value: float, resampled: Floats, tail: float) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if len(known) == 0:
        return Interval(value=value, low=NAN, high=NAN)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))

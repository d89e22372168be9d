"""Metrics of a binary classifier, with intervals from resampling patients.

`METRICS` is the one table of them; each is a function of weighted counts or of weighted scores, so
that a bootstrap resample is a vector of weights and nothing is copied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

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


CALL_METRICS: dict[str, Callable[[Calls], float]] = {
    "recall": lambda n: _ratio(n.true_positive, n.true_positive + n.false_negative),
    "precision": lambda n: _ratio(n.true_positive, n.true_positive + n.false_positive),
    "specificity": lambda n: _ratio(n.true_negative, n.true_negative + n.false_positive),
    "f1": lambda n: _ratio(2 * n.true_positive, 2 * n.true_positive + n.false_positive + n.false_negative),
    "accuracy": lambda n: _ratio(n.true_positive + n.true_negative, sum(n)),
}
"""Metrics of the calls at the operating point."""

SCORE_METRICS: dict[str, Callable[[Ints, Floats, Floats], float]] = {
    "auc": lambda labels, scores, weights: float(roc_auc_score(labels, scores, sample_weight=weights)),
    "average_precision": lambda labels, scores, weights: float(
        average_precision_score(labels, scores, sample_weight=weights)
    ),
    "brier": lambda labels, scores, weights: float(np.average((scores - labels) ** 2, weights=weights)),
}
"""Metrics of the probabilities themselves, by (labels, probabilities, weights)."""

METRICS = (*CALL_METRICS, *SCORE_METRICS)


def summarise(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> dict[str, float]:
    """Return each metric of labels (N,) in {0, 1} and probabilities (N,); NaN where it is undefined.

    An image is called cancer where its probability is at or above `operating_point`.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    return _weighted(truth, scores, operating_point, np.ones(len(truth)))


def _weighted(labels: Ints, scores: Floats, operating_point: float, weights: Floats) -> dict[str, float]:
    calls = _calls(labels, scores >= operating_point, weights)
    both_labels = 0 < calls.true_positive + calls.false_negative < sum(calls)
    values = {name: metric(calls) for name, metric in CALL_METRICS.items()}
    scored = {name: metric(labels, scores, weights) if both_labels else NAN for name, metric in SCORE_METRICS.items()}
    return values | scored


def confusion(labels: npt.ArrayLike, probabilities: npt.ArrayLike, operating_point: float) -> ConfusionMatrix:
    """Count the calls of labels (N,) and probabilities (N,) at an operating point."""
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    calls = _calls(truth, scores >= operating_point, np.ones(len(truth)))
    return ConfusionMatrix(**{f"num_{name}": int(count) for name, count in calls._asdict().items()})


def best_f1_operating_point(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the operating point in [0, 1] with the highest F1, midway to the next lower probability.

    Of equally good ones it takes the lowest, which finds the most cancers. Fit it on tuning only.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())
    ranked = scores[order]
    last_of_its_value = np.append(ranked[1:] != ranked[:-1], True)
    candidates = np.flatnonzero(last_of_its_value)
    best = candidates[np.flatnonzero(f1[candidates] == f1[candidates].max())[-1]]
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


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

    Images of one patient are alike, so patients are drawn, not images.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; cluster resampling
    as in Field & Welsh, J. R. Stat. Soc. B 69 (2007) 369-390.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    values = summarise(truth, scores, operating_point)
    resampled = _resample(truth, scores, np.asarray(patient_ids), operating_point, num_resamples, seed)
    tail = (1 - confidence) / 2
    return {name: _interval(value, resampled[name], tail) for name, value in values.items()}


def _resample(
    labels: Ints, scores: Floats, patient_ids: npt.NDArray[Any], operating_point: float, num_resamples: int, seed: int
) -> dict[str, Floats]:
    _, patient = np.unique(patient_ids, return_inverse=True)
    num_patients = int(patient.max()) + 1
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=num_resamples)
    rows = [_weighted(labels, scores, operating_point, draw[patient].astype(np.float64)) for draw in draws]
    return {name: np.array([row[name] for row in rows]) for name in METRICS}


def _interval(value: float, resampled: Floats, tail: float) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if len(known) == 0:
        return Interval(value=value, low=NAN, high=NAN)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))

"""Operating points: from which probability on an image is called cancer. Fit one on tuning only.

`POLICIES` is the one table of the ways to choose one. To add one: a line here, its name in
`config.OperatingPointPolicy`, and a field of `OperatingPointConfig` if it asks for a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bc_tasks.config import OperatingPointConfig, OperatingPointPolicy

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Policy:
    """Makes one figure as high as it can be, among the points where another reaches what the configuration asks."""

    raised: str
    held: str
    least: Callable[[OperatingPointConfig], float]


POLICIES: dict[OperatingPointPolicy, Policy] = {
    "best_f1": Policy("F1", "recall", lambda _: 0.0),
    "recall_at_specificity": Policy("recall", "specificity", lambda config: config.min_specificity),
    "recall_floor": Policy("specificity", "recall", lambda config: config.min_recall),
}


@dataclass(frozen=True)
class Choices:
    """The points that call the images differently (K,), from the highest down, and what each reaches (K,)."""

    points: Floats
    reached: dict[str, Floats]


@dataclass(frozen=True)
class FittedPoint:
    """An operating point, and a sentence on what it reaches; `is_met` says whether that is what was asked."""

    point: float
    is_met: bool
    sentence: str


def fit(labels: npt.ArrayLike, probabilities: npt.ArrayLike, config: OperatingPointConfig) -> FittedPoint:
    """Choose the operating point on labels (N,) and finite probabilities (N,) in [0, 1], N > 0, by the policy.

    It lies midway to the next lower probability. It calls some images cancer, and not all of them, unless all have
    the same probability. Where no such point reaches what the policy asks, it is the nearest one. Of
    equally good ones it is the one with more of what is asked; with best_f1, the one that finds the most cancers.
    """
    policy = POLICIES[config.policy]
    return _choose(choices(labels, probabilities), policy, policy.least(config))


def best_f1(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the operating point of `fit` under the policy best_f1."""
    return fit(labels, probabilities, OperatingPointConfig()).point


def choices(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Choices:
    """Return every point worth choosing; recall is 0 without images with cancer, specificity without others."""
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    negated, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    distinct, below = -negated, np.append(-negated[1:], 0.0)
    called, found = np.cumsum(counts), np.cumsum(np.bincount(place, truth))
    num_positive, num_negative = int(truth.sum()), int((1 - truth).sum())
    reached = {
        "recall": found / max(num_positive, 1),
        "specificity": (num_negative - (called - found)) / max(num_negative, 1),
        "F1": 2 * found / (called + num_positive),
    }
    midway = (distinct + below) / 2
    points = np.where(midway > below, midway, distinct)  # neighbouring numbers have no middle
    worth = slice(max(1, len(points) - 1))  # the last point calls every image cancer
    return Choices(points[worth], {name: values[worth] for name, values in reached.items()})


def _choose(seen: Choices, policy: Policy, least: float) -> FittedPoint:
    raised, held = seen.reached[policy.raised], seen.reached[policy.held]
    allowed = np.flatnonzero(held >= min(least, held.max()))
    best = allowed[np.lexsort((held[allowed], raised[allowed]))[-1]]
    is_met = bool(held[best] >= least)
    return FittedPoint(float(seen.points[best]), is_met, _sentence(policy, least, raised[best], held[best], is_met))


def _sentence(policy: Policy, least: float, raised: float, held: float, is_met: bool) -> str:
    asked = f" among points with {policy.held} {least:.3f} or more" if least else ""
    if is_met:
        return f"{policy.raised} {raised:.3f} is the highest{asked}; {policy.held} is {held:.3f}."
    return (
        f"No point reaches {policy.held} {least:.3f} unless it calls every image the same; "
        f"the nearest has {policy.held} {held:.3f} and {policy.raised} {raised:.3f}."
    )

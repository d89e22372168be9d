"""What the rules of the gate look at, and what they answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from bc_tasks.gate_config import EvidenceGrade, GateConfig
from bc_tasks.records import Case, CasePart, Gain

BOTH = ("recall", "f1")
"""The metrics that have to improve."""

GRADES: tuple[EvidenceGrade, ...] = get_args(EvidenceGrade)


@dataclass(frozen=True)
class Scene:
    """What the rules look at; metrics are by name, and empty where there is no such model on the same images."""

    case: Case
    policy: GateConfig
    challenger: Mapping[str, float]
    champion: Mapping[str, float]
    first_champion: Mapping[str, float]
    gains: Mapping[str, Gain]
    grade: EvidenceGrade


@dataclass(frozen=True)
class Finding:
    """What a rule saw, what it required, and the sentence that a person reads."""

    passed: bool
    seen: str
    required: str
    sentence: str
    too_few: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A rule of the gate; where it doesn't apply, it is left out."""

    name: str
    check: Callable[[Scene], Finding]
    applies: Callable[[Scene], bool] = lambda _: True


def called(model: CasePart) -> npt.NDArray[np.bool_]:
    """Return which images (N,) a model calls cancer."""
    return np.asarray(model.probabilities) >= model.operating_point


def gain(ours: float, theirs: float) -> float:
    """Return by how much ours is higher."""
    # Rounded, so that 0.565 - 0.560 is the 0.005 that a person reads, and not 0.004999999999999893.
    return round(ours - theirs, 9)


def title(metric: str) -> str:
    """Return what people call a metric."""
    return {"f1": "F1"}.get(metric, metric.capitalize())

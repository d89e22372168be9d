"""The rules of the gate: pure functions of a scene, each with what it saw, what it required, and a sentence.

`RULES` is the one table of them. What "improves" means is theirs to say; `gates.py` gathers what they look at.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt

from bc_tasks.config import EvidenceGrade, GateConfig, Subgroup
from bc_tasks.records import Case, CasePart, Gain

BOTH = ("recall", "f1")
"""The metrics that have to improve."""

GRADES: tuple[EvidenceGrade, ...] = get_args(EvidenceGrade)
NUM_NAMED = 10


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


def _has_champion(scene: Scene) -> bool:
    return scene.case.champion is not None


def _is_comparable(scene: Scene) -> bool:
    return bool(scene.champion)


def _has_first_champion(scene: Scene) -> bool:
    return scene.case.first_champion is not None


def _is_declared(column: Subgroup, scene: Scene) -> bool:
    return _is_comparable(scene) and column in scene.policy.subgroups


def _same_ground(scene: Scene) -> Finding:
    ours, theirs = scene.case.challenger, scene.case.champion or scene.case.challenger
    names = {
        "holdout_fingerprint": "holdout",
        "preprocessing_sha256": "preprocessing",
        "images_sha256": "images or labels",
    }
    differing = [what for name, what in names.items() if getattr(ours, name) != getattr(theirs, name)]
    sentence = (
        f"The two models were not measured on the same ground: {', '.join(differing)} differ."
        if differing
        else f"Both models were measured on the same {len(scene.case.labels)} images, prepared alike."
    )
    return Finding(not differing, ", ".join(differing) or "nothing differs", "nothing differs", sentence)


def _finite_scores(scene: Scene) -> Finding:
    probabilities = scene.case.challenger.probabilities
    num_bad = sum(not math.isfinite(probability) for probability in probabilities)
    sentence = (
        f"Of the challenger's {len(probabilities)} probabilities, {num_bad} are not finite numbers."
        if num_bad
        else f"All of the challenger's {len(probabilities)} probabilities are finite numbers."
    )
    return Finding(num_bad == 0, f"{num_bad} not finite", "none", sentence)


def _both_calls(scene: Scene) -> Finding:
    num_cancer, num_images = int(called(scene.case.challenger).sum()), len(scene.case.labels)
    passed = 0 < num_cancer < num_images
    ending = "." if passed else ", which is no decision at all."
    sentence = f"The challenger calls {num_cancer} of {num_images} images cancer{ending}"
    return Finding(passed, str(num_cancer), f"1 to {num_images - 1}", sentence)


def called(model: CasePart) -> npt.NDArray[np.bool_]:
    """Return which images (N,) a model calls cancer."""
    return np.asarray(model.probabilities) >= model.operating_point


def _floor(metric: str, policy: Callable[[GateConfig], float], scene: Scene) -> Finding:
    seen, floor = scene.challenger[metric], policy(scene.policy)
    passed = seen >= floor
    sentence = f"{_title(metric)} {seen:.3f} is {'at or above' if passed else 'below'} the floor of {floor:.3f}."
    return Finding(passed, f"{seen:.4f}", f">= {floor:.4f}", sentence)


def _improvement(metric: str, policy: Callable[[GateConfig], float], scene: Scene) -> Finding:
    ours, theirs, margin = scene.challenger[metric], scene.champion[metric], policy(scene.policy)
    passed = ours > theirs and _gain(ours, theirs) >= margin
    sentence = (
        f"{_title(metric)} went from the champion's {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); "
        f"{'the policy asks' if passed else 'too little: the policy asks'} for a gain of {margin:.3f} at least."
    )
    return Finding(passed, f"{ours - theirs:+.4f}", f">= {margin:+.4f} and above 0", sentence)


def _specificity_kept(scene: Scene) -> Finding:
    ours, theirs = scene.challenger["specificity"], scene.champion["specificity"]
    allowed = scene.policy.max_specificity_loss
    passed = _gain(theirs, ours) <= allowed
    sentence = (
        f"Specificity went from {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); a loss of up to {allowed:.3f} is "
        f"allowed, so the gain {'was not' if passed else 'may have been'} bought by calling more images cancer."
    )
    return Finding(passed, f"{ours - theirs:+.4f}", f">= {-allowed:+.4f}", sentence)


def _evidence(scene: Scene) -> Finding:
    wanted, grade = scene.policy.evidence, scene.grade
    passed = GRADES.index(grade) >= GRADES.index(wanted)
    bounds = ", ".join(
        f"{_title(name)} by {gain.nightly_bound:+.3f} at least" for name, gain in scene.gains.items() if name in BOTH
    )
    meaning = {
        "confirmed": "The gains in recall and F1 are confirmed, after all that this holdout was looked at",
        "suggestive": "The gains in recall and F1 are suggestive: more than one night's chance, but not confirmed "
        "after all looks at this holdout",
        "unproven": "The gains in recall and F1 are unproven: equal models differ as much by chance",
    }[grade]
    sentence = f"{meaning}{f' ({bounds}, at {1 - scene.policy.nightly_error:.0%})' if bounds else ''}; "
    return Finding(passed, grade, f"{wanted} or better", f"{sentence}the policy takes {wanted} or better.")


def _kept_since_first(scene: Scene) -> Finding:
    ours, theirs = scene.challenger, scene.first_champion
    allowed = {"recall": 0.0, "f1": 0.0, "specificity": scene.policy.max_specificity_loss_in_all}
    required = ", ".join(f"{_title(name)} >= {-loss:+.4f}" for name, loss in allowed.items())
    if not theirs:
        sentence = (
            "The first champion of this holdout was measured on other images, so the losses since can't be summed."
        )
        return Finding(False, "other images", required, sentence)
    lost = [name for name, loss in allowed.items() if not _gain(theirs[name], ours[name]) <= loss]
    seen = ", ".join(f"{_title(name)} {ours[name] - theirs[name]:+.4f}" for name in allowed)
    sentence = (
        f"Compared with the first champion of this holdout, {' and '.join(map(_title, lost))} fell too far ({seen})."
        if lost
        else f"Compared with the first champion of this holdout, nothing was lost bit by bit ({seen})."
    )
    return Finding(not lost, seen, required, sentence)


def _subgroup(column: Subgroup, scene: Scene) -> Finding:
    """Compare recall and specificity in each group of a column; who has too few images is named, and not judged."""
    margin, fewest = scene.policy.max_subgroup_loss, scene.policy.min_subgroup_images
    changes: dict[str, float] = {}
    too_few: list[str] = []
    for group, images in _groups(scene.case, column).items():
        for metric, change, num_images in _changes(scene.case, images):
            name = f"{column} {group}"
            if num_images < fewest:
                too_few.append(f"{metric} of {name} ({num_images} images)")
            else:
                changes[f"{metric} of {name}"] = change
    fallen = {name: change for name, change in changes.items() if not _gain(0, change) <= margin}
    worst = min(changes.items(), key=lambda item: item[1], default=None)
    return Finding(
        not fallen,
        f"{worst[1]:+.4f} in the {worst[0]}" if worst else "too few",
        f">= {-margin:+.4f} in each group of {fewest} images or more",
        _on_groups(column, fallen, worst, too_few, margin),
        tuple(too_few),
    )


def _on_groups(
    column: str, fallen: Mapping[str, float], worst: tuple[str, float] | None, too_few: list[str], margin: float
) -> str:
    if fallen:
        named = ", ".join(f"the {name} ({change:+.3f})" for name, change in list(fallen.items())[:NUM_NAMED])
        said = f"By {column}, more than {margin:.3f} was lost in {named}"
    elif worst:
        said = f"By {column}, no group lost more than {margin:.3f}; the worst is the {worst[0]} ({worst[1]:+.3f})"
    else:
        said = f"By {column}, nothing can be said"
    few = f"; too few images to say for {', '.join(too_few[:NUM_NAMED])}" if too_few else ""
    more = f" and {len(too_few) - NUM_NAMED} more" if len(too_few) > NUM_NAMED else ""
    return f"{said}{few}{more}."


def _groups(case: Case, column: Subgroup) -> dict[str, npt.NDArray[np.bool_]]:
    values = np.asarray([value or "unknown" for value in case.subgroups[column]])
    return {str(value): values == value for value in np.unique(values)}


def _changes(case: Case, images: npt.NDArray[np.bool_]) -> list[tuple[str, float, int]]:
    """Return the change of recall and of specificity among some of the images (N,), each with their number."""
    labels, champion = np.asarray(case.labels), case.champion or case.challenger
    ours, theirs = called(case.challenger), called(champion)
    changes = []
    for metric, label in (("recall", 1), ("specificity", 0)):
        of_label = images & (labels == label)
        right = (ours[of_label] == label).astype(int) - (theirs[of_label] == label)
        changes.append((metric, float(right.mean()) if len(right) else math.nan, int(of_label.sum())))
    return changes


def _gain(ours: float, theirs: float) -> float:
    # Rounded, so that 0.565 - 0.560 is the 0.005 that a person reads, and not 0.004999999999999893.
    return round(ours - theirs, 9)


def _title(metric: str) -> str:
    return {"f1": "F1"}.get(metric, metric.capitalize())


RULES: tuple[Rule, ...] = (
    Rule("same_ground", _same_ground, _has_champion),
    Rule("finite_scores", _finite_scores),
    Rule("both_calls", _both_calls),
    Rule("recall_floor", partial(_floor, "recall", lambda policy: policy.min_recall)),
    Rule("f1_floor", partial(_floor, "f1", lambda policy: policy.min_f1)),
    Rule("specificity_floor", partial(_floor, "specificity", lambda policy: policy.min_specificity)),
    Rule("recall_improves", partial(_improvement, "recall", lambda policy: policy.recall_margin), _is_comparable),
    Rule("f1_improves", partial(_improvement, "f1", lambda policy: policy.f1_margin), _is_comparable),
    Rule("specificity_kept", _specificity_kept, _is_comparable),
    Rule("evidence", _evidence, _is_comparable),
    Rule("kept_since_first_champion", _kept_since_first, _has_first_champion),
    *(
        Rule(f"groups_by_{column}", partial(_subgroup, column), partial(_is_declared, column))
        for column in get_args(Subgroup)
    ),
)

"""The rules of the gate: pure functions of a scene, each with what it saw, what it required, and a sentence.

`RULES` is the one table of them. What "improves" means is theirs to say; `gates.py` gathers what they look at.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import get_args

from bc_tasks import gate_groups
from bc_tasks.gate_config import GateConfig, Subgroup
from bc_tasks.gate_scene import BOTH, GRADES, Finding, Rule, Scene, called, gain, title


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


def _floor(metric: str, policy: Callable[[GateConfig], float], scene: Scene) -> Finding:
    seen, floor = scene.challenger[metric], policy(scene.policy)
    passed = seen >= floor
    sentence = f"{title(metric)} {seen:.3f} is {'at or above' if passed else 'below'} the floor of {floor:.3f}."
    return Finding(passed, f"{seen:.4f}", f">= {floor:.4f}", sentence)


def _improvement(metric: str, policy: Callable[[GateConfig], float], scene: Scene) -> Finding:
    ours, theirs, margin = scene.challenger[metric], scene.champion[metric], policy(scene.policy)
    passed = ours > theirs and gain(ours, theirs) >= margin
    asked = f"for a gain of {margin:.3f} at least" if margin else "for any gain"
    sentence = (
        f"{title(metric)} went from the champion's {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); "
        f"{'the policy asks' if passed else 'too little: the policy asks'} {asked}."
    )
    return Finding(passed, f"{ours - theirs:+.4f}", f">= {margin:+.4f} and above 0", sentence)


def _specificity_kept(scene: Scene) -> Finding:
    ours, theirs = scene.challenger["specificity"], scene.champion["specificity"]
    allowed = scene.policy.max_specificity_loss
    passed = gain(theirs, ours) <= allowed
    bought = "" if passed else ": what was gained may have been bought by calling more images cancer"
    sentence = (
        f"Specificity went from {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); "
        f"a loss of up to {allowed:.3f} is allowed{bought}."
    )
    return Finding(passed, f"{ours - theirs:+.4f}", f">= {-allowed:+.4f}", sentence)


def _evidence(scene: Scene) -> Finding:
    wanted, grade = scene.policy.evidence, scene.grade
    passed = GRADES.index(grade) >= GRADES.index(wanted)
    meaning = {
        "confirmed": "The gains in recall and F1 are confirmed, after all that this holdout was looked at",
        "suggestive": "The gains in recall and F1 are suggestive: more than one night's chance, but not confirmed "
        "after all looks at this holdout",
        "unproven": "The gains in recall and F1 are unproven: equal models differ as much by chance",
    }[grade]
    sentence = f"{meaning}{_bounds(scene)}; the policy takes {wanted} or better."
    return Finding(passed, grade, f"{wanted} or better", sentence)


def _bounds(scene: Scene) -> str:
    """Say how large the gains are at least: as sure as the ledger asks where they are confirmed, else as a night."""
    confirmed = scene.grade == "confirmed"
    bounds = {
        name: gain.ledger_bound if confirmed else gain.nightly_bound
        for name, gain in scene.gains.items()
        if name in BOTH
    }
    said = ", ".join(f"{title(name)} by {bound:+.3f} at least" for name, bound in bounds.items() if bound is not None)
    sure = "as sure as the ledger asks" if confirmed else f"at {100 * (1 - scene.policy.nightly_error):g} %"
    return f" ({said}, {sure})" if said else ""


def _kept_since_first(scene: Scene) -> Finding:
    ours, theirs = scene.challenger, scene.first_champion
    allowed = {"recall": 0.0, "f1": 0.0, "specificity": scene.policy.max_specificity_loss_in_all}
    required = ", ".join(f"{title(name)} >= {-loss:+.4f}" for name, loss in allowed.items())
    if not theirs:
        sentence = (
            "The first champion of this holdout was measured on other images, so the losses since can't be summed."
        )
        return Finding(False, "other images", required, sentence)
    lost = [name for name, loss in allowed.items() if not gain(theirs[name], ours[name]) <= loss]
    seen = ", ".join(f"{title(name)} {ours[name] - theirs[name]:+.4f}" for name in allowed)
    sentence = (
        f"Compared with the first champion of this holdout, {' and '.join(map(title, lost))} fell too far ({seen})."
        if lost
        else f"Compared with the first champion of this holdout, nothing was lost bit by bit ({seen})."
    )
    return Finding(not lost, seen, required, sentence)


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
        Rule(f"groups_by_{column}", partial(gate_groups.by_column, column), partial(_is_declared, column))
        for column in get_args(Subgroup)
    ),
)

"""The gate: may this challenger be registered? Pure rules over an evaluation, each with a sentence.

`RULES` is the one table of them. A rule that needs a champion is left out while there is none; the
verdict passes when every rule that applies does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bc_tasks.config import GateConfig
from bc_tasks.records import Evaluation, ModelScores, RuleOutcome, Verdict


@dataclass(frozen=True)
class Finding:
    """What a rule saw, what it required, and the sentence that a person reads."""

    passed: bool
    seen: str
    required: str
    sentence: str


Check = Callable[[ModelScores, ModelScores, GateConfig], Finding]
"""Looks at the challenger, the champion and the policy."""


@dataclass(frozen=True)
class Rule:
    """A rule of the gate."""

    name: str
    check: Check
    needs_champion: bool = True


def _same_ground(challenger: ModelScores, champion: ModelScores, _: GateConfig) -> Finding:
    differing = [
        what
        for what, ours, theirs in (
            ("holdout", challenger.holdout_fingerprint, champion.holdout_fingerprint),
            ("preprocessing", challenger.spec.preprocessing_sha256, champion.spec.preprocessing_sha256),
            ("image ids", _image_ids(challenger), _image_ids(champion)),
        )
        if ours != theirs
    ]
    passed = not differing
    sentence = (
        f"Both models were measured on the same {len(challenger.scores)} images, prepared alike."
        if passed
        else f"The two models were not measured on the same ground: {', '.join(differing)} differ."
    )
    return Finding(passed, ", ".join(differing) or "nothing differs", "nothing differs", sentence)


def _image_ids(model: ModelScores) -> list[str]:
    return sorted(score.image_id for score in model.scores)


def _finite_scores(challenger: ModelScores, _: ModelScores, __: GateConfig) -> Finding:
    num_images = len(challenger.scores)
    num_bad = sum(not math.isfinite(score.probability) for score in challenger.scores)
    sentence = (
        f"Of the challenger's {num_images} probabilities, {num_bad} are not finite numbers."
        if num_bad
        else f"All of the challenger's {num_images} probabilities are finite numbers."
    )
    return Finding(num_bad == 0, f"{num_bad} not finite", "none", sentence)


def _both_calls(challenger: ModelScores, _: ModelScores, __: GateConfig) -> Finding:
    num_cancer = sum(score.probability >= challenger.spec.operating_point for score in challenger.scores)
    num_images = len(challenger.scores)
    passed = 0 < num_cancer < num_images
    ending = "." if passed else ", which is no decision at all."
    sentence = f"The challenger calls {num_cancer} of {num_images} images cancer{ending}"
    return Finding(passed, str(num_cancer), f"1 to {num_images - 1}", sentence)


def _floor(metric: str, policy: Callable[[GateConfig], float]) -> Check:
    def check(challenger: ModelScores, _: ModelScores, config: GateConfig) -> Finding:
        seen, floor = challenger.metrics[metric].value, policy(config)
        passed = seen >= floor
        sentence = f"{_title(metric)} {seen:.3f} is {'at or above' if passed else 'below'} the floor of {floor:.3f}."
        return Finding(passed, f"{seen:.4f}", f">= {floor:.4f}", sentence)

    return check


def _improvement(metric: str, policy: Callable[[GateConfig], float]) -> Check:
    def check(challenger: ModelScores, champion: ModelScores, config: GateConfig) -> Finding:
        ours, theirs, margin = challenger.metrics[metric].value, champion.metrics[metric].value, policy(config)
        passed = ours > theirs and _gain(ours, theirs) >= margin
        sentence = (
            f"{_title(metric)} went from the champion's {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); "
            f"{'the policy asks' if passed else 'too little: the policy asks'} for a gain of {margin:.3f} at least."
        )
        return Finding(passed, f"{ours - theirs:+.4f}", f">= {margin:+.4f} and above 0", sentence)

    return check


def _specificity_kept(challenger: ModelScores, champion: ModelScores, config: GateConfig) -> Finding:
    ours, theirs = challenger.metrics["specificity"].value, champion.metrics["specificity"].value
    passed = _gain(theirs, ours) <= config.max_specificity_loss
    sentence = (
        f"Specificity went from {theirs:.3f} to {ours:.3f} ({ours - theirs:+.3f}); "
        f"a loss of up to {config.max_specificity_loss:.3f} is allowed, so the gain "
        f"{'was not' if passed else 'may have been'} bought by calling more images cancer."
    )
    return Finding(passed, f"{ours - theirs:+.4f}", f">= {-config.max_specificity_loss:+.4f}", sentence)


def _gain(ours: float, theirs: float) -> float:
    # Rounded, so that 0.565 - 0.560 is the 0.005 that a person reads, and not 0.004999999999999893.
    return round(ours - theirs, 9)


def _title(metric: str) -> str:
    return {"f1": "F1"}.get(metric, metric.capitalize())


RULES: tuple[Rule, ...] = (
    Rule("same_ground", _same_ground),
    Rule("finite_scores", _finite_scores, needs_champion=False),
    Rule("both_calls", _both_calls, needs_champion=False),
    Rule("recall_floor", _floor("recall", lambda config: config.min_recall), needs_champion=False),
    Rule("f1_floor", _floor("f1", lambda config: config.min_f1), needs_champion=False),
    Rule("specificity_floor", _floor("specificity", lambda config: config.min_specificity), needs_champion=False),
    Rule("recall_improves", _improvement("recall", lambda config: config.recall_margin)),
    Rule("f1_improves", _improvement("f1", lambda config: config.f1_margin)),
    Rule("specificity_kept", _specificity_kept),
)


def decide(evaluation: Evaluation, config: GateConfig) -> Verdict:
    """Apply every rule that applies, and say whether the challenger may be registered.

    Without a champion only floors and soundness count (`bootstrap`); with a champion that could not be
    measured nothing passes (`cannot-compare`).
    """
    challenger, champion = evaluation.challenger, evaluation.champion
    outcomes = [
        _outcome(rule, challenger, champion or challenger, config)
        for rule in RULES
        if champion is not None or not rule.needs_champion
    ]
    if evaluation.champion_problem is not None:
        outcomes.append(_no_comparison(evaluation.champion_problem))
    passed = all(outcome.passed for outcome in outcomes)
    kind = _kind(evaluation)
    return Verdict(
        passed=passed,
        kind=kind,
        rules=tuple(outcomes),
        summary=_summary(passed, kind, evaluation, outcomes),
        dry_run=config.dry_run,
    )


def _kind(evaluation: Evaluation) -> Literal["bootstrap", "comparison", "cannot-compare"]:
    if evaluation.champion_problem is not None:
        return "cannot-compare"
    return "bootstrap" if evaluation.champion is None else "comparison"


def _outcome(rule: Rule, challenger: ModelScores, champion: ModelScores, config: GateConfig) -> RuleOutcome:
    finding = rule.check(challenger, champion, config)
    return RuleOutcome(
        rule=rule.name,
        passed=finding.passed,
        seen=finding.seen,
        required=finding.required,
        sentence=finding.sentence,
    )


def _no_comparison(problem: str) -> RuleOutcome:
    return RuleOutcome(
        rule="champion_measured",
        passed=False,
        seen=problem,
        required="the champion, measured on the same holdout",
        sentence=f"The champion could not be measured, so nothing can be said to improve on it: {problem}",
    )


def _summary(passed: bool, kind: str, evaluation: Evaluation, outcomes: Sequence[RuleOutcome]) -> str:
    metrics = evaluation.challenger.metrics
    measured = f"recall {metrics['recall'].value:.3f}, F1 {metrics['f1'].value:.3f}"
    if passed:
        against = (
            "the first model: a person must promote it"
            if kind == "bootstrap"
            else f"better than the champion (version {evaluation.champion_version})"
        )
        return f"Passed: {evaluation.challenger_backbone} with {measured}, {against}."
    reasons = " ".join(outcome.sentence for outcome in outcomes if not outcome.passed)
    return f"Rejected: {evaluation.challenger_backbone} with {measured}. {reasons}"

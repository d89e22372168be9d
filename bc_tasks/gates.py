"""The gate: may this challenger be registered? Pure: a case, a policy and a look at the ledger give a verdict.

The same three give the same verdict to the byte, so that it can be computed again (see `replay.py`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from bc_tasks import evidence, metrics
from bc_tasks.evidence import Paired
from bc_tasks.gate_config import EvidenceGrade, GateConfig
from bc_tasks.gate_rules import RULES
from bc_tasks.gate_scene import BOTH, Rule, Scene, called
from bc_tasks.records import Case, CasePart, Gain, Look, MadeWith, Power, RuleOutcome, Verdict

Kind = Literal["bootstrap", "comparison", "cannot-compare"]


def decide(case: Case, policy: GateConfig, look: Look, made_with: MadeWith) -> Verdict:
    """Apply every rule that applies, and say whether the challenger may be registered.

    Without a champion only soundness and floors count (`bootstrap`); with a champion that could not be
    measured nothing passes (`cannot-compare`).
    """
    champion = case.champion if case.champion and case.champion.probabilities else None
    gains = _gains(case, champion, policy, look) if champion else {}
    scene = Scene(
        case=case,
        policy=policy,
        challenger=_metrics(case, case.challenger),
        champion=_metrics(case, champion),
        first_champion=_metrics(case, case.first_champion),
        gains=gains,
        grade=_grade(gains),
    )
    outcomes = [_outcome(rule, scene) for rule in RULES if rule.applies(scene)]
    if case.champion_problem is not None:
        outcomes.append(_no_comparison(case.champion_problem))
    passed, kind = all(outcome.passed for outcome in outcomes), _kind(case)
    measured = {"challenger": scene.challenger, "champion": scene.champion, "first champion": scene.first_champion}
    return Verdict(
        passed=passed,
        kind=kind,
        grade=scene.grade if gains else None,
        rules=tuple(outcomes),
        summary=_summary(passed, kind, scene, outcomes),
        notes=tuple(_notes(scene, look, outcomes)),
        dry_run=policy.dry_run,
        metrics={name: dict(values) for name, values in measured.items() if values},
        gains=gains,
        power=_power(case, policy, look, gains),
        policy=policy,
        look=look,
        case=case,
        made_with=made_with,
    )


def _metrics(case: Case, model: CasePart | None) -> Mapping[str, float]:
    if model is None or not model.probabilities:
        return {}
    return metrics.summarise(case.labels, model.probabilities, model.operating_point)


def _gains(case: Case, champion: CasePart, policy: GateConfig, look: Look) -> dict[str, Gain]:
    """Return the gain in each metric of the calls, bounded from below; none where a score is no number."""
    ours, theirs = _metrics(case, case.challenger), _metrics(case, champion)
    if not np.isfinite([*case.challenger.probabilities, *champion.probabilities]).all():
        return {}
    resampled = evidence.differences(_paired(case, champion), num_resamples=policy.num_resamples, seed=case.seed)
    gains = {}
    for name, values in resampled.items():
        observed = ours[name] - theirs[name]
        gains[name] = Gain(
            value=observed,
            standard_error=evidence.standard_error(values),
            nightly_bound=evidence.lower_bound(observed, values, policy.nightly_error),
            ledger_bound=evidence.lower_bound(observed, values, look.error) if look.error else None,
        )
    return gains


def _paired(case: Case, champion: CasePart | None) -> Paired:
    """Return the calls of both; without a champion, beside one that never finds anything."""
    ours = called(case.challenger)
    return Paired(
        labels=np.asarray(case.labels),
        patients=np.asarray(case.patients),
        ours=ours,
        theirs=called(champion) if champion else np.zeros_like(ours),
    )


def _grade(gains: Mapping[str, Gain]) -> EvidenceGrade:
    both = [gains[name] for name in BOTH if name in gains]
    if not both or not all(gain.nightly_bound > 0 for gain in both):
        return "unproven"
    confirmed = all(gain.ledger_bound is not None and gain.ledger_bound > 0 for gain in both)
    return "confirmed" if confirmed else "suggestive"


def _power(case: Case, policy: GateConfig, look: Look, gains: Mapping[str, Gain]) -> Power:
    """Say how small a true gain in recall could be seen, given how much it scatters here.

    A rule of thumb: F1 has to improve too, and with few images calls are coarse. Where there is no champion, two models
    are taken to be half correlated: their difference then scatters as much as one recall. However alike two are, it
    scatters half as much; and so many images at least must speak for the challenger that a fair coin falls so seldom.
    """
    num_positives, num_patients = sum(case.labels), len(set(case.patients))
    holdout = f"This holdout ({num_positives:,} images with cancer, {num_patients:,} patients)"
    wants_confirmed = policy.evidence == "confirmed"
    error = look.error if wants_confirmed and gains else policy.nightly_error
    if wants_confirmed and not gains:
        error = policy.total_error / policy.expected_looks
    smallest = _smallest_gain(case, policy, gains, error) if error and num_positives else 1.0
    grade = "confirmed" if wants_confirmed else "suggestive"
    sentence = (
        f"{holdout} sees a true gain in recall of {smallest:.3f} as {grade} about four times in five, and smaller ones "
        f"less often; the policy asks for {policy.recall_margin:.3f}."
        if smallest < 1
        else f"{holdout} can't see any gain in recall as {grade}."
    )
    return Power(
        num_positives=num_positives,
        num_patients=num_patients,
        detectable_gain=smallest if smallest < 1 else None,
        sentence=sentence,
    )


def _smallest_gain(case: Case, policy: GateConfig, gains: Mapping[str, Gain], error: float) -> float:
    alone = evidence.differences(_paired(case, None), num_resamples=policy.num_resamples, seed=case.seed)
    spread = evidence.standard_error(alone["recall"])
    if "recall" in gains:
        spread = max(gains["recall"].standard_error, spread / 2)
    num_agreeing = math.ceil(math.log2(1 / error))
    return max(evidence.detectable_gain(spread, error), num_agreeing / sum(case.labels))


def _kind(case: Case) -> Kind:
    if case.champion_problem is not None:
        return "cannot-compare"
    return "bootstrap" if case.champion is None else "comparison"


def _outcome(rule: Rule, scene: Scene) -> RuleOutcome:
    finding = rule.check(scene)
    return RuleOutcome(
        rule=rule.name,
        passed=finding.passed,
        seen=finding.seen,
        required=finding.required,
        sentence=finding.sentence,
        too_few=finding.too_few,
    )


CHAMPION_MEASURED = "champion_measured"
OVERRIDABLE = {CHAMPION_MEASURED, "kept_since_first_champion"}
"""What a person may know better: why a champion is gone, or why another first champion is the right yardstick."""


def _no_comparison(problem: str) -> RuleOutcome:
    return RuleOutcome(
        rule=CHAMPION_MEASURED,
        passed=False,
        seen=problem,
        required="the champion, measured on the same holdout",
        sentence=f"The champion could not be measured, so nothing can be said to improve on it: {problem}",
    )


def may_be_overridden(verdict: Verdict) -> bool:
    """Say whether all that is against a challenger is what a person may know better."""
    failed = _failed(verdict.rules)
    return bool(failed) and failed <= OVERRIDABLE


def _failed(outcomes: Sequence[RuleOutcome]) -> set[str]:
    return {outcome.rule for outcome in outcomes if not outcome.passed}


def _notes(scene: Scene, look: Look, outcomes: Sequence[RuleOutcome]) -> Iterator[str]:
    case, policy = scene.case, scene.policy
    if case.other_versions and case.champion is None and case.champion_problem is None:
        yield (
            f"Versions exist ({', '.join(case.other_versions)}), but none is champion, so this one was compared with "
            "none of them: a person should promote one."
        )
    yield (
        f"This is look {look.number:,} at this holdout; {look.spent:.4f} of its error budget of "
        f"{look.total_error:.4f} is spent."
    )
    if case.champion is not None and look.error == 0:
        yield "The holdout is worn out: no gain can be confirmed on it any more. Make a new one, of new patients."
    everything = 2 * sum(case.labels) / (len(case.labels) + sum(case.labels))
    if scene.challenger["f1"] <= everything:
        yield f"Calling every image cancer would have F1 {everything:.3f} here: this model has no more."
    if too_few := [name for outcome in outcomes for name in outcome.too_few]:
        yield f"Too few images to say: {', '.join(too_few)}."
    failed = _failed(outcomes)
    if failed and failed <= OVERRIDABLE and not policy.dry_run:
        yield f"A person may register it all the same, and says why: bc override {look.run_uri} --reason ..."


def _summary(passed: bool, kind: Kind, scene: Scene, outcomes: Sequence[RuleOutcome]) -> str:
    case, ours = scene.case, scene.challenger
    measured = f"{case.challenger_backbone} with recall {ours['recall']:.3f}, F1 {ours['f1']:.3f}"
    if passed and kind == "bootstrap":
        first = "the first with no champion to beat" if case.other_versions else "the first model"
        return f"Passed: {measured}, {first}: a person must promote it."
    if passed:
        against = f"better than the champion (version {case.champion_version})"
        return f"Passed: {measured}, {against}; the evidence is {scene.grade}."
    reasons = " ".join(outcome.sentence for outcome in outcomes if not outcome.passed)
    return f"Rejected: {measured}. {reasons}"

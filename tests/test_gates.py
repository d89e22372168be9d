"""The gate registers only what is sound, above the floors, and better than the champion in recall and in F1."""

from typing import Any

import pytest
from gate_cases import CHAMPION, GOOD, MADE_WITH, NUM_NEGATIVES, NUM_POSITIVES, Found, case, look, part, part_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import gate_rules, gate_scene, gates
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Case, Look, RuleOutcome, Verdict

NAN = float("nan")
POLICY = GateConfig(
    min_recall=0.5, min_f1=0.4, recall_margin=0.01, f1_margin=0.02, max_specificity_loss=0.05, num_resamples=2000
)
FIRST_LOOK = look()


def _decide(of: Case, policy: GateConfig = POLICY, looked: Look = FIRST_LOOK) -> Verdict:
    return gates.decide(of, policy, looked, MADE_WITH)


def _with(**changes: Any) -> GateConfig:
    return POLICY.model_copy(update=changes)


def _failed(verdict: Verdict) -> list[str]:
    return [outcome.rule for outcome in verdict.rules if not outcome.passed]


def _outcome(verdict: Verdict, rule: str) -> RuleOutcome:
    return next(outcome for outcome in verdict.rules if outcome.rule == rule)


def test_a_challenger_that_is_better_in_recall_and_f1_passes() -> None:
    verdict = _decide(case(GOOD, CHAMPION))
    assert verdict.passed
    assert verdict.kind == "comparison"
    assert verdict.summary == (
        "Passed: resnet50 with recall 0.700, F1 0.667, better than the champion (version 3); "
        "the evidence is suggestive."
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "rule"),
    [
        (Found(60, 20), CHAMPION, "recall_improves"),
        (Found(55, 20), Found(56, 60), "recall_improves"),
        (Found(80, 80), Found(60, 75), "f1_improves"),
        (Found(49, 10), Found(30, 20), "recall_floor"),
        (Found(99, 190), Found(30, 190), "specificity_floor"),
        (Found(90, 51), CHAMPION, "specificity_kept"),
    ],
)
def test_each_rule_alone_can_reject(challenger: Found, champion: Found, rule: str) -> None:
    policy = _with(f1_margin=0.2) if rule == "f1_improves" else _with(f1_margin=0.0, evidence="unproven")
    verdict = _decide(case(challenger, champion), policy)
    assert _failed(verdict) == [rule]
    assert not verdict.passed
    assert verdict.summary.startswith("Rejected: resnet50")
    assert _outcome(verdict, rule).sentence in verdict.summary


def test_the_f1_floor_alone_can_reject() -> None:
    assert _failed(_decide(case(GOOD, CHAMPION), _with(min_f1=0.7))) == ["f1_floor"]


@pytest.mark.parametrize(
    "changes",
    [
        {"holdout_fingerprint": "e" * 64},
        {"preprocessing_sha256": "e" * 64},
        {"images_sha256": "e" * 64, "probabilities": ()},
    ],
    ids=["another holdout", "other preprocessing", "other images or labels"],
)
def test_models_that_were_not_measured_on_the_same_ground_are_not_compared(changes: dict[str, Any]) -> None:
    assert _failed(_decide(case(GOOD, part(CHAMPION, name="champion", **changes)))) == ["same_ground"]


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_score_that_is_no_number_lets_nothing_pass(bad: float) -> None:
    probabilities = (bad, *part(GOOD).probabilities[1:])
    verdict = _decide(case(part_of(probabilities), CHAMPION))
    assert "finite_scores" in _failed(verdict)
    assert verdict.gains == {}
    theirs = (bad, *part(CHAMPION).probabilities[1:])
    assert not _decide(case(GOOD, part_of(theirs, name="champion"))).passed


@pytest.mark.parametrize("found", [Found(0, 0), Found(NUM_POSITIVES, NUM_NEGATIVES)])
def test_a_model_that_calls_everything_alike_makes_no_decision(found: Found) -> None:
    assert "both_calls" in _failed(_decide(case(found, CHAMPION)))


@pytest.mark.parametrize(("margin", "passes"), [(0.01, True), (0.0101, False)], ids=["what is asked", "a little less"])
def test_a_gain_is_what_a_person_reads_and_not_its_rounding_error(margin: float, passes: bool) -> None:
    assert 0.57 - 0.56 < 0.01  # in binary
    verdict = _decide(case(Found(57, 20), Found(56, 40)), _with(recall_margin=margin))
    assert ("recall_improves" not in _failed(verdict)) == passes


def test_equal_is_not_better_even_without_a_margin() -> None:
    failed = _failed(_decide(case(CHAMPION, CHAMPION), GateConfig(profile="literal", num_resamples=2000)))
    assert failed == ["recall_improves", "f1_improves"]


def test_the_first_model_needs_only_to_be_sound_and_above_the_floors() -> None:
    verdict = _decide(case(GOOD, None), looked=look(error=0))
    assert (verdict.passed, verdict.kind, verdict.grade) == (True, "bootstrap", None)
    assert [outcome.rule for outcome in verdict.rules] == [
        *("finite_scores", "both_calls", "recall_floor", "f1_floor", "specificity_floor")
    ]
    assert "the first model: a person must promote it" in verdict.summary
    assert not _decide(case(Found(40, 10), None)).passed


def test_versions_that_nobody_made_champion_are_spoken_of() -> None:
    verdict = _decide(case(GOOD, None, other_versions=("1", "2")), looked=look(error=0))
    assert verdict.passed
    assert "first model" not in verdict.summary
    assert any("Versions exist (1, 2), but none is champion" in note for note in verdict.notes)


def test_a_champion_that_cannot_be_measured_lets_nothing_pass_and_says_what_a_person_may_do() -> None:
    verdict = _decide(
        case(Found(100, 0), None, champion_version="3", champion_problem="version 3: its weights are gone")
    )
    assert (verdict.passed, verdict.kind) == (False, "cannot-compare")
    assert "its weights are gone" in verdict.summary
    assert gates.may_be_overridden(verdict)
    assert any("bc override s3://images/runs/a --reason" in note for note in verdict.notes)


def test_a_person_may_know_better_than_the_first_champion() -> None:
    fell = case(Found(75, 48), Found(65, 40), first_champion=part(Found(80, 40), name="champion, version 1"))
    assert gates.may_be_overridden(_decide(fell))


def test_what_has_more_against_it_than_an_unmeasurable_champion_may_not_be_overridden() -> None:
    bad = _decide(case(Found(40, 0), None, champion_version="3", champion_problem="version 3: its weights are gone"))
    assert not gates.may_be_overridden(bad)
    assert not gates.may_be_overridden(_decide(case(CHAMPION, CHAMPION)))
    assert not gates.may_be_overridden(_decide(case(GOOD, CHAMPION)))


def test_a_dry_run_is_said_in_the_verdict_and_changes_nothing_else() -> None:
    dry, real = _decide(case(GOOD, CHAMPION), _with(dry_run=True)), _decide(case(GOOD, CHAMPION))
    assert dry.dry_run
    assert (dry.passed, dry.rules, dry.gains) == (real.passed, real.rules, real.gains)


@pytest.mark.parametrize(
    ("challenger", "grade"),
    [(Found(62, 40), "unproven"), (Found(68, 40), "suggestive"), (Found(85, 20), "confirmed")],
)
def test_evidence_has_three_grades_and_the_policy_takes_its_own_or_better(challenger: Found, grade: str) -> None:
    verdict = _decide(case(challenger, CHAMPION), _with(num_resamples=10_000, f1_margin=0.0))
    assert verdict.grade == grade
    for wanted in gate_scene.GRADES:
        failed = _failed(_decide(case(challenger, CHAMPION), _with(num_resamples=10_000, f1_margin=0, evidence=wanted)))
        better = gate_scene.GRADES.index(verdict.grade) >= gate_scene.GRADES.index(wanted)
        assert failed == ([] if better else ["evidence"])


def _found(tp: int, new_fp: int, lost_fp: int) -> tuple[float, ...]:
    """A challenger that finds the first images with cancer, and calls other images without than the champion does."""
    called = [number < tp for number in range(100)]
    called += [lost_fp <= number < 40 + new_fp for number in range(200)]
    return tuple(0.9 if is_called else 0.1 for is_called in called)


def test_evidence_is_needed_of_recall_and_of_f1() -> None:
    verdict = _decide(case(part_of(_found(72, 30, 15)), CHAMPION), _with(num_resamples=10_000, f1_margin=0.0))
    assert verdict.gains["f1"].value > 0
    assert verdict.gains["recall"].nightly_bound > 0 >= verdict.gains["f1"].nightly_bound
    assert verdict.grade == "unproven"
    better = _decide(case(part_of(_found(80, 20, 15)), CHAMPION), _with(num_resamples=10_000, f1_margin=0.0))
    assert (better.gains["recall"].ledger_bound or -1) > 0 >= (better.gains["f1"].ledger_bound or -1)
    assert better.grade == "suggestive"


def test_what_is_confirmed_is_said_with_the_bounds_of_the_ledger() -> None:
    verdict = _decide(case(Found(85, 20), CHAMPION), _with(num_resamples=10_000))
    bound = verdict.gains["recall"].ledger_bound
    assert f"Recall by {bound:+.3f} at least" in _outcome(verdict, "evidence").sentence


def test_without_images_with_cancer_nothing_is_evidence_and_nothing_can_be_seen() -> None:
    verdict = _decide(case(GOOD, CHAMPION, labels=(0,) * 300), _with(min_recall=0, min_f1=0))
    assert verdict.grade == "unproven"
    assert verdict.power.detectable_gain is None
    assert "can't see any gain" in verdict.power.sentence


def test_on_a_worn_out_holdout_nothing_is_confirmed_any_more() -> None:
    worn_out = look(91, error=0, spent=0.05)
    verdict = _decide(case(Found(95, 5), CHAMPION), _with(num_resamples=10_000), worn_out)
    assert verdict.grade == "suggestive"
    assert verdict.gains["recall"].ledger_bound is None
    assert any("worn out" in note for note in verdict.notes)
    strict = _decide(case(Found(95, 5), CHAMPION), _with(evidence="confirmed"), worn_out)
    assert "can't see any gain in recall as confirmed" in strict.power.sentence


def test_images_of_one_patient_are_no_independent_evidence() -> None:
    alone = _decide(case(Found(68, 40), CHAMPION))
    # The eight images that the challenger finds and the champion doesn't are of one patient now.
    patients = tuple(60 if 60 <= number < 68 else number for number in range(NUM_POSITIVES + NUM_NEGATIVES))
    together = _decide(case(Found(68, 40), CHAMPION, patients=patients))
    assert together.gains["recall"].value == alone.gains["recall"].value
    assert (alone.grade, together.grade) == ("suggestive", "unproven")


def test_small_allowed_losses_do_not_add_up_against_the_first_champion() -> None:
    steady = case(Found(75, 48), Found(65, 40), first_champion=part(Found(60, 30), name="champion, version 1"))
    assert "kept_since_first_champion" not in _failed(_decide(steady))
    slipped = case(Found(75, 48), Found(65, 40), first_champion=part(Found(60, 26), name="champion, version 1"))
    assert _failed(_decide(slipped)) == ["kept_since_first_champion"]
    assert "Specificity fell too far" in _decide(slipped).summary
    fell = case(Found(75, 48), Found(65, 40), first_champion=part(Found(80, 40), name="champion, version 1"))
    assert "Recall" in _outcome(_decide(fell), "kept_since_first_champion").sentence
    loose = case(Found(75, 48), Found(65, 40), first_champion=part(Found(74, 10), name="champion, version 1"))
    sentence = _outcome(_decide(loose, _with(max_specificity_loss_in_all=1.0)), "kept_since_first_champion").sentence
    assert ", F1 fell too far" in sentence


def _sites(of_positive: list[tuple[str | None, int]], of_negative: list[tuple[str | None, int]]) -> dict[str, Any]:
    values = [site for site, count in (*of_positive, *of_negative) for _ in range(count)]
    return {"subgroups": {"site_id": tuple(values)}}


def test_no_declared_group_may_fall_even_if_the_whole_improves() -> None:
    ours = [number < 60 or 70 <= number < 90 for number in range(100)] + [number < 40 for number in range(200)]
    theirs = [number < 70 for number in range(100)] + [number < 40 for number in range(200)]
    models = [part_of([0.9 if called else 0.1 for called in calls]) for calls in (ours, theirs)]
    sites = _sites([("north", 50), ("south", 20), ("north", 30)], [("north", 100), ("south", 100)])
    verdict = _decide(case(*models, **sites), _with(subgroups=("site_id",), evidence="unproven"))
    assert _failed(verdict) == ["groups_by_site_id"]
    assert "recall of site_id south (-0.500)" in _outcome(verdict, "groups_by_site_id").sentence
    assert _decide(case(*models, **sites), _with(evidence="unproven")).passed, "not declared, not judged"


def test_a_groups_fall_that_may_be_chance_is_named_and_not_held_against_the_whole() -> None:
    ours = [number < 60 or 63 <= number < 90 for number in range(100)] + [number < 40 for number in range(200)]
    theirs = [number < 70 for number in range(100)] + [number < 40 for number in range(200)]
    models = [part_of([0.9 if called else 0.1 for called in calls]) for calls in (ours, theirs)]
    sites = _sites([("north", 50), ("south", 20), ("north", 30)], [("north", 100), ("south", 100)])
    verdict = _decide(case(*models, **sites), _with(subgroups=("site_id",), evidence="unproven"))
    assert verdict.passed
    assert "it may be chance in the recall of site_id south (-0.150)" in _outcome(verdict, "groups_by_site_id").sentence


def test_groups_with_too_few_images_are_named_and_never_pass_silently() -> None:
    sites = _sites([("north", 81), (None, 19)], [("north", 200)])
    verdict = _decide(case(GOOD, CHAMPION, **sites), _with(subgroups=("site_id",)))
    outcome = _outcome(verdict, "groups_by_site_id")
    assert verdict.passed
    assert outcome.too_few == ("recall of site_id unknown (19 images)", "specificity of site_id unknown (0 images)")
    assert "too few images to say for recall of site_id unknown" in outcome.sentence
    assert any(note.startswith("Too few images to say: recall of site_id unknown") for note in verdict.notes)


def test_where_every_group_is_too_small_the_rule_says_so() -> None:
    sites = _sites([(f"site {number // 10}", 1) for number in range(100)], [("x", 10)] * 20)
    verdict = _decide(case(GOOD, CHAMPION, **sites), _with(subgroups=("site_id",), min_subgroup_images=201))
    assert _outcome(verdict, "groups_by_site_id").seen == "too few"
    assert "nothing can be said" in _outcome(verdict, "groups_by_site_id").sentence


def test_a_verdict_says_its_own_power() -> None:
    power = _decide(case(GOOD, CHAMPION)).power
    assert (power.num_positives, power.num_patients) == (100, 300)
    assert f"sees a true gain in recall of {power.detectable_gain:.3f} as suggestive" in power.sentence
    assert power.detectable_gain is not None
    strict = _decide(case(GOOD, CHAMPION), _with(evidence="confirmed")).power
    assert strict.detectable_gain == pytest.approx(power.detectable_gain * 4.10 / 2.49, rel=0.01)  # of the normal
    assert (_decide(case(GOOD, None), looked=look(error=0)).power.detectable_gain or 0) > 0


@pytest.mark.parametrize("champion", [None, Found(100, 40), Found(99, 40)], ids=["none", "alike", "nearly alike"])
def test_power_never_promises_more_than_a_handful_of_images_could_show(champion: Found | None) -> None:
    power = _decide(case(Found(100, 40), champion), looked=look(error=0)).power
    assert (power.detectable_gain or 0) >= 0.05  # a coin falls five times alike in one of 32 only


def test_a_model_no_better_than_calling_everything_cancer_is_told_of() -> None:
    policy = _with(min_recall=0, min_f1=0, min_specificity=0)
    poor = _decide(case(Found(50, 100), None), policy, look(error=0))
    assert "Calling every image cancer would have F1 0.500 here: this model has no more." in poor.notes
    assert not any("every image cancer" in note for note in _decide(case(GOOD, CHAMPION)).notes)


def test_profiles_fill_what_the_configuration_leaves_open() -> None:
    assert GateConfig(profile="strict").evidence == "confirmed"
    assert GateConfig(profile="strict", evidence="unproven").evidence == "unproven"
    literal = GateConfig(profile="literal")
    assert (literal.evidence, literal.recall_margin, literal.max_specificity_loss) == ("unproven", 0, 1)
    assert GateConfig.model_validate(literal.model_dump()) == literal


def test_too_few_resamples_to_confirm_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="num_resamples must be 20000 at least"):
        GateConfig(total_error=0.005, expected_looks=100)
    with pytest.raises(ValueError, match="num_resamples must be 20000 at least"):
        GateConfig(nightly_error=0.00005)


CALLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=24, max_size=24)


@settings(deadline=None, max_examples=150)
@given(CALLS, st.integers(0, 23), st.integers(1, 4), st.sampled_from(["default", "strict", "literal"]))
def test_a_better_challenger_never_turns_a_pass_into_a_fail(
    calls: list[tuple[bool, bool]], mended: int, images_of_a_patient: int, profile: Any
) -> None:
    labels = (1,) * 10 + (0,) * 14
    ours, theirs = ([0.9 if called else 0.1 for called in column] for column in zip(*calls, strict=True))
    better = list(ours)
    better[mended] = 0.9 if labels[mended] else 0.1
    facts: dict[str, Any] = {
        "labels": labels,
        "patients": tuple(number // images_of_a_patient for number in range(24)),
        "subgroups": {"site_id": ("north", "south") * 12},
        "first_champion": part_of(theirs[::-1], name="champion, version 1"),
    }
    policy = GateConfig(profile=profile, num_resamples=2000, subgroups=("site_id",), min_subgroup_images=3)
    champion = part_of(theirs, name="champion")
    now = _decide(case(part_of(ours), champion, **facts), policy)
    then = _decide(case(part_of(better), champion, **facts), policy)
    assert set(_failed(then)) - {"both_calls"} <= set(_failed(now))
    assert gate_scene.GRADES.index(then.grade or "unproven") >= gate_scene.GRADES.index(now.grade or "unproven")


@settings(deadline=None, max_examples=100)
@given(*[st.integers(0, 100)] * 4)
def test_what_passes_is_better_in_both_and_has_not_lost_more_specificity_than_allowed(
    tp: int, fp: int, champion_tp: int, champion_fp: int
) -> None:
    verdict = _decide(case(Found(tp, fp), Found(champion_tp, champion_fp)))
    if verdict.passed:
        ours, theirs = verdict.metrics["challenger"], verdict.metrics["champion"]
        assert ours["recall"] > theirs["recall"]
        assert ours["f1"] > theirs["f1"]
        assert ours["specificity"] >= theirs["specificity"] - POLICY.max_specificity_loss - 1e-8


@pytest.mark.parametrize("rule", gate_rules.RULES, ids=lambda rule: rule.name)
def test_every_rule_speaks_in_a_sentence(rule: gate_scene.Rule) -> None:
    policy = _with(subgroups=("site_id", "machine_id", "view", "density"))
    groups = {"subgroups": dict.fromkeys(policy.subgroups, ("A", "B", None) * 100)}
    first = part(Found(90, 10), name="champion, version 1")
    for challenger in (GOOD, Found(0, 0), Found(20, 190)):
        verdict = _decide(case(challenger, CHAMPION, first_champion=first, **groups), policy)
        outcome = _outcome(verdict, rule.name)
        assert outcome.sentence[0].isupper()
        assert outcome.sentence.endswith(".")
        assert outcome.seen
        assert outcome.required


def test_a_verdict_survives_storage_with_its_nans() -> None:
    probabilities = (NAN, *part(GOOD).probabilities[1:])
    verdict = _decide(case(part_of(probabilities), CHAMPION))
    again = Verdict.model_validate_json(verdict.model_dump_json())
    assert again.model_dump_json() == verdict.model_dump_json()

"""The gate registers only what is sound, above the floors, and better than the champion in recall and in F1."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import gates, metrics
from bc_tasks.config import GateConfig
from bc_tasks.records import ConfusionMatrix, Evaluation, Interval, ModelScores, ModelSpec, ScoredImage, Verdict

NAN = float("nan")
POLICY = GateConfig(min_recall=0.5, min_f1=0.4, recall_margin=0.01, f1_margin=0.02, max_specificity_loss=0.05)
GOOD = {"recall": 0.7, "f1": 0.6, "specificity": 0.8}
SHARE = st.floats(0, 1)


def _spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "backbone": "resnet50",
        "timm_name": "resnet50.a1_in1k",
        "image_size_px": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "preprocessing_sha256": "a" * 64,
        "pixels_size_px": 64,
        "crop_to_breast": True,
        "correct_inverted": True,
        "operating_point": 0.5,
    }
    return ModelSpec(**(facts | changes))


def _model(
    name: str = "challenger",
    *,
    values: dict[str, float] = GOOD,
    probabilities: tuple[float, ...] = (0.1, 0.9),
    holdout: str = "b" * 64,
    spec: ModelSpec | None = None,
    prefix: str = "image",
) -> ModelScores:
    all_values = dict.fromkeys(metrics.METRICS, 0.5) | values
    return ModelScores(
        name=name,
        weights_sha256="c" * 64,
        spec=spec or _spec(),
        holdout_fingerprint=holdout,
        scores=tuple(
            ScoredImage(image_id=f"{prefix}-{number}", patient_id="P", label=number % 2, probability=probability)
            for number, probability in enumerate(probabilities)
        ),
        metrics={key: Interval(value=value, low=value, high=value) for key, value in all_values.items()},
        confusion=ConfusionMatrix(num_true_positive=1, num_false_positive=0, num_true_negative=1, num_false_negative=0),
    )


def _decide(
    challenger: ModelScores, champion: ModelScores | None, *, policy: GateConfig = POLICY, problem: str | None = None
) -> Verdict:
    evaluation = Evaluation(
        challenger_backbone="resnet50",
        challenger_mlflow_run_id="run",
        challenger=challenger,
        champion=champion,
        champion_version="3" if champion or problem else None,
        champion_problem=problem,
        ranking={"resnet50": 0.8},
    )
    return gates.decide(evaluation, policy)


def _champion(**changes: Any) -> ModelScores:
    return _model("champion, version 3", **({"values": GOOD | {"recall": 0.6, "f1": 0.5}} | changes))


def _failed(verdict: Verdict) -> list[str]:
    return [outcome.rule for outcome in verdict.rules if not outcome.passed]


def test_a_challenger_that_is_better_in_recall_and_f1_passes() -> None:
    verdict = _decide(_model(), _champion())
    assert verdict.passed
    assert verdict.kind == "comparison"
    assert [outcome.rule for outcome in verdict.rules] == [rule.name for rule in gates.RULES]
    assert verdict.summary == ("Passed: resnet50 with recall 0.700, F1 0.600, better than the champion (version 3).")


@pytest.mark.parametrize(
    ("challenger", "champion", "rule"),
    [
        (_model(values=GOOD | {"recall": 0.6}), _champion(), "recall_improves"),
        (_model(values=GOOD | {"recall": 0.55}), _champion(), "recall_improves"),
        (_model(values=GOOD | {"recall": 0.609}), _champion(), "recall_improves"),
        (_model(values=GOOD | {"f1": 0.519}), _champion(), "f1_improves"),
        (_model(values=GOOD | {"recall": 0.49}), _champion(values=GOOD | {"recall": 0.1, "f1": 0.1}), "recall_floor"),
        (_model(values=GOOD | {"f1": 0.39}), _champion(values=GOOD | {"recall": 0.1, "f1": 0.1}), "f1_floor"),
        (
            _model(values=GOOD | {"recall": 1.0, "specificity": 0.0}),
            _champion(values={"recall": 0.1, "f1": 0.1, "specificity": 0.0}),
            "specificity_floor",
        ),
        (_model(values=GOOD | {"specificity": 0.74}), _champion(), "specificity_kept"),
        (_model(holdout="d" * 64), _champion(), "same_ground"),
        (_model(spec=_spec(preprocessing_sha256="e" * 64)), _champion(), "same_ground"),
        (_model(prefix="other"), _champion(), "same_ground"),
        (_model(probabilities=(0.1, 0.9, 0.9)), _champion(), "same_ground"),
        (_model(probabilities=(NAN, 0.9)), _champion(), "finite_scores"),
        (_model(probabilities=(float("inf"), 0.1)), _champion(), "finite_scores"),
        (_model(probabilities=(0.6, 0.9)), _champion(), "both_calls"),
        (_model(probabilities=(0.1, 0.2)), _champion(), "both_calls"),
    ],
)
def test_each_rule_alone_can_reject(challenger: ModelScores, champion: ModelScores, rule: str) -> None:
    verdict = _decide(challenger, champion)
    assert not verdict.passed
    assert _failed(verdict) == [rule]
    sentence = next(outcome.sentence for outcome in verdict.rules if outcome.rule == rule)
    assert verdict.summary.startswith("Rejected: resnet50")
    assert sentence in verdict.summary


@pytest.mark.parametrize("name", ["recall", "f1", "specificity"])
def test_a_metric_that_is_no_number_is_never_an_improvement(name: str) -> None:
    assert not _decide(_model(values=GOOD | {name: NAN}), _champion()).passed
    assert not _decide(_model(), _champion(values=GOOD | {"recall": 0.6, "f1": 0.5} | {name: NAN})).passed


@pytest.mark.parametrize(
    ("gain", "passes"), [(0.005, True), (0.0049, False)], ids=["what the policy asks", "a little less"]
)
def test_a_gain_is_what_a_person_reads_and_not_its_rounding_error(gain: float, passes: bool) -> None:
    policy = POLICY.model_copy(update={"recall_margin": 0.005})
    assert 0.565 - 0.560 < 0.005  # in binary
    verdict = _decide(
        _model(values=GOOD | {"recall": round(0.560 + gain, 4)}),
        _champion(values=GOOD | {"recall": 0.560, "f1": 0.5}),
        policy=policy,
    )
    assert ("recall_improves" not in _failed(verdict)) == passes


def test_equal_is_not_better_even_without_a_margin() -> None:
    policy = POLICY.model_copy(update={"recall_margin": 0.0, "f1_margin": 0.0})
    assert _failed(_decide(_champion(), _champion(), policy=policy)) == ["recall_improves", "f1_improves"]


def test_the_first_model_needs_only_to_be_sound_and_above_the_floors() -> None:
    verdict = _decide(_model(), None)
    assert (verdict.passed, verdict.kind) == (True, "bootstrap")
    assert [outcome.rule for outcome in verdict.rules] == [
        "finite_scores",
        "both_calls",
        "recall_floor",
        "f1_floor",
        "specificity_floor",
    ]
    assert "a person must promote it" in verdict.summary
    assert not _decide(_model(values=GOOD | {"recall": 0.4}), None).passed


def test_a_champion_that_cannot_be_measured_lets_nothing_pass() -> None:
    verdict = _decide(_model(values=dict.fromkeys(GOOD, 1.0)), None, problem="version 3: its weights are gone")
    assert (verdict.passed, verdict.kind) == (False, "cannot-compare")
    assert "its weights are gone" in verdict.summary


def test_a_dry_run_is_said_in_the_verdict_and_changes_nothing_else() -> None:
    dry = _decide(_model(), _champion(), policy=POLICY.model_copy(update={"dry_run": True}))
    assert dry == _decide(_model(), _champion()).model_copy(update={"dry_run": True})


@settings(deadline=None, max_examples=200)
@given(SHARE, SHARE, SHARE, SHARE, st.sampled_from(["recall", "f1", "specificity"]), SHARE)
def test_a_better_challenger_never_fares_worse(
    recall: float, f1: float, champion_recall: float, champion_f1: float, name: str, better: float
) -> None:
    champion = _champion(values=GOOD | {"recall": champion_recall, "f1": champion_f1})
    values = GOOD | {"recall": recall, "f1": f1}
    raised = values | {name: max(values[name], better)}
    assert set(_failed(_decide(_model(values=raised), champion))) <= set(
        _failed(_decide(_model(values=values), champion))
    )


@settings(deadline=None, max_examples=200)
@given(SHARE, SHARE, SHARE, SHARE, SHARE, SHARE)
def test_what_passes_is_better_in_both_and_has_not_lost_more_specificity_than_allowed(
    recall: float,
    f1: float,
    specificity: float,
    champion_recall: float,
    champion_f1: float,
    champion_specificity: float,
) -> None:
    challenger = {"recall": recall, "f1": f1, "specificity": specificity}
    champion = {"recall": champion_recall, "f1": champion_f1, "specificity": champion_specificity}
    if _decide(_model(values=challenger), _champion(values=champion)).passed:
        assert recall > champion_recall
        assert f1 > champion_f1
        assert specificity >= champion_specificity - POLICY.max_specificity_loss - 1e-8


@pytest.mark.parametrize("rule", gates.RULES, ids=lambda rule: rule.name)
def test_every_rule_speaks_in_a_sentence(rule: gates.Rule) -> None:
    for challenger in (_model(), _model(values=dict.fromkeys(GOOD, NAN), probabilities=(NAN, NAN), prefix="other")):
        finding = rule.check(challenger, _champion(), POLICY)
        assert finding.sentence[0].isupper()
        assert finding.sentence.endswith(".")
        assert finding.seen
        assert finding.required


def test_a_verdict_survives_storage() -> None:
    verdict = _decide(_model(values=GOOD | {"recall": NAN}), _champion())
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_an_evaluation_keeps_its_nans_in_storage() -> None:
    model = _model(values=GOOD | {"recall": NAN}, probabilities=(NAN, 0.9))
    kept = ModelScores.model_validate_json(model.model_dump_json())
    assert math.isnan(kept.metrics["recall"].value)
    assert math.isnan(kept.scores[0].probability)

"""A verdict is computed again from its own record to the same bytes, or the first difference is named."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_cases import CHAMPION, GOOD, MADE_WITH, Found, case, look
from night_records import make_night

from bc_tasks import cases, gates, replay
from bc_tasks.config import RegistryConfig, RunConfig
from bc_tasks.errors import DataError
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Evaluation, Run

POLICY = GateConfig(num_resamples=2000)


def _recorded() -> bytes:
    return gates.decide(case(GOOD, CHAMPION), POLICY, look(), MADE_WITH).model_dump_json(indent=1).encode()


def _evaluation(folder: Path) -> Evaluation:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    return make_night(
        "s3://images/runs/a", mlflow_run_id="m", registry=RegistryConfig(), weights=weights, champion_version="3"
    ).evaluation


def _run() -> Run:
    return Run(
        run_uri="s3://images/runs/a",
        started_at=datetime(2026, 11, 23, 2, 0, tzinfo=UTC),
        trigger="scheduled",
        code_version="1",
        config=RunConfig(data_uri="s3://images", gate=POLICY),
    )


def test_the_same_bytes_come_out() -> None:
    assert replay.replay(_recorded()).difference is None


@pytest.mark.parametrize(
    ("path", "edited", "named"),
    [
        (("passed",), False, "passed"),
        (("rules", 1, "seen"), "7 not finite", "rules[1].seen"),
        (("gains", "recall", "nightly_bound"), 0.9, "gains.recall.nightly_bound"),
        (("policy", "min_recall"), 0.99, "passed"),
        (("case", "challenger", "probabilities", 0), 0.1, "rules[2].seen"),
        (("power", "detectable_gain"), 0.001, "power.detectable_gain"),
    ],
)
def test_an_edited_verdict_is_found_out(path: tuple[str | int, ...], edited: object, named: str) -> None:
    tree = json.loads(_recorded())
    node = tree
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = edited
    difference = replay.replay(json.dumps(tree, indent=1).encode()).difference
    assert difference is not None
    assert difference.path == named
    assert difference.recorded != difference.computed


def test_the_layout_counts_too() -> None:
    difference = replay.replay(json.dumps(json.loads(_recorded())).encode()).difference
    assert difference is not None
    assert difference.path == "(layout)"


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(DataError, match="no verdict"):
        replay.replay(b"{}")


def test_versions_that_have_changed_since_are_named() -> None:
    now = MADE_WITH.model_copy(update={"numpy": "3"})
    assert replay.versions_differing(MADE_WITH, now) == ["numpy: 2 then, 3 now"]
    assert replay.versions_differing(MADE_WITH, MADE_WITH) == []


def test_a_case_is_the_evaluation_without_ids(tmp_path: Path) -> None:
    evaluation = _evaluation(tmp_path)
    made = cases.build(evaluation, None, subgroups=("site_id",), seed=17)
    text = made.model_dump_json()
    assert not any(score.image_id in text or score.patient_id in text for score in evaluation.challenger.scores)
    assert made.patients == tuple(number // 2 for number in range(120))
    assert made.champion is not None
    assert made.champion.probabilities == tuple(score.probability for score in evaluation.champion.scores)  # type: ignore[union-attr]


def test_a_case_does_not_depend_on_the_order_of_the_scores(tmp_path: Path) -> None:
    evaluation = _evaluation(tmp_path)
    turned = evaluation.challenger.model_copy(update={"scores": evaluation.challenger.scores[::-1]})
    shuffled = evaluation.model_copy(update={"challenger": turned})
    again = cases.build(shuffled, None, subgroups=(), seed=17)
    assert again == cases.build(evaluation, None, subgroups=(), seed=17)


def test_models_that_saw_other_images_or_labels_have_no_scores_to_compare(tmp_path: Path) -> None:
    evaluation = _evaluation(tmp_path)
    assert evaluation.champion is not None
    first, *rest = evaluation.champion.scores
    relabelled = (first.model_copy(update={"label": 1 - first.label}), *rest)
    for scores in (relabelled, tuple(rest)):
        other = evaluation.champion.model_copy(update={"scores": scores})
        made = cases.build(evaluation.model_copy(update={"champion": other}), None, subgroups=(), seed=17)
        assert made.champion is not None
        assert made.champion.probabilities == ()
        assert made.champion.images_sha256 != made.challenger.images_sha256


def test_a_verdict_on_other_scores_than_were_measured_is_found_out(tmp_path: Path) -> None:
    evaluation, run = _evaluation(tmp_path), _run()
    made = cases.build(evaluation, None, subgroups=(), seed=17)
    verdict = gates.decide(made, POLICY, look(), MADE_WITH)
    assert replay.check_records(verdict, run, evaluation) is None
    first, *rest = evaluation.challenger.scores
    swapped = evaluation.challenger.model_copy(
        update={"scores": (first.model_copy(update={"probability": 0.123}), *rest)}
    )
    difference = replay.check_records(verdict, run, evaluation.model_copy(update={"challenger": swapped}))
    assert difference is not None
    assert difference.path == "case.challenger.probabilities[0]"


def test_a_verdict_under_another_policy_than_the_runs_is_found_out(tmp_path: Path) -> None:
    evaluation, run = _evaluation(tmp_path), _run()
    made = cases.build(evaluation, None, subgroups=(), seed=17)
    verdict = gates.decide(made, GateConfig(profile="literal"), look(), MADE_WITH)
    assert replay.replay(verdict.model_dump_json(indent=1).encode()).difference is None
    difference = replay.check_records(verdict, run, evaluation)
    assert difference is not None
    assert difference.path == "policy.profile"


def test_a_verdict_with_another_look_or_yardstick_than_the_ledgers_is_found_out(tmp_path: Path) -> None:
    evaluation = _evaluation(tmp_path)
    first = evaluation.champion.model_copy(update={"weights_sha256": "0" * 64})  # type: ignore[union-attr]
    made = cases.build(evaluation, first, subgroups=(), seed=17)
    verdict = gates.decide(made, POLICY, look(), MADE_WITH)
    assert replay.check_ledger(verdict, [look()], first) is None
    for looks, yardstick, path in (
        ([look(error=0.0001)], first, "look.error"),
        ([], first, "look"),
        ([look()], None, "first_champion"),
    ):
        difference = replay.check_ledger(verdict, looks, yardstick)
        assert difference is not None
        assert difference.path == path


def test_a_verdict_that_fails_everything_is_replayed_too() -> None:
    bad = gates.decide(case(Found(0, 0), CHAMPION), POLICY, look(error=0), MADE_WITH)
    assert replay.replay(bad.model_dump_json(indent=1).encode()).difference is None

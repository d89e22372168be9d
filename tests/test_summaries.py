"""Each record says in a log what happened and what to look at."""

import math
from pathlib import Path

from night_records import make_night

from bc_tasks.config import RegistryConfig
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Interval, RegisteredModel, ValidationReport
from bc_tasks.summaries import summarise
from bc_tasks.tracking.model_card import Night


def _night(folder: Path, *, champion_version: str | None = "3", gate: GateConfig | None = None) -> Night:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    return make_night(
        "s3://images/runs/a",
        mlflow_run_id="m",
        registry=RegistryConfig(),
        weights=weights,
        champion_version=champion_version,
        gate=gate or GateConfig(),
    )


def test_training_says_how_long_how_good_and_where(tmp_path: Path) -> None:
    text = summarise(_night(tmp_path).trained)
    assert "efficientnet_lite0: best epoch 4 of 9, 1234 training images, 321 s" in text
    assert "average_precision 0.930" in text
    assert "model.safetensors" in text


def test_training_says_how_it_was_calibrated_and_why_its_operating_point_is_where_it_is(tmp_path: Path) -> None:
    text = summarise(_night(tmp_path).trained)
    assert "temperature 1.700: log loss 0.520 to 0.410, calibration error 0.140 to 0.030" in text
    assert "operating point 0.500 (recall_floor): specificity 0.810 is the highest" in text


def test_an_evaluation_says_each_metric_of_both_models_with_its_interval(tmp_path: Path) -> None:
    lines = summarise(_night(tmp_path).evaluation).splitlines()
    challenger, champion = lines[:3], lines[3:]
    assert challenger[0].startswith("challenger, efficientnet_lite0 on 120 holdout images: recall ")
    assert champion[0].startswith("champion, version 3 on 120 holdout images: recall ")
    assert challenger[1].startswith("  by breast (119; images of an unknown side: 1): recall ")
    assert challenger[2].startswith("  by patient (60): recall ")
    assert {line.count("[") for line in lines} == {len(_night(tmp_path).evaluation.challenger.metrics)}


def test_a_champion_that_could_not_be_measured_is_told_of(tmp_path: Path) -> None:
    evaluation = _night(tmp_path, champion_version=None).evaluation
    told = summarise(evaluation.model_copy(update={"champion_problem": "its weights are gone"}))
    assert told.splitlines()[-1] == "the champion could not be measured: its weights are gone"


def test_what_is_no_number_is_shown_as_such(tmp_path: Path) -> None:
    evaluation = _night(tmp_path, champion_version=None).evaluation
    undefined = Interval(value=math.nan, low=math.nan, high=math.nan)
    challenger = evaluation.challenger.model_copy(update={"metrics": {"precision": undefined}})
    assert "precision nan [nan, nan]" in summarise(evaluation.model_copy(update={"challenger": challenger}))


def test_a_verdict_says_every_rule_and_which_failed(tmp_path: Path) -> None:
    verdict = _night(tmp_path, gate=GateConfig(recall_margin=1)).verdict
    summary, *rest = summarise(verdict).splitlines()
    rules, said = rest[: len(verdict.rules)], rest[len(verdict.rules) :]
    assert summary == verdict.summary
    assert said == [verdict.power.sentence, *verdict.notes]
    assert len(rules) == len(verdict.rules)
    assert [line.split()[1] for line in rules if line.startswith("  FAIL")] == ["recall_improves:"]


def test_a_validation_says_what_was_committed_and_where_to_look(tmp_path: Path) -> None:
    report = ValidationReport(
        snapshot=_night(tmp_path).snapshot,
        expectations=(),
        num_quarantined=2,
        bad_share=0.05,
        data_docs_uri="s3://images/runs/a/data-docs/index.html",
    )
    text = summarise(report)
    assert "2 quarantined, 5.0% of tonight's are bad" in text
    assert "snapshot 12 committed" in text
    assert "Data Docs: s3://images/runs/a/data-docs/index.html" in text


def test_a_registered_model_says_its_version_and_whether_it_is_new() -> None:
    model = RegisteredModel(
        name="breast", version="4", aliases=("challenger",), mlflow_run_id="m", model_uri="u", was_there_already=True
    )
    assert summarise(model) == "breast version 4 (it was there already), aliases: challenger"
    again = model.model_copy(update={"was_there_already": False, "aliases": ()})
    assert summarise(again) == "breast version 4, aliases: none"

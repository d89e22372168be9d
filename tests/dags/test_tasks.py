"""The start of a night and the two questions that may end it, on real records."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import run_records

from bc_tasks import runs
from bc_tasks.errors import ConfigError, RecordMissing
from bc_tasks.orchestration import tasks
from bc_tasks.records import Run
from bc_tasks.storage import Storage

FORM = {"backbones": ["resnet50"], "epochs": 3, "image_size_px": 224, "train_if_nothing_new": True, "dry_run": False}


def dag_run(run_id: str = "manual__2026-11-23T14:21:24.093152+00:00", user: str | None = "dr-who") -> Any:
    """What Airflow tells a task of its run."""
    kind = SimpleNamespace(value=run_id.partition("__")[0])
    started_at = datetime(2026, 11, 23, 14, 21, 24, tzinfo=UTC)
    return SimpleNamespace(run_id=run_id, start_date=started_at, run_type=kind, triggering_user_name=user)


@pytest.fixture
def configured(tmp_path: Path, file_data_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "config.toml").write_text(f'data_uri = "{file_data_uri}"\n')
    monkeypatch.setenv("BC_CONFIG", str(tmp_path / "config.toml"))
    return file_data_uri


def test_a_run_begins_with_what_the_form_says(configured: str, files: Storage, task_instance: Any) -> None:
    assert tasks.start.function(FORM, dag_run(), task_instance) == ["resnet50"]
    run_uri = task_instance.left["run_uri"]
    assert run_uri == f"{configured}/runs/manual__2026-11-23T14-21-24.093152Z"
    record = runs.read(files, run_uri, Run)
    assert record.config.training.epochs == 3
    assert record.config.training.train_if_nothing_new is True
    assert record.trigger == "dr-who"


@pytest.mark.usefixtures("configured")
def test_a_second_try_of_the_start_changes_nothing(files: Storage, task_instance: Any) -> None:
    tasks.start.function(FORM, dag_run("scheduled__2026-11-23T02:00:00+00:00", None), task_instance)
    run_uri = task_instance.left["run_uri"]
    first = runs.read(files, run_uri, Run)
    assert tasks.start.function(
        FORM | {"epochs": 9}, dag_run("scheduled__2026-11-23T02:00:00+00:00", None), task_instance
    ) == ["resnet50"]
    assert runs.read(files, run_uri, Run) == first
    assert first.trigger == "scheduled"


@pytest.mark.usefixtures("configured")
def test_a_form_that_the_configuration_refuses_stops_the_night(task_instance: Any) -> None:
    with pytest.raises(ConfigError, match="image_size_px"):
        tasks.start.function(FORM | {"image_size_px": 2048}, dag_run(), task_instance)
    assert task_instance.left == {}


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("scheduled__2026-11-24T02:00:00+00:00", "scheduled__2026-11-24T02-00-00Z"),
        ("after the new scanner/site 3", "after-the-new-scanner-site-3"),
        ("demo-1", "demo-1"),
    ],
)
def test_a_runs_name_is_safe_in_a_uri(run_id: str, name: str) -> None:
    assert runs.to_run_name(run_id) == name


@pytest.mark.parametrize(
    ("changes", "train_anyway", "goes_on", "said"),
    [
        ({}, False, True, ""),
        ({"num_new": 0, "num_revised": 1}, False, True, ""),
        ({"num_new": 0, "num_withdrawn": 1}, False, True, ""),
        ({"num_new": 0}, False, False, "since snapshot 1. The rest is skipped"),
        ({"num_new": 0}, True, True, "Training all the same"),
        ({"num_new": 0, "base_is_unfinished": True}, False, True, "this one makes up for it"),
        ({"num_new": 0, "waiting_batches": ("b7",)}, False, False, "still being uploaded: b7"),
        ({"is_routine": True}, False, False, "Only copies, and images of the holdout's patients, are new since"),
        ({"is_routine": True, "base_is_unfinished": True}, False, True, "this one makes up for it"),
    ],
)
def test_a_night_goes_on_if_anything_is_new(
    changes: dict[str, Any],
    train_anyway: bool,
    goes_on: bool,
    said: str,
    run_uri: str,
    files: Storage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs.write(files, run_uri, run_records.run(run_uri, train_if_nothing_new=train_anyway))
    runs.write(files, run_uri, run_records.snapshot(**changes))
    with caplog.at_level(logging.INFO):
        assert tasks.anything_new.function(run_uri) is goes_on
    assert said in " ".join(caplog.messages)


@pytest.mark.parametrize(
    ("verdict", "goes_on", "said"),
    [
        (run_records.verdict(), True, "Passed: better"),
        (run_records.verdict(passed=False), False, "Rejected: recall 0.610"),
        (run_records.verdict(dry_run=True), False, "a dry run: nothing is registered"),
    ],
)
def test_only_a_challenger_that_passed_is_registered(
    verdict: Any, goes_on: bool, said: str, run_uri: str, files: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    runs.write(files, run_uri, verdict)
    with caplog.at_level(logging.INFO):
        assert tasks.passed.function(run_uri) is goes_on
    assert said in " ".join(caplog.messages)


@pytest.mark.parametrize("question", [tasks.anything_new, tasks.passed])
def test_a_missing_record_means_failed_never_passed(question: Any, run_uri: str) -> None:
    with pytest.raises(RecordMissing):
        question.function(run_uri)

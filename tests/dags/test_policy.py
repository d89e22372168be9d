"""What every DAG here promises to those who operate it; each message names the mending."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from jsonschema import ValidationError, validate

from bc_tasks import environment
from bc_tasks.config import RunConfig
from bc_tasks.config_file import FORM_FIELDS, apply_form, form_schema, load_config
from bc_tasks.orchestration.form import trigger_form
from bc_tasks.orchestration.step import RETRY_POLICY, Step

DAGS = Path(__file__).resolve().parents[2] / "dags"
STEPS = ("ingest", "validate", "train", "evaluate", "gate", "register")
HEAVY = ("torch", "torchvision", "timm", "mlflow", "great_expectations", "pandas", "boto3", "fastapi", "kubernetes")
IMPORT_ALONE = (
    "import runpy, sys; runpy.run_path(sys.argv[1]); print([name for name in sys.argv[2:] if name in sys.modules])"
)


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return load_config(environment.CHECKOUT / "include" / "config" / "production.toml")


def test_somebody_owns_each_task(dag: DAG, config: RunConfig) -> None:
    others = {task.task_id: task.owner for task in dag.tasks if task.owner != config.schedule.owner}
    assert not others, f"take the owner from the configuration, as in default_args: {others}"


def test_it_has_tags_and_a_description(dag: DAG) -> None:
    assert dag.tags, "give @dag tags, so that it is found among a hospital's hundred DAGs"
    assert dag.description, "give @dag a description: it is the tooltip in the list"


def test_the_engineer_on_call_finds_each_task_in_the_documentation(dag: DAG) -> None:
    missing = [task.task_id for task in dag.tasks if f"\n### {task.task_id}\n" not in (dag.doc_md or "")]
    assert not missing, f"add a section '### <task>' to {dag.dag_id}'s docstring for {missing}"


def test_a_night_runs_by_the_configured_clock(dags: dict[str, DAG], config: RunConfig) -> None:
    night = dags["nightly_retraining"]
    assert config.schedule.cron in str(night.timetable), "take the schedule from the configuration"


def test_it_runs_by_a_clock_in_utc(dag: DAG) -> None:
    assert "UTC" in str(dag.timetable), (
        "say timezone='UTC': a night in local time runs twice, or never, when clocks change"
    )


def test_a_night_is_not_caught_up_and_never_runs_beside_another(dag: DAG) -> None:
    assert dag.catchup is False, "set catchup=False: a night takes what is there now, not what was there then"
    assert dag.max_active_runs == 1, "set max_active_runs=1: two nights would commit the same snapshot"


def test_unpausing_it_by_day_starts_no_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.3.2 runs a missed night on unpausing, unless `run_immediately` is a timedelta of 0."""
    from airflow.dag_processing.dagbag import DagBag

    a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    toml = f'data_uri = "file:///data"\n[schedule]\ncron = "{a_minute_ago.minute} {a_minute_ago.hour} * * *"\n'
    (tmp_path / "config.toml").write_text(toml)
    monkeypatch.setenv("BC_CONFIG", str(tmp_path / "config.toml"))
    dag = DagBag(DAGS / "nightly_retraining.py").dags["nightly_retraining"]
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    never_run = TimeRestriction(earliest=None, latest=None, catchup=False)
    first = stored.timetable.next_dagrun_info(last_automated_data_interval=None, restriction=never_run)
    assert first.run_after > datetime.now(UTC) + timedelta(hours=12)


def test_each_task_of_a_night_retries_what_a_retry_can_help_and_ends_in_time(
    dags: dict[str, DAG], config: RunConfig
) -> None:
    schedule, pods = config.schedule, config.execution.pods
    for task in dags["nightly_retraining"].tasks:
        minutes = schedule.training_timeout_minutes if task.task_id == "train" else schedule.step_timeout_minutes
        if config.execution.in_pod(task.task_id):
            minutes += pods.schedule_timeout_minutes + pods.startup_timeout_minutes + 2 * pods.grace_seconds / 60
        assert task.execution_timeout == timedelta(minutes=minutes), f"{task.task_id}: take it from the configuration"
        assert task.retries == schedule.retries, f"{task.task_id}: take the retries from the configuration"
        assert task.retry_policy is RETRY_POLICY, f"{task.task_id}: without RETRY_POLICY bad data is tried again"


def test_the_form_is_the_configuration(dags: dict[str, DAG], config: RunConfig) -> None:
    dag = dags["nightly_retraining"]
    assert set(dag.params) == set(FORM_FIELDS), "make params with trigger_form(config)"
    assert apply_form(config, dag.params.dump()) == config, "the form, as it opens, must change nothing"
    for name, schema in form_schema(config).items():
        shown = dag.params.get_param(name).schema
        limits = {key: value for key, value in schema.items() if key not in ("default", "description", "title")}
        assert limits.items() <= shown.items(), f"{name}: the form's limits must be the configuration's"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbones", []),
        ("backbones", ["resnet18"]),
        ("backbones", ["resnet50", "resnet50"]),
        ("epochs", 0),
        ("image_size_px", 4096),
        ("dry_run", "yes"),
    ],
)
def test_the_form_refuses_what_the_configuration_refuses(config: RunConfig, name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        validate(value, trigger_form(config)[name].schema)


def test_the_form_offers_every_backbone_by_name_and_reads_well(config: RunConfig) -> None:
    form = trigger_form(config)
    assert form["backbones"].schema["examples"] == form["backbones"].schema["items"]["enum"]
    titles = [param.schema["title"] for param in form.values()]
    assert titles == ["Backbones", "Epochs", "Image size (px)", "Train if nothing new", "Dry run"]
    assert all(param.description.endswith(".") and param.description[0].isupper() for param in form.values())


def test_every_step_of_the_command_line_is_a_task(dags: dict[str, DAG]) -> None:
    night = dags["nightly_retraining"]
    steps = [task for task in night.tasks if issubclass(getattr(task, "operator_class", type(task)), Step)]
    assert {task.task_id for task in steps} == set(STEPS), "a Step runs `bc <task id>`"


def test_only_steps_with_a_page_elsewhere_have_a_button(dags: dict[str, DAG]) -> None:
    stored = DagSerialization.to_dict(dags["nightly_retraining"])["dag"]["tasks"]
    buttons = {task["__var"]["task_id"]: list(task["__var"].get("_operator_extra_links", {})) for task in stored}
    assert {name: links for name, links in buttons.items() if links} == {
        "validate": ["Data Docs"],
        "train": ["MLflow"],
        "evaluate": ["MLflow"],
        "register": ["MLflow"],
    }


@pytest.mark.parametrize(("config", "needed"), [("laptop", set()), ("production", {"kubernetes"})])
@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_the_scheduler_reads_it_without_the_heavy_libraries(file: Path, config: str, needed: set[str]) -> None:
    """Airflow reads each DAG file every 30 seconds, and again in every task."""
    command = [sys.executable, "-c", IMPORT_ALONE, str(file), *sorted(set(HEAVY) - needed)]
    env = os.environ | {"BC_CONFIG": str(environment.CHECKOUT / "include" / "config" / f"{config}.toml")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    imported = done.stdout.splitlines()[-1]
    assert imported == "[]", f"import {imported} inside a function, or in the step's own process"

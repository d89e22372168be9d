"""The start freezes everything that decides what the night does."""

from datetime import UTC, datetime, timedelta

import pytest
from inboxes import local_storage

from bc_tasks import runs
from bc_tasks.config import RunConfig
from bc_tasks.records import Run
from bc_tasks.steps import start

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)


def _start(config: RunConfig, *, started_at: datetime = NOW) -> Run:
    return start.run(
        config,
        storage=local_storage(),
        run_name="2026-11-23",
        started_at=started_at,
        trigger="scheduled",
        code_version="0.1.0+abc1234",
    )


@pytest.fixture
def config(file_data_uri: str) -> RunConfig:
    """A configuration whose data are in a folder."""
    return RunConfig(data_uri=file_data_uri)


def test_a_run_is_a_folder_below_the_data(config: RunConfig) -> None:
    run = _start(config)
    assert run.run_uri == f"{config.data_uri}/runs/2026-11-23"
    assert runs.read(local_storage(), run.run_uri, Run) == run
    assert (run.config, run.trigger, run.code_version) == (config, "scheduled", "0.1.0+abc1234")


def test_a_start_tried_again_is_the_same_start(config: RunConfig) -> None:
    first = _start(config)
    assert _start(config, started_at=NOW + timedelta(minutes=5)) == first


def test_a_configuration_that_changes_later_does_not_change_the_run(config: RunConfig) -> None:
    run = _start(config)
    training = config.training.model_copy(update={"epochs": 3})
    assert _start(config.model_copy(update={"training": training})).config == run.config == config

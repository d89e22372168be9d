"""What people ask of a verdict on the command line: the ledger, the replay, and an override."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_cases import MADE_WITH
from inboxes import local_storage
from night_records import make_night
from typer.testing import CliRunner

from bc_tasks import cli, runs, snapshots
from bc_tasks.config import RegistryConfig
from bc_tasks.errors import BcError, DataError
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import ValidationReport
from bc_tasks.steps import gate
from bc_tasks.storage import join

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


@pytest.fixture
def run_uri(file_data_uri: str, tmp_path: Path) -> str:
    """A run whose gate has decided, against a champion."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    uri = join(file_data_uri, "runs", "a")
    policy = GateConfig(num_resamples=2000)
    night = make_night(
        uri, mlflow_run_id="m", registry=RegistryConfig(), weights=weights, champion_version="3", gate=policy
    )
    manifest_uri = join(snapshots.folder_uri(file_data_uri, 12), "manifest-0.parquet")
    snapshot = night.snapshot.model_copy(update={"manifest_uri": manifest_uri})
    report = ValidationReport(
        snapshot=snapshot, expectations=(), num_quarantined=0, bad_share=0, data_docs_uri=join(uri, "docs")
    )
    for record in (night.run, report, night.evaluation):
        runs.write(local_storage(), uri, record)
    gate.run(uri, storage=local_storage(), now=NOW, made_with=MADE_WITH)
    return uri


def _bc(*arguments: str) -> str:
    """Run `bc` here; return what it says."""
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_replay_says_that_the_same_bytes_came_out(run_uri: str) -> None:
    said = _bc("replay", run_uri)
    assert said.startswith("The same ")
    assert "agree with the run's records and the ledger" in said
    assert "Passed: efficientnet_lite0" in said


def test_a_copy_of_a_run_is_replayed_wherever_it_lies(run_uri: str, file_data_uri: str) -> None:
    elsewhere = join(file_data_uri, "of-an-auditor")
    for name in ("start.json", "evaluate.json", "verdict.json"):
        local_storage().write(join(elsewhere, name), local_storage().read(join(run_uri, name)))
    assert "this is a copy, so the ledger was not asked" in _bc("replay", elsewhere)


def test_a_verdict_alone_is_replayed_too_wherever_it_lies(run_uri: str, file_data_uri: str) -> None:
    elsewhere = join(file_data_uri, "of-an-auditor")
    local_storage().write(join(elsewhere, "verdict.json"), local_storage().read(join(run_uri, "verdict.json")))
    said = _bc("replay", elsewhere)
    assert said.startswith("The same ")
    assert "the run's other records aren't there" in said


def test_a_replay_of_an_edited_verdict_names_the_first_difference(run_uri: str) -> None:
    uri = join(run_uri, "verdict.json")
    edited = local_storage().read(uri).replace(b'"passed": true', b'"passed": false', 1)
    local_storage().write(uri, edited)
    with pytest.raises(DataError, match="First difference: passed was recorded as false, and is computed as true"):
        _bc("replay", run_uri)


def test_a_replay_sees_scores_that_were_edited_in_the_evaluation(run_uri: str) -> None:
    uri = join(run_uri, "evaluate.json")
    lines = local_storage().read(uri).decode().splitlines()
    number = next(number for number, line in enumerate(lines) if '"probability":' in line)
    lines[number] = f"{lines[number].partition(':')[0]}: 0.123,"
    local_storage().write(uri, "\n".join(lines).encode())
    with pytest.raises(DataError, match=r"First difference: case\.challenger\.probabilities\[0\] was recorded"):
        _bc("replay", run_uri)


def test_an_override_needs_a_reason_and_a_verdict_that_could_not_compare(run_uri: str) -> None:
    with pytest.raises(BcError, match="say why, and who you are"):
        _bc("override", run_uri, "--reason", "  ")
    with pytest.raises(BcError, match="can't be overridden"):
        _bc("override", run_uri, "--reason", "I like it", "--by", "Ada")
    assert not runs.exists(local_storage(), run_uri, "override.json")

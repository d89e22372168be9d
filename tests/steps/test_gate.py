"""The gate's step writes its verdict, and a rejection ends the night's claim on its snapshot."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_cases import MADE_WITH
from inboxes import local_storage
from night_records import make_night

from bc_tasks import ledger, replay, runs, snapshots
from bc_tasks.config import RegistryConfig
from bc_tasks.errors import BcError, RecordMissing
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Evaluation, Override, Run, Snapshot, ValidationReport, Verdict
from bc_tasks.steps import gate, override
from bc_tasks.storage import join

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def _night_before_the_gate(uri: str, folder: Path, policy: GateConfig) -> tuple[str, Snapshot]:
    """Write the records that the gate reads; return the run and the snapshot that was committed for it."""
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    run_uri = join(uri, "runs", "a")
    night = make_night(
        run_uri, mlflow_run_id="m", registry=RegistryConfig(), weights=weights, champion_version="3", gate=policy
    )
    folder_uri = snapshots.folder_uri(uri, 12)
    snapshot = night.snapshot.model_copy(update={"manifest_uri": join(folder_uri, "manifest-0.parquet")})
    report = ValidationReport(
        snapshot=snapshot, expectations=(), num_quarantined=0, bad_share=0, data_docs_uri=join(run_uri, "data-docs")
    )
    for record in (night.run, report, night.evaluation):
        runs.write(local_storage(), run_uri, record)
    return run_uri, snapshot


def _gate(run_uri: str) -> Verdict:
    return gate.run(run_uri, storage=local_storage(), now=NOW, made_with=MADE_WITH)


@pytest.mark.parametrize(
    ("policy", "passed", "finished"),
    [
        (GateConfig(), True, False),
        (GateConfig(recall_margin=1), False, True),
        (GateConfig(dry_run=True), True, False),
        (GateConfig(recall_margin=1, dry_run=True), False, False),
    ],
    ids=["passed", "rejected", "dry, passed", "dry, rejected"],
)
def test_a_rejection_is_the_end_of_the_night_and_a_pass_is_not_before_it_is_registered(
    file_data_uri: str, tmp_path: Path, policy: GateConfig, passed: bool, finished: bool
) -> None:
    run_uri, snapshot = _night_before_the_gate(file_data_uri, tmp_path, policy)
    verdict = _gate(run_uri)
    assert (verdict.passed, verdict.dry_run) == (passed, policy.dry_run)
    assert runs.read(local_storage(), run_uri, Verdict) == verdict
    assert snapshots.is_finished(local_storage(), snapshot) == finished


def test_a_gate_tried_again_says_the_same(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    assert _gate(run_uri) == _gate(run_uri)


def test_without_an_evaluation_there_is_no_verdict(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    local_storage().delete(join(run_uri, "evaluate.json"))
    with pytest.raises(RecordMissing, match=r"no evaluate.json"):
        _gate(run_uri)
    assert not runs.exists(local_storage(), run_uri, "verdict.json")


def test_a_verdict_enters_the_ledger_once_and_is_computed_again_to_the_byte(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    verdict = _gate(run_uri)
    local_storage().delete(join(run_uri, "verdict.json"))  # as if the step had died before it wrote it
    assert _gate(run_uri) == verdict
    assert ledger.read(local_storage(), file_data_uri, verdict.look.holdout_fingerprint) == (verdict.look,)
    assert replay.replay(local_storage().read(join(run_uri, "verdict.json"))).difference is None


def test_later_challengers_are_compared_with_the_first_champion_too(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    assert _gate(run_uri).case.first_champion is None, "it is the champion itself"
    evaluation = runs.read(local_storage(), run_uri, Evaluation)
    assert evaluation.champion is not None
    later = evaluation.champion.model_copy(update={"name": "champion, version 4", "weights_sha256": "e" * 64})
    second_uri = join(file_data_uri, "runs", "b")
    for record in (
        runs.read(local_storage(), run_uri, Run).model_copy(update={"run_uri": second_uri}),
        runs.read(local_storage(), run_uri, ValidationReport),
        evaluation.model_copy(update={"champion": later, "champion_version": "4"}),
    ):
        runs.write(local_storage(), second_uri, record)
    verdict = _gate(second_uri)
    assert verdict.case.first_champion is not None
    assert verdict.case.first_champion.name == "champion, version 3"
    assert "kept_since_first_champion" in [outcome.rule for outcome in verdict.rules]


def _without_champion(run_uri: str) -> None:
    evaluation = runs.read(local_storage(), run_uri, Evaluation)
    gone = {"champion": None, "champion_problem": "version 3: its weights are gone"}
    runs.write(local_storage(), run_uri, evaluation.model_copy(update=gone))


def test_a_person_may_override_a_verdict_that_could_not_compare_and_is_remembered(
    file_data_uri: str, tmp_path: Path
) -> None:
    run_uri, snapshot = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    _without_champion(run_uri)
    before = _gate(run_uri)
    assert not snapshots.is_finished(local_storage(), snapshot), "it is compared another night"
    override.run(run_uri, storage=local_storage(), by="Ada", reason="the old bucket burnt down", now=NOW)
    kept = runs.read(local_storage(), run_uri, Override)
    assert (kept.by, kept.reason) == ("Ada", "the old bucket burnt down")
    assert _gate(run_uri) == before, "the verdict itself stays as it was"
    with pytest.raises(BcError, match="was overridden by Ada"):
        override.run(run_uri, storage=local_storage(), by="Bob", reason="me too", now=NOW)


def test_a_verdict_that_compared_cannot_be_overridden(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig(recall_margin=1))
    _gate(run_uri)
    with pytest.raises(BcError, match="can't be overridden"):
        override.run(run_uri, storage=local_storage(), by="Ada", reason="I like it", now=NOW)
    assert not runs.exists(local_storage(), run_uri, "override.json")

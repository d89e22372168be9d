"""The gate's step writes its verdict, and a rejection ends the night's claim on its snapshot."""

from pathlib import Path

import pytest
from inboxes import local_storage
from night_records import make_night

from bc_tasks import runs, snapshots
from bc_tasks.config import GateConfig, RegistryConfig
from bc_tasks.errors import RecordMissing
from bc_tasks.records import Snapshot, ValidationReport, Verdict
from bc_tasks.steps import gate
from bc_tasks.storage import join


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
    verdict = gate.run(run_uri, storage=local_storage())
    assert (verdict.passed, verdict.dry_run) == (passed, policy.dry_run)
    assert runs.read(local_storage(), run_uri, Verdict) == verdict
    assert snapshots.is_finished(local_storage(), snapshot) == finished


def test_a_gate_tried_again_says_the_same(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    assert gate.run(run_uri, storage=local_storage()) == gate.run(run_uri, storage=local_storage())


def test_without_an_evaluation_there_is_no_verdict(file_data_uri: str, tmp_path: Path) -> None:
    run_uri, _ = _night_before_the_gate(file_data_uri, tmp_path, GateConfig())
    local_storage().delete(join(run_uri, "evaluate.json"))
    with pytest.raises(RecordMissing, match=r"no evaluate.json"):
        gate.run(run_uri, storage=local_storage())
    assert not runs.exists(local_storage(), run_uri, "gate.json")

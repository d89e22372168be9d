"""Registration of a night's records, through a real S3 server and a real MLflow server."""

import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from night_records import make_night

from bc_tasks import runs
from bc_tasks.config import RegistryConfig
from bc_tasks.errors import BcError, DataError, RecordMissing
from bc_tasks.records import Override, RegisteredModel, ValidationReport
from bc_tasks.steps import register
from bc_tasks.storage import Storage, join
from bc_tasks.tracking import Tracking, open_tracking
from bc_tasks.tracking.model_card import Night


@pytest.fixture
def tracking(mlflow_environment: dict[str, str]) -> Tracking:  # noqa: ARG001 - sets variables
    """Tracking in an experiment and with a model that no other test has."""
    name = uuid.uuid4().hex
    return open_tracking(RegistryConfig(experiment=name, model_name=name, timeout_seconds=20))


@pytest.fixture
def night(storage: Storage, tracking: Tracking, data_uri: str, tmp_path: Path) -> Night:
    """A night whose gate has passed: its records and its weights are stored."""
    run_uri, weights = join(data_uri, "runs", "night-1"), tmp_path / "trained.safetensors"
    weights.write_bytes(b"weights that nobody loads here")
    weights_uri = join(run_uri, "models/efficientnet_lite0/model.safetensors")
    storage.upload(weights, weights_uri)
    with tracking.training_run(run_uri, "efficientnet_lite0", params={}, tags={}) as training:
        pass
    made = make_night(
        run_uri,
        mlflow_run_id=training.mlflow_run_id,
        registry=tracking.config,
        weights=weights,
        weights_uri=weights_uri,
    )
    report = ValidationReport(
        snapshot=made.snapshot, expectations=(), num_quarantined=0, bad_share=0, data_docs_uri=join(run_uri, "docs")
    )
    for record in (made.run, report, made.trained, made.evaluation, made.verdict):
        runs.write(storage, run_uri, record)
    return made


def _versions(tracking: Tracking) -> list[Any]:
    return list(tracking.client.search_model_versions(f"name = '{tracking.config.model_name}'"))


def test_a_passed_night_becomes_one_version_however_often_it_is_registered(
    night: Night, storage: Storage, tracking: Tracking
) -> None:
    first = register.run(night.run.run_uri, storage=storage, tracking=tracking)
    assert runs.read(storage, night.run.run_uri, RegisteredModel) == first
    assert (first.version, first.aliases, first.was_there_already) == ("1", ("challenger",), False)
    second = register.run(night.run.run_uri, storage=storage, tracking=tracking)
    assert runs.read(storage, night.run.run_uri, RegisteredModel) == second
    assert (second.version, second.was_there_already) == ("1", True)
    assert len(_versions(tracking)) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"passed": False, "summary": "Rejected: recall 0.300 is below the floor."}, "Rejected: recall 0.300"),
        ({"dry_run": True}, "dry run"),
    ],
)
def test_without_a_verdict_that_allows_it_nothing_is_registered(
    change: dict[str, Any], complaint: str, night: Night, storage: Storage, tracking: Tracking
) -> None:
    runs.write(storage, night.run.run_uri, night.verdict.model_copy(update=change))
    with pytest.raises(BcError, match=complaint):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


def _overridden(night: Night, storage: Storage, rule: str) -> None:
    """Store a verdict that fails one rule, and a person's override of it."""
    against = night.verdict.rules[0].model_copy(update={"rule": rule, "passed": False})
    verdict = night.verdict.model_copy(update={"passed": False, "rules": (against, *night.verdict.rules[1:])})
    runs.write(storage, night.run.run_uri, verdict)
    digest = sha256(storage.read(join(night.run.run_uri, "verdict.json"))).hexdigest()
    word = Override(by="Ada", at=night.run.started_at, reason="the old bucket burnt down", verdict_sha256=digest)
    runs.write(storage, night.run.run_uri, word)


def test_what_a_person_has_overridden_is_registered_and_says_who_and_why(
    night: Night, storage: Storage, tracking: Tracking
) -> None:
    _overridden(night, storage, "champion_measured")
    registered = register.run(night.run.run_uri, storage=storage, tracking=tracking)
    (version,) = _versions(tracking)
    assert version.description.startswith("Registered by Ada against the verdict, on 2026-11-23: the old bucket burnt")
    assert (version.tags["bc.overridden_by"], version.tags["bc.verdict_passed"]) == ("Ada", "false")
    logged = [item.path for item in tracking.client.list_artifacts(registered.mlflow_run_id)]
    assert logged == ["override.json", "verdict.json"]


def test_an_override_of_what_nobody_may_override_registers_nothing(
    night: Night, storage: Storage, tracking: Tracking
) -> None:
    _overridden(night, storage, "recall_improves")
    with pytest.raises(BcError, match="may not be registered"):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


def test_an_override_of_another_verdict_registers_nothing(night: Night, storage: Storage, tracking: Tracking) -> None:
    _overridden(night, storage, "champion_measured")
    runs.write(storage, night.run.run_uri, night.verdict.model_copy(update={"passed": False}))
    with pytest.raises(DataError, match="override by Ada, but of another verdict"):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


@pytest.mark.parametrize("missing", ["verdict.json", "evaluate.json", "train-efficientnet_lite0.json", "validate.json"])
def test_a_missing_record_is_a_failed_step_and_never_a_pass(
    missing: str, night: Night, storage: Storage, tracking: Tracking
) -> None:
    storage.delete(join(night.run.run_uri, missing))
    with pytest.raises(RecordMissing, match=missing):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


def test_weights_that_were_exchanged_after_training_are_refused(
    night: Night, storage: Storage, tracking: Tracking
) -> None:
    storage.write(night.trained.weights_uri, b"other weights")
    with pytest.raises(DataError, match="training recorded"):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


def test_weights_that_were_trained_anew_after_the_evaluation_are_refused(
    night: Night, storage: Storage, tracking: Tracking
) -> None:
    measured = night.evaluation.challenger.model_copy(update={"weights_sha256": "0" * 64})
    runs.write(storage, night.run.run_uri, night.evaluation.model_copy(update={"challenger": measured}))
    with pytest.raises(DataError, match="evaluation measured 000000000000"):
        register.run(night.run.run_uri, storage=storage, tracking=tracking)
    _nothing_happened(night, storage, tracking)


def _nothing_happened(night: Night, storage: Storage, tracking: Tracking) -> None:
    assert _versions(tracking) == []
    assert not runs.exists(storage, night.run.run_uri, "register.json")

"""Tracking against a real MLflow server: nothing twice, nobody promoted, and an end to every wait."""

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from lossy_proxy import Fault, lossy_proxy
from mlflow import MlflowClient
from night_records import make_night, model_spec

from bc_tasks.config import RegistryConfig
from bc_tasks.errors import BcError, ConfigError, DataError, InfrastructureError, ObjectNotFound
from bc_tasks.storage import Storage
from bc_tasks.tracking import Tracking, open_tracking
from bc_tasks.tracking.model_card import Night

BACKBONE = "efficientnet_lite0"


@pytest.fixture
def config() -> RegistryConfig:
    """An experiment and a model that no other test has."""
    name = uuid.uuid4().hex
    return RegistryConfig(experiment=name, model_name=name, timeout_seconds=20)


@pytest.fixture
def tracking(mlflow_environment: dict[str, str], config: RegistryConfig) -> Tracking:  # noqa: ARG001 - sets variables
    """Tracking on the embedded server."""
    return open_tracking(config)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights that nobody loads here."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(2000))
    return path


def _night(tracking: Tracking, weights: Path, name: str = "night-1", champion_version: str | None = None) -> Night:
    run_uri = f"s3://images/{tracking.config.model_name}/runs/{name}"
    with tracking.training_run(run_uri, BACKBONE, params={"epochs": 9}, tags={}) as training:
        pass
    return make_night(
        run_uri,
        mlflow_run_id=training.mlflow_run_id,
        registry=tracking.config,
        weights=weights,
        champion_version=champion_version,
    )


def _register(tracking: Tracking, night: Night, weights: Path) -> Any:
    return tracking.register(**vars(night), weights=weights)


def _promote(tracking: Tracking, version: str) -> None:
    """Do what a reviewer does in MLflow."""
    tracking.client.set_registered_model_alias(tracking.config.model_name, "champion", version)


# --- The server's address, and its silence ---


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        (None, "is not set"),
        ("", "is not set"),
        ("file:///var/mlruns", "must be the address of an MLflow server"),
        ("sqlite:///mlflow.db", "must be the address of an MLflow server"),
        ("mlflow:5000", "must be the address of an MLflow server"),
        ("http://", "must be the address of an MLflow server"),
    ],
)
def test_no_usable_address_is_a_configuration_error(
    uri: str | None, complaint: str, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=complaint):
        open_tracking(config)


def test_credentials_in_the_address_are_refused_and_not_repeated(
    config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@mlflow.example:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        open_tracking(config)
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def answering() -> Iterator[Any]:
    """Start servers that give every request the same answer; None: none at all."""
    servers: list[ThreadingHTTPServer] = []
    patience = threading.Event()

    def start(status: int | None, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if status is None:
                    patience.wait(30)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    patience.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error", "advice"),
    [
        (401, "You are not authenticated", ConfigError, "MLFLOW_TRACKING_PASSWORD"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', ConfigError, "what that user may do"),
        (403, "Invalid Host header - possible DNS rebinding attack detected", ConfigError, "--allowed-hosts"),
        (404, "<html>nothing here</html>", ConfigError, "no MLflow server"),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', BcError, "no"),
        (500, "<html>proxy error</html>", InfrastructureError, "try the step again"),
        (503, "busy", InfrastructureError, "try the step again"),
        (None, "", InfrastructureError, "try the step again"),
    ],
)
def test_each_refusal_becomes_our_own_error_in_bounded_time(
    status: int | None, body: str, error: type[BcError], advice: str, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", answering(status, body))
    began = time.monotonic()
    with pytest.raises(error, match=advice) as caught:
        open_tracking(RegistryConfig(timeout_seconds=1)).champion()
    assert type(caught.value) is error
    assert time.monotonic() - began < 10


def test_a_server_that_is_down_is_an_infrastructure_error_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with (
        pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9"),
        open_tracking(RegistryConfig(timeout_seconds=2)).training_run("s3://b/runs/n", BACKBONE, params={}, tags={}),
    ):
        pass
    assert time.monotonic() - began < 15


# --- Training runs ---


def _train_in_vain(tracking: Tracking, run_uri: str, params: dict[str, Any]) -> str:
    """Train until the first epoch fails; return the MLflow run."""
    tags = {"bc.snapshot_fingerprint": "a" * 64}
    try:
        with tracking.training_run(run_uri, BACKBONE, params=params, tags=tags) as training:
            training.log_metrics({"loss": 0.7}, step=0)
            raise ZeroDivisionError
    except ZeroDivisionError:
        return training.mlflow_run_id


def test_a_training_that_is_tried_again_goes_on_in_its_run(tracking: Tracking) -> None:
    uri = "s3://images/runs/2026-11-23"
    first = _train_in_vain(tracking, uri, params={"epochs": 9, "device": "cuda"})
    failed = tracking.client.get_run(first)
    with tracking.training_run(uri, BACKBONE, params={"epochs": 9, "device": "cpu", "seed": 1}, tags={}) as second:
        second.log_metrics({"loss": 0.5, "tuning_auc": float("nan")}, step=1)
        going_on = tracking.client.get_run(second.mlflow_run_id)
    ended = tracking.client.get_run(second.mlflow_run_id)

    assert second.mlflow_run_id == first
    assert [run.info.status for run in (failed, going_on, ended)] == ["FAILED", "RUNNING", "FINISHED"]
    assert going_on.data.metrics["loss"] == 0.5
    assert ended.data.params == {"epochs": "9", "device": "cuda", "seed": "1"}
    assert ended.info.run_name == "2026-11-23 efficientnet_lite0"
    assert ended.data.tags["bc.run_uri"] == uri
    assert ended.data.tags["bc.backbone"] == BACKBONE
    assert ended.data.tags["bc.snapshot_fingerprint"] == "a" * 64
    assert tracking.run_url(second.mlflow_run_id).endswith(f"/#/runs/{second.mlflow_run_id}")


def test_each_backbone_has_a_run_of_its_own_though_all_start_at_once(
    mlflow_environment: dict[str, str],  # noqa: ARG001 - sets variables
    config: RegistryConfig,
) -> None:
    """At once, so that each finds no experiment and wants to make it."""

    def train(backbone: str) -> str:
        with open_tracking(config).training_run("s3://b/runs/n", backbone, params={}, tags={}) as training:
            return training.mlflow_run_id

    with ThreadPoolExecutor(4) as pool:
        runs = set(pool.map(train, ["resnet50", "resnet101", "convnext_tiny", BACKBONE]))
    assert len(runs) == 4


def test_a_deleted_experiment_is_named(tracking: Tracking, config: RegistryConfig) -> None:
    tracking.client.delete_experiment(tracking.client.create_experiment(config.experiment))
    with (
        pytest.raises(ConfigError, match=f"{config.experiment}.* was deleted"),
        tracking.training_run("s3://b/runs/n", BACKBONE, params={}, tags={}),
    ):
        pass


def test_metrics_and_tags_can_be_added_after_the_training(tracking: Tracking) -> None:
    with tracking.training_run("s3://b/runs/n", BACKBONE, params={}, tags={}) as training:
        pass
    tracking.log_metrics(training.mlflow_run_id, {"holdout_recall": 0.9, "holdout_recall_low": float("nan")})
    tracking.set_tags(training.mlflow_run_id, {"bc.winner": "yes"})
    found = tracking.client.get_run(training.mlflow_run_id)
    assert found.data.metrics["holdout_recall"] == 0.9
    assert found.data.tags["bc.winner"] == "yes"
    assert found.info.status == "FINISHED"


# --- Registration ---


def test_a_version_says_what_it_is_and_where_it_comes_from(tracking: Tracking, weights: Path) -> None:
    night = _night(tracking, weights, champion_version="3")
    registered = _register(tracking, night, weights)
    version = tracking.client.get_model_version(registered.name, registered.version)
    run = tracking.client.get_run(registered.mlflow_run_id)

    assert (registered.version, registered.was_there_already) == ("1", False)
    assert registered.aliases == ("challenger",)
    assert registered.model_uri == f"models:/{registered.name}/1"
    assert version.tags == {
        "bc.run_uri": night.run.run_uri,
        "bc.backbone": BACKBONE,
        "bc.weights_sha256": night.trained.weights_sha256,
        "bc.code_version": "0.1.0+abc1234",
        "bc.holdout_fingerprint": "f" * 64,
        "bc.operating_point": "0.5",
        "bc.snapshot_fingerprint": "a" * 64,
        "bc.snapshot_number": "12",
        "bc.evidence_grade": "suggestive",
        "bc.verdict_kind": "comparison",
        "bc.verdict_passed": "true",
    }
    assert version.description.startswith(night.verdict.summary)
    assert all(rule.sentence in version.description for rule in night.verdict.rules)
    assert "champion, version 3" in version.description
    recall = night.evaluation.challenger.metrics["recall"]
    assert run.data.metrics["holdout_recall"] == recall.value
    assert run.data.metrics["holdout_recall_low"] == recall.low
    assert run.data.metrics["holdout_recall_high"] == recall.high
    assert run.inputs.dataset_inputs[0].dataset.name == "snapshot 12"
    assert [item.path for item in tracking.client.list_artifacts(registered.mlflow_run_id)] == ["verdict.json"]
    assert tracking.version_url("1").endswith(f"/#/models/{registered.name}/versions/1")


def test_the_same_run_twice_is_one_version_and_never_one_of_other_weights(tracking: Tracking, weights: Path) -> None:
    night = _night(tracking, weights)
    first, second = (_register(tracking, night, weights) for _ in range(2))
    assert (second.version, second.was_there_already) == (first.version, True)
    assert second.aliases == ("challenger",)
    weights.write_bytes(b"trained anew")
    with pytest.raises(DataError, match="registered as version 1, with other weights"):
        _register(tracking, _night(tracking, weights), weights)
    assert len(_versions(tracking)) == 1


def _versions(tracking: Tracking) -> list[Any]:
    return list(tracking.client.search_model_versions(f"name = '{tracking.config.model_name}'"))


@pytest.fixture
def broken_network(embedded_mlflow: Any, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Tracking on the embedded server through a network that can lose what a test says."""
    with lossy_proxy(embedded_mlflow.tracking_uri) as (address, fault):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield open_tracking(config.model_copy(update={"timeout_seconds": 1})), fault


@pytest.mark.parametrize(
    ("what", "when"),
    [
        ("POST .*/logged-models$", "after"),
        ("PUT .*/model.safetensors$", "before"),
        ("POST .*/runs/outputs$", "after"),
        ("POST .*/model-versions/create$", "before"),
        ("POST .*/model-versions/create$", "after"),
        ("POST .*/registered-models/alias$", "before"),
    ],
)
def test_a_registration_that_broke_off_is_completed_and_not_doubled(
    what: str, when: Any, broken_network: tuple[Tracking, Fault], weights: Path, tmp_path: Path
) -> None:
    tracking, fault = broken_network
    night = _night(tracking, weights)
    fault.what, fault.when = what, when
    with pytest.raises(InfrastructureError):
        _register(tracking, night, weights)
    assert fault.lost
    fault.what = "nothing"
    registered = _register(tracking, night, weights)

    assert [version.version for version in _versions(tracking)] == [registered.version]
    assert _aliases(tracking) == {"challenger": registered.version}
    experiment = tracking.client.get_experiment_by_name(tracking.config.experiment)
    assert len(tracking.client.search_logged_models([experiment.experiment_id])) == 1
    _promote(tracking, registered.version)
    champion = tracking.champion()
    assert champion is not None
    assert tracking.download_weights(champion, tmp_path / "champion").read_bytes() == weights.read_bytes()


def test_a_lost_answer_does_not_open_two_runs(broken_network: tuple[Tracking, Fault]) -> None:
    tracking, fault = broken_network
    fault.what, fault.when = "POST .*/runs/create$", "after"
    with (
        pytest.raises(InfrastructureError),
        tracking.training_run("s3://b/runs/n", BACKBONE, params={}, tags={}),
    ):
        pass
    assert len(fault.lost) == 1
    fault.what = "nothing"
    with tracking.training_run("s3://b/runs/n", BACKBONE, params={}, tags={}):
        pass
    experiment = tracking.client.get_experiment_by_name(tracking.config.experiment)
    assert len(tracking.client.search_runs([experiment.experiment_id])) == 1


def test_the_challenger_is_the_newest_and_the_champion_whom_a_person_chose(tracking: Tracking, weights: Path) -> None:
    first, second = (_night(tracking, weights, name) for name in ("night-1", "night-2"))
    _register(tracking, first, weights)
    _promote(tracking, "1")
    _register(tracking, second, weights)
    assert _aliases(tracking) == {"champion": "1", "challenger": "2"}
    again = _register(tracking, first, weights)
    assert again.aliases == ("champion",)
    assert _aliases(tracking) == {"champion": "1", "challenger": "2"}


def _aliases(tracking: Tracking) -> dict[str, str]:
    aliases = tracking.client.get_registered_model(tracking.config.model_name).aliases
    return {alias: str(version) for alias, version in aliases.items()}


# --- The champion ---


def test_the_champion_is_nobody_until_promoted_and_then_as_it_was_registered(
    tracking: Tracking, weights: Path, tmp_path: Path
) -> None:
    night = _night(tracking, weights)
    assert tracking.champion() is None
    registered = _register(tracking, night, weights)
    assert tracking.champion() is None
    _promote(tracking, registered.version)
    champion = tracking.champion()
    assert champion is not None
    assert champion.spec == night.trained.spec
    assert (champion.version, champion.model_uri) == (registered.version, registered.model_uri)
    assert champion.mlflow_run_id == night.trained.mlflow_run_id
    assert champion.tags["bc.run_uri"] == night.run.run_uri
    downloaded = tracking.download_weights(champion, tmp_path / "deep" / "champion")
    assert downloaded.read_bytes() == weights.read_bytes()


@pytest.fixture
def champion_files(tracking: Tracking, config: RegistryConfig, weights: Path, tmp_path: Path) -> str:
    """Where the files of a promoted champion lie in S3; a champion with its two files, and no more, for speed."""
    client, files = tracking.client, tmp_path / "files"
    files.mkdir()
    (files / "model.safetensors").write_bytes(weights.read_bytes())
    (files / "spec.json").write_text(model_spec().model_dump_json())
    model = client.create_logged_model(client.create_experiment(config.experiment))
    client.log_model_artifacts(model.model_id, str(files), "artifacts")
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model(config.model_name)
    tags = {"bc.weights_sha256": sha256(weights.read_bytes()).hexdigest()}
    client.create_model_version(config.model_name, f"models:/{model.model_id}", tags=tags, model_id=model.model_id)
    _promote(tracking, "1")
    return f"s3://mlflow/{model.artifact_location.removeprefix('mlflow-artifacts:/')}/artifacts"


def test_a_champion_without_its_specification_is_no_missing_champion(
    tracking: Tracking, champion_files: str, storage: Storage
) -> None:
    storage.delete(f"{champion_files}/spec.json")
    with pytest.raises(ObjectNotFound, match=r"/1 has no artifacts/spec\.json"):
        tracking.champion()


def test_a_champion_with_another_specification_is_refused(
    tracking: Tracking, champion_files: str, storage: Storage
) -> None:
    storage.write(f"{champion_files}/spec.json", json.dumps({"backbone": "vgg16"}).encode())
    with pytest.raises(DataError, match="is no model specification"):
        tracking.champion()


def test_a_champion_without_its_weights_is_named(
    tracking: Tracking, champion_files: str, storage: Storage, tmp_path: Path
) -> None:
    champion = tracking.champion()
    assert champion is not None
    storage.delete(f"{champion_files}/model.safetensors")
    with pytest.raises(ObjectNotFound, match=r"/1 has no artifacts/model\.safetensors"):
        tracking.download_weights(champion, tmp_path / "champion")


def test_changed_weights_are_refused_and_not_left_behind(
    tracking: Tracking, champion_files: str, storage: Storage, tmp_path: Path
) -> None:
    champion = tracking.champion()
    assert champion is not None
    storage.write(f"{champion_files}/model.safetensors", b"other weights")
    with pytest.raises(DataError, match="changed after it was registered"):
        tracking.download_weights(champion, tmp_path / "champion")
    assert not list(tmp_path.glob("champion/**/*.safetensors"))


def test_a_champion_that_this_system_did_not_register_is_refused(tracking: Tracking, config: RegistryConfig) -> None:
    client: MlflowClient = tracking.client
    client.create_registered_model(config.model_name)
    client.create_model_version(config.model_name, "s3://elsewhere/model", await_creation_for=0)
    _promote(tracking, "1")
    with pytest.raises(DataError, match="was not registered by this system"):
        tracking.champion()


def test_the_address_of_another_server_in_this_process_changes_nothing(tracking: Tracking) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert tracking.champion() is None
    finally:
        mlflow.set_tracking_uri(None)

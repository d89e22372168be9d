"""Fixtures shared by all tests: a real S3 server, a real MLflow server, and a place of its own for each test."""

import atexit
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bc_tasks.embedded import mlflow_server, processes, seaweedfs
from bc_tasks.embedded.mlflow_server import EmbeddedMlflow
from bc_tasks.embedded.seaweedfs import EmbeddedS3
from bc_tasks.storage import Storage, open_storage


def pytest_configure() -> None:
    """Let SIGTERM (a CI's time-out) end the session as Ctrl-C does, so that the servers are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_cloud_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the real AWS account and MLflow server of whoever runs it."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def embedded_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose processes all end with the session, however it ends."""
    state = tmp_path_factory.mktemp("bc")
    atexit.register(processes.stop, state)
    try:
        yield state
    finally:
        processes.stop(state)


@pytest.fixture(scope="session")
def embedded_s3(embedded_state: Path) -> EmbeddedS3:
    """A real SeaweedFS with the buckets `images` and `mlflow`."""
    return seaweedfs.start(embedded_state / "seaweedfs")


@pytest.fixture(scope="session")
def embedded_mlflow(embedded_state: Path, embedded_s3: EmbeddedS3) -> EmbeddedMlflow:
    """A real MLflow server, its artifacts in the embedded S3."""
    return mlflow_server.start(embedded_state / "mlflow", embedded_s3)


@pytest.fixture
def s3_environment(embedded_s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Point this test, and the processes that it starts, at the embedded S3."""
    environment = embedded_s3.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def mlflow_environment(embedded_mlflow: EmbeddedMlflow, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Point this test, and the processes that it starts, at the embedded MLflow server."""
    environment = embedded_mlflow.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="session")
def _storage(embedded_s3: EmbeddedS3) -> Storage:
    """The one client of the session: each costs a tenth of a second."""
    return open_storage(environment=embedded_s3.environment())


@pytest.fixture
def storage(_storage: Storage, s3_environment: dict[str, str]) -> Storage:  # noqa: ARG001  # for what reads the environment
    """Storage that speaks to the embedded S3, and to `file://`; the environment points there too."""
    return _storage


@pytest.fixture
def data_uri() -> str:
    """A fresh prefix in the bucket `images`; nothing is there."""
    return f"s3://images/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def file_data_uri(tmp_path: Path) -> str:
    """A fresh folder as a storage URI; nothing is there."""
    return f"file://{tmp_path}/data"

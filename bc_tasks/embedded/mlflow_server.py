"""The embedded MLflow server: tracking and registry in SQLite, artifacts in S3 through the server, on 127.0.0.1 only.

Source: MLflow 3.17.2, `mlflow server --help` and `mlflow/environment_variables.py`.
"""

import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bc_tasks.embedded import processes
from bc_tasks.embedded.seaweedfs import EmbeddedS3
from bc_tasks.errors import InfrastructureError

READY_WITHIN_SECONDS = 180  # two imports of MLflow and the making of its tables, on a busy laptop
SERVER_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runner is nine more processes and 1.5 GB, for GenAI
}


@dataclass(frozen=True)
class EmbeddedMlflow:
    """The running server."""

    tracking_uri: str
    service: processes.Service

    def environment(self) -> dict[str, str]:
        """Return the variables that point MLflow's client, and so `tracking.py`, at this server."""
        return {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def stop(self) -> None:
        """End the server; its data stays."""
        self.service.stop()


def start(state: Path, s3: EmbeddedS3, *, bucket: str = "mlflow") -> EmbeddedMlflow:
    """Start the server on the database in `state`, with its artifacts in an S3 bucket to which only it has the keys.

    Raises:
        ConfigError: one runs on this state folder already.
        InfrastructureError: it didn't start; its last log lines are in the message.
    """
    processes.refuse_second("MLflow", state)
    state.mkdir(parents=True, exist_ok=True)
    database = f"sqlite:///{state.resolve() / 'mlflow.db'}"
    _upgrade(state, database)
    port = _port(state / "port")
    tracking_uri = f"http://127.0.0.1:{port}"
    service = processes.start(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", database),
            *("--artifacts-destination", f"s3://{bucket}"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"),
        ],
        state=state,
        environment=SERVER_ENVIRONMENT | s3.environment(),
        is_ready=lambda: _answers(f"{tracking_uri}/health"),
        ready_within_seconds=READY_WITHIN_SECONDS,
    )
    return EmbeddedMlflow(tracking_uri, service)


def _port(path: Path) -> int:
    """Return the port of the last start, so that bookmarks hold, or a free one."""
    if path.exists() and processes.is_free(port := int(path.read_text())):
        return port
    port = processes.free_port()
    path.write_text(str(port))
    return port


def _upgrade(state: Path, database: str) -> None:
    """Bring the database of another MLflow version up to this one; the server refuses it otherwise."""
    made_by = state / "mlflow.version"
    if made_by.exists() and made_by.read_text() != version("mlflow"):
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", database]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_WITHIN_SECONDS)
        if done.returncode:
            raise InfrastructureError(f"`mlflow db upgrade {database}` failed:\n{done.stderr[-2000:]}")
    made_by.write_text(version("mlflow"))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

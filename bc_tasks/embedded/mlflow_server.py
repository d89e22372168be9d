"""The embedded MLflow server: tracking and registry in SQLite, artifacts in S3 through the server, on 127.0.0.1 only.

Source: MLflow 3.17.2, `mlflow server --help` and `mlflow/environment_variables.py`.
"""

import shutil
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

DATABASE = "mlflow.db"
READY_WITHIN_SECONDS = 240  # two imports of MLflow and the making of its tables, on a busy laptop
SERVER_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runner is eight more processes and 1.8 GB, for GenAI
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
    upgrade(state)
    port = _port(state / "port")
    tracking_uri = f"http://127.0.0.1:{port}"
    service = processes.start(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", _uri(state / DATABASE)),
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


def upgrade(state: Path) -> None:
    """Bring a database that another MLflow version made up to this one, after a copy; the server refuses it otherwise.

    Raises:
        InfrastructureError: it can't be done; MLflow's own words are in the message.
    """
    database, made_by = state / DATABASE, state / "mlflow.version"
    was = made_by.read_text() if made_by.exists() else "unknown"
    if database.exists() and was != version("mlflow"):
        shutil.copy2(database, database.with_suffix(f".made-by-{was}.db"))
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", _uri(database)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_WITHIN_SECONDS)
        if done.returncode:
            raise InfrastructureError(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")
    made_by.write_text(version("mlflow"))


def _uri(database: Path) -> str:
    return f"sqlite:///{database.resolve()}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

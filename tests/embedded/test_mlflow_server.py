"""The embedded MLflow server: artifacts in S3 through it alone, and the same after a restart."""

import json
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from bc_tasks.embedded import mlflow_server, processes
from bc_tasks.embedded.mlflow_server import EmbeddedMlflow
from bc_tasks.embedded.seaweedfs import EmbeddedS3
from bc_tasks.errors import ConfigError
from bc_tasks.storage import Storage


def ask(server: EmbeddedMlflow, path: str, body: bytes | None = None, method: str = "GET", **headers: str) -> Any:
    request = urllib.request.Request(f"{server.tracking_uri}/api/2.0/{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "{}")


def make_experiment(server: EmbeddedMlflow, name: str) -> dict[str, str]:
    body = json.dumps({"name": name}).encode()
    number = ask(server, "mlflow/experiments/create", body, "POST", **{"Content-Type": "application/json"})
    experiment: dict[str, str] = ask(server, f"mlflow/experiments/get?experiment_id={number['experiment_id']}")[
        "experiment"
    ]
    return experiment


def test_an_artifact_goes_through_the_server_into_s3(embedded_mlflow: EmbeddedMlflow, storage: Storage) -> None:
    assert make_experiment(embedded_mlflow, "artifacts")["artifact_location"].startswith("mlflow-artifacts:/")
    ask(embedded_mlflow, "mlflow-artifacts/artifacts/test/x.txt", b"an artifact", "PUT")
    assert storage.read("s3://mlflow/test/x.txt") == b"an artifact"


def test_a_page_of_another_site_is_not_served(embedded_mlflow: EmbeddedMlflow) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(embedded_mlflow, "mlflow/experiments/search?max_results=1", Host="evil.example")
    port = embedded_mlflow.tracking_uri.rpartition(":")[2]
    ask(embedded_mlflow, "mlflow/experiments/search?max_results=1", Host=f"localhost:{port}")


def test_it_is_two_processes_on_this_machine_only(embedded_mlflow: EmbeddedMlflow) -> None:
    members = processes.running(embedded_mlflow.service.state)
    assert len(members) == 2, "the job runner would be eight more"
    addresses = {
        connection.laddr.ip
        for member in members
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_a_second_one_on_the_same_database_is_refused(embedded_mlflow: EmbeddedMlflow, embedded_s3: EmbeddedS3) -> None:
    with pytest.raises(ConfigError, match=r"MLflow runs on .* already"):
        mlflow_server.start(embedded_mlflow.service.state, embedded_s3)


# Makes the database of an MLflow that lacks the last change of the schema, and prints the revision that it should get.
MAKE_OLD_DATABASE = """
import sys
import sqlalchemy
from alembic import command, script
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
Base.metadata.create_all(sqlalchemy.create_engine(sys.argv[1]))
config = _get_alembic_config(sys.argv[1])
revisions = script.ScriptDirectory.from_config(config)
command.upgrade(config, revisions.get_revision("head").down_revision)
print(revisions.get_current_head())
"""


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_copied_and_upgraded(tmp_path: Path) -> None:
    database = tmp_path / mlflow_server.DATABASE
    script = [sys.executable, "-c", MAKE_OLD_DATABASE, f"sqlite:///{database}"]
    head = subprocess.run(script, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "mlflow.version").write_text("3.16.0")
    assert revision(database) != head

    mlflow_server.upgrade(tmp_path)

    assert revision(database) == head
    assert revision(tmp_path / "mlflow.made-by-3.16.0.db") != head
    assert (tmp_path / "mlflow.version").read_text() == version("mlflow")


def test_a_database_of_this_mlflow_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / mlflow_server.DATABASE).write_bytes(b"")
    (tmp_path / "mlflow.version").write_text(version("mlflow"))
    mlflow_server.upgrade(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.version"]


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])

"""Airflow for this folder's tests: a home of its own, made before anything imports Airflow; no database, no server."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bc_tasks.storage import Storage, join, open_storage

if TYPE_CHECKING:
    from airflow.sdk import DAG

HOME = tempfile.mkdtemp(prefix="airflow-")
os.environ |= {"AIRFLOW_HOME": HOME, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="session")
def dags() -> "dict[str, DAG]":
    """Every DAG of the folder, as Airflow reads it, on the production configuration."""
    from airflow.dag_processing.dagbag import DagBag

    os.environ.pop("BC_CONFIG", None)
    bag = DagBag(DAGS)
    assert not bag.import_errors, bag.import_errors
    return bag.dags


@pytest.fixture(params=sorted(path.stem for path in DAGS.glob("*.py")))
def dag(dags: "dict[str, DAG]", request: pytest.FixtureRequest) -> "DAG":
    """Each DAG in turn."""
    assert request.param in dags, f"dags/{request.param}.py must hold a DAG of that name, so that people find it"
    return dags[request.param]


@pytest.fixture
def files() -> Storage:
    """Storage for `file://`."""
    return open_storage()


@pytest.fixture
def run_uri(file_data_uri: str) -> str:
    """A run's folder on disk; nothing is there."""
    return join(file_data_uri, "runs", "night")


class TaskInstance:
    """What a task leaves as XComs, kept to be looked at."""

    def __init__(self) -> None:
        self.left: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.left[key] = value


@pytest.fixture
def task_instance() -> TaskInstance:
    """A task instance that has left nothing yet."""
    return TaskInstance()

"""A small client for Airflow's public REST API: what the demo and the tests ask of it.

Source: the OpenAPI document that Airflow 3.3.2 serves under /openapi.json.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from bc_tasks.errors import ConfigError, InfrastructureError

TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.5
ENDED = ("success", "failed")


@dataclass(frozen=True)
class DagRun:
    """A run: `state` is queued, running, success or failed."""

    state: str
    note: str | None


class AirflowApi:
    """A client that is logged in as one user.

    Each call raises a ConfigError for what Airflow refuses (a wrong password, an unknown DAG, a value that the
    trigger form doesn't allow), and an InfrastructureError where Airflow doesn't answer.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        token = self._ask("POST", "/auth/token", json={"username": username, "password": password})["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def wait_for_dag(self, dag_id: str, *, within_seconds: float = 60) -> None:
        """Return when the DAG processor has read the DAG.

        Raises:
            InfrastructureError: it has not within that time; the message has the import errors that Airflow knows of.
        """
        deadline = time.monotonic() + within_seconds
        while self._http.get(f"/api/v2/dags/{dag_id}").status_code == httpx.codes.NOT_FOUND:
            if time.monotonic() > deadline:
                errors = self._ask("GET", "/api/v2/importErrors")["import_errors"]
                seen = "\n".join(error["stack_trace"] for error in errors) or "it reports no import error"
                raise InfrastructureError(f"Airflow has no DAG {dag_id} after {within_seconds:.0f} s: {seen}")
            time.sleep(POLL_SECONDS)

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run, by its schedule and when triggered."""
        self._ask("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, form: Mapping[str, Any] | None = None) -> str:
        """Start a run with these values in its trigger form, the others as they are, and return its id."""
        body = {"logical_date": None, "conf": dict(form or {})}
        return str(self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return how a run stands."""
        answer = self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")
        return DagRun(answer["state"], answer["note"])

    def wait_for_run(self, dag_id: str, run_id: str, *, within_seconds: float) -> DagRun:
        """Return a run when it has ended, well or not.

        Raises:
            InfrastructureError: it has not within that time; the message has the state of each task.
        """
        deadline = time.monotonic() + within_seconds
        while (run := self.run(dag_id, run_id)).state not in ENDED:
            if time.monotonic() > deadline:
                tasks = self.task_states(dag_id, run_id)
                raise InfrastructureError(f"{run_id} is {run.state} after {within_seconds:.0f} s: {tasks}")
            time.sleep(POLL_SECONDS)
        return run

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run; a mapped one is called e.g. `train[resnet50]`."""
        tasks = self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {_name(task): task["state"] or "none" for task in tasks}

    def log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """Return the log of one try of a task, as plain lines."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        lines = self._ask("GET", path, params={"map_index": map_index, "full_content": True})["content"]
        return "\n".join(str(line.get("event", line)) for line in lines)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise InfrastructureError(f"Airflow did not answer {method} {path}: {error}; see its log") from error
        if answer.is_error:
            kind = ConfigError if answer.is_client_error else InfrastructureError
            raise kind(f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}")
        return answer.json()


def _name(task: Mapping[str, Any]) -> str:
    if task["map_index"] < 0:
        return str(task["task_id"])
    return f"{task['task_id']}[{task['rendered_map_index'] or task['map_index']}]"

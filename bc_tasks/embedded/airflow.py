"""The embedded Airflow: scheduler, DAG processor, triggerer, API server and page, with SQLite, on 127.0.0.1 only.

Source: airflow/config_templates/config.yml of Airflow 3.3.2, for the settings and what they default to.
"""

import base64
import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from bc_tasks.embedded import processes
from bc_tasks.embedded.airflow_api import AirflowApi
from bc_tasks.environment import CHECKOUT

READY_WITHIN_SECONDS = 240  # Airflow's import, its tables and its page, on a laptop that does other things too
GRACE_SECONDS = 3  # its triggerer would use up any; nothing is lost, SQLite and every step bear being killed
USERNAME = "admin"
SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "4",  # a waiting worker costs 24 MB
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin",  # name and role
    "AIRFLOW__API__HOST": "127.0.0.1",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",  # the default of 1 s is felt after each task
}


@dataclass(frozen=True)
class EmbeddedAirflow:
    """The running Airflow and how to log in."""

    url: str
    username: str
    password: str
    service: processes.Service

    def api(self) -> AirflowApi:
        """Return a client that is logged in."""
        return AirflowApi(self.url, self.username, self.password)

    def stop(self) -> None:
        """End all components and every task that runs; the history of runs stays."""
        self.service.stop(grace_seconds=GRACE_SECONDS)


@dataclass(frozen=True)
class Settings:
    """What is made at the first start and kept, in a file that only its owner may read."""

    password: str
    fernet_key: str
    jwt_secret: str
    session_secret: str
    port: int


def start(
    state: Path, *, config_path: Path, environment: Mapping[str, str], dags: Path = CHECKOUT / "dags"
) -> EmbeddedAirflow:
    """Start Airflow on the DAGs of a folder, and return when its scheduler runs and its page can be opened.

    `config_path` is the configuration of the nights; `environment` points the tasks at S3 and MLflow.

    Raises:
        ConfigError: one runs on this state folder already.
        InfrastructureError: it didn't start; its last log lines are in the message.
    """
    processes.refuse_second("Airflow", state)
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    settings = _settings(state / "settings.json")
    passwords = state / "passwords.json"
    _write_privately(passwords, {USERNAME: settings.password})
    url = f"http://127.0.0.1:{settings.port}"
    service = processes.start(
        "airflow",
        [sys.executable, "-m", "bc_tasks.embedded.airflow_components"],
        state=state,
        environment={
            **environment,
            **SETTINGS,
            "AIRFLOW_HOME": str(state.resolve()),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords.resolve()),
            "AIRFLOW__CORE__FERNET_KEY": settings.fernet_key,
            "AIRFLOW__API_AUTH__JWT_SECRET": settings.jwt_secret,
            "AIRFLOW__API__SECRET_KEY": settings.session_secret,
            "AIRFLOW__API__PORT": str(settings.port),
            "AIRFLOW__API__BASE_URL": url,
            "BC_CONFIG": str(config_path.resolve()),
        },
        is_ready=lambda: _is_healthy(url),
        ready_within_seconds=READY_WITHIN_SECONDS,
    )
    return EmbeddedAirflow(url, USERNAME, settings.password, service)


def _settings(path: Path) -> Settings:
    if path.exists():
        settings = Settings(**json.loads(path.read_text()))
        if processes.is_free(settings.port):
            return settings
        settings = replace(settings, port=processes.free_port())
    else:
        settings = Settings(
            password=secrets.token_urlsafe(12),
            fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            jwt_secret=secrets.token_urlsafe(64),
            session_secret=secrets.token_urlsafe(32),
            port=processes.free_port(),
        )
    _write_privately(path, asdict(settings))
    return settings


def _write_privately(path: Path, content: dict[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))


def _is_healthy(url: str) -> bool:
    try:
        health = httpx.get(f"{url}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(health[component]["status"] == "healthy" for component in ("scheduler", "dag_processor"))

"""The embedded Airflow: who may see what, what it says of a night that fails, and that nothing of it is left behind."""

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from bc_tasks.embedded import airflow, processes
from bc_tasks.embedded.airflow import EmbeddedAirflow
from bc_tasks.errors import ConfigError
from bc_tasks.storage import join, open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAG_ID = "nightly_retraining"
PAGE = b"<h1>Data Docs</h1><script>alert(1)</script>"


@pytest.fixture(scope="module")
def data_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set in which nothing is: no inbox, no holdout."""
    return f"file://{tmp_path_factory.mktemp('data')}"


@pytest.fixture(scope="module")
def running(embedded_state: Path, data_uri: str) -> Iterator[EmbeddedAirflow]:
    """A running Airflow on that data set."""
    config_path = embedded_state / "config.toml"
    config_path.write_text(f'data_uri = "{data_uri}"\n[schedule]\nretries = 2\nretry_delay_seconds = 1\n')
    started = airflow.start(embedded_state / "airflow", config_path=config_path, environment={})
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def browser(running: EmbeddedAirflow) -> httpx.Client:
    """Somebody who has logged in."""
    answer = httpx.post(f"{running.url}/auth/token", json={"username": running.username, "password": running.password})
    return httpx.Client(base_url=running.url, cookies={"_token": answer.json()["access_token"]})


def test_a_night_without_a_holdout_fails_at_once_and_says_why(running: EmbeddedAirflow) -> None:
    api = running.api()
    api.wait_for_dag(DAG_ID)
    api.unpause(DAG_ID)
    run_id = api.trigger(DAG_ID, {"epochs": 3, "dry_run": True})
    run = api.wait_for_run(DAG_ID, run_id, within_seconds=240)
    assert run.state == "failed"
    assert run.note == "Stopped: ingest failed with exit code 78: the configuration or the credentials are wrong."
    states = api.task_states(DAG_ID, run_id)
    assert states.pop("start") == "success"
    assert states.pop("ingest") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    log = api.log(DAG_ID, run_id, "ingest")
    assert "ConfigError" in log
    assert "A retry can't help here" in log


def test_a_value_outside_the_form_is_refused(running: EmbeddedAirflow) -> None:
    api = running.api()
    api.wait_for_dag(DAG_ID)
    with pytest.raises(ConfigError, match="epochs"):
        api.trigger(DAG_ID, {"epochs": 0})


def test_data_docs_are_served_to_who_may_see_the_dag(browser: httpx.Client, data_uri: str) -> None:
    open_storage().write(join(data_uri, "runs", "a-night", "data-docs", "index.html"), PAGE)
    answer = browser.get("/bc/data-docs/a-night")
    assert answer.status_code == 200
    assert answer.content == PAGE
    assert "sandbox" in answer.headers["content-security-policy"], "a script in it must not run under Airflow's address"
    assert browser.get("/bc/data-docs/another-night").status_code == 404


def test_who_is_not_logged_in_is_asked_to(running: EmbeddedAirflow) -> None:
    answer = httpx.get(f"{running.url}/bc/data-docs/a-night")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("/auth/login?next=")


@pytest.mark.parametrize("path", ["%2e%2e", "..%2f..%2fsecrets", "a-night%2f..%2f..%2fsecrets", ".hidden", "a%00b"])
def test_no_path_leads_out_of_the_runs(path: str, browser: httpx.Client) -> None:
    assert browser.get(f"/bc/data-docs/{path}").status_code in (404, 422)


def test_it_listens_on_this_machine_only_and_keeps_its_secrets(running: EmbeddedAirflow) -> None:
    state = running.service.state
    listening = {
        connection.laddr.ip
        for member in processes.running(state)
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    for name in ("settings.json", "passwords.json", "airflow.cfg"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert running.password not in running.service.log.read_text()


def test_a_wrong_password_opens_nothing(running: EmbeddedAirflow) -> None:
    answer = httpx.post(f"{running.url}/auth/token", json={"username": "admin", "password": "admin"})
    assert answer.status_code == 401


def test_a_second_one_on_the_same_state_is_refused(running: EmbeddedAirflow, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs on"):
        airflow.start(running.service.state, config_path=tmp_path / "none.toml", environment={})


def test_it_leaves_no_process_and_comes_back_as_it_was(running: EmbeddedAirflow, embedded_state: Path) -> None:
    """The last test of this file: it stops the Airflow of the others."""
    state = running.service.state
    running.stop()
    assert processes.running(state) == []
    again = airflow.start(state, config_path=embedded_state / "config.toml", environment={})
    try:
        assert (again.url, again.password) == (running.url, running.password)
        again.api().wait_for_dag(DAG_ID)
    finally:
        again.stop()
    assert processes.running(state) == []

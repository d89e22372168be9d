"""Four nights through a real Airflow, a real S3 server and a real MLflow, as `make demo` runs them."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import mlflow
import pandas as pd
import pytest
from rich.console import Console

from bc_tasks import runs, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.config_file import load_config
from bc_tasks.embedded import demo, phantoms, processes, stack
from bc_tasks.embedded.demo import Outcome
from bc_tasks.embedded.stack import Stack
from bc_tasks.errors import RecordMissing
from bc_tasks.records import Evaluation, RegisteredModel, Run, Snapshot, TrainedModel, ValidationReport, Verdict
from bc_tasks.storage import Storage, join, open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIG = """
data_uri = "s3://images"
ingest = { settle_minutes = 0, shard_images = 64, pixels = { size_px = 128 } }
validation = { max_bad_share = 0.2, min_images = 20, max_class_share_change = 0.4 }
training = { image_size_px = 96, trainable_stages = 1, epochs = 2, batch_size = 16, backbones = ["efficientnet_lite0"] }
evaluation = { num_resamples = 200 }
gate = { profile = "literal", min_recall = 0, min_f1 = 0, min_specificity = 0 }
schedule = { retries = 1, retry_delay_seconds = 1 }
"""


@dataclass(frozen=True)
class Season:
    """The servers, still running, and how the nights went."""

    servers: Stack
    storage: Storage
    config: RunConfig
    outcomes: list[Outcome]
    state: Path
    browser: httpx.Client


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Season]:
    state, source = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("source") / "phantoms"
    config_path = state / "night.toml"
    config_path.write_text(CONFIG)
    config, console = load_config(config_path), Console()
    phantoms.write_batch(source, phantoms.make_patients(80, seed=5), layout="labels_csv")
    with stack.running(state, config_path=config_path, say=console.print) as servers:
        storage = open_storage(config.storage, servers.s3.environment())
        dealt = demo.deal_images(storage, state / "images", source, console)
        demo.fix_holdout(storage, config, dealt.holdout, console)
        outcomes = demo.season(servers, storage, config, dealt, console)
        demo.tell(outcomes, storage, servers, console)
        yield Season(servers, storage, config, outcomes, state, _browser(servers))
    assert not processes.running(state), "the embedded stack left processes behind"


def _browser(servers: Stack) -> httpx.Client:
    """Return a client that is logged in to Airflow, by cookie as a browser is and by token as a program is."""
    airflow = servers.airflow
    login = {"username": airflow.username, "password": airflow.password}
    token = httpx.post(f"{airflow.url}/auth/token", json=login, timeout=30).json()["access_token"]
    headers, cookies = {"Authorization": f"Bearer {token}"}, {"_token": token}
    return httpx.Client(base_url=airflow.url, headers=headers, cookies=cookies, timeout=30)


def _task_path(season: Season, night: int, task_id: str) -> str:
    return f"/api/v2/dags/{demo.DAG_ID}/dagRuns/{season.outcomes[night].run_id}/taskInstances/{task_id}"


def _task_states(season: Season, night: int) -> dict[str, str]:
    run_id = season.outcomes[night].run_id
    return season.servers.airflow.api().task_states(demo.DAG_ID, run_id)


def test_the_nights_end_as_they_should(season: Season) -> None:
    assert [outcome.state for outcome in season.outcomes] == ["success", "success", "success", "failed"]


def test_the_first_night_registers_a_model_on_its_floors_alone(season: Season) -> None:
    verdict = runs.read(season.storage, season.outcomes[0].run_uri, Verdict)
    assert (verdict.kind, verdict.passed) == ("bootstrap", True)
    registered = runs.read(season.storage, season.outcomes[0].run_uri, RegisteredModel)
    assert registered.version == "1"


def test_the_second_night_registers_only_if_recall_and_f1_improve_on_the_same_holdout(season: Season) -> None:
    uri = season.outcomes[1].run_uri
    evaluation, verdict = runs.read(season.storage, uri, Evaluation), runs.read(season.storage, uri, Verdict)
    assert evaluation.champion is not None
    assert [s.image_id for s in evaluation.champion.scores] == [s.image_id for s in evaluation.challenger.scores]
    ours, theirs = evaluation.challenger.metrics, evaluation.champion.metrics
    improves = all(ours[name].value > theirs[name].value for name in ("recall", "f1"))
    rules = {rule.rule: rule.passed for rule in verdict.rules}
    assert (rules["recall_improves"] and rules["f1_improves"]) == improves
    assert runs.exists(season.storage, uri, "register.json") == verdict.passed
    assert _task_states(season, 1)["register"] == ("success" if verdict.passed else "skipped")


def test_the_champion_of_the_second_night_scores_as_it_did_on_the_first(season: Season) -> None:
    first = runs.read(season.storage, season.outcomes[0].run_uri, Evaluation).challenger
    second = runs.read(season.storage, season.outcomes[1].run_uri, Evaluation).champion
    assert second is not None
    assert second.weights_sha256 == first.weights_sha256
    assert [s.probability for s in second.scores] == pytest.approx([s.probability for s in first.scores], abs=1e-5)


def test_the_registry_has_a_version_for_each_registered_run_and_a_person_made_the_champion(season: Season) -> None:
    uri = season.servers.mlflow.tracking_uri
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    name = season.config.registry.model_name
    num_registered = sum(runs.exists(season.storage, o.run_uri, "register.json") for o in season.outcomes)
    assert len(client.search_model_versions(f"name = '{name}'")) == num_registered
    assert client.get_model_version_by_alias(name, "champion").version == "1"
    assert int(client.get_model_version_by_alias(name, "challenger").version) == num_registered


def test_a_night_with_nothing_new_is_green_and_skips_the_rest(season: Season) -> None:
    states = _task_states(season, 2)
    assert (states["start"], states["ingest"], states["anything_new"]) == ("success",) * 3
    assert {states[name] for name in ("validate", "train", "evaluate", "gate", "register")} == {"skipped"}


def test_a_spoiled_batch_stops_before_training_and_commits_nothing(season: Season) -> None:
    states = _task_states(season, 3)
    assert states["validate"] == "failed"
    assert not [name for name, state in states.items() if name.startswith("train") and state == "success"]
    uri = season.outcomes[3].run_uri
    with pytest.raises(RecordMissing):
        runs.read(season.storage, uri, ValidationReport)
    last = snapshots.latest(season.storage, season.config.data_uri)
    second = runs.read(season.storage, season.outcomes[1].run_uri, ValidationReport).snapshot
    assert last == second


def test_a_failed_validation_is_not_tried_again(season: Season) -> None:
    task = season.browser.get(f"{_task_path(season, 3, 'validate')}").json()
    assert task["try_number"] == 1


def test_no_patient_is_in_two_splits_and_no_holdout_patient_is_trained_on(season: Season) -> None:
    snapshot = snapshots.latest(season.storage, season.config.data_uri)
    assert snapshot is not None
    rows = snapshots.read_manifest(season.storage, snapshot)
    assert rows.groupby("patient_id")["split"].nunique().max() == 1
    trained = runs.read(season.storage, season.outcomes[1].run_uri, TrainedModel, "train-efficientnet_lite0.json")
    usable = rows[rows["quarantine_reason"].isna()]
    assert trained.num_training_images == (usable["split"] == "training").sum()
    assert trained.num_tuning_images == (usable["split"] == "tuning").sum()


def test_each_run_has_a_note_that_says_what_happened(season: Season) -> None:
    api = season.servers.airflow.api()
    notes = [api.run(demo.DAG_ID, outcome.run_id).note or "" for outcome in season.outcomes]
    assert "Passed" in notes[0]
    assert re.search("Passed|Rejected", notes[1])
    assert "new" in notes[2].lower()
    assert re.search("expectation|validation|bad", notes[3])


def test_the_data_docs_open_in_a_browser_that_is_logged_in_and_in_no_other(season: Season) -> None:
    for night in (0, 3):
        links = season.browser.get(f"{_task_path(season, night, 'validate')}/links").json()["extra_links"]
        page = season.browser.get(links["Data Docs"])
        assert page.status_code == httpx.codes.OK
        assert "Each image" in page.text
    assert httpx.get(links["Data Docs"], timeout=30).is_redirect


def test_the_links_of_training_and_registration_lead_to_mlflow(season: Season) -> None:
    for task in ("evaluate", "register"):
        links = season.browser.get(f"{_task_path(season, 0, task)}/links").json()["extra_links"]
        assert str(links["MLflow"]).startswith(season.servers.mlflow.tracking_uri)


def test_the_trigger_form_decides_a_run(season: Season) -> None:
    api = season.servers.airflow.api()
    form = {"train_if_nothing_new": True, "dry_run": True, "epochs": 1}
    _remove_spoiled_batch(season)
    run_id = api.trigger(demo.DAG_ID, form)
    run = api.wait_for_run(demo.DAG_ID, run_id, within_seconds=600)
    uri = join(season.config.data_uri, "runs", runs.to_run_name(run_id))
    record = runs.read(season.storage, uri, Run)
    assert run.state == "success"
    assert (record.config.training.epochs, record.config.gate.dry_run) == (1, True)
    assert runs.read(season.storage, uri, Snapshot).has_news is False
    assert not runs.exists(season.storage, uri, "register.json")
    assert api.task_states(demo.DAG_ID, run_id)["register"] == "skipped"


def _remove_spoiled_batch(season: Season) -> None:
    for item in season.storage.list(join(season.config.data_uri, "inbox", "2026-03-spoiled") + "/"):
        season.storage.delete(item.uri)


def test_a_reviewer_loads_the_registered_model_and_asks_it(season: Season, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in season.servers.mlflow.environment().items():  # pickle refused is among them
        monkeypatch.setenv(name, value)
    # MLflow puts the model's code first, for good: processes that later tests start would take it for ours.
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = mlflow.pyfunc.load_model(f"models:/{season.config.registry.model_name}@champion")
    image = next((season.state / "images" / "source").rglob("*.jpg"))
    answer = model.predict(pd.DataFrame({"image": [image.read_bytes()]}))
    assert 0 <= answer["probability"].iloc[0] <= 1
    assert answer["call"].iloc[0] in (0, 1)

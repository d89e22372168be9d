"""`make demo`: a season of four nights on this machine, through a real Airflow, S3 and MLflow."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pandas as pd
import requests
from rich.box import SIMPLE
from rich.console import Console
from rich.status import Status
from rich.table import Table

from bc_tasks import cores, runs
from bc_tasks.config import RunConfig
from bc_tasks.config_file import load_config
from bc_tasks.embedded import demo_data, phantoms, processes, stack
from bc_tasks.embedded.airflow_api import ENDED, AirflowApi
from bc_tasks.embedded.demo_data import Deal
from bc_tasks.embedded.stack import Stack
from bc_tasks.errors import ConfigError, InfrastructureError, RecordMissing
from bc_tasks.holdout_creation import Choice, create
from bc_tasks.records import Evaluation, ModelScores, Record, RegisteredModel, Snapshot, Verdict
from bc_tasks.storage import Storage, join, open_storage

R = TypeVar("R", bound=Record)

DAG_ID = "nightly_retraining"
NUM_PHANTOM_PATIENTS = 300
FIRST_SHARE = {"phantoms": 0.25, "own images": 0.5}
NIGHT_SECONDS = 3600.0
POLL_SECONDS = 1.0
MADE_BY_DEMO = "made-by-bc-demo"
TASK_ENDED = ("success", "failed", "skipped", "upstream_failed")


@dataclass(frozen=True)
class Night:
    """One night of the demo: what a person calls it, what arrives in which batch, and how the run must end."""

    title: str
    ends: str
    batch: str = ""
    deliver: Callable[[Storage, Deal, str], None] | None = None


NIGHTS = (
    Night(
        "first images",
        ends="success",
        batch="2026-01-first",
        deliver=lambda storage, deal, uri: demo_data.deliver(storage, deal.first_night, uri),
    ),
    Night(
        "more images",
        ends="success",
        batch="2026-02-more",
        deliver=lambda storage, deal, uri: demo_data.deliver(storage, deal.second_night, uri),
    ),
    Night("nothing new", ends="success"),
    Night(
        "spoiled batch",
        ends="failed",
        batch="2026-03-spoiled",
        deliver=lambda storage, deal, uri: demo_data.deliver_spoiled(storage, deal.spoiled_night, uri),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How a night went."""

    night: Night
    run_id: str
    run_uri: str
    state: str
    seconds: float


def run(state: Path, *, config_path: Path, images: Path | None, stay: bool, console: Console) -> bool:
    """Run the season on fresh data in `state`; return whether each night ended as it should.

    `images` is a folder of one's own images; None makes phantoms. With `stay`, the servers run on until Ctrl-C.
    """
    config = load_config(config_path)
    _make_fresh(state)
    with _ended_by_signals(), stack.running(state, config_path=config_path, say=console.print) as servers:
        storage = open_storage(config.storage, servers.s3.environment())
        dealt = deal_images(storage, state / "images", images, console)
        fix_holdout(storage, config, dealt.holdout, console)
        outcomes = season(servers, storage, config, dealt, console)
        tell(outcomes, storage, servers, console)
        if stay:
            _wait_for_the_end(state, console)
    return all(outcome.state == outcome.night.ends for outcome in outcomes)


def _make_fresh(state: Path) -> None:
    """Empty the state folder, but only one that a demo has made."""
    processes.refuse_second("the demo", state)
    if state.exists() and any(state.iterdir()) and not (state / MADE_BY_DEMO).exists():
        raise ConfigError(f"{state} holds something that no demo has made; name an empty or a new folder with --state")
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    (state / MADE_BY_DEMO).touch()


def deal_images(storage: Storage, scratch: Path, images: Path | None, console: Console) -> Deal:
    """Return the images of the season, one's own or phantoms, dealt out by patient."""
    folder = images
    if folder is None:
        console.print(f"drawing mammogram phantoms of {NUM_PHANTOM_PATIENTS} patients")
        folder = scratch / "phantoms"
        phantoms.write_batch(folder, phantoms.make_patients(NUM_PHANTOM_PATIENTS, seed=1), layout="labels_csv")
    return demo_data.deal(storage, folder, scratch / "source", FIRST_SHARE["own images" if images else "phantoms"])


def fix_holdout(storage: Storage, config: RunConfig, rows: pd.DataFrame, console: Console) -> None:
    """Deliver the holdout's images to the inbox and fix their patients as the holdout."""
    demo_data.deliver(storage, rows, _batch_uri(config, "2025-12-holdout"))
    choice = Choice(patient_ids=frozenset(rows["patient_id"]))
    with cores.processes() as executor:
        fixed = create(storage, config, choice, now=datetime.now(UTC), executor=executor)
    console.print(f"holdout fixed: {len(fixed.manifest)} images of {len(fixed.patient_ids)} patients")


def _batch_uri(config: RunConfig, batch: str) -> str:
    return join(config.data_uri, config.ingest.inbox_prefix.rstrip("/"), batch)


def season(servers: Stack, storage: Storage, config: RunConfig, deal: Deal, console: Console) -> list[Outcome]:
    """Run the nights through the scheduler, one after the other, and return how each went."""
    airflow = servers.airflow.api()
    airflow.wait_for_dag(DAG_ID)
    airflow.unpause(DAG_ID)
    outcomes = []
    for number, night in enumerate(NIGHTS, start=1):
        console.rule(f"night {number} of {len(NIGHTS)}: {night.title}")
        if night.deliver:
            night.deliver(storage, deal, _batch_uri(config, night.batch))
        outcome = _run_night(airflow, config, night, console)
        outcomes.append(outcome)
        if number == 1 and runs.exists(storage, outcome.run_uri, "register.json"):
            _promote_as_a_reviewer(servers, storage, config, outcome, console)
    return outcomes


def _run_night(airflow: AirflowApi, config: RunConfig, night: Night, console: Console) -> Outcome:
    began = time.monotonic()
    run_id = airflow.trigger(DAG_ID)
    shown: set[str] = set()
    with console.status("waiting for the scheduler") as status:
        while (run := airflow.run(DAG_ID, run_id)).state not in ENDED:
            if time.monotonic() - began > NIGHT_SECONDS:
                raise InfrastructureError(f"{run_id} is {run.state} after {NIGHT_SECONDS:.0f} s: {shown} have ended")
            _show_tasks(airflow.task_states(DAG_ID, run_id), time.monotonic() - began, shown, console, status)
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - began
    _show_tasks(airflow.task_states(DAG_ID, run_id), seconds, shown, console, status)
    note = airflow.run(DAG_ID, run_id).note
    console.print(f"  {run.state}: {note or 'no note'}", highlight=False, markup=False)
    return Outcome(night, run_id, join(config.data_uri, "runs", runs.to_run_name(run_id)), run.state, seconds)


def _show_tasks(states: dict[str, str], seconds: float, shown: set[str], console: Console, status: Status) -> None:
    for name, state in states.items():
        if state == "running":
            status.update(f"{name} is running")
        elif state in TASK_ENDED and name not in shown:
            shown.add(name)
            console.print(f"  {seconds:4.0f} s  {name:<28} {state}", highlight=False, markup=False)


def _promote_as_a_reviewer(
    servers: Stack, storage: Storage, config: RunConfig, outcome: Outcome, console: Console
) -> None:
    """Give the first version the alias `champion`, which the nights themselves never do."""
    registered = runs.read(storage, outcome.run_uri, RegisteredModel)
    body = {"name": registered.name, "alias": config.registry.champion_alias, "version": registered.version}
    url = f"{servers.mlflow.tracking_uri}/api/2.0/mlflow/registered-models/alias"
    requests.post(url, json=body, timeout=30).raise_for_status()
    console.print(f"a reviewer promotes version {registered.version} to champion (here: the demo, in your place)")


def tell(outcomes: list[Outcome], storage: Storage, servers: Stack, console: Console) -> None:
    """Print the table of the nights, and where to look further."""
    table = Table(title="Challenger and champion on the same holdout: recall, F1", box=SIMPLE)
    for heading in ("night", "new", "bad", "challenger", "champion", "outcome", "time"):
        table.add_column(heading, justify="right" if heading in ("new", "bad", "time") else "left", no_wrap=True)
    for outcome in outcomes:
        table.add_row(*_row(outcome, storage))
    console.print(table)
    airflow = servers.airflow
    console.print(f"Airflow   {airflow.url}/dags/{DAG_ID}", soft_wrap=True)
    console.print(f"          user {airflow.username}, password {airflow.password}", highlight=False, markup=False)
    console.print(f"MLflow    {servers.mlflow.tracking_uri}/#/models", soft_wrap=True)
    console.print(
        f"S3        {servers.s3.endpoint_url}, keys in {servers.s3.service.state / 'settings.json'}", soft_wrap=True
    )


def _row(outcome: Outcome, storage: Storage) -> tuple[str, ...]:
    uri = outcome.run_uri
    snapshot = _record(storage, uri, Snapshot)
    evaluation = _record(storage, uri, Evaluation)
    new = str(snapshot.num_new) if snapshot else "-"
    quarantined = str(sum(snapshot.quarantined_now.values())) if snapshot else "-"
    models = (evaluation.challenger, evaluation.champion) if evaluation else (None, None)
    return (
        outcome.night.title,
        new,
        quarantined,
        *(_recall_and_f1(model) for model in models),
        _ending(outcome, snapshot, storage),
        f"{outcome.seconds:.0f} s",
    )


def _record(storage: Storage, run_uri: str, kind: type[R]) -> R | None:
    try:
        return runs.read(storage, run_uri, kind)
    except RecordMissing:
        return None


def _recall_and_f1(model: ModelScores | None) -> str:
    return f"{model.metrics['recall'].value:.3f}, {model.metrics['f1'].value:.3f}" if model else "-"


def _ending(outcome: Outcome, snapshot: Snapshot | None, storage: Storage) -> str:
    registered = _record(storage, outcome.run_uri, RegisteredModel)
    verdict = _record(storage, outcome.run_uri, Verdict)
    if registered:
        return f"version {registered.version}"
    if verdict:
        return "rejected"
    if outcome.state == "success" and snapshot and not snapshot.has_news:
        return "skipped"
    return "refused" if snapshot else outcome.state


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that the servers are stopped in either case."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_the_end(state: Path, console: Console) -> None:
    console.print("\nEverything runs on until Ctrl-C here, or `make down` elsewhere.")
    try:
        while processes.running(state):
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print("stopping")

"""The note on a run in Airflow's grid: what the night brought, in two or three sentences without any id of an image.

A task can't write a run's note: its API has no such call. So each step leaves the text as an XCom, and this
module, as a listener in the scheduler (see `plugin.py`), copies the last one when the run ends.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.listeners import hookimpl

from bc_tasks.errors import BcError, RecordMissing
from bc_tasks.records import Record, RegisteredModel, Snapshot, ValidationReport, Verdict

if TYPE_CHECKING:
    from bc_tasks.storage import Storage

NOTE_KEY = "note"
FAILURE_KEY = "failure"
MAX_LENGTH = 1000  # of the column dag_run_note.content

R = TypeVar("R", bound=Record)


def push(ti: Any, run_uri: str) -> None:
    """Leave the note as it stands after a step that succeeded."""
    from bc_tasks.storage import open_storage

    ti.xcom_push(NOTE_KEY, describe(open_storage(), run_uri))


def push_failure(ti: Any, error: BcError) -> None:
    """Leave the sentence that says why a step failed."""
    ti.xcom_push(FAILURE_KEY, str(error))


def describe(storage: "Storage", run_uri: str) -> str:
    """Say what the run's records say so far: what was new, the verdict, the registered version."""
    return " ".join(_sentences(storage, run_uri))


def _sentences(storage: "Storage", run_uri: str) -> Iterator[str]:
    report = _read(storage, run_uri, ValidationReport)
    if snapshot := report.snapshot if report else _read(storage, run_uri, Snapshot):
        yield _news(snapshot)
    if verdict := _read(storage, run_uri, Verdict):
        yield verdict.summary
        if verdict.dry_run:
            yield "A dry run: nothing was registered."
    if model := _read(storage, run_uri, RegisteredModel):
        yield f"Registered as version {model.version}."


def _read(storage: "Storage", run_uri: str, kind: type[R]) -> R | None:
    from bc_tasks import runs

    with suppress(RecordMissing):
        return runs.read(storage, run_uri, kind)
    return None


def _news(snapshot: Snapshot) -> str:
    which = f"Snapshot {snapshot.number}" if snapshot.number else "Not yet a snapshot"
    if not snapshot.has_news:
        return f"Nothing new since snapshot {snapshot.base_number}."
    counts = {
        "new": snapshot.num_new,
        "revised": snapshot.num_revised,
        "withdrawn": snapshot.num_withdrawn,
        "quarantined": sum(snapshot.quarantined_now.values()),
    }
    seen = [f"{count} {what}" for what, count in counts.items() if count or what == "new"]
    return f"{which}: {', '.join(seen)} images."


@hookimpl
def on_dag_run_success(dag_run: Any) -> None:
    """Write the note when a run has ended well."""
    _write(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: Any) -> None:
    """Write the note, with what stopped the night, when a run has failed."""
    _write(dag_run)


def _write(dag_run: Any) -> None:
    """Set the note, unless a person has written one: theirs stays. The scheduler commits it with the run's state."""
    theirs = dag_run.dag_run_note is not None and dag_run.dag_run_note.user_id is not None
    if not theirs and (text := _left_by_the_steps(dag_run)):
        dag_run.note = text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 4]} ..."


def _left_by_the_steps(dag_run: Any) -> str:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    mine = (XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id)
    query = select(XComModel.key, XComModel.value).where(*mine, XComModel.key.in_([NOTE_KEY, FAILURE_KEY]))
    rows = object_session(dag_run).execute(query.order_by(XComModel.timestamp)).all()
    notes = [json.loads(value) for key, value in rows if key == NOTE_KEY]
    failures = [json.loads(value) for key, value in rows if key == FAILURE_KEY]
    return " ".join([*notes[-1:], *(f"Stopped: {failure}." for failure in failures)])

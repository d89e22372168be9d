"""The note on a run in Airflow's grid: what the night brought, in two or three sentences.

It names no image, unless the failure that stopped the night does.

A task can't write a run's note: its API has no such call. So each step leaves the text as an XCom, and this
module, as a listener in the scheduler (see `plugin.py`), copies the last one when the run ends.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.listeners import hookimpl

from bc_tasks.errors import BcError, RecordMissing
from bc_tasks.records import FAILED_VALIDATION, Record, RegisteredModel, Snapshot, ValidationReport, Verdict

if TYPE_CHECKING:
    from bc_tasks.storage import Storage

NOTE_KEY = "note"
FAILURE_KEY = "failure"
MAX_LENGTH = 1000  # of the column dag_run_note.content
NUM_NAMED = 3

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)


def leave(ti: Any, run_uri: str, failure: BcError | None) -> None:
    """Leave what the note shall say after a step; a note that can't be made stops no night."""
    from bc_tasks.storage import open_storage

    try:
        ti.xcom_push(NOTE_KEY, describe(open_storage(), run_uri))
    except BcError as error:
        log.warning("The run's note could not be made: %s", error)
    if failure:
        ti.xcom_push(FAILURE_KEY, str(failure))


def describe(storage: "Storage", run_uri: str) -> str:
    """Say what the run's records say so far: what was new, the verdict, the registered version."""
    return " ".join(_sentences(storage, run_uri))


def _sentences(storage: "Storage", run_uri: str) -> Iterator[str]:
    refused = _read(storage, run_uri, ValidationReport, FAILED_VALIDATION)
    report = refused or _read(storage, run_uri, ValidationReport)
    if snapshot := report.snapshot if report else _read(storage, run_uri, Snapshot):
        yield _news(snapshot)
    if refused:
        yield _refusal(refused)
    if verdict := _read(storage, run_uri, Verdict):
        yield verdict.summary
        if verdict.dry_run:
            yield "A dry run: nothing was registered."
    if model := _read(storage, run_uri, RegisteredModel):
        yield f"Registered as version {model.version}."


def _read(storage: "Storage", run_uri: str, kind: type[R], file_name: str | None = None) -> R | None:
    from bc_tasks import runs

    with suppress(RecordMissing):
        return runs.read(storage, run_uri, kind, file_name)
    return None


def _news(snapshot: Snapshot) -> str:
    if not snapshot.has_news:
        routine = " but copies and images of the holdout's patients" if snapshot.has_changes else ""
        return f"Nothing new{routine} since snapshot {snapshot.base_number}."
    which = f"Snapshot {snapshot.number}" if snapshot.number else "Candidate snapshot"
    others = {
        "revised": snapshot.num_revised,
        "withdrawn": snapshot.num_withdrawn,
        "quarantined": sum(snapshot.quarantined_now.values()),
    }
    seen = [f"{snapshot.num_new} new images", *(f"{count} {what}" for what, count in others.items() if count)]
    return f"{which}: {', '.join(seen)}."


def _refusal(report: ValidationReport) -> str:
    broken = [outcome.wanted for outcome in report.expectations if not outcome.passed]
    more = f" and {len(broken) - NUM_NAMED} more" if len(broken) > NUM_NAMED else ""
    wanted = f" Broken: {'; '.join(broken[:NUM_NAMED])}{more}." if broken else ""
    return f"Refused: {report.bad_share:.0%} of them are bad.{wanted}"


@hookimpl
def on_dag_run_success(dag_run: Any) -> None:
    """Write the note when a run has ended well."""
    _write(dag_run, _notes(dag_run, NOTE_KEY)[-1:])


@hookimpl
def on_dag_run_failed(dag_run: Any) -> None:
    """Write the note, with what stopped the night, when a run has failed."""
    failures = [f"Stopped: {failure}." for failure in _notes(dag_run, FAILURE_KEY)]
    _write(dag_run, [*_notes(dag_run, NOTE_KEY)[-1:], *(failures or [_stopped_at(dag_run)])])


def _write(dag_run: Any, sentences: list[str]) -> None:
    """Set the note, unless a person has written one: theirs stays. The scheduler commits it with the run's state."""
    theirs = dag_run.dag_run_note is not None and dag_run.dag_run_note.user_id is not None
    text = " ".join(filter(None, sentences))
    if text and not theirs:
        dag_run.note = text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 4]} ..."


def _notes(dag_run: Any, key: str) -> list[str]:
    """Return what the steps have left under a key, the last one last."""
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    of_this_run = (XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key == key)
    query = select(XComModel.value).where(*of_this_run).order_by(XComModel.timestamp)
    return list(_session(dag_run).scalars(query))


def _stopped_at(dag_run: Any) -> str:
    """Name the tasks that failed without a word: they ran out of time, were marked as failed, or are no step."""
    failed = dag_run.get_task_instances(state=["failed"], session=_session(dag_run))
    return f"Stopped: {', '.join(sorted({task.task_id for task in failed}))} failed; see the log."


def _session(dag_run: Any) -> Any:
    from sqlalchemy.orm import object_session

    return object_session(dag_run)

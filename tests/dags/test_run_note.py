"""The note on a run: what it says for which records, and whose it is."""

from types import SimpleNamespace
from typing import Any

import pytest
import run_records

from bc_tasks import runs
from bc_tasks.errors import DataError
from bc_tasks.orchestration import run_note
from bc_tasks.records import Record
from bc_tasks.storage import Storage, join

COMMITTED = (run_records.snapshot(), run_records.report(2))
PASSED = "Passed: better than the champion."


@pytest.mark.parametrize(
    ("records", "note"),
    [
        ((), ""),
        ((run_records.snapshot(),), "Candidate snapshot: 420 new images, 3 quarantined."),
        (
            (run_records.snapshot(num_new=0, num_revised=2, num_withdrawn=1, quarantined_now={}),),
            "Candidate snapshot: 0 new images, 2 revised, 1 withdrawn.",
        ),
        ((run_records.snapshot(num_new=0),), "Nothing new since snapshot 1."),
        (
            (run_records.snapshot(is_routine=True),),
            "Nothing new but copies and images of the holdout's patients since snapshot 1.",
        ),
        (COMMITTED, "Snapshot 2: 420 new images, 3 quarantined."),
        (
            (*COMMITTED, run_records.verdict(passed=False)),
            "Snapshot 2: 420 new images, 3 quarantined. Rejected: recall 0.610 is not above 0.630 by 0.005.",
        ),
        (
            (*COMMITTED, run_records.verdict(dry_run=True)),
            f"Snapshot 2: 420 new images, 3 quarantined. {PASSED} A dry run: nothing was registered.",
        ),
        (
            (*COMMITTED, run_records.verdict(), run_records.registered()),
            f"Snapshot 2: 420 new images, 3 quarantined. {PASSED} Registered as version 7.",
        ),
    ],
)
def test_it_says_what_the_night_brought(
    records: tuple[Record, ...], note: str, run_uri: str, files: Storage, task_instance: Any
) -> None:
    for record in records:
        runs.write(files, run_uri, record)
    run_note.leave(task_instance, run_uri, None)
    assert task_instance.left == {"note": note}


def test_a_refused_night_says_what_was_broken_and_names_no_image(run_uri: str, files: Storage) -> None:
    refused = run_records.report(None, "a", "b", "c", "d")
    files.write(join(run_uri, run_note.FAILED_VALIDATION), refused.model_dump_json().encode())
    runs.write(files, run_uri, run_records.snapshot())
    assert run_note.describe(files, run_uri) == (
        "Candidate snapshot: 420 new images, 3 quarantined. Refused: 31% of them are bad. Broken: a; b; c and 1 more."
    )


def test_a_note_that_cant_be_made_hides_no_failure(run_uri: str, files: Storage, task_instance: Any) -> None:
    files.write(join(run_uri, "ingest.json"), b"spoiled")
    run_note.leave(task_instance, run_uri, DataError("validate failed with exit code 65"))
    assert task_instance.left == {"failure": "validate failed with exit code 65"}


@pytest.mark.parametrize(
    ("there", "note"),
    [
        (None, "Nothing new since snapshot 1."),
        (SimpleNamespace(user_id=None), "Nothing new since snapshot 1."),
        (SimpleNamespace(user_id="dr-who"), "written by a person"),
    ],
    ids=["none", "ours", "a person's"],
)
def test_a_persons_note_stays(there: Any, note: str) -> None:
    dag_run = SimpleNamespace(dag_run_note=there, note="written by a person")
    run_note._write(dag_run, ["Nothing new since snapshot 1."])
    assert dag_run.note == note


def test_a_long_note_is_cut_to_what_airflow_takes() -> None:
    dag_run = SimpleNamespace(dag_run_note=None, note=None)
    run_note._write(dag_run, ["word"] * 500)
    assert len(dag_run.note) == run_note.MAX_LENGTH
    assert dag_run.note.endswith(" ...")

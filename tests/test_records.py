"""Records are what steps hand to each other: strict, frozen, and the same after storage."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from inboxes import local_storage
from pydantic import BaseModel, ValidationError

from bc_tasks import records, runs
from bc_tasks.config import RunConfig
from bc_tasks.errors import AlreadyExists, DataError, RecordMissing
from bc_tasks.records import Counts, Interval, Record, Run, Snapshot, Verdict, trained_file_name
from bc_tasks.storage import join
from bc_tasks.summaries import summarise

MODELS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, records.Part)]
RECORDS = [kind for kind in MODELS if issubclass(kind, Record) and kind is not Record]
COUNTS = Counts(
    num_images=90,
    num_patients=30,
    num_quarantined=2,
    by_label={"0": 60, "1": 30},
    by_split={"training": 90},
    by_view={"unknown": 90},
    by_site={"unknown": 90},
)


def _run(run_uri: str) -> Run:
    return Run(
        run_uri=run_uri,
        started_at=datetime(2026, 11, 23, 2, tzinfo=UTC),
        trigger="scheduled",
        code_version="0.1.0+abc1234",
        config=RunConfig(data_uri="s3://images"),
    )


def _snapshot(**changes: object) -> Snapshot:
    facts: dict[str, object] = {
        "manifest_uri": "s3://images/runs/a/candidate.parquet",
        "fingerprint": "a" * 64,
        "number": None,
        "base_number": None,
        "base_is_unfinished": False,
        "preprocessing_sha256": "b" * 64,
        "holdout_fingerprint": "c" * 64,
        "num_new": 0,
        "num_revised": 0,
        "num_withdrawn": 0,
        "counts": COUNTS,
        "quarantined_now": {},
        "waiting_batches": (),
        "notes": (),
    }
    return Snapshot.model_validate(facts | changes)


def test_each_record_has_a_name_of_its_own() -> None:
    names = [kind.usual_name() for kind in RECORDS]
    assert len(set(names)) == len(names)
    steps = ("start", "ingest", "validate", "evaluate", "verdict", "register")
    assert {f"{step}.json" for step in steps} <= set(names)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_records_are_frozen_and_refuse_what_they_do_not_know(kind: type[BaseModel]) -> None:
    assert kind.model_config["frozen"] is True
    assert kind.model_config["extra"] == "forbid"


def test_a_record_is_the_same_after_storage(file_data_uri: str) -> None:
    run = _run(join(file_data_uri, "runs", "a"))
    storage = local_storage()
    runs.write(storage, run.run_uri, run)
    assert runs.exists(storage, run.run_uri, "start.json")
    assert runs.read(storage, run.run_uri, Run) == run


def test_infinity_and_nan_survive_storage() -> None:
    interval = Interval(value=0.5, low=float("-inf"), high=float("nan"))
    assert str(Interval.model_validate_json(interval.model_dump_json())) == str(interval)


def test_a_missing_record_says_which_step_has_not_finished(file_data_uri: str) -> None:
    with pytest.raises(RecordMissing, match=r"has no verdict.json: the step 'gate' failed or has not run"):
        runs.read(local_storage(), file_data_uri, Verdict)


def test_a_backbones_record_is_asked_for_by_its_file_name(file_data_uri: str) -> None:
    with pytest.raises(RecordMissing, match=r"has no train-resnet50.json: the step 'train'"):
        runs.read(local_storage(), file_data_uri, records.TrainedModel, trained_file_name("resnet50"))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff\xfe"], ids=["empty", "cut", "bare", "list", "bytes"]
)
def test_what_is_no_record_is_refused_by_name(file_data_uri: str, content: bytes) -> None:
    storage = local_storage()
    storage.write(join(file_data_uri, "start.json"), content)
    with pytest.raises(DataError, match=r"start.json is no Run record"):
        runs.read(storage, file_data_uri, Run)


def test_of_two_who_write_a_record_only_if_absent_one_wins(file_data_uri: str) -> None:
    storage = local_storage()
    runs.write(storage, file_data_uri, _run("file:///a"), if_absent=True)
    with pytest.raises(AlreadyExists):
        runs.write(storage, file_data_uri, _run("file:///b"), if_absent=True)
    assert runs.read(storage, file_data_uri, Run).run_uri == "file:///a"


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="fingerprint"):
        _snapshot(fingerprint="abc")


@pytest.mark.parametrize(
    ("changes", "has_news"),
    [
        ({}, False),
        ({"num_new": 1}, True),
        ({"num_revised": 1}, True),
        ({"num_withdrawn": 1}, True),
        ({"base_is_unfinished": True}, True),
        ({"num_new": 1, "is_routine": True}, False),
        ({"num_new": 1, "is_routine": True, "base_is_unfinished": True}, True),
    ],
)
def test_any_difference_and_any_unfinished_night_is_news(changes: dict[str, int], has_news: bool) -> None:
    assert _snapshot(**changes).has_news is has_news


def test_a_summary_says_what_came_what_is_bad_and_what_waits() -> None:
    text = summarise(
        _snapshot(
            num_new=12,
            num_withdrawn=1,
            quarantined_now={"no_label": 2},
            waiting_batches=("2026-11-24",),
            notes=("batch 2026-11-23: it holds no images",),
        )
    )
    assert text.splitlines() == [
        "12 new, 0 revised, 1 withdrawn images; quarantined tonight: 2 no_label",
        f"candidate snapshot {'a' * 12}: 90 images of 30 patients (90 training), 30 with cancer, 2 in quarantine",
        "still being uploaded, left for a later night: 2026-11-24",
        "batch 2026-11-23: it holds no images",
    ]


def test_the_start_is_summarised_too(tmp_path: Path) -> None:
    assert summarise(_run(f"file://{tmp_path}")) == "start: done"

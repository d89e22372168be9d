"""The delta: what is known is not read again, what changed is, and what waits stays as it was."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bc_tasks import delta, manifest
from bc_tasks.mammogram import LEAKS, QuarantineReason

INBOX = {"batch": "a", "etag": "1", "num_bytes": 9, "source_stem": "x", "label": 1}
READ = {"sha256": "s", "pixel_sha256": "p", "shard_key": "pixels/0/0.npy", "shard_row": 0, "tag_view": "CC"}


def _rows(*rows: dict[str, Any]) -> pd.DataFrame:
    return manifest.conform(pd.DataFrame(rows, columns=list(manifest.COLUMN_NAMES)))


def _tonight(key: str = "inbox/a/1", **changes: Any) -> dict[str, Any]:
    return {"key": key} | INBOX | changes


def _before(key: str = "inbox/a/1", **changes: Any) -> dict[str, Any]:
    return _tonight(key) | READ | {"split": "training"} | changes


def _compare(tonight: list[dict[str, Any]], before: list[dict[str, Any]], *waiting: str) -> delta.Delta:
    return delta.compare(_rows(*tonight), waiting, _rows(*before))


def _known(changes: delta.Delta) -> dict[str, Any]:
    (row,) = changes.known.to_dict("records")
    return {str(name): value for name, value in row.items() if not pd.isna(value)}


def test_what_is_new_is_read() -> None:
    changes = _compare([_tonight()], [])
    assert changes.known.empty
    assert list(changes.to_read["key"]) == ["inbox/a/1"]


def test_what_is_known_is_not_read_again() -> None:
    changes = _compare([_tonight()], [_before()])
    assert changes.to_read.empty
    assert _known(changes) == _tonight() | READ


@pytest.mark.parametrize("change", [{"etag": "2"}, {"version_id": "v2"}])
def test_an_overwritten_object_is_read_again(change: dict[str, str]) -> None:
    changes = _compare([_tonight(**change)], [_before()])
    assert changes.known.empty
    assert list(changes.to_read["key"]) == ["inbox/a/1"]
    assert changes.to_read["sha256"].isna().all()


def test_a_changed_label_needs_no_reading() -> None:
    changes = _compare([_tonight(label=0)], [_before()])
    assert changes.to_read.empty
    assert _known(changes) == _tonight(label=0) | READ


def test_what_people_no_longer_say_is_forgotten() -> None:
    """Else a snapshot would depend on how its labels files came to be."""
    changes = _compare([_tonight()], [_before(patient_id="P1", view="MLO", density="B")])
    assert _known(changes) == _tonight() | READ


def test_a_waiting_batch_keeps_its_rows_as_they_were() -> None:
    before = [_before(), _before("inbox/b/1", batch="b", quarantine_reason="truncated")]
    changes = _compare([_tonight("inbox/c/1", batch="c")], before, "a", "b")
    pd.testing.assert_frame_equal(changes.known, _rows(*before))
    assert list(changes.to_read["key"]) == ["inbox/c/1"]


def test_what_vanished_is_neither_known_nor_read() -> None:
    changes = _compare([], [_before()])
    assert changes.known.empty
    assert changes.to_read.empty


@pytest.mark.parametrize("reason", sorted(delta.FAULTS_OF_BYTES))
def test_a_faulty_file_is_not_read_again_while_its_bytes_stand(reason: str) -> None:
    faulty = _tonight() | {"sha256": "s", "quarantine_reason": reason, "quarantine_detail": "as seen"}
    changes = _compare([_tonight()], [faulty])
    assert changes.to_read.empty
    assert _known(changes) == faulty
    assert list(_compare([_tonight(etag="2")], [faulty]).to_read["key"]) == ["inbox/a/1"]


@pytest.mark.parametrize(
    "reason", ["no_label", "bad_label", "bad_labels_file", "missing_image", "conflicting_labels", "too_large"]
)
def test_a_fault_that_is_not_of_the_bytes_is_looked_at_anew(reason: str) -> None:
    unread = _tonight() | {"label": None, "quarantine_reason": reason, "quarantine_detail": "as seen"}
    changes = _compare([_tonight()], [unread])
    assert changes.known.empty
    assert changes.to_read["quarantine_reason"].isna().all()


@pytest.mark.parametrize(
    "reason", ["duplicate_content", "duplicate_image_id", "conflicting_labels", "failed_expectation"]
)
def test_a_fault_found_by_comparison_is_found_anew_without_reading(reason: str) -> None:
    changes = _compare([_tonight()], [_before(quarantine_reason=reason, quarantine_detail="as seen")])
    assert changes.to_read.empty
    assert _known(changes) == _tonight() | READ


def test_every_reason_is_either_of_the_bytes_or_looked_at_anew() -> None:
    """A new reason must be placed: in `FAULTS_OF_BYTES`, or here."""
    anew = {
        *("no_label", "bad_label", "conflicting_labels", "bad_labels_file", "missing_image", "path_outside_batch"),
        *("not_in_a_batch", "too_large", "duplicate_content", "duplicate_image_id", "failed_expectation"),
        "withdrawn_patient",
        *LEAKS,
    }
    assert set(QuarantineReason) == set(delta.FAULTS_OF_BYTES) | anew


def test_pixels_of_an_image_that_lost_its_label_are_kept_for_the_night_it_gets_one() -> None:
    unlabelled = _tonight(label=None, quarantine_reason="no_label", quarantine_detail="no row")
    kept = _compare([unlabelled], [_before()])
    assert kept.to_read.empty
    assert _known(kept)["quarantine_reason"] == "no_label"
    assert _known(_compare([_tonight()], kept.known.to_dict("records"))) == _tonight() | READ  # type: ignore[arg-type]  # names


def test_what_is_wrong_in_the_inbox_is_said_before_what_is_wrong_in_the_file() -> None:
    faulty = _tonight() | {"sha256": "s", "quarantine_reason": "unreadable", "quarantine_detail": "as seen"}
    changes = _compare([_tonight(label=None, quarantine_reason="no_label", quarantine_detail="no row")], [faulty])
    assert changes.to_read.empty
    assert (_known(changes)["quarantine_reason"], _known(changes)["quarantine_detail"]) == ("no_label", "no row")


def test_a_row_that_cannot_be_used_is_not_read() -> None:
    changes = _compare([_tonight(quarantine_reason="no_label")], [])
    assert changes.to_read.empty
    assert _known(changes)["quarantine_reason"] == "no_label"


def test_everything_of_the_manifest_is_either_of_the_inbox_of_the_bytes_or_decided_later() -> None:
    """A new column must be placed, or it would be lost on the second night."""
    inbox = {*INBOX, "key", "version_id", *("image_id", "patient_id", "view", "laterality", "site_id", "machine_id")}
    decided = {"age", "density", "split", "quarantine_reason", "quarantine_detail"}
    assert set(manifest.COLUMN_NAMES) == inbox | decided | set(delta.FROM_BYTES)


def test_news_are_new_revised_and_withdrawn_keys() -> None:
    before = _rows(_before("same"), _before("etag"), _before("label"), _before("split"), _before("gone"))
    after = _rows(
        _before("same"),
        _before("etag", etag="2"),
        _before("label", label=0),
        _before("split", split="tuning"),
        _before("new"),
    )
    assert delta.news(before, after) == delta.News(
        new=frozenset({"new"}), revised=frozenset({"etag", "label", "split"}), withdrawn=frozenset({"gone"})
    )


@pytest.mark.parametrize("column", manifest.FINGERPRINT_COLUMNS)
def test_whatever_changes_the_fingerprint_is_news(column: str) -> None:
    kind = {item.name: item.kind for item in manifest.COLUMNS}[column]
    value: Any = {"string": "other", "Int64": 0, "Float64": 1.5}[kind]
    rows = [_rows(_before()), _rows(_before(**{column: value})), _rows(_before(**{column: None}))]
    for before in rows:
        for after in rows:
            differs = not before[column].equals(after[column])
            assert bool(delta.news(before, after).revised) == differs


def test_what_validation_set_aside_before_is_no_news_by_itself() -> None:
    failed = _before(quarantine_reason="failed_expectation", quarantine_detail="age 300")
    assert delta.news(_rows(failed), _rows(_before())) == delta.News(frozenset(), frozenset(), frozenset())


KEYS = st.lists(st.sampled_from([f"inbox/{batch}/{number}" for batch in "ab" for number in range(3)]), unique=True)


@st.composite
def _some(draw: st.DrawFn, read: bool) -> list[dict[str, Any]]:
    make = _before if read else _tonight
    return [
        make(key, batch=key.split("/")[1], etag=draw(st.sampled_from("12")), label=draw(st.sampled_from([0, 1])))
        for key in draw(KEYS)
    ]


@settings(deadline=None, max_examples=20)
@given(_some(read=False), _some(read=True), st.sets(st.sampled_from("ab")))
def test_every_image_of_tonight_is_either_known_or_read(
    tonight: list[dict[str, Any]], before: list[dict[str, Any]], waiting: set[str]
) -> None:
    settled = [row for row in tonight if row["batch"] not in waiting]
    changes = _compare(settled, before, *waiting)
    kept = [row["key"] for row in before if row["batch"] in waiting]
    assert sorted([*changes.known["key"], *changes.to_read["key"]]) == sorted([*(row["key"] for row in settled), *kept])
    assert changes.known["shard_key"].notna().all()
    assert changes.to_read["shard_key"].isna().all()

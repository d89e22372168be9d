"""Ingest: nothing is lost, nothing doubled, nothing read twice, and no holdout patient is ever learnt from."""

import io
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inboxes import NOW, Hospital, dicom, labels_csv, local_storage, picture
from PIL import Image, ImageOps

from bc_tasks import fingerprint, holdout, intake, manifest, runs, snapshots
from bc_tasks.config import SplitsConfig
from bc_tasks.errors import ConfigError, HoldoutChanged
from bc_tasks.pixels import decode
from bc_tasks.records import Leak, Leaks, Snapshot
from bc_tasks.shards import pixel_sha256
from bc_tasks.splits import split_of
from bc_tasks.storage import Storage, join


@pytest.fixture
def hospital(file_data_uri: str) -> Hospital:
    """An empty inbox on disk, and a holdout of a patient who never comes."""
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.fix_holdout()
    return hospital


def _news(snapshot: Snapshot) -> tuple[int, int, int]:
    return snapshot.num_new, snapshot.num_revised, snapshot.num_withdrawn


def _folders(first: int, num: int) -> dict[str, bytes]:
    return {f"{number % 2}/p{number // 2}_{number}_png.jpg": picture(number) for number in range(first, first + num)}


# Night by night.


def test_the_first_night_takes_everything(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 6))
    hospital.put("b", {"x/1.jpg": picture(10), "labels.csv": labels_csv({"x/1.jpg": 1}, patient_id="P9", site_id="2")})
    candidate = hospital.ingest("1")
    assert _news(candidate) == (7, 0, 0)
    assert (candidate.number, candidate.base_number) == (None, None)
    assert candidate.counts.num_images == 7
    assert candidate.counts.num_patients == 4
    assert candidate.counts.by_label == {"0": 3, "1": 4}
    assert candidate.counts.by_site == {"2": 1, "unknown": 6}
    rows = hospital.rows(candidate)
    assert rows["split"].isin(["training", "tuning"]).all()
    assert rows["shard_key"].nunique() == 2
    assert hospital.listing("pixels") == sorted(set(rows["shard_key"]))
    assert hospital.listing("snapshots") == []


def test_a_night_without_anything_new_has_no_news_and_reads_nothing(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 6))
    first = hospital.night("1")
    assert hospital.num_read("2") == 0
    second = hospital.ingest("2")
    assert not second.has_news
    assert (second.fingerprint, second.base_number) == (first.fingerprint, 1)
    assert hospital.night("3").number == 1


def test_what_a_night_has_committed_stays_news_until_its_verdict_is_carried_out(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 6))
    first = hospital.broken_off_night("1")
    second = hospital.ingest("2")
    assert (second.has_changes, second.base_is_unfinished, second.has_news) == (False, True, True)
    assert hospital.night("3") == first
    assert not hospital.ingest("4").has_news


def test_a_night_reads_only_what_is_new(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 6))
    hospital.night("1")
    shards = hospital.listing("pixels")
    hospital.put("b", _folders(6, 2))
    assert hospital.num_read("2") == 2
    second = hospital.ingest("2")
    assert _news(second) == (2, 0, 0)
    assert set(hospital.listing("pixels")) > set(shards)
    assert second.counts.num_images == 8


def test_an_image_overwritten_by_one_of_the_same_size_is_revised(hospital: Hospital) -> None:
    old, new = picture(1), bytearray(picture(2))
    size = max(len(old), len(new)) + 2
    hospital.put("a", {"0/1.jpg": old.ljust(size, b"\0"), "1/2.jpg": picture(3)})
    first = hospital.night("1")
    hospital.put("a", {"0/1.jpg": bytes(new.ljust(size, b"\0"))})
    second = hospital.ingest("2")
    assert _news(second) == (0, 1, 0)
    before, after = hospital.rows(first), hospital.rows(second)
    assert before["num_bytes"].tolist() == after["num_bytes"].tolist()
    assert (before["pixel_sha256"] == after["pixel_sha256"]).tolist() == [False, True]


def test_an_image_uploaded_again_unchanged_is_looked_at_and_is_the_same_data(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 2))
    first = hospital.night("1")
    time.sleep(0.01)
    hospital.put("a", _folders(0, 2))
    assert hospital.ingest("2").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("column", "value"), [("label", 0), ("patient_id", "P2"), ("view", "MLO"), ("age", 61.5), ("site_id", None)]
)
def test_what_labels_csv_says_anew_is_a_revision_without_reading_the_image(
    hospital: Hospital, column: str, value: Any
) -> None:
    said = {"patient_id": "P1", "site_id": "1", "view": "CC", "age": "50"}
    hospital.put("a", {"1.jpg": picture(1), "labels.csv": labels_csv({"1.jpg": 1}, **said)})
    first = hospital.night("1")
    label, columns = (value, said) if column == "label" else (1, said | {column: "" if value is None else str(value)})
    hospital.put("a", {"labels.csv": labels_csv({"1.jpg": label}, **columns)})
    assert hospital.num_read("2") == 0
    second = hospital.ingest("2")
    assert _news(second) == (0, 1, 0)
    row = hospital.rows(second).iloc[0]
    assert pd.isna(row[column]) if value is None else row[column] == value
    assert row["pixel_sha256"] == hospital.rows(first)["pixel_sha256"][0]


def test_a_moved_folder_is_the_same_data(hospital: Hospital) -> None:
    files = _folders(0, 5)
    hospital.put("a", files)
    first = hospital.night("1")
    shards = hospital.listing("pixels")
    hospital.remove("a")
    hospital.put("b/train", files)
    second = hospital.night("2")
    assert _news(second) == (5, 0, 5)
    assert second.fingerprint == first.fingerprint
    assert hospital.listing("pixels") == shards
    assert set(hospital.rows(second)["batch"]) == {"b"}


def test_a_withdrawn_image_stays_in_old_snapshots_only(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 4))
    first = hospital.night("1")
    shards = hospital.listing("pixels")
    hospital.remove("a", "p0_0_png.jpg")
    second = hospital.night("2")
    assert _news(second) == (0, 0, 1)
    assert second.counts.num_images == 3
    assert len(hospital.rows(first)) == 4
    assert hospital.listing("pixels") == shards


def test_a_batch_that_waits_keeps_the_rows_that_it_had(hospital: Hospital) -> None:
    hospital = Hospital(hospital.storage, hospital.data_uri, {"ingest.complete_marker": "_DONE"})
    hospital.put("a", _folders(0, 4) | {"_DONE": b""})
    first = hospital.night("1")
    hospital.remove("a", "_DONE", "p0_0_png.jpg")
    hospital.put("a", {"0/p9_9_png.jpg": picture(9), "1/p0_1_png.jpg": picture(8)})
    hospital.put("b", {"0/p8_8_png.jpg": picture(7)})
    waiting = hospital.ingest("2")
    assert (waiting.has_news, waiting.waiting_batches) == (False, ("a", "b"))
    assert waiting.fingerprint == first.fingerprint
    hospital.put("a", {"_DONE": b""})
    done = hospital.ingest("3")
    assert _news(done) == (1, 1, 1)
    assert done.waiting_batches == ("b",)


def test_a_new_batch_waits_as_a_whole_until_it_has_settled(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {"ingest.settle_minutes": 90})
    hospital.fix_holdout()
    hospital.put("a", _folders(0, 2))
    assert hospital.ingest("1").waiting_batches == ("a",)  # NOW is one hour later
    assert hospital.ingest("2", now=NOW.replace(year=NOW.year + 1)).num_new == 2


def test_a_step_tried_again_after_its_record_returns_the_record(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 2))
    first = hospital.ingest("1")
    hospital.put("a", _folders(2, 2))
    assert hospital.ingest("1") == first


# Quarantine.


def test_a_faulty_image_is_listed_and_not_read_again_while_its_bytes_stand(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 2) | {"0/bad.jpg": b"no image", "0/empty.jpg": b"", "2/odd.jpg": picture(9)})
    first = hospital.night("1")
    assert _news(first) == (5, 0, 0)
    assert first.quarantined_now == {"bad_label": 1, "empty_file": 1, "unknown_format": 1}
    assert first.counts.num_quarantined == 3
    assert hospital.num_read("2") == 0
    second = hospital.ingest("2")
    assert not second.has_news
    assert second.quarantined_now == {}
    assert hospital.reasons(second) == hospital.reasons(first)


def test_a_mended_image_is_revised(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 2) | {"0/bad.jpg": picture(9)[:300]})
    hospital.night("1")
    hospital.put("a", {"0/bad.jpg": picture(9)})
    second = hospital.ingest("2")
    assert _news(second) == (0, 1, 0)
    assert second.counts.num_quarantined == 0


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ("path,lable\n1.jpg,1\n", "bad_labels_file"),
        (labels_csv({"1.jpg": 2}), "bad_label"),
        (labels_csv({"1.jpg": ""}), "no_label"),
        (labels_csv({"2.jpg": 1}), "no_label"),
        (labels_csv({"1.jpg": 1}) + "1.jpg,0\n", "conflicting_labels"),
    ],
)
def test_a_mended_labels_file_frees_its_images(hospital: Hospital, spoiled: str, reason: str) -> None:
    hospital.put("a", {"1.jpg": picture(1), "2.jpg": picture(2), "labels.csv": spoiled})
    first = hospital.night("1")
    assert hospital.reasons(first)["a/1.jpg"] == reason
    hospital.put("a", {"labels.csv": labels_csv({"1.jpg": 1, "2.jpg": 0})})
    second = hospital.ingest("2")
    assert hospital.reasons(second) == {"a/1.jpg": None, "a/2.jpg": None}
    assert second.num_revised >= 1


def test_a_limit_that_is_raised_frees_what_was_too_large(hospital: Hospital) -> None:
    strict = Hospital(hospital.storage, hospital.data_uri, {"ingest.max_source_pixels": 1000})
    strict.put("a", _folders(0, 2))
    assert strict.night("1").quarantined_now == {"too_large": 2}
    second = hospital.night("2")
    assert _news(second) == (0, 2, 0)
    assert second.counts.num_images == 2


def test_a_missing_image_that_arrives_frees_its_label(hospital: Hospital) -> None:
    hospital.put("a", {"1.jpg": picture(1), "labels.csv": labels_csv({"1.jpg": 1, "2.jpg": 0})})
    assert hospital.night("1").quarantined_now == {"missing_image": 1}
    hospital.put("a", {"2.jpg": picture(2)})
    second = hospital.ingest("2")
    assert _news(second) == (0, 1, 0)
    assert hospital.reasons(second) == {"a/1.jpg": None, "a/2.jpg": None}


@pytest.mark.parametrize(
    "second_file", [picture(1), picture(1) + b"\0"], ids=["the same file", "another file of the same picture"]
)
def test_of_copies_the_earlier_stays_whatever_its_name(hospital: Hospital, second_file: bytes) -> None:
    hospital.put("m", {"0/1.jpg": picture(1), "0/2.jpg": second_file})
    first = hospital.night("1")
    assert hospital.reasons(first) == {"m/0/1.jpg": None, "m/0/2.jpg": "duplicate_content"}
    hospital.put("a", {"0/other.jpg": second_file})
    for name in ("2", "3"):
        assert hospital.reasons(hospital.night(name)) == {
            "a/0/other.jpg": "duplicate_content",
            "m/0/1.jpg": None,
            "m/0/2.jpg": "duplicate_content",
        }
    hospital.remove("m")
    assert hospital.reasons(hospital.ingest("4")) == {"a/0/other.jpg": None}


@pytest.mark.parametrize("batch", ["a", "b"], ids=["in a batch", "across batches"])
@pytest.mark.parametrize("nights", [1, 2])
def test_one_picture_with_two_labels_is_used_by_neither_until_one_is_withdrawn(
    hospital: Hospital, batch: str, nights: int
) -> None:
    hospital.put("a", {"0/1.jpg": picture(1)})
    if nights == 2:
        hospital.night("1")
    hospital.put(batch, {"1/2.jpg": picture(1)})
    assert set(hospital.reasons(hospital.night("2")).values()) == {"conflicting_labels"}
    hospital.remove(batch, "1/2.jpg")
    assert hospital.reasons(hospital.night("3")) == {"a/0/1.jpg": None}


def test_two_images_of_one_id_are_not_both_used(hospital: Hospital) -> None:
    for batch, seed in (("a", 1), ("b", 2)):
        files = {"1.jpg": picture(seed), "labels.csv": labels_csv({"1.jpg": 1}, image_id="i7")}
        hospital.put(batch, files)
    assert hospital.reasons(hospital.ingest("1")) == {"a/1.jpg": None, "b/1.jpg": "duplicate_image_id"}


def test_one_class_only_is_taken_and_counted_for_validation_to_judge(hospital: Hospital) -> None:
    hospital.put("a", {f"0/{number}.jpg": picture(number) for number in range(3)})
    assert hospital.ingest("1").counts.by_label == {"0": 3}


def test_an_empty_inbox_has_no_news(hospital: Hospital) -> None:
    candidate = hospital.ingest("1")
    assert not candidate.has_news
    assert candidate.counts.num_images == 0
    assert hospital.rows(candidate).equals(manifest.empty())


# Who is who, and who is never learnt from.


def test_people_win_over_a_files_tags_and_tags_over_nothing(hospital: Hospital) -> None:
    tags = {"PatientID": "TAG", "ViewPosition": "MLO", "ImageLaterality": "R", "PatientAge": "061Y"}
    said = labels_csv({"1.dcm": 1}, patient_id="P1", view="CC")
    hospital.put("a", {"1.dcm": dicom(1, **tags), "labels.csv": said})
    hospital.put("b", {"0/2.dcm": dicom(2, **tags), "0/7_3_png.jpg": picture(3), "1/scan.rf.0a.jpg": picture(4)})
    rows = hospital.rows(hospital.ingest("1")).set_index("key")
    assert rows.loc["inbox/a/1.dcm", ["patient_id", "view", "laterality", "age"]].tolist() == ["P1", "CC", "R", 61]
    assert rows.loc["inbox/b/0/2.dcm", ["patient_id", "view"]].tolist() == ["TAG", "MLO"]
    assert rows.loc["inbox/b/0/7_3_png.jpg", ["patient_id", "image_id"]].tolist() == ["7", "7_3"]
    assert rows.loc["inbox/b/1/scan.rf.0a.jpg", "patient_id"] == "scan"


def test_a_patient_that_labels_csv_stops_naming_is_the_tags_again(hospital: Hospital) -> None:
    hospital.put("a", {"1.dcm": dicom(1, PatientID="TAG"), "labels.csv": labels_csv({"1.dcm": 1}, patient_id="P1")})
    hospital.night("1")
    hospital.put("a", {"labels.csv": labels_csv({"1.dcm": 1})})
    assert hospital.rows(hospital.ingest("2"))["patient_id"][0] == "TAG"


def test_a_new_image_of_a_holdout_patient_is_never_learnt_from(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    fixed = hospital.fix_holdout("p1")
    hospital.put("a", _folders(0, 8))
    candidate = hospital.ingest("1")
    assert candidate.quarantined_now == {"holdout_patient": 2}
    rows = hospital.rows(candidate)
    hers = rows[rows["patient_id"] == "p1"]
    assert set(hers["split"]) == {"holdout"}
    assert set(hers["quarantine_detail"]) == {"patient p1 is in the holdout"}
    assert set(manifest.usable(rows)["split"]) <= {"training", "tuning"}
    assert holdout.load(hospital.storage, hospital.data_uri).fingerprint == fixed.fingerprint


def test_a_holdout_patient_under_another_name_is_known_by_her_pictures(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    config = hospital.config.ingest
    hers = decode(picture(1), name="1.jpg", config=config.pixels, max_source_pixels=config.max_source_pixels)
    hospital.fix_holdout("p1", pixel_sha256=pixel_sha256(hers.pixels))
    hospital.put("b", {"0/alias_1_png.jpg": picture(1), "0/alias_9_png.jpg": picture(9), "0/p3_3_png.jpg": picture(3)})
    candidate = hospital.ingest("1")
    assert candidate.notes == (
        "1 patients are in the holdout under another name, and are not learnt from: see the manifest",
    )
    rows = hospital.rows(candidate)
    assert set(rows.loc[rows["patient_id"] == "alias", "split"]) == {"holdout"}
    assert rows.loc[rows["patient_id"] == "p3", "split"].item() != "holdout"
    assert hospital.reasons(candidate) == {
        "b/0/alias_1_png.jpg": "holdout_pixels",
        "b/0/alias_9_png.jpg": "holdout_patient",
        "b/0/p3_3_png.jpg": None,
    }


def _mirrored(seed: int) -> bytes:
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(picture(seed)))).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _leaks(hospital: Hospital, name: str) -> tuple[Leak, ...]:
    return runs.read(hospital.storage, join(hospital.data_uri, "runs", name), Leaks).leaks


def test_of_near_copies_across_the_splits_the_earlier_is_learnt_from_until_it_is_withdrawn(hospital: Hospital) -> None:
    hospital.put("m", _folders(0, 20))
    first = hospital.rows(hospital.night("1"))
    (tuned, *_) = first[first["split"] == "tuning"].itertuples()
    learner = next(f"q{number}" for number in range(99) if split_of(f"q{number}", hospital.config.splits) == "training")
    number = int(tuned.source_stem.split("_")[1])
    hospital.put("a", {f"0/{learner}_1_png.jpg": _mirrored(number), "0/other_2_png.jpg": picture(99)})
    for name in ("2", "3"):
        candidate = hospital.night(name)
        reasons = hospital.reasons(candidate)
        assert {key: reason for key, reason in reasons.items() if reason} == {
            f"a/0/{learner}_1_png.jpg": "split_near_copy"
        }
    (leak,) = _leaks(hospital, "2")
    assert (leak.other_image_id, leak.transform) == (tuned.image_id, "mirrored")
    assert all(
        Image.open(io.BytesIO(b64decode(text))).size == (128, 128) for text in (leak.thumbnail, leak.other_thumbnail)
    )
    assert _leaks(hospital, "3") == ()  # no news
    hospital.remove("m", tuned.key.rpartition("/")[2])
    assert not any(hospital.reasons(hospital.ingest("4")).values())


def test_a_leak_that_was_learnt_from_until_now_is_news(hospital: Hospital) -> None:
    """As where an older version of ours, or of the search, had not seen it."""
    hospital.put("a", {f"0/q{number}_1_png.jpg": picture(5) if number else _mirrored(5) for number in range(2)})
    settings = {"splits.salt": next(salt for salt in map(str, range(99)) if _are_apart(salt))}
    hospital = Hospital(hospital.storage, hospital.data_uri, settings)
    candidate = hospital.ingest("1")
    older = hospital.rows(candidate).assign(near_copies=None, near_copies_version=None, quarantine_reason=None)
    older_record = candidate.model_copy(update={"fingerprint": fingerprint.of_manifest(older)})
    snapshots.commit(hospital.storage, hospital.data_uri, older_record, older)
    second = hospital.ingest("2")
    assert _news(second) == (0, 1, 0)
    assert second.quarantined_now == {"split_near_copy": 1}


def test_a_leak_of_the_holdout_that_was_learnt_from_until_now_is_told(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.fix_holdout("p1", tag_patient_id="D1")
    hospital.put("b", {"0/D1_1_png.jpg": picture(1), "0/p3_3_png.jpg": picture(3), "0/D1_4_png.jpg": picture(4)})
    candidate = hospital.ingest("1")
    older = hospital.rows(candidate).assign(quarantine_reason=None, split="training")
    older_record = candidate.model_copy(update={"fingerprint": fingerprint.of_manifest(older)})
    snapshots.commit(hospital.storage, hospital.data_uri, older_record, older)
    hospital.put("c", {"0/D1_5_png.jpg": picture(5)})
    second = hospital.night("2")
    assert (
        "2 images that earlier snapshots used are leaks: versions trained on them are measured on" in second.notes[-1]
    )
    assert [leak.was_learnt for leak in _leaks(hospital, "2")] == [True, True, False]
    assert not any("earlier snapshots" in note for note in hospital.ingest("3").notes)


def test_more_images_of_the_holdouts_patients_are_no_news_until_something_else_comes(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.fix_holdout("p1")
    hospital.put("a", {f"0/p{number}_{number}_png.jpg": picture(number) for number in range(2, 6)})
    hospital.night("1")
    hospital.put("b", {"0/p1_10_png.jpg": picture(10), "0/p2_12_png.jpg": picture(2)})
    second = hospital.ingest("2")
    assert second.quarantined_now == {"duplicate_content": 1, "holdout_patient": 1}
    assert (second.has_changes, second.has_news) == (True, False)
    hospital.put("b", {"0/p6_11_png.jpg": picture(11)})
    assert hospital.night("3").number == 2
    hospital.remove("b", "p1_10_png.jpg")
    assert not hospital.ingest("4").has_news


@pytest.mark.parametrize("what", ["a fault", "a disguised leak", "another label", "one image less"])
def test_what_a_person_must_see_or_a_model_learns_otherwise_is_news(file_data_uri: str, what: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.fix_holdout("p1")
    hospital.put("a", {f"0/p{number}_{number}_png.jpg": picture(number) for number in range(2, 6)})
    hospital.night("1")
    hospital.put("b", {"0/p1_10_png.jpg": picture(10)})
    if what == "a fault":
        hospital.put("b", {"0/p7_9_png.jpg": b""})
    elif what == "a disguised leak":
        hospital.put("b", {"0/p1-0.jpg": picture(9), "labels.csv": labels_csv({"0/p1-0.jpg": 1}, patient_id="p8")})
    elif what == "another label":
        hospital.remove("a", "p2_2_png.jpg")
        hospital.put("a", {"1/p2_2_png.jpg": picture(2)})
    else:
        hospital.remove("a", "p2_2_png.jpg")
    assert hospital.ingest("2").has_news


def _are_apart(salt: str) -> bool:
    config = SplitsConfig(salt=salt)
    return split_of("q0", config) != split_of("q1", config)


def test_what_was_compared_is_not_compared_again(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 6))
    hospital.night("1")
    for item in hospital.storage.list(join(hospital.data_uri, "near-copies")):
        hospital.storage.delete(item.uri)
    hospital.night("2")
    assert hospital.listing("near-copies") == []
    hospital.put("b", {"0/p9_9_png.jpg": picture(9)})
    assert hospital.ingest("3").counts.num_images == 7
    features = [path for path in hospital.listing("near-copies") if path.endswith(".features")]
    assert len(features) == 4  # of the holdout, of 4 and 2 images, and of the new one


def test_what_a_night_without_news_has_compared_is_not_compared_again(hospital: Hospital) -> None:
    """As after an upgrade: that night commits no manifest that could have it noted."""
    hospital.put("a", _folders(0, 6))
    candidate = hospital.ingest("1")
    older = hospital.rows(candidate).assign(near_copies=None, near_copies_version=None)
    snapshots.commit(hospital.storage, hospital.data_uri, candidate, older)
    assert hospital.night("2").number == 1
    for folder in ("pixels", "near-copies"):
        for item in hospital.storage.list(join(hospital.data_uri, folder)):
            if "/found/" not in item.uri:
                hospital.storage.delete(item.uri)
    again = hospital.rows(hospital.ingest("3"))
    assert again["near_copies"].eq("{}").all()


def test_black_images_are_copies_of_nothing(hospital: Hospital) -> None:
    buffer = io.BytesIO()
    Image.new("L", (80, 80)).save(buffer, "PNG")
    hospital.put("a", {f"0/p{number}_{number}_png.png": buffer.getvalue() for number in range(8)})
    assert hospital.ingest("1").quarantined_now == {"duplicate_content": 7}


def test_another_division_of_patients_is_news(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 20))
    hospital.night("1")
    other = Hospital(hospital.storage, hospital.data_uri, {"splits.tuning_share": 0.9})
    assert other.ingest("2").num_revised > 0


# What is refused.


def test_without_a_holdout_nothing_is_read(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.put("a", _folders(0, 2))
    with pytest.raises(ConfigError, match="bc holdout create"):
        hospital.ingest("1")
    assert hospital.listing("pixels") == []


@pytest.mark.parametrize("committed", [False, True], ids=["holdout", "last snapshot"])
def test_pixels_prepared_in_two_ways_are_never_mixed(hospital: Hospital, committed: bool) -> None:
    hospital.put("a", _folders(0, 2))
    if committed:
        hospital.night("1")
    other = Hospital(hospital.storage, hospital.data_uri, {"ingest.pixels.crop_to_breast": False})
    with pytest.raises(ConfigError, match="Pixels prepared in two ways can't be mixed"):
        other.ingest("2")


def test_snapshots_made_against_another_holdout_are_refused(hospital: Hospital) -> None:
    hospital.put("a", _folders(0, 2))
    hospital.night("1")
    for item in hospital.storage.list(join(hospital.data_uri, "holdout")):
        hospital.storage.delete(item.uri)
    hospital.fix_holdout("somebody else")
    with pytest.raises(HoldoutChanged, match="snapshot 1 was made against holdout"):
        hospital.ingest("2")


def test_a_pinned_holdout_must_be_the_one_that_is_there(hospital: Hospital) -> None:
    pinned = Hospital(hospital.storage, hospital.data_uri, {"holdout.fingerprint": "b" * 64})
    with pytest.raises(HoldoutChanged, match="the configuration pins"):
        pinned.ingest("1")


# A snapshot is what the inbox holds, however it came to hold it.

NAMES = ["a/0/p1_1_png.jpg", "a/1/p1_2_png.jpg", "a/0/p2_3_png.jpg", "b/x.jpg", "b/y.dcm"]
EVENT = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(0, 2)),
    st.tuples(st.just("spoil"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("label"), st.sampled_from(NAMES[3:]), st.integers(0, 3)),
)


def _happen(hospital: Hospital, labels: dict[str, int], event: tuple[str, str, int]) -> None:
    kind, name, number = event
    batch, _, path = name.partition("/")
    if kind == "put":
        seed = 10 * NAMES.index(name) + number
        hospital.put(batch, {path: dicom(seed, PatientID=f"T{number}") if path.endswith(".dcm") else picture(seed)})
    elif kind == "spoil":
        hospital.put(batch, {path: b"no image"})
    elif kind == "remove":
        hospital.remove(batch, path)
    else:
        labels[path] = number
        hospital.put(batch, {"labels.csv": labels_csv(labels, view="CC" if number % 2 else "")})


@settings(deadline=None, max_examples=10)
@given(nights=st.lists(st.lists(EVENT, min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_snapshot_does_not_depend_on_how_many_nights_its_images_took(
    tmp_path_factory: pytest.TempPathFactory, nights: list[list[tuple[str, str, int]]]
) -> None:
    slow, fast = (Hospital(local_storage(), f"file://{tmp_path_factory.mktemp('data')}", {}) for _ in ("slow", "fast"))
    for hospital in (slow, fast):
        hospital.fix_holdout()
        labels: dict[str, int] = {}
        for number, events in enumerate(nights):
            for event in events:
                _happen(hospital, labels, event)
            if hospital is slow:
                hospital.night(str(number))
    in_slow, in_fast = slow.ingest("last"), fast.ingest("last")
    assert in_slow.fingerprint == in_fast.fingerprint
    assert in_slow.counts == in_fast.counts
    assert slow.reasons(in_slow) == fast.reasons(in_fast)


# Through the command line, on a real S3 server.


@pytest.fixture
def bucket(storage: Storage, data_uri: str) -> Hospital:
    """An empty inbox in S3, and a holdout of a patient who never comes."""
    hospital = Hospital(storage, data_uri, {})
    hospital.fix_holdout()
    return hospital


def _bc(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bc_tasks.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **(environment or {})}
    )


def test_a_night_in_s3_through_the_command_line(bucket: Hospital) -> None:
    exported = {
        f"{split}/{path}": data
        for split, first in (("train", 0), ("valid", 4), ("test", 6))
        for path, data in _folders(first, 2).items()
    }
    bucket.put(
        "2026-11-23 Röntgen #1+2%", exported | {"README.roboflow.txt": b"x", "train/0/größe 1+1.jpg": picture(50)}
    )
    done = _bc("ingest", "--run-uri", bucket.start("1"))
    assert done.returncode == 0, done.stderr
    assert "7 new, 0 revised, 0 withdrawn images; quarantined tonight: none" in done.stdout
    candidate = bucket.ingest("1")
    assert candidate.counts.by_label == {"0": 4, "1": 3}
    assert "inbox/2026-11-23 Röntgen #1+2%/train/0/größe 1+1.jpg" in set(bucket.rows(candidate)["key"])


@pytest.mark.parametrize(
    ("change", "environment", "words"),
    [
        (lambda uri: uri.replace("s3://images", "s3://no-such-bucket"), {}, "does not exist"),
        (lambda uri: uri, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        (lambda uri: uri, {"AWS_ACCESS_KEY_ID": "nobody"}, "AWS_ACCESS_KEY_ID"),
        (lambda uri: uri.removeprefix("s3://"), {}, "is no storage URI"),
    ],
    ids=["no such bucket", "wrong secret", "unknown key", "no URI"],
)
def test_what_is_wrong_with_the_storage_is_a_sentence_and_exit_code_78(
    bucket: Hospital, change: Callable[[str], str], environment: dict[str, str], words: str
) -> None:
    done = _bc("ingest", "--run-uri", change(bucket.start("1")), environment=environment)
    assert done.returncode == 78
    assert done.stderr.startswith("ConfigError: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_typo_in_the_configuration_is_a_sentence_and_exit_code_78(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text('data_uri = "s3://images"\n[training]\nepoch = 3\n')
    done = _bc("start", "--config", str(path))
    assert done.returncode == 78
    assert "training.epoch: unknown key; known here: backbones," in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_was_never_started_is_exit_code_66(bucket: Hospital) -> None:
    done = _bc("ingest", "--run-uri", join(bucket.data_uri, "runs", "none"))
    assert done.returncode == 66
    assert "has no start.json: the step 'start' failed or has not run" in done.stderr


@pytest.mark.slow
def test_a_night_that_is_killed_half_way_and_done_again_is_as_if_it_had_never_been_disturbed(
    bucket: Hospital, data_uri: str
) -> None:
    undisturbed = Hospital(bucket.storage, f"{data_uri}-undisturbed", {})
    undisturbed.fix_holdout()
    files = {path: data.ljust(60_000, b"\0") for path, data in _folders(0, 80).items()}
    assert sum(map(len, files.values())) > intake.FEW_BYTES  # so that processes decode
    for hospital in (bucket, undisturbed):
        hospital.put("a", files)
    run_uri = bucket.start("1")
    command = [sys.executable, "-m", "bc_tasks.cli", "ingest", "--run-uri", run_uri]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while len(bucket.listing("pixels")) < 2:
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    half_way = bucket.listing("pixels")
    assert 2 <= len(half_way) < 20
    assert bucket.listing("runs") == ["runs/1/start.json"]
    again = _bc("ingest", "--run-uri", run_uri)
    assert again.returncode == 0, again.stderr
    seen, wanted = bucket.ingest("1"), undisturbed.ingest("1")
    assert seen.fingerprint == wanted.fingerprint
    assert seen.counts == wanted.counts
    assert set(half_way) < set(bucket.listing("pixels"))
    for folder in ("pixels", "near-copies", "runs", "snapshots"):
        assert bucket.listing(folder) == undisturbed.listing(folder)

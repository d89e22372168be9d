"""A withdrawn patient: out of every snapshot to come, for good, and nothing else suffers from it."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inboxes import NOW, Hospital, dicom, labels_csv, local_storage, picture
from manifests import make_manifest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from bc_tasks import holdout, withdrawals, withdrawing, withholding
from bc_tasks.cli import app
from bc_tasks.errors import ConfigError, DataError
from bc_tasks.holdout_creation import Choice, create
from bc_tasks.leaks import feature_store
from bc_tasks.records import ValidationReport
from bc_tasks.splits import split_of
from bc_tasks.steps import validate
from bc_tasks.storage import join
from bc_tasks.withdrawing import Outcome
from bc_tasks.withholding import Withdrawn

HELD_BACK = "withdrawn_patient"


@pytest.fixture
def hospital(file_data_uri: str) -> Hospital:
    """Two nights' worth of patients P0 to P5, two images each, the first night run."""
    hospital = Hospital(local_storage(), file_data_uri, {"validation.min_images": 2, "validation.min_class_share": 0})
    hospital.fix_holdout("held-out")
    hospital.put("a", _batch(range(12)))
    hospital.night("1")
    return hospital


def _batch(numbers: range) -> dict[str, bytes]:
    return {f"{number % 2}/P{number // 2}_{number}_png.jpg": picture(number) for number in numbers}


def _withdraw(hospital: Hospital, patient_id: str = "P1", *, unknown_ok: bool = False) -> Outcome:
    return withdrawing.withdraw(
        hospital.storage,
        hospital.data_uri,
        patient_id,
        reason="consent withdrawn, request 114",
        by="privacy desk",
        now=NOW,
        unknown_ok=unknown_ok,
    )


def _used(hospital: Hospital, name: str) -> set[str]:
    rows = hospital.rows(hospital.night(name))
    return set(rows.loc[rows["quarantine_reason"].isna(), "patient_id"])


def _held(hospital: Hospital, name: str) -> pd.DataFrame:
    rows = hospital.rows(hospital.night(name))
    return rows[rows["quarantine_reason"] == HELD_BACK]


# The next night, and all after it.


def test_a_withdrawn_patient_is_out_of_the_next_snapshot_which_therefore_is_news(hospital: Hospital) -> None:
    _withdraw(hospital)
    second = hospital.ingest("2")
    assert (second.num_new, second.num_revised, second.num_withdrawn) == (0, 0, 2)
    assert second.has_news
    assert second.counts.num_patients == 5
    assert "2 images in the inbox are of withdrawn patients: held back, to be removed there" in second.notes
    assert _used(hospital, "3") == {"P0", "P2", "P3", "P4", "P5"}
    assert not hospital.ingest("4").has_changes


def test_nothing_but_whose_it_is_stays_of_a_withdrawn_image_in_a_new_snapshot(hospital: Hospital) -> None:
    _withdraw(hospital)
    held = _held(hospital, "2")
    assert held["patient_id"].tolist() == ["P1", "P1"]
    known = {*withholding.KEPT, "split", "quarantine_reason", "quarantine_detail"}
    assert set(held.columns[held.notna().any()]) <= known


def test_a_withdrawn_image_is_never_read_again(hospital: Hospital) -> None:
    _withdraw(hospital)
    assert hospital.num_read("2") == 0
    hospital.night("3")
    assert hospital.num_read("4") == 0


@pytest.mark.parametrize("again", ["new images", "the same file anew", "the same images under other keys"])
def test_no_batch_brings_a_withdrawn_patient_back(hospital: Hospital, again: str) -> None:
    _withdraw(hospital)
    files = _batch(range(2, 4))
    if again == "new images":
        hospital.put("b", {"1/P1_77_png.jpg": picture(77)})
    elif again == "the same file anew":
        hospital.put("a", {path: data + b"\0" for path, data in files.items()})
    else:
        hospital.put("b", {path.replace("P1", "P9"): data for path, data in files.items()})
    assert hospital.num_read("2") == (2 if "other keys" in again else 0)
    assert _used(hospital, "3") == {"P0", "P2", "P3", "P4", "P5"}


def test_new_images_of_a_withdrawn_patient_are_no_news(hospital: Hospital) -> None:
    _withdraw(hospital)
    hospital.night("2")
    hospital.put("b", {"1/P1_77_png.jpg": picture(77)})
    assert not hospital.ingest("3").has_news
    hospital.remove("b")
    hospital.remove("a", "P1_2_png.jpg", "P1_3_png.jpg")
    assert not hospital.ingest("4").has_news


def test_who_has_a_picture_of_a_withdrawn_patient_is_taken_for_them_and_named(hospital: Hospital) -> None:
    _withdraw(hospital)
    hospital.remove("a", "P1_2_png.jpg", "P1_3_png.jpg")
    hospital.put("b", {"0/P9_90_png.jpg": picture(2), "0/P9_91_png.jpg": picture(91)})
    second = hospital.night("2")
    assert "1 other names are taken for them, by a picture or a tag" in second.notes[-1]
    assert "P9" not in second.notes[-1]
    assert "P9" not in _used(hospital, "3")
    hospital.put("c", {"0/P9_92_png.jpg": picture(92)})
    assert "P9" not in _used(hospital, "4")


def test_a_black_image_makes_nobody_a_withdrawn_patient() -> None:
    frame = make_manifest(6).assign(pixel_sha256="0" * 64, grey_std=0.0)
    held = withholding.hold_back(frame, Withdrawn(frozenset({"p0"}), frozenset({"0" * 64})))
    assert set(held.loc[withholding.is_held_back(held), "patient_id"]) == {"p0"}


def test_a_patient_whom_only_the_files_own_tags_name_is_held_back_and_read_once(hospital: Hospital) -> None:
    hospital.put("d", {"0/x.dcm": dicom(50, PatientID="D1"), "0/y.dcm": dicom(51, PatientID="D2")})
    assert "D1" in _used(hospital, "2")
    _withdraw(hospital, "D1")
    hospital.put("e", {"0/z.dcm": dicom(52, PatientID="D1")})
    assert hospital.num_read("3") == 1
    assert "D1" not in _used(hospital, "4")
    assert hospital.num_read("5") == 0
    assert _held(hospital, "6")["key"].tolist() == ["inbox/d/0/x.dcm", "inbox/e/0/z.dcm"]


def test_a_patient_whom_nobody_names_is_withdrawn_by_the_source_stem(hospital: Hospital) -> None:
    hospital.put("d", {"1/mystery.jpg": picture(60)})
    assert "mystery" in _used(hospital, "2")
    _withdraw(hospital, "mystery")
    assert "mystery" not in _used(hospital, "3")
    assert hospital.num_read("4") == 0


def test_an_image_that_turns_out_to_be_another_patients_is_used(hospital: Hospital) -> None:
    said = {"1.jpg": 1}
    hospital.put("d", {"1.jpg": picture(61), "labels.csv": labels_csv(said, patient_id="P7")})
    _withdraw(hospital, "P7", unknown_ok=True)
    assert "P7" not in _used(hospital, "2")
    hospital.put("d", {"labels.csv": labels_csv(said, patient_id="P8")})
    assert "P8" in _used(hospital, "3")


def test_a_batch_that_waits_holds_no_withdrawn_patient_either(hospital: Hospital) -> None:
    _withdraw(hospital)
    waiting = replace(hospital, settings={**hospital.settings, "ingest.complete_marker": "_DONE"})
    second = waiting.ingest("2")
    assert second.waiting_batches == ("a",)
    assert second.num_withdrawn == 2


# Under another name.


def _mirrored(seed: int) -> bytes:
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(picture(seed)))).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@pytest.mark.parametrize("removed", [False, True], ids=["theirs still lie there", "theirs were removed at once"])
@pytest.mark.parametrize("copy_first", [False, True], ids=["copy after original", "copy before original"])
def test_a_near_copy_that_was_set_aside_beside_the_original_is_not_used_in_its_stead(
    hospital: Hospital, copy_first: bool, removed: bool
) -> None:
    learner, tuner = (
        next(name for number in range(99) if split_of(name := f"{split}{number}", hospital.config.splits) == split)
        for split in ("training", "tuning")
    )
    whose = {f"0/{learner}_1_png.jpg": _mirrored(50), f"0/{learner}_3_png.jpg": picture(51)}
    batches = {"b": {f"0/{tuner}_2_png.jpg": picture(50)}, "c": whose}
    for batch in sorted(batches, reverse=copy_first):
        hospital.put(batch, batches[batch])
        second = hospital.night(f"with {batch}")
    assert "split_near_copy" in hospital.reasons(second).values()
    outcome = _withdraw(hospital, tuner)
    assert any("near copies of theirs" in one for one in outcome.sentences) == copy_first
    if removed:
        hospital.remove("b")
    for name in ("3", "4"):
        rows = hospital.rows(hospital.night(name))
        assert set(rows.loc[rows["patient_id"] == learner, "quarantine_reason"]) == {HELD_BACK}
    assert hospital.num_read("5") == 0


@pytest.mark.parametrize("removed", [False, True])
def test_a_near_copy_of_a_follow_up_of_a_withdrawn_holdout_patient_is_not_used(
    hospital: Hospital, removed: bool
) -> None:
    hospital.put("b", {"0/held-out_1_png.jpg": picture(50)})
    hospital.put("c", {"0/X_1_png.jpg": _mirrored(50), "0/X_2_png.jpg": picture(51)})
    assert hospital.reasons(hospital.night("2"))["c/0/X_1_png.jpg"] == "holdout_near_copy"
    _withdraw(hospital, "held-out")
    if removed:
        hospital.remove("b")
    for name in ("3", "4"):
        assert "X" not in _used(hospital, name)


def test_a_mirrored_picture_of_a_withdrawn_patient_is_known_when_it_comes_only_then(hospital: Hospital) -> None:
    _withdraw(hospital)
    hospital.remove("a", "P1_2_png.jpg", "P1_3_png.jpg")
    hospital.night("2")
    hospital.put("b", {"0/P9_90_png.jpg": _mirrored(2), "0/P9_91_png.jpg": picture(91), "0/P8_1_png.jpg": picture(92)})
    for name in ("3", "4"):
        used = _used(hospital, name)
        assert "P9" not in used
        assert "P8" in used
    assert hospital.num_read("5") == 0


def test_where_only_the_withdrawals_were_taken_along_the_night_goes_on(hospital: Hospital) -> None:
    _withdraw(hospital)
    for item in hospital.storage.list(join(hospital.data_uri, "pixels")):
        hospital.storage.delete(item.uri)
    assert withdrawals.stored_pictures(hospital.storage, hospital.data_uri).empty


def test_whom_the_files_tags_tie_to_a_withdrawn_patient_is_held_back_and_nothing_of_them_stored(
    hospital: Hospital,
) -> None:
    tagged = {"1.dcm": dicom(50, PatientID="D1"), "labels.csv": labels_csv({"1.dcm": 1}, patient_id="P7")}
    hospital.put("d", tagged)
    hospital.night("2")
    _withdraw(hospital, "P7")
    hospital.put("e", {"0/z.dcm": dicom(52, PatientID="D1"), "0/y.dcm": dicom(53, PatientID="D2")})
    hospital.put("f", {"2.dcm": dicom(54, PatientID="D1"), "labels.csv": labels_csv({"2.dcm": 1}, patient_id="P8")})
    before = set(hospital.listing("pixels"))
    hospital.ingest("3")
    (shard,) = set(hospital.listing("pixels")) - before
    assert len(np.load(io.BytesIO(hospital.storage.read(join(hospital.data_uri, shard))))) == 1  # of D2
    assert hospital.storage.find(join(hospital.data_uri, feature_store.key_of(shard))) is not None
    for name in ("4", "5"):
        used = _used(hospital, name)
        assert used.isdisjoint({"D1", "P7", "P8"})
        assert "D2" in used
    assert hospital.num_read("6") == 0


def test_a_tag_that_many_patients_share_ties_nobody_and_their_pixels_are_stored(hospital: Hospital) -> None:
    for number in range(3):
        said = labels_csv({"1.dcm": 1}, patient_id=f"A{number}")
        hospital.put(f"d{number}", {"1.dcm": dicom(50 + number, PatientID="ANON"), "labels.csv": said})
    hospital.night("2")
    _withdraw(hospital, "A0")
    said = labels_csv({"1.dcm": 1}, patient_id="A9")
    hospital.put("e", {"1.dcm": dicom(60, PatientID="ANON"), "labels.csv": said})
    for name in ("3", "4"):
        rows = hospital.rows(hospital.night(name))
        used = rows[rows["quarantine_reason"].isna()]
        assert {"A1", "A2", "A9"} <= set(used["patient_id"])
        assert used["shard_key"].notna().all()


def test_a_corrected_attribution_draws_no_innocent_patient_in(hospital: Hospital) -> None:
    said = {"y.jpg": 1, "z.jpg": 0}
    hospital.put("d", {"y.jpg": picture(61), "z.jpg": picture(62), "labels.csv": labels_csv(said, patient_id="P1")})
    hospital.night("2")
    hospital.put("d", {"labels.csv": labels_csv(said, patient_id="P2")})
    hospital.night("3")
    outcome = _withdraw(hospital)
    assert any("2 pictures that earlier snapshots gave to them" in sentence for sentence in outcome.sentences)
    assert len(outcome.withdrawal.pixel_sha256) == 2
    assert {"P0", "P2", "P3"} <= _used(hospital, "4")


@pytest.mark.parametrize("mended", ["removed", "relabelled"])
def test_a_name_that_had_one_of_their_pictures_by_mistake_is_free_once_that_is_mended(
    hospital: Hospital, mended: str
) -> None:
    _withdraw(hospital)
    hospital.put("b", {"0/P9_91_png.jpg": picture(91), "0/P9_92_png.jpg": picture(92)})
    said = {"wrong.jpg": 1}
    hospital.put("c", {"wrong.jpg": _mirrored(2), "labels.csv": labels_csv(said, patient_id="P9")})
    for name in ("2", "3"):
        assert "P9" not in _used(hospital, name)
    if mended == "removed":
        hospital.remove("c")
    else:
        hospital.put("c", {"labels.csv": labels_csv(said, patient_id="P1")})
    fourth = hospital.night("4")
    assert fourth.number == 3
    rows = hospital.rows(fourth)
    used = rows[rows["quarantine_reason"].isna()]
    assert (used["patient_id"] == "P9").sum() == 2
    assert used["shard_key"].notna().all()
    assert "P1" not in set(used["patient_id"])
    assert not hospital.ingest("5").has_changes


def test_who_is_taken_for_them_over_several_names_does_not_depend_on_the_number_of_nights(hospital: Hospital) -> None:
    _withdraw(hospital)
    batches = {
        "x": {"0/X_1_png.jpg": picture(2), "0/X_2_png.jpg": picture(80)},
        "y": {"0/Y_3_png.jpg": picture(80) + b"\0", "0/Y_4_png.jpg": picture(81)},
        "z": {"0/Z_5_png.jpg": picture(81) + b"\0", "0/Z_6_png.jpg": picture(82)},
    }
    for batch, files in batches.items():
        hospital.put(batch, files)
    assert _used(hospital, "2").isdisjoint("XYZ")
    assert _used(hospital, "3").isdisjoint("XYZ")
    hospital.remove("y", "Y_3_png.jpg")
    assert _used(hospital, "4") & set("XYZ") == {"Y", "Z"}
    hospital.put("y", batches["y"])
    assert _used(hospital, "5").isdisjoint("XYZ")


# Validation.


def _validate(hospital: Hospital, name: str) -> ValidationReport:
    hospital.ingest(name)
    return validate.run(join(hospital.data_uri, "runs", name), storage=hospital.storage)


def test_many_withdrawals_at_once_are_neither_bad_images_nor_images_that_vanished(hospital: Hospital) -> None:
    for patient_id in ("P1", "P2", "P3"):
        _withdraw(hospital, patient_id)
    hospital.remove("a", "P3_6_png.jpg", "P3_7_png.jpg")
    report = _validate(hospital, "2")
    seen = {outcome.name: outcome for outcome in report.expectations}
    assert seen["not_shrunk"].seen == "6 images, 6 before"
    assert seen["few_bad"].passed
    assert report.bad_share == 0
    assert report.snapshot.quarantined_now == {}
    assert report.snapshot.number == 2


def test_images_that_vanish_beside_a_withdrawal_still_stop_the_night(hospital: Hospital) -> None:
    _withdraw(hospital)
    hospital.remove("a", "P2_4_png.jpg", "P2_5_png.jpg", "P3_6_png.jpg", "P3_7_png.jpg")
    with pytest.raises(DataError, match=r"not_shrunk: .*seen: 6 images, 10 before"):
        _validate(hospital, "2")


def test_who_is_withdrawn_between_ingest_and_validation_is_out_from_the_next_night_on(hospital: Hospital) -> None:
    hospital.put("b", {"0/P6_20_png.jpg": picture(20), "1/P6_21_png.jpg": picture(21)})
    hospital.ingest("2")
    _withdraw(hospital)
    report = validate.run(join(hospital.data_uri, "runs", "2"), storage=hospital.storage)
    assert {one.name: one.seen for one in report.expectations}["not_shrunk"] == "14 images, 12 before"
    assert "P1" not in _used(hospital, "3")


# The record.


def test_a_withdrawal_is_recorded_once_and_the_first_record_stands(hospital: Hospital) -> None:
    first = _withdraw(hospital)
    again = withdrawing.withdraw(
        hospital.storage, hospital.data_uri, "P1", reason="once more", by="somebody else", now=NOW
    )
    assert (first.is_new, again.is_new) == (True, False)
    assert again.withdrawal == first.withdrawal
    assert again.sentences[0].startswith("P1 was withdrawn before, ")
    assert again.sentences[0].endswith("by privacy desk: consent withdrawn, request 114. Nothing was changed.")
    assert len(hospital.listing("withdrawals")) == 1


def test_of_many_who_withdraw_at_once_all_see_one_record(hospital: Hospital) -> None:
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: _withdraw(hospital), range(4)))
    assert len({outcome.withdrawal.model_dump_json() for outcome in outcomes}) == 1
    assert len(hospital.listing("withdrawals")) == 1


def test_an_id_that_can_not_name_a_file_can_be_withdrawn(hospital: Hospital) -> None:
    _withdraw(hospital, "../ä/P 1", unknown_ok=True)
    assert [one.patient_id for one in withdrawals.read_all(hospital.storage, hospital.data_uri)] == ["../ä/P 1"]


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_withdrawal_without_a_fit_reason_is_refused(hospital: Hospital, reason: str) -> None:
    with pytest.raises(ConfigError, match="needs a reason"):
        withdrawing.withdraw(hospital.storage, hospital.data_uri, "P1", reason=reason, by="a", now=NOW)
    assert hospital.listing("withdrawals") == []


def test_an_unknown_patient_is_refused_unless_that_is_meant(hospital: Hospital) -> None:
    with pytest.raises(ConfigError, match=r"holds 'P77'.*--unknown-ok"):
        _withdraw(hospital, "P77")
    _withdraw(hospital, "P77", unknown_ok=True)
    hospital.put("b", {"1/P77_1_png.jpg": picture(70)})
    assert "P77" not in _used(hospital, "2")


def test_a_withdrawal_that_can_not_be_read_stops_the_night(hospital: Hospital) -> None:
    _withdraw(hospital)
    hospital.storage.write(f"{hospital.data_uri}/{hospital.listing('withdrawals')[0]}", b"{}")
    with pytest.raises(DataError, match="is no Withdrawal record"):
        hospital.ingest("2")


# The holdout, and the command line.


def test_a_withdrawn_patient_gets_into_no_new_holdout(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {"validation.min_images": 2})
    hospital.put("a", _batch(range(12)))
    _withdraw(hospital, unknown_ok=True)
    with ThreadPoolExecutor(1) as executor:
        fixed = create(hospital.storage, hospital.config, Choice(share=1), now=NOW, executor=executor)
    assert fixed.patient_ids == {"P0", "P2", "P3", "P4", "P5"}


def test_nothing_is_stored_of_whom_only_the_files_tags_name_when_a_holdout_is_made(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {"validation.min_images": 2})
    hospital.put("a", {f"{number % 2}/{number}.dcm": dicom(number, PatientID=f"D{number}") for number in range(4)})
    _withdraw(hospital, "D1", unknown_ok=True)
    with ThreadPoolExecutor(1) as executor:
        fixed = create(hospital.storage, hospital.config, Choice(share=1), now=NOW, executor=executor)
    assert fixed.patient_ids == {"D0", "D2", "D3"}
    (shard,) = hospital.listing("pixels")
    assert len(np.load(io.BytesIO(hospital.storage.read(join(hospital.data_uri, shard))))) == 3


@pytest.fixture
def bc(hospital: Hospital, tmp_path: Path) -> Callable[..., Result]:
    """The command line on the hospital's data."""
    config = tmp_path / "night.toml"
    config.write_text(f'data_uri = "{hospital.data_uri}"\n')

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(config)])

    return run


def test_the_command_line_withdraws_lists_and_tells_of_the_holdout(
    hospital: Hospital, bc: Callable[..., Result]
) -> None:
    done = bc("withdraw", "P1", "--reason", "request 114", "--by", "privacy desk")
    assert done.exit_code == 0
    assert "P1 is withdrawn" in done.output
    assert "1 snapshot used them, the last is number 1; they stay as they are" in done.output
    assert bc("withdraw", "P1", "--reason", "request 114").exit_code == 0
    assert isinstance(bc("withdraw", "P1", "--reason", " ").exception, ConfigError)

    of_holdout = bc("withdraw", "held-out", "--reason", "request 115", "--by", "privacy desk")
    assert isinstance(of_holdout.exception, DataError)
    assert "held-out is in the holdout, which is fixed" in str(of_holdout.exception)
    assert withdrawals.find(hospital.storage, hospital.data_uri, "held-out") is not None
    assert holdout.load(hospital.storage, hospital.data_uri).patient_ids == {"held-out"}

    listed = json.loads(bc("withdrawals", "--json").output)
    assert [(one["patient_id"], one["withdrawn_by"], one["reason"]) for one in listed] == [
        ("P1", "privacy desk", "request 114"),
        ("held-out", "privacy desk", "request 115"),
    ]
    assert "2 patients withdrawn" in bc("withdrawals").output


def test_a_reason_with_brackets_is_shown_as_it_is(hospital: Hospital, bc: Callable[..., Result]) -> None:
    withdrawing.withdraw(
        hospital.storage, hospital.data_uri, "P1", reason="see ticket [/x]", by="[red]", now=NOW, unknown_ok=False
    )
    shown = " ".join(bc("withdrawals").output.split())
    assert "see ticket [/x]" in shown
    assert "[red]" in shown
    assert bc("where-used", "P1").exit_code == 0


def test_a_withdrawal_names_the_traces_that_past_nights_have_left(hospital: Hospital) -> None:
    assert any("runs/*/leaks.json and the Data Docs" in sentence for sentence in _withdraw(hospital).sentences)

"""The holdout is fixed once, never learnt from, and any change of it is noticed."""

import io
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inboxes import NOW, Hospital, labels_csv, local_storage, picture
from manifests import make_manifest
from PIL import Image

from bc_tasks import holdout, manifest
from bc_tasks.errors import BcError, ConfigError, DataError, HoldoutChanged
from bc_tasks.holdout import Holdout
from bc_tasks.holdout_creation import Choice, create
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.storage import Storage, join

DIGEST = "a" * 64


def _save(uri: str, frame: pd.DataFrame | None = None) -> Holdout:
    return holdout.save(local_storage(), uri, make_manifest(12) if frame is None else frame, DIGEST, NOW)


def _manifest_uri(uri: str) -> str:
    (found,) = [item.uri for item in local_storage().list(join(uri, "holdout")) if item.uri.endswith(".parquet")]
    return found


def test_a_holdout_is_read_as_it_was_fixed(file_data_uri: str) -> None:
    saved, loaded = _save(file_data_uri), holdout.load(local_storage(), file_data_uri)
    assert (loaded.fingerprint, loaded.preprocessing_sha256) == (saved.fingerprint, DIGEST)
    pd.testing.assert_frame_equal(loaded.manifest, saved.manifest)
    assert set(loaded.manifest["split"]) == {"holdout"}
    assert loaded.patient_ids == {"p0", "p1", "p2", "p3"}
    assert len(loaded.source_stems) == len(loaded.pixel_digests) == 12


def test_quarantined_images_are_not_in_it(file_data_uri: str) -> None:
    frame = make_manifest(12)
    frame.loc[0, "quarantine_reason"] = "truncated"
    assert len(_save(file_data_uri, frame).manifest) == 11


def test_without_a_holdout_a_person_is_told_how_to_make_one(file_data_uri: str) -> None:
    with pytest.raises(ConfigError, match=r"no holdout is fixed under .*/holdout; make one once: bc holdout create"):
        holdout.load(local_storage(), file_data_uri)


def test_a_holdout_is_never_made_twice(file_data_uri: str) -> None:
    saved = _save(file_data_uri)
    with pytest.raises(ConfigError, match="it is never made anew"):
        _save(file_data_uri, make_manifest(30))
    assert holdout.load(local_storage(), file_data_uri).fingerprint == saved.fingerprint


def test_of_those_who_fix_one_at_once_exactly_one_wins_and_it_is_whole(storage: Storage, data_uri: str) -> None:
    barrier = threading.Barrier(4)

    def save(num_images: int) -> Holdout | BcError:
        frame = make_manifest(num_images)
        barrier.wait()
        try:
            return holdout.save(storage, data_uri, frame, DIGEST, NOW)
        except BcError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(save, (6, 9, 12, 15)))
    winners = [outcome for outcome in outcomes if isinstance(outcome, Holdout)]
    assert len(winners) == 1
    assert holdout.load(storage, data_uri).fingerprint == winners[0].fingerprint
    assert all(isinstance(outcome, ConfigError) for outcome in outcomes if not isinstance(outcome, Holdout))


@pytest.mark.parametrize("labels", [[0], [1], []])
def test_a_holdout_needs_both_labels(file_data_uri: str, labels: list[int]) -> None:
    frame = make_manifest(12)
    with pytest.raises(DataError, match=r"needs images of both labels; these \d+ have \["):
        _save(file_data_uri, frame[frame["label"].isin(labels)])
    assert local_storage().list(file_data_uri) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows.assign(label=1 - rows["label"]),
        lambda rows: rows.iloc[1:],
        lambda rows: pd.concat([rows, make_manifest(3, first=90)]),
        lambda rows: rows.assign(patient_id="p0"),
        lambda rows: rows.assign(quarantine_reason=["truncated"] + [None] * 11),
    ],
    ids=["labels", "one removed", "some added", "patients", "one set aside"],
)
def test_an_edited_manifest_is_noticed(file_data_uri: str, edit: object) -> None:
    saved = _save(file_data_uri)
    local_storage().write(_manifest_uri(file_data_uri), manifest.to_parquet(edit(saved.manifest)))  # type: ignore[operator]  # a lambda above
    with pytest.raises(HoldoutChanged, match=r"isn't the one that was fixed: its images have fingerprint"):
        holdout.load(local_storage(), file_data_uri)


@pytest.mark.parametrize(
    "edit",
    [
        {"fingerprint": "b" * 64},
        {"fingerprint": "x"},
        {"fingerprint": None},
        {"preprocessing_sha256": ""},
        {"extra": 1},
    ],
)
def test_an_edited_mark_is_noticed(file_data_uri: str, edit: dict[str, object]) -> None:
    _save(file_data_uri)
    uri = join(file_data_uri, "holdout", "holdout.json")
    mark = json.loads(local_storage().read(uri))
    local_storage().write(uri, json.dumps(mark | edit).encode())
    with pytest.raises(HoldoutChanged, match=r"restore it from the bucket's versions or a backup"):
        holdout.load(local_storage(), file_data_uri)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null"])
def test_a_spoiled_mark_is_noticed(file_data_uri: str, content: bytes) -> None:
    _save(file_data_uri)
    local_storage().write(join(file_data_uri, "holdout", "holdout.json"), content)
    with pytest.raises(HoldoutChanged, match="its mark can't be read"):
        holdout.load(local_storage(), file_data_uri)


@pytest.mark.parametrize("content", [None, b"", b"PAR1"], ids=["gone", "empty", "cut off"])
def test_a_lost_manifest_is_noticed_and_not_taken_for_no_holdout(file_data_uri: str, content: bytes | None) -> None:
    _save(file_data_uri)
    uri = _manifest_uri(file_data_uri)
    local_storage().delete(uri)
    if content is not None:
        local_storage().write(uri, content)
    with pytest.raises(HoldoutChanged, match=r"its manifest manifest-[0-9a-f]{16}.parquet can't be read"):
        holdout.load(local_storage(), file_data_uri)


def test_another_holdout_than_the_pinned_one_is_refused(file_data_uri: str) -> None:
    saved = _save(file_data_uri)
    assert holdout.load(local_storage(), file_data_uri, saved.fingerprint).fingerprint == saved.fingerprint
    with pytest.raises(HoldoutChanged, match="the configuration pins bbbbbbbbbbbb"):
        holdout.load(local_storage(), file_data_uri, "b" * 64)


PATIENTS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["a", "b", None])), min_size=1, max_size=40)


def _patients(patients: list[tuple[int, str | None]]) -> pd.DataFrame:
    rows = [
        {"key": f"{number}-{image}", "patient_id": str(number), "label": label * image, "site_id": site}
        for number, (label, site) in enumerate(patients)
        for image in (0, 1)
    ]
    return manifest.conform(pd.DataFrame(rows))


@settings(deadline=None, max_examples=40)
@given(PATIENTS, st.floats(0, 1), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_draw_takes_its_share_of_patients_in_all_and_by_label_and_site(
    patients: list[tuple[int, str | None]], share: float, seed: int, random: object
) -> None:
    frame = _patients(patients)
    chosen = holdout.choose_patients(frame, share, seed)
    assert abs(len(chosen) - share * len(patients)) <= 0.5 + 1e-9
    strata = Counter(patients)
    drawn = Counter(patients[int(patient)] for patient in chosen)
    assert all(abs(drawn[stratum] - share * size) <= 1 + 1e-9 for stratum, size in strata.items())
    order = list(frame.index)
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert holdout.choose_patients(frame.loc[order], share, seed) == chosen


def test_another_seed_draws_others() -> None:
    frame = make_manifest(300)
    assert holdout.choose_patients(frame, 0.2, 1) != holdout.choose_patients(frame, 0.2, 2)


def test_a_summary_counts_patients_images_cancers_and_sites(file_data_uri: str) -> None:
    saved = _save(file_data_uri)
    assert holdout.summary(saved) == {
        "fingerprint": saved.fingerprint,
        "num_images": 12,
        "num_patients": 4,
        "num_cancer_images": 4,
        "by_site": {"north": 6, "south": 6},
    }


# Made out of an inbox.


@pytest.fixture
def hospital(file_data_uri: str) -> Hospital:
    """An inbox of ten patients in two batches: each has an image of either label, and one is black."""
    hospital = Hospital(local_storage(), file_data_uri, {"validation.min_images": 2})
    for batch, patients in (("a", range(5)), ("b", range(5, 10))):
        files = {
            f"{label}/{patient}_{label}_png.jpg": picture(10 * patient + label)
            for patient in patients
            for label in (0, 1)
        }
        hospital.put(batch, files)
    hospital.put("a", {"1/0_9_png.png": _black()})
    return hospital


def _black() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (80, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def _create(hospital: Hospital, choice: Choice) -> Holdout:
    with ThreadPoolExecutor(1) as executor:
        return create(hospital.storage, hospital.config, choice, now=NOW, executor=executor)


@pytest.mark.slow  # Great Expectations takes seconds to import, once for all of these
def test_a_share_of_the_patients_is_drawn_with_all_their_sound_images(hospital: Hospital) -> None:
    fixed = _create(hospital, Choice(share=0.3, seed=1))
    assert len(fixed.patient_ids) == 3
    assert len(fixed.manifest) == 6
    assert fixed.preprocessing_sha256 == preprocessing_sha256(hospital.config.ingest.pixels)
    assert holdout.load(hospital.storage, hospital.data_uri).fingerprint == fixed.fingerprint


@pytest.mark.slow
def test_named_patients_are_taken_but_not_their_black_images(hospital: Hospital) -> None:
    fixed = _create(hospital, Choice(patient_ids=frozenset({"0", "7"})))
    assert fixed.patient_ids == {"0", "7"}
    assert "0_9" not in set(fixed.manifest["image_id"])


@pytest.mark.slow
def test_a_whole_batch_is_taken(hospital: Hospital) -> None:
    assert _create(hospital, Choice(batch="b", share=1)).patient_ids == {"5", "6", "7", "8", "9"}


@pytest.mark.slow
def test_the_night_after_reads_the_holdouts_pixels_from_the_same_shards(hospital: Hospital) -> None:
    fixed = _create(hospital, Choice(share=0.3))
    before = hospital.listing("pixels")
    rows = hospital.rows(hospital.ingest("night"))
    assert hospital.listing("pixels") == before
    assert set(rows.loc[rows["split"] == "holdout", "patient_id"]) == fixed.patient_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "kind", "words"),
    [
        (Choice(patient_ids=frozenset({"0", "99"})), ConfigError, r"1 of the named patients .*: \['99'\]"),
        (Choice(batch="c"), ConfigError, "batch c is not in the inbox"),
        (Choice(share=0), DataError, "needs images of both labels"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(
    hospital: Hospital, choice: Choice, kind: type[BcError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        _create(hospital, choice)
    assert hospital.listing("holdout") == []


def test_a_second_creation_is_refused_before_anything_is_read(hospital: Hospital) -> None:
    hospital.fix_holdout()
    with pytest.raises(ConfigError, match="it is never made anew"):
        _create(hospital, Choice())
    assert hospital.listing("pixels") == []


@pytest.mark.slow
def test_an_inbox_of_nothing_usable_makes_no_holdout(file_data_uri: str) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    with pytest.raises(ConfigError, match=r"batch \(any\) is not in the inbox"):
        _create(hospital, Choice())
    hospital.put("a", {"1.jpg": picture(1), "labels.csv": labels_csv({"1.jpg": 2})})
    with pytest.raises(DataError, match="no image of the inbox can be used"):
        _create(hospital, Choice())

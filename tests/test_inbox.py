"""The inbox's two layouts become rows; nothing in it is dropped silently."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from inboxes import NOW, labels_csv, local_storage

from bc_tasks import inbox
from bc_tasks.config import IngestConfig
from bc_tasks.errors import InfrastructureError
from bc_tasks.inbox import Inbox, names_in
from bc_tasks.storage import Storage

QUICK = IngestConfig(settle_minutes=0)


@pytest.fixture
def files() -> Storage:
    """Storage that speaks to folders."""
    return local_storage()


def _read(
    files: Storage, uri: str, contents: dict[str, str], config: IngestConfig = QUICK, now: datetime = NOW
) -> Inbox:
    for path, content in contents.items():
        files.write(f"{uri}/inbox/{path}", content.encode())
    return inbox.read(files, uri, config, now)


def _facts(seen: Inbox, *columns: str) -> dict[str, Any]:
    rows = seen.rows.astype(object).where(seen.rows.notna(), None)
    return {
        row["key"].removeprefix("inbox/"): row[columns[0]] if len(columns) == 1 else tuple(row[c] for c in columns)
        for row in rows.to_dict("records")
    }


def test_class_folders_label_their_images(files: Storage, file_data_uri: str) -> None:
    seen = _read(files, file_data_uri, {"a/0/1.jpg": "x", "a/1/2.PNG": "x", "a/1/3": "x", "b/0/1.jpg": "x"})
    assert _facts(seen, "label") == {"a/0/1.jpg": 0, "a/1/2.PNG": 1, "a/1/3": 1, "b/0/1.jpg": 0}
    assert set(seen.rows["batch"]) == {"a", "b"}
    assert seen.rows["quarantine_reason"].isna().all()


def test_an_exports_own_split_is_looked_through(files: Storage, file_data_uri: str) -> None:
    exported = {f"a/{split}/{label}/{split}{label}.jpg": "x" for split in ("train", "valid", "test") for label in "01"}
    notes = {"a/README.roboflow.txt": "x", "a/data.yaml": "x", "a/0/.DS_Store": "x"}
    seen = _read(files, file_data_uri, exported | notes)
    assert _facts(seen, "label") == {path: int(path.split("/")[2]) for path in exported}
    assert seen.notes == (
        "batch a: 3 files are no images and not used: ['0/.DS_Store', 'README.roboflow.txt', 'data.yaml']",
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/1.jpg", "no_label"),
        ("a/train/1.jpg", "no_label"),
        ("a/2/1.jpg", "bad_label"),
        ("a/benign/1.jpg", "bad_label"),
        ("a/0/P1/1.jpg", "bad_label"),
        ("a/0/train/1.jpg", "bad_label"),
        ("a/train/valid/0/1.jpg", "bad_label"),
        ("1.jpg", "not_in_a_batch"),
    ],
)
def test_an_image_where_none_belongs_is_set_aside_with_a_reason(
    files: Storage, file_data_uri: str, path: str, reason: str
) -> None:
    seen = _read(files, file_data_uri, {path: "x", "a/0/fine.jpg": "x"})
    assert _facts(seen, "quarantine_reason") == {path: reason, "a/0/fine.jpg": None}


def test_a_labels_file_labels_images_in_any_layout(files: Storage, file_data_uri: str) -> None:
    contents = {
        "a/x/y/7_12_png.rf.0a1b.jpg": "x",
        "a/größe 1+1.jpg": "x",
        "a/labels.csv": labels_csv({"x/y/7_12_png.rf.0a1b.jpg": 1, "größe 1+1.jpg": 0}, patient_id="P9", view="cc"),
    }
    seen = _read(files, file_data_uri, contents)
    assert _facts(seen, "label", "patient_id", "image_id", "source_stem", "view") == {
        "a/x/y/7_12_png.rf.0a1b.jpg": (1, "P9", "7_12", "7_12_png", "CC"),
        "a/größe 1+1.jpg": (0, "P9", None, "größe 1+1", "CC"),
    }


def test_labels_without_images_and_images_without_labels_are_both_listed(files: Storage, file_data_uri: str) -> None:
    contents = {
        "a/1.jpg": "x",
        "a/2.jpg": "x",
        "a/notes.txt": "x",
        "a/labels.csv": labels_csv({"1.jpg": 1, "3.jpg": 0}),
    }
    seen = _read(files, file_data_uri, contents)
    assert _facts(seen, "quarantine_reason") == {"a/1.jpg": None, "a/2.jpg": "no_label", "a/3.jpg": "missing_image"}
    assert seen.notes == ("batch a: 1 files are no images and not used: ['notes.txt']",)


def test_labels_alone_are_images_that_are_missing(files: Storage, file_data_uri: str) -> None:
    seen = _read(files, file_data_uri, {"a/labels.csv": labels_csv({"1.jpg": 1})})
    assert _facts(seen, "quarantine_reason") == {"a/1.jpg": "missing_image"}


def test_a_path_out_of_the_batch_never_stands_for_another_batchs_image(files: Storage, file_data_uri: str) -> None:
    contents = {
        "victim/0/1.jpg": "x",
        "a/2.jpg": "x",
        "a/labels.csv": labels_csv({"../victim/0/1.jpg": 1, "../../snapshots/x": 1, "2.jpg": 0}),
    }
    seen = _read(files, file_data_uri, contents)
    assert _facts(seen, "label", "quarantine_reason") == {
        "victim/0/1.jpg": (0, None),
        "a/2.jpg": (0, None),
        "a/labels#../victim/0/1.jpg": (None, "path_outside_batch"),
        "a/labels#../../snapshots/x": (None, "path_outside_batch"),
    }
    assert seen.rows["key"].is_unique


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a/labels.csv": "path,lable\n"}, "labels.csv has a column 'lable'"),
        ({"a/labels.csv": ""}, "labels.csv is empty"),
        ({"a/labels.parquet": "path,label"}, "labels.parquet is no Parquet file"),
        (
            {"a/labels.csv": "path,label\n", "a/labels.parquet": "x"},
            "there are labels.csv and labels.parquet; leave one of them",
        ),
    ],
)
def test_a_labels_file_that_cannot_be_trusted_costs_its_batch_and_no_other(
    files: Storage, file_data_uri: str, contents: dict[str, str], words: str
) -> None:
    seen = _read(files, file_data_uri, contents | {"a/0/1.jpg": "x", "b/0/1.jpg": "x"})
    assert _facts(seen, "quarantine_reason") == {"a/0/1.jpg": "bad_labels_file", "b/0/1.jpg": None}
    assert words in seen.rows["quarantine_detail"].dropna().item()
    assert words in seen.notes[0]


@pytest.mark.parametrize("contents", [{"a/_DONE": ""}, {"a/notes.txt": "x"}, {"a/.hidden": "x"}])
def test_a_batch_without_images_is_told_of(files: Storage, file_data_uri: str, contents: dict[str, str]) -> None:
    config = QUICK.model_copy(update={"complete_marker": "_DONE"})
    seen = _read(files, file_data_uri, contents | {"a/_DONE": ""}, config)
    assert seen.rows.empty
    assert seen.notes[0] == "batch a: it holds no images"


def test_an_empty_inbox_has_no_rows(files: Storage, file_data_uri: str) -> None:
    seen = inbox.read(files, file_data_uri, QUICK, NOW)
    assert (seen.rows.empty, seen.waiting_batches, seen.notes) == (True, (), ())
    assert list(seen.rows.columns) == list(inbox.ROW_COLUMNS)


def test_a_batch_waits_while_its_youngest_object_is_young(files: Storage, file_data_uri: str) -> None:
    config = IngestConfig(settle_minutes=30)
    now = datetime.now(UTC)
    contents = {"a/0/1.jpg": "x", "a/labels.csv": "this is still being written"}
    assert _read(files, file_data_uri, contents, config, now).waiting_batches == ("a",)
    assert _read(files, file_data_uri, {}, config, now).rows.empty
    later = now + timedelta(minutes=31)
    assert _read(files, file_data_uri, {}, config, later).waiting_batches == ()
    assert _read(files, file_data_uri, {"a/1/2.jpg": "x"}, config, datetime.now(UTC)).waiting_batches == ("a",)


def test_a_batch_waits_for_its_marker(files: Storage, file_data_uri: str) -> None:
    config = QUICK.model_copy(update={"complete_marker": "_DONE"})
    assert _read(files, file_data_uri, {"a/0/1.jpg": "x", "b/0/1.jpg": "x", "b/_DONE": ""}, config).waiting_batches == (
        "a",
    )
    seen = _read(files, file_data_uri, {"a/_DONE": ""}, config)
    assert _facts(seen, "label") == {"a/0/1.jpg": 0, "b/0/1.jpg": 0}


@pytest.mark.parametrize("replacement", [None, "path,label\n1.jpg,0\n"], ids=["removed", "replaced"])
def test_a_labels_file_that_changes_under_the_reader_is_tried_again(
    files: Storage, file_data_uri: str, replacement: str | None
) -> None:
    _read(files, file_data_uri, {"a/1.jpg": "x", "a/labels.csv": labels_csv({"1.jpg": 1})})
    uri = f"{file_data_uri}/inbox/a/labels.csv"
    listed = files.find(uri)
    assert listed is not None
    files.delete(uri)
    if replacement:
        files.write(uri, replacement.encode())
    with pytest.raises(InfrastructureError, match="list again"):
        inbox._read_unchanged(files, listed)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("7_12_png.rf.0a1B.jpg", {"source_stem": "7_12_png", "patient_id": "7", "image_id": "7_12"}),
        ("7_12_png.jpg", {"source_stem": "7_12_png", "patient_id": "7", "image_id": "7_12"}),
        ("P-7_i-12_dcm.rf.0.png", {"source_stem": "P-7_i-12_dcm", "patient_id": "P-7", "image_id": "P-7_i-12"}),
        ("scan.rf.0a1b.jpg", {"source_stem": "scan"}),
        ("scan.jpg", {"source_stem": "scan"}),
        ("IMG_0001.jpeg", {"source_stem": "IMG_0001"}),
        ("a_b_c_png.jpg", {"source_stem": "a_b_c_png"}),
        ("1.2.840.113619.2", {"source_stem": "1.2.840.113619.2"}),
        ("1.2.840.dcm", {"source_stem": "1.2.840"}),
        ("größe 1+1.PNG", {"source_stem": "größe 1+1"}),
        (".rf.0a1b.jpg", {"source_stem": ".rf.0a1b"}),
    ],
)
def test_patients_and_images_are_read_from_file_names_where_they_tell(name: str, wanted: dict[str, str]) -> None:
    assert names_in(f"inbox/a/0/{name}") == wanted


def test_two_images_of_one_number_of_two_patients_have_two_ids() -> None:
    assert names_in("7_1_png.jpg")["image_id"] != names_in("8_1_png.jpg")["image_id"]


def test_objects_keep_what_they_are_known_by(files: Storage, file_data_uri: str) -> None:
    seen = _read(files, file_data_uri, {"a/0/1.jpg": "four"})
    (item,) = seen.objects.values()
    assert _facts(seen, "etag", "num_bytes") == {"a/0/1.jpg": (item.etag, 4)}


@pytest.mark.parametrize("marker", ["", "_DONE"])
def test_the_same_inbox_in_s3_gives_the_same_rows(
    storage: Storage, data_uri: str, file_data_uri: str, marker: str
) -> None:
    contents = {
        **{
            "a/0/größe 1+1 #%.jpg": "x",
            "a/valid/1/2.jpg": "x",
            "b/x/1.jpg": "x",
            "b/labels.csv": labels_csv({"x/1.jpg": 1}),
        },
        **{"stray.jpg": "x", "c/0/1.jpg": "x", "a/_DONE": "", "b/_DONE": ""},
    }
    config = QUICK.model_copy(update={"complete_marker": marker})
    in_s3, in_files = (_read(storage, uri, contents, config) for uri in (data_uri, file_data_uri))
    columns = [column for column in inbox.ROW_COLUMNS if column != "etag"]
    pd.testing.assert_frame_equal(in_s3.rows[columns], in_files.rows[columns])
    assert (in_s3.waiting_batches, in_s3.notes) == (in_files.waiting_batches, in_files.notes)

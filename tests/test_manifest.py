"""The manifest has one schema, and everything that reads or writes one goes through it."""

import io

import pandas as pd
import pytest

from bc_tasks import manifest
from bc_tasks.errors import DataError

ROW = {"key": "inbox/a/0/1.jpg", "label": 1, "age": 61.5, "was_inverted": True, "shard_row": 3}


def test_an_empty_manifest_has_every_column_in_its_type() -> None:
    empty = manifest.empty()
    assert dict(empty.dtypes.astype(str)) == {column.name: column.kind for column in manifest.COLUMNS}
    pd.testing.assert_frame_equal(manifest.conform(empty), empty)


def test_missing_columns_become_null_and_rows_are_sorted_by_key() -> None:
    frame = manifest.conform(pd.DataFrame([{"key": "b"}, {"key": "a", "label": 0}]))
    assert list(frame.columns) == list(manifest.COLUMN_NAMES)
    assert list(frame["key"]) == ["a", "b"]
    assert frame["label"].tolist() == [0, pd.NA]
    assert frame["view"].isna().all()


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"columns \['lable'\] are not manifest columns; known are \['key'"):
        manifest.conform(pd.DataFrame([{"key": "a", "lable": 1}]))


@pytest.mark.parametrize(("column", "value"), [("label", "cancer"), ("label", 0.5), ("age", "old"), ("shard_row", "x")])
def test_a_value_of_another_type_is_refused(column: str, value: object) -> None:
    with pytest.raises(DataError, match="doesn't fit its column"):
        manifest.conform(pd.DataFrame([{"key": "a", column: value}]))


@pytest.mark.parametrize("rows", [[], [ROW], [ROW, {"key": "inbox/ü/ 1 &.jpg"}]], ids=["none", "one", "two"])
def test_a_manifest_is_the_same_after_storage(rows: list[dict[str, object]]) -> None:
    frame = manifest.conform(pd.DataFrame(rows, columns=list(ROW)))
    pd.testing.assert_frame_equal(manifest.from_parquet(manifest.to_parquet(frame)), frame)


def test_a_manifest_is_a_parquet_file_that_others_can_read() -> None:
    frame = pd.read_parquet(io.BytesIO(manifest.to_parquet(manifest.conform(pd.DataFrame([ROW])))))
    assert frame.loc[0, "label"] == 1


@pytest.mark.parametrize("data", [b"", b"PAR1", b"key,label\n", b"\0" * 100], ids=["empty", "cut", "csv", "zeros"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="not a Parquet manifest"):
        manifest.from_parquet(data)


def test_a_parquet_file_of_something_else_is_refused() -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"weight": [1.0]}).to_parquet(buffer)
    with pytest.raises(DataError, match="weight"):
        manifest.from_parquet(buffer.getvalue())


def test_quarantined_rows_are_not_usable() -> None:
    frame = manifest.conform(pd.DataFrame([ROW, {"key": "b", "quarantine_reason": "truncated"}]))
    assert list(manifest.usable(frame)["key"]) == [ROW["key"]]


def test_what_a_files_tags_fill_has_a_column_for_the_tag() -> None:
    kinds = {column.name: column.kind for column in manifest.COLUMNS}
    assert [kinds[name] for name in manifest.TAGS] == [kinds[f"tag_{name}"] for name in manifest.TAGS]

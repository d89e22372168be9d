"""A labels file is believed row by row; only one that can't be trusted as a whole is refused."""

import io
from contextlib import suppress
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bc_tasks.errors import DataError
from bc_tasks.labels_file import KNOWN, LabelsFile, is_inside, parse


def _csv(text: str) -> LabelsFile:
    return parse(text.encode(), "labels.csv")


def _parquet(**columns: Any) -> LabelsFile:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return parse(buffer.getvalue(), "labels.parquet")


def _row(labels: LabelsFile, position: int = 0) -> dict[str, Any]:
    return {name: value for name, value in labels.rows.iloc[position].items() if not pd.isna(value)}


def test_a_full_row_is_read_whole() -> None:
    labels = _csv(
        "path,label,patient_id,image_id,view,laterality,site_id,machine_id,age,density\n"
        "a/1.jpg,1,P007,i1,mlo, l ,1,29,61.5,b\n"
    )
    assert _row(labels) == {
        **{"path": "a/1.jpg", "label": 1, "patient_id": "P007", "image_id": "i1", "view": "MLO", "laterality": "L"},
        **{"site_id": "1", "machine_id": "29", "age": 61.5, "density": "B"},
    }
    assert labels.notes == ()


def test_what_is_left_out_or_empty_is_null() -> None:
    assert _row(_csv("path,label,view,age\na.jpg,0,,\n")) == {"path": "a.jpg", "label": 0}


@pytest.mark.parametrize(
    "text", ["path,label\r\na.jpg,1\r\n", "\ufeffpath,label\na.jpg,1", " path , label \na.jpg, 1 \n"]
)
def test_a_spreadsheets_habits_are_understood(text: str) -> None:
    assert _row(_csv(text)) == {"path": "a.jpg", "label": 1}


def test_blank_lines_and_empty_rows_of_a_spreadsheet_are_nothing() -> None:
    labels = _csv("path,label,view\n\na.jpg,1,CC\n,,\n")
    assert (len(labels.rows), labels.notes) == (1, ())


def test_names_with_commas_quotes_and_any_letter_are_kept() -> None:
    labels = _csv('path,label\n"0/größe, ""乳房"" 1.jpg",1\n')
    assert _row(labels)["path"] == '0/größe, "乳房" 1.jpg'


def test_an_id_keeps_its_leading_zeros() -> None:
    assert _row(_csv("path,label,patient_id\na.jpg,1,007\n"))["patient_id"] == "007"


@pytest.mark.parametrize(
    ("label", "reason"),
    [("2", "bad_label"), ("-1", "bad_label"), ("0.5", "bad_label"), ("cancer", "bad_label"), ("", "no_label")],
)
def test_a_label_that_is_neither_0_nor_1_costs_its_row_only(label: str, reason: str) -> None:
    labels = _csv(f"path,label\na.jpg,{label}\nb.jpg,1\n")
    assert _row(labels)["quarantine_reason"] == reason
    assert "label" not in _row(labels)
    assert _row(labels, 1) == {"path": "b.jpg", "label": 1}


@pytest.mark.parametrize("age", ["old", "nan", "inf", "1_0"])
def test_an_age_is_a_number_or_is_refused(age: str) -> None:
    row = _row(_csv(f"path,label,age\na.jpg,1,{age}\n"))
    assert row.get("quarantine_reason") == "bad_labels_file" or row["age"] == float(age)


@pytest.mark.parametrize(
    "path",
    [
        *("../b/1.jpg", "a/../../b/1.jpg", "a/..", "..", "/etc/passwd", "./1.jpg", "a//1.jpg", "a/./1.jpg", "a/"),
        *("..\\b\\1.jpg", "0\\1.jpg", "s3://other/1.jpg", "file:///etc/passwd", "a\0.jpg"),
    ],
)
def test_a_path_out_of_the_batch_is_refused(path: str) -> None:
    assert not is_inside(path)
    assert _row(_csv(f"path,label\n{path},1\n"))["quarantine_reason"] == "path_outside_batch"


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab./\\: \0", max_size=12))
def test_no_accepted_path_can_leave_its_folder(path: str) -> None:
    if is_inside(path):
        parts = path.split("/")
        assert all(part not in ("", ".", "..") for part in parts)


def test_a_repeated_row_is_one_row() -> None:
    assert len(_csv("path,label\na.jpg,1\na.jpg,1\n").rows) == 1


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,1\na.jpg,0\n",
        "path,label,patient_id\na.jpg,1,P1\na.jpg,1,P2\n",
        "path,label\na.jpg,1\na.jpg,\n",
    ],
    ids=["labels", "patients", "one is empty"],
)
def test_rows_that_disagree_about_an_image_cost_the_image(text: str) -> None:
    labels = _csv(text)
    assert len(labels.rows) == 1
    assert _row(labels)["quarantine_reason"] == "conflicting_labels"
    assert "label" not in _row(labels)


def test_rows_without_a_path_are_told_of() -> None:
    labels = _csv("path,label\n,1\n,0\na.jpg,1\n")
    assert len(labels.rows) == 1
    assert labels.notes == ("labels.csv: 2 rows have no path and are not used",)


def test_columns_that_are_not_known_are_told_of() -> None:
    labels = _csv("path,label,birads,implant\na.jpg,1,4,0\n")
    assert labels.notes == ("labels.csv: columns ['birads', 'implant'] are not used",)
    assert _row(labels) == {"path": "a.jpg", "label": 1}


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *(("Patient_ID", "patient_id"), ("patientid", "patient_id"), ("patient", "patient_id"), ("site", "site_id")),
        *(("machine", "machine_id"), ("vew", "view"), ("lateralty", "laterality"), ("Age", "age")),
        *(("denstiy", "density"), ("image-id", "image_id")),
    ],
)
def test_a_misspelt_column_is_refused_rather_than_left_out(column: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"labels.csv has a column '{column}'; if '{meant}' is meant, write it so"):
        _csv(f"path,label,{column}\na.jpg,1,x\n")


def test_a_column_like_one_that_is_there_is_not_taken_for_it() -> None:
    assert _row(_csv("path,label,age,ages\na.jpg,1,50,51\n"))["age"] == 50


@pytest.mark.parametrize(
    "column",
    ["implant", "birads", "biopsy", "invasive", "difficult_negative_case", "pathology", "study_date", "notes", "index"],
)
def test_what_hospitals_add_is_not_taken_for_a_misspelling(column: str) -> None:
    assert len(_csv(f"path,label,{column}\na.jpg,1,x\n").rows) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("path\na.jpg\n", r"no column \['label'\]"),
        ("label\n1\n", r"no column \['path'\]"),
        ("path;label\na.jpg;1\n", r"no column \['path', 'label'\]; it has \['path;label'\]"),
        ("path,label\na.jpg,1,extra\n", "row 1 below the header has 3 fields, the header 2"),
        ("path,label\na.jpg,1\nb.jpg\n", "row 2 below the header has 1 fields, the header 2"),
        ("path,label,label\na.jpg,1,0\n", r"columns \['label'\] twice"),
        ('path,label\n"a.jpg,1\n', "no CSV in UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_trusted_is_refused_as_a_whole(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _csv(text)


@pytest.mark.parametrize("data", ["path,label\nä.jpg,1".encode("latin-1"), "path,label".encode("utf-16")])
def test_another_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"labels.csv is no CSV in UTF-8"):
        parse(data, "labels.csv")


def test_a_header_alone_labels_nothing() -> None:
    labels = _csv("path,label\n")
    assert list(labels.rows.columns) == [*KNOWN, "quarantine_reason", "quarantine_detail"]
    assert labels.rows.empty


@pytest.mark.parametrize(
    "values",
    [
        [1, 0],
        [1.0, 0.0],
        [True, False],
        ["1", "0"],
        pa.array([1, 0], pa.int8()),
        pa.array(["1", "0"]).dictionary_encode(),
    ],
    ids=["integers", "floats", "booleans", "texts", "bytes", "categories"],
)
def test_parquet_labels_may_be_of_any_type(values: Any) -> None:
    assert _parquet(path=["a.jpg", "b.jpg"], label=values).rows["label"].tolist() == [1, 0]


def test_a_parquet_patient_is_the_same_with_and_without_a_missing_one_beside_it() -> None:
    """pandas writes whole numbers with a gap among them as 7.0; another name would let patient 7 straddle splits."""
    whole = _parquet(path=["a.jpg", "b.jpg"], label=[1, 0], patient_id=[7, 8])
    gappy = _parquet(path=["a.jpg", "b.jpg"], label=[1, 0], patient_id=[7.0, None])
    nan = _parquet(path=["a.jpg", "b.jpg"], label=[1, 0], patient_id=[7.0, float("nan")])
    assert whole.rows["patient_id"][0] == gappy.rows["patient_id"][0] == nan.rows["patient_id"][0] == "7"
    assert gappy.rows["patient_id"].isna().tolist() == nan.rows["patient_id"].isna().tolist() == [False, True]


def test_a_parquet_age_keeps_its_fraction_and_its_gaps() -> None:
    assert _parquet(path=["a", "b", "c"], label=[0, 0, 1], age=[61.5, None, 50]).rows["age"].tolist() == [
        61.5,
        pd.NA,
        50,
    ]


def test_a_parquet_file_written_by_pandas_with_an_index_is_read() -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"path": ["a.jpg"], "label": [1]}).set_index("path").to_parquet(buffer)
    assert _row(parse(buffer.getvalue(), "labels.parquet")) == {"path": "a.jpg", "label": 1}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"path,label\n"], ids=["empty", "cut off", "a CSV"])
def test_what_is_no_parquet_file_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"labels.parquet is no Parquet file"):
        parse(data, "labels.parquet")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='pathlbe,"\n01 ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for name in ("labels.csv", "labels.parquet"):
        with suppress(DataError):
            assert isinstance(parse(data, name), LabelsFile)


CELL = st.sampled_from(["", "0", "1", "2", " 1", "1.0", "a.jpg", "../x", "50", "old", "P1", "CC"])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(CELL, min_size=4, max_size=4), max_size=6))
def test_every_row_is_used_quarantined_or_told_of(cells: list[list[str]]) -> None:
    lines = [",".join(row) for row in cells]
    labels = _csv("\n".join(["path,label,age,patient_id", *lines]))
    usable = labels.rows[labels.rows["quarantine_reason"].isna()]
    assert labels.rows["path"].is_unique
    assert set(labels.rows["path"]) == {row[0].strip() for row in cells} - {""}
    assert usable["label"].isin([0, 1]).all()
    assert labels.rows.loc[labels.rows["quarantine_reason"].notna(), "label"].isna().all()

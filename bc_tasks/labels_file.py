"""labels.csv and labels.parquet: which image of a batch has which label, and what else is known of it."""

import csv
import difflib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd
import pyarrow
from pyarrow import parquet

from bc_tasks.errors import DataError
from bc_tasks.mammogram import QuarantineReason

REQUIRED = ("path", "label")
OPTIONAL = ("patient_id", "image_id", "view", "laterality", "site_id", "machine_id", "age", "density")
KNOWN = (*REQUIRED, *OPTIONAL)
FILE_NAMES = ("labels.csv", "labels.parquet")
UPPER_CASE = ("view", "laterality", "density")
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
ALIKE = 0.8
"""From this likeness on, an unknown column is taken for a misspelt one: `patient` and `site`, but not `pathology`."""


@dataclass(frozen=True)
class LabelsFile:
    """The rows of a labels file, one a path within the batch, and what an operator should know of it.

    A row's `quarantine_reason` and `quarantine_detail` are set where it can't be used.
    """

    rows: pd.DataFrame
    notes: tuple[str, ...]


def parse(data: bytes, name: str) -> LabelsFile:
    """Read a labels file; bad rows are marked, and only a file that can't be trusted as a whole is refused.

    Raises:
        DataError: it isn't a table, lacks a required column, or has one that looks like a misspelt known one.
    """
    table = _read_parquet(data, name) if name.endswith(".parquet") else _read_csv(data, name)
    notes = _check_columns(list(table), name)
    cells = {column: table.get(column, [None] * _length(table)) for column in KNOWN}
    rows = pd.DataFrame({column: pd.array(values, dtype="string") for column, values in cells.items()})
    rows = rows.apply(lambda column: column.str.strip()).replace("", pd.NA).dropna(how="all")
    for column in UPPER_CASE:
        rows[column] = rows[column].str.upper()
    pathless = rows["path"].isna()
    if pathless.any():
        notes.append(f"{name}: {pathless.sum()} rows have no path and are not used")
    return LabelsFile(_merge_repeated(_judge(rows[~pathless])), tuple(notes))


Table = dict[str, Sequence[str | None]]


def _length(table: Table) -> int:
    return len(next(iter(table.values()), ()))


def _read_csv(data: bytes, name: str) -> Table:
    try:
        lines = [line for line in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is no CSV in UTF-8: {error}") from error
    if not lines:
        raise DataError(f"{name} is empty; it needs the columns {list(REQUIRED)}")
    header, rows = [column.strip() for column in lines[0]], lines[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{name}: row {number} below the header has {len(row)} fields, the header {len(header)}")
    return _as_table(header, list(zip(*rows, strict=True)) or [()] * len(header), name)


def _read_parquet(data: bytes, name: str) -> Table:
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{name} is no Parquet file: {str(error).splitlines()[0]}") from error
    columns = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    return _as_table([column.strip() for column in table.column_names], columns, name)


def _as_table(header: list[str], columns: Sequence[Sequence[str | None]], name: str) -> Table:
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise DataError(f"{name} has columns {repeated} twice")
    return dict(zip(header, columns, strict=True))


def _as_text(value: object) -> str | None:
    """Spell a typed value as a CSV would; patient 7 is "7", though a missing one made the column 7.0."""
    if value is None or value != value:  # noqa: PLR0124  # NaN, of whatever type
        return None
    if isinstance(value, (bool, float)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _check_columns(columns: list[str], name: str) -> list[str]:
    unknown = [column for column in columns if column not in KNOWN]
    for column in unknown:
        for meant in KNOWN:
            likeness = difflib.SequenceMatcher(None, _plain(column), _plain(meant)).ratio()
            if likeness >= ALIKE and meant not in columns:
                raise DataError(f"{name} has a column {column!r}; if {meant!r} is meant, write it so")
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise DataError(f"{name} has no column {missing}; it has {columns[:20]}")
    return [f"{name}: columns {unknown[:20]} are not used"] if unknown else []


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Mark rows that can't be used, and give labels and ages their types."""
    plain = rows.astype(object).where(rows.notna(), None)
    faults = [_fault(*cells) for cells in zip(plain["path"], plain["label"], plain["age"], strict=True)]
    reasons, details = [fault and fault[0].value for fault in faults], [fault and fault[1] for fault in faults]
    labels = [None if fault else LABELS[label] for fault, label in zip(faults, plain["label"], strict=True)]
    ages = [None if fault or not age else float(age) for fault, age in zip(faults, plain["age"], strict=True)]
    return rows.assign(
        label=pd.array(labels, dtype="Int64"),
        age=pd.array(ages, dtype="Float64"),
        quarantine_reason=pd.array(reasons, dtype="string"),
        quarantine_detail=pd.array(details, dtype="string"),
    )


def _fault(path: str, label: str | None, age: str | None) -> tuple[QuarantineReason, str] | None:
    if not is_inside(path):
        return QuarantineReason.PATH_OUTSIDE_BATCH, f"{path[:200]!r} names no object of the batch; write 0/7_12.jpg"
    if label is None:
        return QuarantineReason.NO_LABEL, "its label is empty"
    if label not in LABELS:
        return QuarantineReason.BAD_LABEL, f"label {label[:40]!r} is neither 0 nor 1"
    if age is not None and not _is_number(age):
        return QuarantineReason.BAD_LABELS_FILE, f"age {age[:40]!r} is not a number"
    return None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def is_inside(path: str) -> bool:
    """Say whether a relative path stays in its folder, spelt the one way that an object key is."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and "/".join(parts) == path and not path.startswith("/")
    return plain and ".." not in parts and "\\" not in path and "\0" not in path and "://" not in path


def _merge_repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one row a path; where two disagree, the image can't be used."""
    distinct = rows.drop_duplicates().copy()
    disagreeing = distinct["path"].duplicated(keep=False)
    distinct.loc[disagreeing, "label"] = pd.NA
    distinct.loc[disagreeing, "quarantine_reason"] = QuarantineReason.CONFLICTING_LABELS.value
    distinct.loc[disagreeing, "quarantine_detail"] = "the labels file has rows for it that disagree"
    return distinct.drop_duplicates("path").reset_index(drop=True)

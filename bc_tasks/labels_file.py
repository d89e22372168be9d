"""labels.csv and labels.parquet: which image of a batch has which label, and what else is known of it."""

import difflib
import io
import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd
import pyarrow

from bc_tasks.errors import DataError
from bc_tasks.mammogram import QuarantineReason

REQUIRED = ("path", "label")
OPTIONAL = ("patient_id", "image_id", "view", "laterality", "site_id", "machine_id", "age", "density")
FILE_NAMES = ("labels.csv", "labels.parquet")
UPPER_CASE = ("view", "laterality", "density")


@dataclass(frozen=True)
class LabelsFile:
    """The rows of a labels file, by path within the batch, and what an operator should know of it.

    A row's `quarantine_reason` and `quarantine_detail` are set where it can't be used.
    """

    rows: pd.DataFrame
    notes: tuple[str, ...]


def parse(data: bytes, name: str) -> LabelsFile:
    """Read a labels file; bad rows are marked, and only a file that can't be trusted as a whole is refused.

    Raises:
        DataError: it isn't a table, lacks a required column, or has one that looks like a misspelt known one.
    """
    table = _read_table(data, name)
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    notes = _check_columns(list(table.columns), name)
    known = [column for column in (*REQUIRED, *OPTIONAL) if column in table]
    rows = table[known].apply(lambda column: column.str.strip()).replace("", pd.NA)
    rows = rows.reindex(columns=[*REQUIRED, *OPTIONAL]).astype("string")
    for column in UPPER_CASE:
        rows[column] = rows[column].str.upper()
    return LabelsFile(_typed(_merge_repeated(_judge(rows))), notes)


def _read_table(data: bytes, name: str) -> pd.DataFrame:
    try:
        if name.endswith(".parquet"):
            return pd.read_parquet(io.BytesIO(data)).astype("string").fillna("")
        return pd.read_csv(io.BytesIO(data), dtype="string", keep_default_na=False, encoding="utf-8-sig", sep=",")
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{name} is not a table: {str(error).splitlines()[0]}") from error


def _check_columns(columns: list[str], name: str) -> tuple[str, ...]:
    known = (*REQUIRED, *OPTIONAL)
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{name} has columns {repeated} twice")
    unknown = [column for column in columns if column not in known]
    for column in unknown:
        alike = difflib.get_close_matches(_plain(column), [k for k in map(_plain, known) if k], n=1, cutoff=0.85)
        meant = next((k for k in known if alike and _plain(k) == alike[0]), None)
        if meant and meant not in columns:
            raise DataError(f"{name} has a column {column!r}; if {meant!r} is meant, write it so")
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise DataError(f"{name} has no column {missing}; it has {columns[:20]}")
    return (f"{name}: columns {unknown[:20]} are not used",) if unknown else ()


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _judge(rows: pd.DataFrame) -> pd.DataFrame:
    plain = rows.astype(object).where(rows.notna(), None)
    verdicts = [_judge_row(*cells) for cells in zip(plain["path"], plain["label"], plain["age"], strict=True)]
    reasons = pd.DataFrame(
        verdicts, columns=["quarantine_reason", "quarantine_detail"], index=rows.index, dtype="string"
    )
    return rows.join(reasons)


def _judge_row(path: str | None, label: str | None, age: str | None) -> tuple[str | None, str | None]:
    if path is None or not is_inside(path):
        return QuarantineReason.PATH_OUTSIDE_BATCH, f"path {path!r} doesn't lie in the batch"
    if label is None:
        return QuarantineReason.NO_LABEL, "the label is empty"
    if label not in ("0", "1", "0.0", "1.0"):
        return QuarantineReason.BAD_LABEL, f"label {label[:40]!r} is neither 0 nor 1"
    if age is not None and not _is_number(age):
        return QuarantineReason.BAD_LABELS_FILE, f"age {age[:40]!r} is not a number"
    return None, None


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
    disagreeing = distinct["path"].duplicated(keep=False) & distinct["path"].notna()
    distinct.loc[disagreeing, "quarantine_reason"] = QuarantineReason.CONFLICTING_LABELS.value
    distinct.loc[disagreeing, "quarantine_detail"] = "the labels file has rows for it that disagree"
    return distinct.drop_duplicates("path").reset_index(drop=True)


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    fine = rows["quarantine_reason"].isna()
    rows["label"] = rows["label"].where(fine).astype("Float64").astype("Int64")
    rows["age"] = rows["age"].where(fine).astype("Float64")
    return rows

"""The manifest: one row for each image of a snapshot, quarantined ones included.

`COLUMNS` is the schema and its documentation; everything that reads or writes a manifest goes
through `conform`, so that a column is added in this table and nowhere else.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bc_tasks.errors import DataError

Kind = Literal["string", "Int64", "Float64", "boolean"]


@dataclass(frozen=True)
class Column:
    """A manifest column; `in_fingerprint` says whether a changed value makes another data set."""

    name: str
    kind: Kind
    in_fingerprint: bool
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("key", "string", False, "object key below the data root, e.g. inbox/2026-11-23/0/7_12.jpg"),
    Column("batch", "string", False, "first folder below the inbox"),
    Column("etag", "string", False, "the object's ETag when it was read"),
    Column("version_id", "string", False, "the object's version, where the bucket keeps versions"),
    Column("num_bytes", "Int64", False, "size of the object"),
    Column("sha256", "string", True, "digest of the object's bytes"),
    Column("image_id", "string", True, "unique id of the image"),
    Column("patient_id", "string", True, "pseudonymous patient id; without one, the source stem"),
    Column("source_stem", "string", True, "file name before `.rf.<hash>` and the extension"),
    Column("label", "Int64", True, "0 no cancer, 1 cancer"),
    Column("view", "string", True, "CC, MLO, ...; null where unknown"),
    Column("laterality", "string", True, "L or R; null where unknown"),
    Column("site_id", "string", True, "where the image was made"),
    Column("machine_id", "string", True, "on which machine"),
    Column("age", "Float64", True, "of the patient, in years"),
    Column("density", "string", True, "A to D; null where unknown"),
    Column("split", "string", True, "training, tuning or holdout"),
    Column("source_width_px", "Int64", False, "width of the image as stored in the object"),
    Column("source_height_px", "Int64", False, "height of the image as stored in the object"),
    Column("was_inverted", "boolean", False, "whether black and white were swapped when it was read"),
    Column("tag_patient_id", "string", False, "patient id in the file's own tags (DICOM); null where it has none"),
    Column("tag_view", "string", False, "view in the file's own tags"),
    Column("tag_laterality", "string", False, "laterality in the file's own tags"),
    Column("tag_age", "Float64", False, "age in the file's own tags, in years"),
    Column("pixel_sha256", "string", True, "digest of the uint8 pixels that training sees"),
    Column("grey_mean", "Float64", False, "mean grey value of those pixels, 0 to 255"),
    Column("grey_std", "Float64", False, "their standard deviation"),
    Column("grey_min", "Int64", False, "their minimum"),
    Column("grey_max", "Int64", False, "their maximum"),
    Column("black_share", "Float64", False, "share of those pixels that are (nearly) black, 0 to 1"),
    Column("shard_key", "string", False, "pixel shard that holds the pixels, below the data root"),
    Column("shard_row", "Int64", False, "row of the image in that shard"),
    Column(
        "near_copies",
        "string",
        False,
        "pictures that this one is a copy of, as JSON {pixel_sha256: how}; null: unsought",
    ),
    Column("near_copies_version", "string", False, "the version of `bc_tasks.near_copies` that sought them"),
    Column("quarantine_reason", "string", False, "a QuarantineReason; null where the image is used"),
    Column("quarantine_detail", "string", False, "what was seen, in a few words"),
)
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
FINGERPRINT_COLUMNS = tuple(column.name for column in COLUMNS if column.in_fingerprint)
TAGS = ("patient_id", "view", "laterality", "age")
"""Columns that the file's own tags, kept under `tag_<name>`, fill where people say nothing."""


def empty() -> pd.DataFrame:
    """Return a manifest without rows."""
    return pd.DataFrame({column.name: pd.Series(dtype=column.kind) for column in COLUMNS})


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with exactly the manifest's columns, in order, in their dtypes, sorted by key.

    Missing columns become null.

    Raises:
        DataError: a column isn't known, or a value doesn't fit its column.
    """
    unknown = sorted(set(frame.columns) - set(COLUMN_NAMES))
    if unknown:
        raise DataError(f"columns {unknown[:10]} are not manifest columns; known are {list(COLUMN_NAMES)}")
    try:
        typed = {
            column.name: frame[column.name].astype(column.kind)
            if column.name in frame
            else pd.Series(pd.NA, index=frame.index, dtype=column.kind)
            for column in COLUMNS
        }
    except (TypeError, ValueError) as error:
        raise DataError(f"a manifest value doesn't fit its column: {error}") from error
    return pd.DataFrame(typed).reset_index(drop=True).sort_values("key", kind="stable", ignore_index=True)


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are not quarantined."""
    return manifest[manifest["quarantine_reason"].isna()].reset_index(drop=True)


def to_parquet(manifest: pd.DataFrame) -> bytes:
    """Serialise a manifest."""
    buffer = io.BytesIO()
    conform(manifest).to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def with_values(data: bytes, column: str, values: Collection[str], columns: Sequence[str]) -> pd.DataFrame:
    """Read these columns of the rows that have one of the values in `column`, and no other column of the manifest.

    Raises:
        DataError: these bytes are no manifest.
    """
    try:
        return pd.read_parquet(io.BytesIO(data), columns=list(columns), filters=[(column, "in", list(values))])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"not a Parquet manifest: {error}") from error


def from_parquet(data: bytes) -> pd.DataFrame:
    """Read a manifest.

    Raises:
        DataError: these bytes are no manifest.
    """
    try:
        frame = pd.read_parquet(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise DataError(f"not a Parquet manifest: {error}") from error
    return conform(frame)

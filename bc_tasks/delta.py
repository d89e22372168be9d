"""The delta: what the inbox holds tonight against the last committed snapshot's manifest.

An object is known by its key with its ETag and version. Pure: manifests in, manifests out.
"""

from dataclasses import dataclass

import pandas as pd

from bc_tasks import manifest
from bc_tasks.mammogram import LEAKS, QuarantineReason
from bc_tasks.withholding import is_held_back

OBJECT = ("etag", "version_id")
"""What changes when an object is overwritten."""

FACTS = ("label", "patient_id", "image_id", "view", "laterality", "site_id", "machine_id", "age", "density")
"""What people say of an image."""

FROM_BYTES = (
    *("sha256", "source_width_px", "source_height_px", "was_inverted", *(f"tag_{name}" for name in manifest.TAGS)),
    *("pixel_sha256", "grey_mean", "grey_std", "grey_min", "grey_max", "black_share", "shard_key", "shard_row"),
    *("near_copies", "near_copies_version"),
)
"""What is known of an image once its bytes were read, and stands as long as they do."""

FAULTS_OF_BYTES = frozenset(
    {
        QuarantineReason.EMPTY_FILE,
        QuarantineReason.UNREADABLE,
        QuarantineReason.TRUNCATED,
        QuarantineReason.UNKNOWN_FORMAT,
        QuarantineReason.WRONG_EXTENSION,
        QuarantineReason.ANIMATED,
        QuarantineReason.UNSUPPORTED_MODE,
        QuarantineReason.NOT_GREY,
        QuarantineReason.TOO_SMALL,
    }
)
"""Reasons that stand as long as the bytes do; the others, TOO_LARGE by the configuration's limits too, don't."""


@dataclass(frozen=True)
class Delta:
    """Tonight's rows: `known` with all that is to be known, `to_read` still without what their bytes say."""

    known: pd.DataFrame
    to_read: pd.DataFrame


@dataclass(frozen=True)
class News:
    """Keys of the images that a candidate has more than the snapshot before, has changed, or has lost."""

    new: frozenset[str]
    revised: frozenset[str]
    withdrawn: frozenset[str]


def compare(inbox_rows: pd.DataFrame, waiting_batches: tuple[str, ...], base: pd.DataFrame) -> Delta:
    """Give the inbox's rows what is known of their bytes; rows of waiting batches stay as they were.

    What people say of an image is taken from tonight's inbox alone, so a snapshot doesn't depend on how many nights
    its images took to come.
    """
    tonight = manifest.conform(inbox_rows).set_index("key", drop=False)
    before = base.set_index("key", drop=False)
    both = tonight.index.intersection(before.index)
    unchanged = both[_same(before.loc[both], tonight.loc[both], OBJECT)]
    carried = _carry(before.loc[unchanged], tonight.loc[unchanged])
    rest = tonight.drop(index=carried.index)
    readable = rest["quarantine_reason"].isna()
    waiting = base[base["batch"].isin(waiting_batches)]
    return Delta(
        known=manifest.conform(pd.concat([waiting, carried, rest[~readable]], ignore_index=True)),
        to_read=manifest.conform(rest[readable]),
    )


def _carry(before: pd.DataFrame, tonight: pd.DataFrame) -> pd.DataFrame:
    """Return tonight's rows of unchanged objects that were read before, with what was read."""
    faulty = before["quarantine_reason"].isin(FAULTS_OF_BYTES)
    read = before[before["shard_key"].notna() | faulty]
    carried = tonight.loc[read.index].copy()
    carried[list(FROM_BYTES)] = read[list(FROM_BYTES)]
    sound = carried["quarantine_reason"].isna() & faulty.loc[read.index]
    for column in ("quarantine_reason", "quarantine_detail"):
        carried[column] = carried[column].mask(sound, read[column])
    return carried


def news(base: pd.DataFrame, candidate: pd.DataFrame) -> News:
    """Compare a finished candidate with the manifest before; revised is what has other bytes or says anything else.

    What was learnt from, and is known for a leak now, is revised too.
    Images that are held back, because their patient was withdrawn, count as gone.
    """
    before, after = (rows[~is_held_back(rows)].set_index("key") for rows in (base, candidate))
    both = after.index.intersection(before.index)
    same = _same(before.loc[both], after.loc[both], (*OBJECT, *manifest.FINGERPRINT_COLUMNS))
    was_used = before.loc[both, "quarantine_reason"].isna()
    leaks = was_used & after.loc[both, "quarantine_reason"].isin(LEAKS)
    return News(
        new=frozenset(after.index.difference(before.index)),
        revised=frozenset(both[~same | leaks]),
        withdrawn=frozenset(before.index.difference(after.index)),
    )


def _same(before: pd.DataFrame, after: pd.DataFrame, columns: tuple[str, ...]) -> "pd.Series[bool]":
    a, b = before[list(columns)], after[list(columns)]
    return ((a == b).fillna(False) | (a.isna() & b.isna())).all(axis="columns")

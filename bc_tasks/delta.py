"""The delta: what the inbox holds tonight against the last committed snapshot's manifest.

An object is known by its key with its ETag and version. Pure: manifests in, manifests out.
"""

from dataclasses import dataclass

import pandas as pd

from bc_tasks import manifest
from bc_tasks.mammogram import QuarantineReason

OF_THE_FILE = frozenset(
    {
        QuarantineReason.EMPTY_FILE,
        QuarantineReason.TOO_LARGE,
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
"""Reasons that stand as long as the object's bytes do; the others are looked at anew each night."""

OF_COMPARISON = frozenset(
    {
        QuarantineReason.DUPLICATE_CONTENT,
        QuarantineReason.DUPLICATE_IMAGE_ID,
        QuarantineReason.CONFLICTING_LABELS,
        QuarantineReason.FAILED_EXPECTATION,
    }
)
"""Reasons that come from comparing images with each other, or from validation."""

FACTS = ("label", "patient_id", "image_id", "view", "laterality", "site_id", "machine_id", "age", "density")
"""What people say of an image; a change of it is a revision."""

PIXEL_COLUMNS = (
    *("sha256", "source_width_px", "source_height_px", "was_inverted", "pixel_sha256"),
    *("grey_mean", "grey_std", "grey_min", "grey_max", "black_share", "shard_key", "shard_row"),
)
"""What is known once the bytes were read."""


@dataclass(frozen=True)
class Delta:
    """Tonight's rows: `known` as they are, `to_read` still without pixels; and how they came about."""

    known: pd.DataFrame
    to_read: pd.DataFrame
    new_keys: frozenset[str]
    revised_keys: frozenset[str]
    withdrawn_keys: frozenset[str]


def compare(inbox_rows: pd.DataFrame, waiting_batches: tuple[str, ...], base: pd.DataFrame) -> Delta:
    """Compare the rows of the settled batches with the manifest before; rows of waiting batches stay as they were."""
    wanted = manifest.conform(inbox_rows)
    waits = base["batch"].isin(waiting_batches)
    before = base[~waits].set_index("key", drop=False)
    after = wanted.set_index("key", drop=False)
    in_both = after.index.intersection(before.index)
    old, now = before.loc[in_both], after.loc[in_both]
    same_bytes = _equal(old, now, "etag") & _equal(old, now, "version_id")
    revised = in_both[~same_bytes | _facts_differ(old, now)]
    carried = _carry(old[same_bytes], now[same_bytes])
    rest = after.drop(index=carried.index)
    readable = rest["quarantine_reason"].isna()
    return Delta(
        known=manifest.conform(pd.concat([base[waits], carried, rest[~readable]], ignore_index=True)),
        to_read=manifest.conform(rest[readable]),
        new_keys=frozenset(after.index.difference(before.index)),
        revised_keys=frozenset(revised),
        withdrawn_keys=frozenset(before.index.difference(after.index)),
    )


def _equal(old: pd.DataFrame, now: pd.DataFrame, column: str) -> "pd.Series[bool]":
    a, b = old[column].astype("string").fillna(""), now[column].astype("string").fillna("")
    return a == b


def _facts_differ(old: pd.DataFrame, now: pd.DataFrame) -> "pd.Series[bool]":
    """Say where people now say something else; what they leave out may have come from the file's own tags."""
    differs = pd.Series(False, index=old.index)
    for column in FACTS:
        said = now[column].notna()
        differs |= said & ~_equal(old, now, column)
    inbox_now, inbox_before = _inbox_reason(now), _inbox_reason(old)
    return differs | (inbox_now != inbox_before)


def _inbox_reason(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return why a row's place in the inbox or its label keeps it out, or an empty string."""
    later = {*OF_THE_FILE, *OF_COMPARISON}
    reason = rows["quarantine_reason"].fillna("")
    return reason.where(~reason.isin(later), "")


def _carry(old: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose bytes are known and unchanged: pixels as before, facts as people now say."""
    unusable = old["quarantine_reason"].isin(OF_THE_FILE)
    kept = old[old["shard_key"].notna() | unusable]
    said = now.loc[kept.index]
    merged = kept.copy()
    for column in FACTS:
        merged[column] = said[column].fillna(kept[column])
    still = kept["quarantine_reason"].where(unusable.loc[kept.index])
    merged["quarantine_reason"] = said["quarantine_reason"].fillna(still)
    detail = kept["quarantine_detail"].where(unusable.loc[kept.index])
    merged["quarantine_detail"] = said["quarantine_detail"].fillna(detail)
    return merged


def separate(rows: pd.DataFrame, earlier_keys: frozenset[str]) -> pd.DataFrame:
    """Quarantine what can't stand beside the others: one content with two labels, copies, and doubled image ids.

    Of copies, the one that was there before tonight stays, else the first by key.
    """
    result = rows.copy()
    order = result.assign(is_new=~result["key"].isin(earlier_keys)).sort_values(["is_new", "key"]).index
    _mark(result, _labels_conflict(result), QuarantineReason.CONFLICTING_LABELS, "the same image came with both labels")
    for column, reason, detail in (
        ("sha256", QuarantineReason.DUPLICATE_CONTENT, "the same file is there under another key"),
        ("pixel_sha256", QuarantineReason.DUPLICATE_CONTENT, "the same picture is there in another file"),
        ("image_id", QuarantineReason.DUPLICATE_IMAGE_ID, "another image has this image id"),
    ):
        usable = result.loc[order][result.loc[order, "quarantine_reason"].isna()]
        _mark(result, usable[usable[column].duplicated()].index, reason, detail)
    return result


def _labels_conflict(rows: pd.DataFrame) -> pd.Index:
    usable = rows[rows["quarantine_reason"].isna()]
    num_labels = usable.groupby("pixel_sha256")["label"].transform("nunique")
    return usable[num_labels > 1].index


def _mark(rows: pd.DataFrame, index: pd.Index, reason: QuarantineReason, detail: str) -> None:
    rows.loc[index, "quarantine_reason"] = reason.value
    rows.loc[index, "quarantine_detail"] = detail

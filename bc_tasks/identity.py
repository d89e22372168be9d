"""Who is who: completes what people leave unsaid of an image, and sets copies of the same picture aside."""

import pandas as pd

from bc_tasks import manifest
from bc_tasks.mammogram import QuarantineReason

COPIES = (
    ("sha256", QuarantineReason.DUPLICATE_CONTENT, "the same file is there under another key"),
    ("pixel_sha256", QuarantineReason.DUPLICATE_CONTENT, "the same picture is there in another file"),
    ("image_id", QuarantineReason.DUPLICATE_IMAGE_ID, "another image has this image id"),
)
"""What only one usable image may have, and why the others are set aside."""


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Fill what people leave out from the file's tags; the source stem stands in for a patient that nobody names."""
    result = rows.copy()
    for name in manifest.TAGS:
        result[name] = result[name].fillna(result[f"tag_{name}"])
    result["patient_id"] = result["patient_id"].fillna(result["source_stem"])
    result["image_id"] = result["image_id"].fillna(result["source_stem"] + "-" + result["sha256"].str[:12])
    return result


def separate(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Quarantine what can't stand beside the others: one picture with two labels, copies, and doubled image ids.

    Of copies, the one that `base`, the manifest before, used stays; else the first by key.
    """
    result = rows.copy()
    _mark(result, _with_both_labels(result), QuarantineReason.CONFLICTING_LABELS, "the same picture has both labels")
    order = earliest_first(result, base)
    for column, reason, detail in COPIES:
        usable = result.loc[order][result.loc[order, "quarantine_reason"].isna()]
        _mark(result, usable.index[usable[column].duplicated()], reason, detail)
    return result


def _with_both_labels(rows: pd.DataFrame) -> pd.Index:
    usable = rows[rows["quarantine_reason"].isna()]
    num_labels = usable.groupby("pixel_sha256")["label"].transform("nunique")
    return usable.index[num_labels > 1]


def earliest_first(rows: pd.DataFrame, base: pd.DataFrame) -> pd.Index:
    """Order rows by whether they stood before with these bytes, stood before with others, or are new; then by key."""
    failed = base["quarantine_reason"] == QuarantineReason.FAILED_EXPECTATION  # may be mended, and is no copy
    stood = base[base["quarantine_reason"].isna() | failed.fillna(False)]
    file, files_before = ["key", "sha256"], pd.MultiIndex.from_frame(stood[["key", "sha256"]])
    ranks = rows.assign(
        is_new=~rows["key"].isin(stood["key"]), is_other=~pd.MultiIndex.from_frame(rows[file]).isin(files_before)
    )
    return ranks.sort_values(["is_new", "is_other", "key"]).index


def _mark(rows: pd.DataFrame, index: pd.Index, reason: QuarantineReason, detail: str) -> None:
    rows.loc[index, "quarantine_reason"] = reason.value
    rows.loc[index, "quarantine_detail"] = detail

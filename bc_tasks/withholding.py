"""Holds back the images of withdrawn patients: nothing of them but whose they are stays in a manifest. Pure.

A withdrawn patient's image may still lie in the inbox, so its row stays, with a reason: an auditor sees that it is
not used, and no later night reads it again.
"""

from dataclasses import dataclass, replace

import pandas as pd

from bc_tasks import manifest
from bc_tasks.mammogram import QuarantineReason

REASON = QuarantineReason.WITHDRAWN_PATIENT.value
DETAIL = "the patient was withdrawn; nothing of the image is used, and it may be removed from the inbox"
FILE = ["key", "etag", "version_id"]
KEPT = (*FILE, "batch", "num_bytes", "source_stem", "patient_id")
"""What it takes to know the object again, and whose it is."""


@dataclass(frozen=True)
class Withdrawn:
    """Who was withdrawn, their pictures, and the other names under which these pictures were found."""

    patient_ids: frozenset[str]
    pixel_digests: frozenset[str]
    other_names: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All patient ids that are theirs."""
        return self.patient_ids | self.other_names


def with_other_names(withdrawn: Withdrawn, before: pd.DataFrame) -> Withdrawn:
    """Add the names whose images were held back in the manifest `before`: they stay so, and are not read again."""
    return replace(withdrawn, other_names=frozenset(before.loc[is_held_back(before), "patient_id"]))


def divide(to_read: pd.DataFrame, before: pd.DataFrame, withdrawn: Withdrawn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose images must be read, and those that are held back unread.

    Unread is what people say is a withdrawn patient's, and what was held back before, in the manifest `before`, unless
    its bytes changed since or people say that it is another patient's.
    """
    held = before[is_held_back(before)]
    whose = dict(zip(_files(held), held["patient_id"], strict=True))
    then = pd.Series([whose.get(file, pd.NA) for file in _files(to_read)], index=to_read.index, dtype="string")
    said = to_read["patient_id"].astype("string")
    known = said.isin(withdrawn.names) | (then.notna() & (said.isna() | (said == then).fillna(False)))
    unread = to_read[known].assign(patient_id=said.fillna(then)[known])
    return to_read[~known], _stripped(unread)


def hold_back(rows: pd.DataFrame, withdrawn: Withdrawn) -> pd.DataFrame:
    """Strip the rows of withdrawn patients of all that they say; who has one of their pictures is taken for them.

    Patient ids must be complete.
    """
    theirs = rows["patient_id"].isin(withdrawn.names)
    telling = rows[rows["pixel_sha256"].notna() & (rows["grey_std"].fillna(1) > 0)]  # a constant image shows nobody
    pictures = withdrawn.pixel_digests | frozenset(
        telling.loc[telling["patient_id"].isin(withdrawn.names), "pixel_sha256"]
    )
    other_names = telling.loc[telling["pixel_sha256"].isin(pictures), "patient_id"]
    held = theirs | rows["patient_id"].isin(other_names)
    return pd.concat([rows[~held], _stripped(rows[held])], ignore_index=True) if held.any() else rows


def is_held_back(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are of withdrawn patients."""
    return (rows["quarantine_reason"] == REASON).fillna(False).astype(bool)


def without_gone(previous: pd.DataFrame, candidate: pd.DataFrame, withdrawn: Withdrawn) -> pd.DataFrame:
    """Return the manifest before without the patients withdrawn since, so that they don't look like lost images."""
    still_used = frozenset(manifest.usable(candidate)["patient_id"])
    held_back = frozenset(candidate.loc[is_held_back(candidate), "key"])
    gone = previous["patient_id"].isin(withdrawn.names - still_used) | previous["key"].isin(held_back)
    return previous[~gone].reset_index(drop=True)


def notes_on(candidate: pd.DataFrame, withdrawn: Withdrawn) -> list[str]:
    """Return what an operator should know: how many images are held back, and which names seem to be theirs too."""
    held = candidate[is_held_back(candidate)]
    if held.empty:
        return []
    others = sorted(frozenset(held["patient_id"]) - withdrawn.patient_ids)
    also = f"; {len(others)} patients have one of their pictures and are taken for them: {others[:10]}"
    return [
        f"{len(held)} images in the inbox are of withdrawn patients: held back, to be removed there"
        + (also if others else "")
    ]


def _stripped(rows: pd.DataFrame) -> pd.DataFrame:
    kept = rows[list(KEPT)].assign(quarantine_reason=REASON, quarantine_detail=DETAIL)
    return manifest.conform(kept)


def _files(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(rows[FILE].astype("string").fillna("").itertuples(index=False, name=None))

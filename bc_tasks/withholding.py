"""Holds back the images of withdrawn patients: nothing of them but whose they are stays in a manifest. Pure.

A withdrawn patient's image may still lie in the inbox, so its row stays, with a reason: an auditor sees that it is
not used, and no later night reads it again. Who has one of their pictures, or a near copy of one, or their id in a
file's tags, is taken for them. Of the images of such a name the clues stay too, so that each night finds anew whom the
inbox as it lies tells: once the image that told is gone, or another's, the name is free again.
"""

from dataclasses import dataclass

import pandas as pd

from bc_tasks import manifest, ties
from bc_tasks.leaks import leakage
from bc_tasks.mammogram import QuarantineReason

REASON = QuarantineReason.WITHDRAWN_PATIENT.value
DETAIL = "the patient was withdrawn; nothing of the image is used, and it may be removed from the inbox"
FILE = ["key", "etag", "version_id"]
KEPT = (*FILE, "batch", "num_bytes", "source_stem", "patient_id")
"""What it takes to know the object again, and whose it is."""

CLUES = ["pixel_sha256", "near_copies", "tag_patient_id"]
"""By what another name is tied to a withdrawn patient."""


@dataclass(frozen=True)
class Withdrawn:
    """Who was withdrawn, and by what else they are known.

    Digests of their pictures, and of near copies of these that were noted with them; the patient ids in their files'
    tags, by patient.
    """

    patient_ids: frozenset[str]
    pixel_digests: frozenset[str]
    near_copies: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All ids that are theirs, those in tags too."""
        return self.patient_ids | {tag for _, tag in self.tags}


def divide(
    to_read: pd.DataFrame, known: pd.DataFrame, before: pd.DataFrame, withdrawn: Withdrawn
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose images must be read, and those that are held back unread.

    Unread is what people say is a withdrawn patient's; and what was held back before, in the manifest `before`, and
    what people say is of a name that was, as long as a clue in these rows or in those `known` still ties the name to a
    withdrawn patient. Changed bytes, and what people say is another's, are no clue any more.
    """
    held = before[is_held_back(before)].drop_duplicates("key")
    then = held.set_index("key").reindex(to_read["key"]).set_axis(to_read.index)
    said = to_read["patient_id"].astype("string")
    is_same = then["patient_id"].notna() & (said.isna() | (said == then["patient_id"]).fillna(False))
    for column in FILE[1:]:
        is_same &= then[column].fillna("") == to_read[column].fillna("")
    remembered = to_read.assign(patient_id=said.mask(is_same, then["patient_id"]))
    remembered[CLUES] = then[CLUES].where(is_same)
    named = remembered[remembered["patient_id"].notna()]
    names = _names(pd.concat([known, named]), withdrawn)
    unread = remembered["patient_id"].isin(names)
    return to_read[~unread], _stripped(remembered[unread], withdrawn)


def hold_back(rows: pd.DataFrame, withdrawn: Withdrawn) -> pd.DataFrame:
    """Strip the rows of withdrawn patients, and of all who are taken for them, of all that they say but for clues.

    Patient ids must be complete. Done again once near copies are noted, it finds who has one of these.
    """
    held = rows["patient_id"].isin(_names(rows, withdrawn))
    return pd.concat([rows[~held], _stripped(rows[held], withdrawn)], ignore_index=True) if held.any() else rows


def _names(rows: pd.DataFrame, withdrawn: Withdrawn) -> frozenset[str]:
    """Return all patient ids that are theirs, by what these rows tell.

    A near copy counts only of a picture that was recorded with the withdrawal, and leads no further by likeness.
    """
    if not withdrawn.patient_ids:
        return frozenset()
    is_copy = rows["pixel_sha256"].isin(withdrawn.near_copies) | leakage.is_copy_of(rows, withdrawn.pixel_digests)
    digests = withdrawn.pixel_digests | frozenset(rows.loc[is_copy, "pixel_sha256"].dropna())
    recorded = pd.DataFrame(sorted(withdrawn.tags), columns=["patient_id", "tag_patient_id"])
    everyone = pd.concat([rows, manifest.conform(recorded)], ignore_index=True) if len(recorded) else rows
    found = ties.spread(everyone, withdrawn.patient_ids, digests)
    return withdrawn.patient_ids.union(*({*one.by_picture["patient_id"], *one.by_tag["patient_id"]} for one in found))


def is_held_back(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are of withdrawn patients."""
    return (rows["quarantine_reason"] == REASON).fillna(False).astype(bool)


def without_gone(previous: pd.DataFrame, candidate: pd.DataFrame, withdrawn: Withdrawn) -> pd.DataFrame:
    """Return the manifest before without the patients withdrawn since, so that they don't look like lost images."""
    still_used = frozenset(manifest.usable(candidate)["patient_id"])
    held_back = candidate[is_held_back(candidate)]
    names = withdrawn.patient_ids | frozenset(held_back["patient_id"])
    gone = previous["patient_id"].isin(names - still_used) | previous["key"].isin(held_back["key"])
    return previous[~gone].reset_index(drop=True)


def notes_on(candidate: pd.DataFrame, withdrawn: Withdrawn) -> list[str]:
    """Return what an operator should know: how many images are held back, and how many names seem to be theirs too."""
    held = candidate[is_held_back(candidate)]
    if held.empty:
        return []
    num_others = len(frozenset(held["patient_id"]) - withdrawn.patient_ids)
    also = f"; {num_others} other names are taken for them, by a picture or a tag: see the manifest"
    return [
        f"{len(held)} images in the inbox are of withdrawn patients: held back, to be removed there"
        + (also if num_others else "")
    ]


def _stripped(rows: pd.DataFrame, withdrawn: Withdrawn) -> pd.DataFrame:
    """Return rows with nothing but whose they are, and the clues that no record of a withdrawal has."""
    is_named = rows["patient_id"].isin(withdrawn.patient_ids)
    kept = rows[[*KEPT, *CLUES]].assign(quarantine_reason=REASON, quarantine_detail=DETAIL)
    kept.loc[is_named, ["near_copies", "tag_patient_id"]] = pd.NA
    is_recorded = is_named & rows["pixel_sha256"].isin(withdrawn.pixel_digests)
    kept.loc[is_recorded | ~ties.is_telling(rows), "pixel_sha256"] = pd.NA
    return manifest.conform(kept)

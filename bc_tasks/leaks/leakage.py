"""The leak guard: which images would teach a model what it is measured or tuned on. Pure.

An image gives itself away by its patient, by its source image, by its pixels, or as a near copy: mirrored, turned,
saved anew, cropped. Who has a picture of a holdout's patient is taken for that patient under another name, so all else
of theirs is a leak too; the patient id in a file's own tags is such a name, unless many patients share it. All is
decided anew each night, from what lies in the inbox: a copy whose original is gone is a leak no more. So a name is
forgotten, too, once the image that gave it away is gone: taking out that image alone says that it came under this name
by mistake, and frees the rest. Who is one patient must get one name, or be taken out whole.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bc_tasks import identity, ties
from bc_tasks.mammogram import QuarantineReason, Split
from bc_tasks.records import Leak

Copies = Mapping[str, Mapping[str, str]]
"""By a picture's digest: the digests of its near copies, with how they differ."""

Row = Any
"""A manifest's row, a named tuple."""


@dataclass(frozen=True)
class Guarded:
    """The leaks, by key, and the patients who are in the holdout under another name."""

    leaks: Mapping[str, Leak]
    aliases: frozenset[str]


def from_holdout(rows: pd.DataFrame, holdout_rows: pd.DataFrame) -> Guarded:
    """Find the usable rows that would teach a model of the holdout; the holdout's own images are none of them.

    Rows that are set aside for another reason tell who is who, too.
    """
    measured_on = frozenset(holdout_rows["patient_id"])
    shown, names = _under_other_names(rows, holdout_rows)
    sources = {row.source_stem: row for row in _each(holdout_rows)}
    ids = {row.image_id: row for row in _each(holdout_rows)}
    suspects = rows["patient_id"].isin(names) | rows["source_stem"].isin(sources) | rows["image_id"].isin(ids)
    usable = rows["quarantine_reason"].isna() & ~_is_own(rows, holdout_rows)
    leaks = {}
    for row in _each(rows[suspects & usable]):
        if row.patient_id in measured_on:
            leak = _leak(row, QuarantineReason.HOLDOUT_PATIENT, f"patient {row.patient_id} is in the holdout")
        elif row.key in shown:
            leak = shown[row.key]
        elif row.source_stem in sources:
            other = sources[row.source_stem]
            detail = f"it has the source of holdout {_called(other)}"
            leak = _leak(row, QuarantineReason.HOLDOUT_SOURCE, detail, other)
        elif row.patient_id in names:
            detail = f"patient {row.patient_id} is in the holdout under another name: {names[row.patient_id]}"
            leak = _leak(row, QuarantineReason.HOLDOUT_PATIENT, detail)
        else:
            other = ids[row.image_id]
            leak = _leak(row, QuarantineReason.DUPLICATE_IMAGE_ID, f"holdout {_called(other)} has this id", other)
        leaks[row.key] = leak
    return Guarded(leaks, frozenset(names) - measured_on)


def between_splits(rows: pd.DataFrame, base: pd.DataFrame) -> dict[str, Leak]:
    """Find the usable rows of training and tuning that are near copies of one in the other of the two.

    Of two, the one that `base`, the manifest before, used stays; else the first by key.
    """
    copies = copies_noted(rows)
    learnt_from = rows["quarantine_reason"].isna() & rows["split"].isin([Split.TRAINING.value, Split.TUNING.value])
    suspects = rows[learnt_from & rows["pixel_sha256"].isin(copies)]
    leaks: dict[str, Leak] = {}
    kept: dict[str, Row] = {}
    for row in _each(suspects.loc[identity.earliest_first(suspects, base)]):
        hows = copies[row.pixel_sha256]
        others = [kept[digest] for digest in hows if digest in kept and kept[digest].split != row.split]
        if others:
            how = hows[others[0].pixel_sha256]
            detail = f"near copy ({how}) of {_called(others[0])} in {others[0].split}; it would be in {row.split}"
            leaks[row.key] = _leak(row, QuarantineReason.SPLIT_NEAR_COPY, detail, others[0], how)
        else:
            kept[row.pixel_sha256] = row
    return leaks


def set_aside(rows: pd.DataFrame, leaks: Mapping[str, Leak]) -> pd.DataFrame:
    """Return the rows, with the leaks among them quarantined."""
    result = rows.copy()
    is_leak = result["key"].isin(leaks)
    for column, field in (("quarantine_reason", "reason"), ("quarantine_detail", "detail")):
        values = {key: getattr(leak, field) for key, leak in leaks.items()}
        result.loc[is_leak, column] = result.loc[is_leak, "key"].map(values)
    return result


def copies_noted(rows: pd.DataFrame) -> Copies:
    """Return what a manifest's rows have noted of near copies, as seen from either of two pictures."""
    copies: dict[str, dict[str, str]] = defaultdict(dict)
    noted = rows[rows["near_copies"].fillna("{}") != "{}"]
    for digest, text in zip(noted["pixel_sha256"], noted["near_copies"], strict=True):
        for other, how in json.loads(text).items():
            copies[digest].setdefault(other, how)
            copies[other].setdefault(digest, how)
    return dict(copies)


def is_copy_of(rows: pd.DataFrame, digests: Set[str]) -> "pd.Series[bool]":
    """Say which rows are noted as near copies of one of these pictures."""
    return rows["near_copies"].fillna("{}").map(lambda text: not digests.isdisjoint(json.loads(text))).astype(bool)


def _under_other_names(rows: pd.DataFrame, holdout_rows: pd.DataFrame) -> tuple[dict[str, Leak], dict[str, str]]:
    """Return by key the images that show a picture of the holdout's patients, and by name how that is known.

    Who shows one picture of a holdout's patient, be it in the holdout or not, is that patient, and so are all who show
    exactly one of theirs, or whom a file's tag ties to them: it goes on until nobody more is found. A near copy counts
    only of a patient whom the holdout itself names: among very many images chance likeness would else lead from one to
    the next without end.
    """
    measured_on = frozenset(holdout_rows["patient_id"])
    pictures = {row.pixel_sha256: (row, "holdout ") for row in _each(holdout_rows) if pd.notna(row.pixel_sha256)}
    for row in _each(rows[rows["patient_id"].isin(measured_on) & ties.is_telling(rows)]):
        pictures.setdefault(row.pixel_sha256, (row, ""))
    originals, copies = frozenset(pictures), copies_noted(rows)
    copied = {digest for digest, others in copies.items() if not originals.isdisjoint(others)}
    everyone = pd.concat([rows, holdout_rows], ignore_index=True)
    names = dict.fromkeys(holdout_rows["patient_id"], "")
    shown: dict[str, Leak] = {}
    for found in ties.spread(everyone, measured_on, originals | copied):
        for row in _each(found.by_picture):
            shown[row.key] = leak = _shown(row, pictures, copies, originals)
            names.setdefault(row.patient_id, f"{row.key} is {leak.detail}")
        for row in _each(found.by_tag):
            names.setdefault(row.patient_id, f"{row.key} is tied to them by the patient id in a file's tags")
        for row in _each(found.theirs):
            pictures.setdefault(row.pixel_sha256, (row, ""))
    return shown, names


def _shown(row: Row, pictures: Mapping[str, tuple[Row, str]], copies: Copies, originals: Set[str]) -> Leak:
    """Return a row that shows one of the pictures, or a near copy of one of the originals, as a leak of it."""
    if row.pixel_sha256 in pictures:
        other, whose = pictures[row.pixel_sha256]
        reason, how, said = QuarantineReason.HOLDOUT_PIXELS, "", "the same picture as"
    else:
        digest = next(digest for digest in copies[row.pixel_sha256] if digest in originals)
        (other, whose), how = pictures[digest], copies[row.pixel_sha256][digest]
        reason, said = QuarantineReason.HOLDOUT_NEAR_COPY, f"a near copy ({how}) of"
    return _leak(row, reason, f"{said} {whose}{_called(other)}", other, how)


def _each(rows: pd.DataFrame) -> Iterator[Row]:
    return iter(rows.itertuples())


def _is_own(rows: pd.DataFrame, holdout_rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are the holdout's images: the same picture of the same patient, or the same object renamed."""
    own = pd.Series(False, index=rows.index)
    for whose in ("patient_id", "key"):
        ours, theirs = (
            pd.MultiIndex.from_frame(frame[["pixel_sha256", whose]].fillna("")) for frame in (rows, holdout_rows)
        )
        own |= ours.isin(theirs)
    return own


def _called(row: Row) -> str:
    return f"image {row.image_id} of patient {row.patient_id}"


def _leak(row: Row, reason: QuarantineReason, detail: str, other: Row = None, how: str = "") -> Leak:
    shown = {} if other is None else {"other_image_id": other.image_id, "other_pixel_sha256": other.pixel_sha256}
    return Leak(reason=reason.value, key=row.key, image_id=row.image_id, detail=detail, transform=how, **shown)

"""What expectations look at: frames whose rows are images, patients, splits or sites. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bc_tasks.delta import FACTS
from bc_tasks.mammogram import DISGUISED_LEAKS, LEAKS, Label, QuarantineReason, Split
from bc_tasks.withholding import is_held_back

NUM_NAMED = 10
"""How many bad things are named, in records, messages and Data Docs."""


@dataclass(frozen=True)
class Scope:
    """What the rows of a frame are; where one is bad, it is set aside ("row") or the night stops ("table")."""

    title: str
    things: str
    id_column: str
    severity: Literal["row", "table"] = "table"


MANIFEST = Scope("The manifest", "rows", "key")
PATIENT = Scope("Each patient who is trained or tuned on", "patients", "patient_id")
IMAGE = Scope("Each image", "images", "image_id", severity="row")
SNAPSHOT = Scope("The snapshot as a whole, without bad images", "images", "image_id")
SPLIT = Scope("Training and tuning", "splits", "split")
CHANGE = Scope("Compared with the snapshot before", "images", "image_id")
SITE = Scope("Each site, compared with the snapshot before", "sites", "site_id")
MACHINE = Scope("Each machine, compared with the snapshot before", "machines", "machine_id")
NIGHT = Scope("Tonight's images, with those that ingest could not use", "images", "key")


def patients(images: pd.DataFrame) -> pd.DataFrame:
    """Return the patients who are trained or tuned on, each with the number of splits that their images are in."""
    placed = images[images["split"].isin(list(Split))]
    learnt_from = placed.loc[placed["split"] != Split.HOLDOUT.value, "patient_id"].dropna().unique()
    return placed.groupby("patient_id")["split"].nunique()[learnt_from].rename("num_splits").reset_index()


def frames(images: pd.DataFrame, previous: pd.DataFrame) -> dict[Scope, pd.DataFrame | str]:
    """Return what the whole is judged by: a frame for each scope, or why there is nothing to judge.

    Both manifests hold usable rows only; an empty `previous` means that there is no snapshot before.
    """
    first = "there is no snapshot before this one"
    return {
        SNAPSHOT: images,
        SPLIT: _labels_by_split(images),
        CHANGE: first if previous.empty else images,
        SITE: first if previous.empty else _shares(previous, images, SITE),
        MACHINE: first if previous.empty else _shares(previous, images, MACHINE),
    }


def is_tonights(candidate: pd.DataFrame, previous: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are new or revised: neither their bytes nor what people say of them stood there before.

    What is held back, because its patient was withdrawn, is never tonight's: nobody looks at it.
    """
    columns = ["key", "etag", "version_id", *FACTS]
    then, now = (pd.MultiIndex.from_frame(rows[columns].astype("string").fillna("")) for rows in (previous, candidate))
    return pd.Series(~now.isin(then), index=candidate.index) & ~is_held_back(candidate)


def is_bad(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are quarantined for a fault.

    A copy of a picture that is there already does no harm; leaks have a limit of their own, or are routine.
    """
    reason = rows["quarantine_reason"].fillna("")
    return ~reason.isin({"", QuarantineReason.DUPLICATE_CONTENT, *LEAKS})


def is_leak(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are quarantined as known pictures under other names."""
    return rows["quarantine_reason"].fillna("").isin(DISGUISED_LEAKS)


def is_new_leak(candidate: pd.DataFrame, previous: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are such leaks, and were not in the manifest before: what a person has let pass once may stay."""
    columns = ["key", "sha256", "quarantine_reason"]
    then, now = (pd.MultiIndex.from_frame(rows[columns].astype("string").fillna("")) for rows in (previous, candidate))
    return is_leak(candidate) & ~now.isin(then)


def night(candidate: pd.DataFrame, previous: pd.DataFrame, bad_keys: Collection[str]) -> pd.DataFrame | str:
    """Return tonight's rows, quarantined ones included, with `is_bad` and `is_leak`; both manifests are whole."""
    bad = is_bad(candidate) | candidate["key"].isin(bad_keys)
    judged = candidate.assign(is_bad=bad, is_leak=is_new_leak(candidate, previous))
    rows = judged[is_tonights(candidate, previous)].reset_index(drop=True)
    return "nothing is new or revised" if rows.empty else rows


def names(scope: Scope, rows: pd.DataFrame) -> tuple[str, ...]:
    """Return what the first of these things are called; an image without an id is called by its key."""
    called = rows[scope.id_column].fillna(rows.get("key", ""))
    return tuple(str(name) for name in called.head(NUM_NAMED))


def _labels_by_split(images: pd.DataFrame) -> pd.DataFrame:
    splits = [Split.TRAINING.value, Split.TUNING.value]
    counts = pd.crosstab(images["split"], images["label"]).reindex(index=splits, columns=list(Label), fill_value=0)
    return pd.DataFrame({"split": splits, "num_no_cancer": counts[0].tolist(), "num_cancer": counts[1].tolist()})


def _shares(previous: pd.DataFrame, images: pd.DataFrame, scope: Scope) -> pd.DataFrame | str:
    """Return each site's or machine's change of share, -1 to 1; images of which it is unknown count as one more."""
    column = scope.id_column
    if previous[column].isna().all() or images[column].isna().all():
        return f"no image here, or none of the snapshot before, names its {column}"
    shares = [frame[column].fillna("unknown").value_counts(normalize=True) for frame in (previous, images)]
    joined = pd.concat(shares, axis=1, keys=["before", "now"]).astype("float").fillna(0.0)
    called = [f"{row.Index} ({row.before:.1%} before, {row.now:.1%} now)" for row in joined.itertuples()]
    return pd.DataFrame({column: called, "change": (joined["now"] - joined["before"]).tolist()})

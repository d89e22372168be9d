"""Who is who over any number of names: patients who show one picture, or whom one tag names, are one patient. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

MAX_NAMES_OF_A_TAG = 3
"""What stands in the tags of more patients' files than this, "ANON", names nobody."""

COLUMNS = ["key", "patient_id", "image_id", "pixel_sha256", "tag_patient_id"]
"""All that is looked at here; a row of all columns takes ten times as long to pick."""


@dataclass(frozen=True)
class Found:
    """Patients found in one round: rows that tie them by a picture, or by a tag, and all their rows that show one."""

    by_picture: pd.DataFrame
    by_tag: pd.DataFrame
    theirs: pd.DataFrame


def is_telling(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows show somebody: a constant image shows nobody."""
    return rows["pixel_sha256"].notna() & (rows["grey_std"].fillna(1) > 0)


def spread(rows: pd.DataFrame, names: Set[str], digests: Set[str]) -> Iterator[Found]:
    """Yield, round by round, the patients who are those of `names` too, until nobody more is found.

    They show one of the pictures of these digests, or one of those known so far; or the patient id in a file's tags
    ties them to those known so far: it stands in files of both, or is what one is called. Each round looks only at
    what the last has found. Patient ids must be complete.
    """
    telling = rows.loc[is_telling(rows), COLUMNS].astype(object)
    everyone = rows[COLUMNS].astype(object)
    tagged = everyone[everyone["tag_patient_id"].isin(_telling_tags(everyone))]
    shown_by, showing = telling.groupby("patient_id").indices, telling.groupby("pixel_sha256").indices
    tagged_of, bearing = tagged.groupby("patient_id").indices, tagged.groupby("tag_patient_id").indices
    called = everyone.groupby("patient_id").indices
    known, seen_digests, seen_tags = set(names), set[str](), set[str]()
    fresh, fresh_digests = set(names), set(digests)
    while fresh or fresh_digests:
        fresh_digests |= set(_picked(telling, shown_by, fresh)["pixel_sha256"])
        fresh_tags = (set(_picked(tagged, tagged_of, fresh)["tag_patient_id"]) | fresh) - seen_tags
        by_picture = _picked(telling, showing, fresh_digests - seen_digests)
        by_tag = pd.concat([_picked(tagged, bearing, fresh_tags), _picked(everyone, called, fresh_tags)])
        seen_digests |= fresh_digests
        seen_tags |= fresh_tags
        by_picture, by_tag = (found[~found["patient_id"].isin(known)] for found in (by_picture, by_tag))
        fresh, fresh_digests = {*by_picture["patient_id"], *by_tag["patient_id"]}, set()
        known |= fresh
        if fresh:
            yield Found(by_picture, by_tag, _picked(telling, shown_by, fresh))


def _telling_tags(rows: pd.DataFrame) -> frozenset[str]:
    """Return the patient ids in files' tags that name somebody, for few patients share each."""
    num_names = rows.groupby("tag_patient_id")["patient_id"].nunique()
    return frozenset(num_names.index[num_names <= MAX_NAMES_OF_A_TAG])


def _picked(rows: pd.DataFrame, indices: Mapping[Any, Iterable[int]], values: Collection[str]) -> pd.DataFrame:
    """Return the rows that have one of these values, in the order of all."""
    return rows.iloc[sorted(position for value in values for position in indices.get(value, ()))]

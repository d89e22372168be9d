"""Seeks the near copies of new pictures among all others, and notes them in the manifest's rows.

What is found depends on the pictures alone, so it is noted once and carried from night to night: a night compares only
what is new with what is there. Whether a copy is a leak is decided anew each night, by `leakage.py`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import groupby

import pandas as pd
from threadpoolctl import threadpool_limits

from bc_tasks import manifest
from bc_tasks.leaks import feature_store
from bc_tasks.near_copies import VERSION, Features, Index
from bc_tasks.storage import Storage

BLOCK_IMAGES = 4096
"""Compared at a time: their features, some 120 MB, are all that is in memory of the snapshot."""

Found = dict[str, dict[str, str]]
"""By a picture's digest: the digests of those that it is a copy of, with how it differs from each."""


@dataclass(frozen=True)
class _Shelf:
    """Where features are read: `places` has, by a picture's digest, its shard and its row there."""

    storage: Storage
    data_uri: str
    places: Mapping[str, tuple[str, int]]
    executor: Executor

    def features(self, digests: Sequence[str]) -> list[Features]:
        """Return the features of pictures whose digests come shard by shard."""
        return [features for key, group in groupby(digests, self._shard_of) for features in self._of_shard(key, group)]

    def _shard_of(self, digest: str) -> str:
        return self.places[digest][0]

    def _of_shard(self, key: str, digests: Iterator[str]) -> Iterator[Features]:
        stored = feature_store.load(self.storage, self.data_uri, key, self.executor)
        return (stored[self.places[digest][1]] for digest in digests)

    def in_order(self, digests: Iterable[str]) -> list[str]:
        """Return digests shard by shard."""
        return sorted(digests, key=self.places.__getitem__)


def note_copies(
    storage: Storage, data_uri: str, rows: pd.DataFrame, holdout_rows: pd.DataFrame, executor: Executor
) -> pd.DataFrame:
    """Return a manifest's rows with the near copies of each picture noted, sought for where they weren't before.

    A picture is compared with the holdout's and with all others of the manifest, whoever they are said to be of and
    whether they are used or not: both may change. Pictures of the holdout itself are compared with nothing; whoever
    copies them has it noted. `executor` extracts features that are not stored.

    Raises:
        ObjectNotFound: a pixel shard that has no features yet is gone.
    """
    measured_on, others = _places(holdout_rows), _places(rows)
    is_sought = rows["near_copies_version"].fillna("") == VERSION
    new = others.keys() - set(rows.loc[is_sought, "pixel_sha256"])
    found: Found = {digest: {} for digest in new}
    shelf = _Shelf(storage, data_uri, others | measured_on, executor)
    if unsought := shelf.in_order(new - measured_on.keys()):
        # Many small products: threads of BLAS would wait for each other longer than they work.
        with threadpool_limits(1, user_api="blas"):
            for known in (measured_on.keys(), others.keys() - measured_on.keys()):
                _seek(shelf, unsought, shelf.in_order(known), found)
    return _noted(rows, found)


def _places(rows: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Return the shard of each picture, by its digest, and its row there; one that lies twice is taken once."""
    placed = rows[rows["pixel_sha256"].notna() & rows["shard_key"].notna()].drop_duplicates("pixel_sha256")
    columns = (placed["pixel_sha256"], placed["shard_key"], placed["shard_row"])
    return {str(digest): (str(key), int(row)) for digest, key, row in zip(*columns, strict=True)}


def _seek(shelf: _Shelf, unsought: list[str], known: list[str], found: Found) -> None:
    """Compare pictures with known ones, block by block, and add what is found."""
    for block in _blocks(known):
        features = zip(block, shelf.features(block), strict=True)
        telling = [(digest, one) for digest, one in features if len(one.points)]  # a black image has none
        index = Index([one for _, one in telling])
        for queries in _blocks(unsought):
            for digest, matches in zip(queries, index.find(shelf.features(queries)), strict=True):
                copies = {telling[match.row][0]: match.transform for match in matches}
                found[digest] |= {other: how for other, how in copies.items() if other != digest}


def _blocks(digests: list[str]) -> Iterator[list[str]]:
    return (digests[start : start + BLOCK_IMAGES] for start in range(0, len(digests), BLOCK_IMAGES))


def _noted(rows: pd.DataFrame, found: Found) -> pd.DataFrame:
    noted = manifest.conform(rows)
    sought = noted["pixel_sha256"].isin(found)
    texts = {digest: json.dumps(copies, sort_keys=True) for digest, copies in found.items()}
    noted.loc[sought, "near_copies"] = noted.loc[sought, "pixel_sha256"].map(texts)
    noted.loc[sought, "near_copies_version"] = VERSION
    return noted

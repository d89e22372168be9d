"""Seeks the near copies of new pictures among all others, and notes them in the manifest's rows.

What is found depends on the pictures alone, so it is noted once and carried from night to night: a night compares only
what is new with what is there. Whether a copy is a leak is decided anew each night, by `leakage.py`.

What a night with anything new costs: the features of all images are read once, about 29 KB an image, and lie on the
local disk meanwhile; the index is made of them anew; and each new picture is looked up, on all cores (for the figures
see benchmarks/RESULTS.md, "In the night"). The index itself isn't kept: that would save its building and not the
read, for the pictures looked at closely lie anywhere.
"""

import json
import logging
import pickle
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from bc_tasks import manifest
from bc_tasks.leaks import feature_store, found_store, local_features
from bc_tasks.leaks.found_store import Texts
from bc_tasks.leaks.local_features import LocalFeatures
from bc_tasks.near_copies import VERSION, Features, Index
from bc_tasks.storage import Storage

INDEX_IMAGES = 50_000
"""In one index at most: about here a query's votes reach their limit, and in larger ones copies would be missed."""

BLOCK_IMAGES = 512
"""Sought before what was found is kept: a minute or two of work."""

TASK_IMAGES = 16
"""Handed to a process at a time."""

FEW_IMAGES = 100
"""Up to here, starting processes takes longer than searching in this one."""

Place = tuple[str, int]
"""Where a picture lies: its shard and its row there."""

Matches = list[tuple[int, str]]
"""The rows that a query is a copy of, with how it differs from each."""

Spread = Callable[..., Iterable[Any]]
"""`map`, here or over processes."""

log = logging.getLogger(__name__)


def note_copies(
    storage: Storage,
    data_uri: str,
    rows: pd.DataFrame,
    before: pd.DataFrame,
    holdout_rows: pd.DataFrame,
    executor: Executor,
) -> pd.DataFrame:
    """Return a manifest's rows with the near copies of each picture noted, sought for where they weren't before.

    A picture is compared with the holdout's and with all others of the manifest, whoever they are said to be of and
    whether they are used or not: both may change. Pictures of the holdout itself are compared with nothing; whoever
    copies them has it noted. `before` is the manifest of the last snapshot. What is found is kept (`found_store.py`)
    after each block of pictures. `executor` shares the work, and extracts features that are not stored.

    Raises:
        ObjectNotFound: a pixel shard that has no features yet is gone.
        InfrastructureError: a process died, or there is no room on the local disk.
    """
    measured_on, others = _places(holdout_rows), _places(rows)
    texts = _noted_already(rows)
    if new := others.keys() - texts.keys():
        texts |= dict.fromkeys(new & measured_on.keys(), "{}")
        known = found_store.among(others.keys() | measured_on.keys())
        texts |= found_store.read(storage, data_uri, new - texts.keys(), frozenset(before["pixel_sha256"]), known)
        for found in _sought(storage, data_uri, new - texts.keys(), measured_on, others, executor):
            found_store.write(storage, data_uri, known, found)
            texts |= found
    return _noted(rows, texts)


def _places(rows: pd.DataFrame) -> dict[str, Place]:
    """Return the shard of each picture, by its digest, and its row there; one that lies twice is taken once."""
    placed = rows[rows["pixel_sha256"].notna() & rows["shard_key"].notna()].drop_duplicates("pixel_sha256")
    columns = (placed["pixel_sha256"], placed["shard_key"], placed["shard_row"])
    return {str(digest): (str(key), int(row)) for digest, key, row in zip(*columns, strict=True)}


def _noted_already(rows: pd.DataFrame) -> Texts:
    noted = rows[rows["near_copies_version"].fillna("").eq(VERSION) & rows["near_copies"].notna()]
    return dict(zip(noted["pixel_sha256"], noted["near_copies"], strict=True))


def _noted(rows: pd.DataFrame, texts: Texts) -> pd.DataFrame:
    """Note it in each row, also where another row has the same picture."""
    noted = manifest.conform(rows)
    is_sought = noted["pixel_sha256"].isin(texts)
    noted.loc[is_sought, "near_copies"] = noted.loc[is_sought, "pixel_sha256"].map(texts)
    noted.loc[is_sought, "near_copies_version"] = VERSION
    return noted


def _sought(
    storage: Storage,
    data_uri: str,
    unsought: Iterable[str],
    measured_on: Mapping[str, Place],
    others: Mapping[str, Place],
    executor: Executor,
) -> Iterator[Texts]:
    """Yield what is found of pictures, block by block, among the holdout's and the others."""
    places = {**others, **measured_on}
    first, second = (sorted(some, key=places.__getitem__) for some in (measured_on, others.keys() - measured_on.keys()))
    digests = [*first, *second]
    row_of = {digest: row for row, digest in enumerate(digests)}
    queries = sorted(row_of[digest] for digest in unsought)
    if not queries:
        return
    # The holdout has an index of its own: what copies it matters most, and there nothing else takes votes.
    parts = [range(len(first)), *_blocks(range(len(first), len(digests)), INDEX_IMAGES)]
    spread: Spread = executor.map if len(queries) > FEW_IMAGES or len(parts) > 2 else map
    with TemporaryDirectory() as name:
        folder = Path(name)
        fetched = _fetched(storage, data_uri, [places[digest] for digest in digests], executor)
        try:
            features = local_features.keep(fetched, folder)
            indexes = _indexed(features, parts, spread)
            for rows in _blocks(queries, BLOCK_IMAGES):
                yield _found(LocalFeatures(folder, rows), indexes, digests, spread)
                log.info("near copies sought of %d images of %d", bisect_right(queries, rows[-1]), len(queries))
        finally:
            _index.cache_clear()
            local_features.close()


def _blocks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _fetched(storage: Storage, data_uri: str, places: Sequence[Place], executor: Executor) -> Iterator[Features]:
    """Yield the features of pictures that come shard by shard."""
    runs = [(key, [row for _, row in group]) for key, group in groupby(places, lambda place: place[0])]
    wanted = [(key, max(rows) + 1) for key, rows in runs]
    for (_, rows), stored in zip(runs, feature_store.load_many(storage, data_uri, wanted, executor), strict=True):
        yield from (stored[row] for row in rows)


def _indexed(features: LocalFeatures, parts: Sequence[Sequence[int]], spread: Spread) -> list[Path]:
    """Make an index of each part, as a file that every process can load."""
    paths = [features.folder / f"index-{number}" for number in range(len(parts))]
    with feature_store.told_if_a_process_dies("makes an index of near copies"):
        list(spread(_write_index, [LocalFeatures(features.folder, part) for part in parts], paths))
    return paths


def _write_index(features: LocalFeatures, path: Path) -> None:
    # Many small products: threads of BLAS would wait for each other longer than they work.
    with threadpool_limits(1, user_api="blas"), path.open("wb") as file:
        pickle.dump((features.rows, Index(features)), file)


def _found(queries: LocalFeatures, indexes: Sequence[Path], digests: Sequence[str], spread: Spread) -> Texts:
    tasks = [LocalFeatures(queries.folder, rows) for rows in _blocks(queries.rows, TASK_IMAGES)]
    with feature_store.told_if_a_process_dies("seeks near copies"):
        found: list[Matches] = [one for some in spread(partial(_matches, indexes), tasks) for one in some]
    texts = {}
    for query, matches in zip(queries.rows, found, strict=True):
        copies = {digests[row]: how for row, how in matches if row != query}
        texts[digests[query]] = json.dumps(copies, sort_keys=True)
    return texts


def _matches(indexes: Sequence[Path], queries: LocalFeatures) -> list[Matches]:
    """Look queries up in all indexes."""
    found: list[Matches] = [[] for _ in queries]
    with threadpool_limits(1, user_api="blas"):
        for path in indexes:
            rows, index = _index(path)
            for mine, matches in zip(found, index.find(queries), strict=True):
                mine += [(rows[match.row], match.transform) for match in matches]
    return found


@cache  # of as many as a search has: it lets them go
def _index(path: Path) -> tuple[Sequence[int], Index]:
    with path.open("rb") as file:
        index: tuple[Sequence[int], Index] = pickle.load(file)  # noqa: S301  # which this very search has written
        return index

"""What searches for near copies have found, each part in an object of its own, named by what it holds.

The manifest notes it too, but a night without news commits none, and a search that was killed has none. A part is
written as soon as it is found and never changed, so two runs don't lose each other's, and what was found once is not
sought again.

A picture is compared with those that were there. So of pictures that the last snapshot has, every part counts: any
that came or came back since is sought among them. Of those that are new, only parts that were sought among exactly
tonight's pictures count: the others may lack one that was away that night, and that the other's search lacked too.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Set

import pandas as pd

from bc_tasks.errors import BcError
from bc_tasks.leaks import feature_store
from bc_tasks.storage import Storage, StoredObject, join

Texts = dict[str, str]
"""By a picture's digest: the digests of those that it is a copy of, with how it differs from each, as JSON."""

DIGEST, COPIES = "pixel_sha256", "near_copies"

log = logging.getLogger(__name__)


def among(digests: Iterable[str]) -> str:
    """Return the name of a set of pictures that others are sought among."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:32]


def read(storage: Storage, data_uri: str, wanted: Set[str], established: Set[str], known: str) -> Texts:
    """Return what was found of the `wanted` that are `established`, or were sought among those named `known`."""
    parts = storage.list(_folder(data_uri) if wanted & established else join(_folder(data_uri), known))
    found: Texts = {}
    for item, texts in _parts(storage, parts):
        is_of_tonight = item.uri.split("/")[-2] == known
        for digest in wanted & texts.keys() & (texts.keys() if is_of_tonight else established):
            found[digest] = _together(found.get(digest, "{}"), texts[digest])
    return found


def write(storage: Storage, data_uri: str, known: str, found: Mapping[str, str]) -> None:
    """Keep what was found of some pictures among those named `known`."""
    buffer = io.BytesIO()
    ordered = sorted(found.items())
    pd.DataFrame(ordered, columns=[DIGEST, COPIES], dtype="string").to_parquet(buffer, index=False, compression="zstd")
    data = buffer.getvalue()
    storage.write(join(_folder(data_uri), known, f"{hashlib.sha256(data).hexdigest()[:32]}.parquet"), data)


def _together(text: str, other: str) -> str:
    """Return the copies of two notes on one picture: it may have been sought twice, among others each time."""
    return json.dumps(json.loads(other) | json.loads(text), sort_keys=True)


def _folder(data_uri: str) -> str:
    return join(data_uri, feature_store.folder(), "found")


def _parts(storage: Storage, parts: Iterable[StoredObject]) -> Iterator[tuple[StoredObject, Texts]]:
    for item, data in storage.read_many(parts):
        try:
            if isinstance(data, BcError):
                raise data
            frame = pd.read_parquet(io.BytesIO(data), columns=[DIGEST, COPIES])
        except (BcError, OSError, ValueError) as error:
            log.warning("%s is of no use (%s): what it held is sought again", item.uri, error)
            continue
        yield item, dict(zip(frame[DIGEST], frame[COPIES], strict=True))

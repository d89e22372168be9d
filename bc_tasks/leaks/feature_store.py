"""The features by which near copies are found, stored beside the pixel shards: one file for each, in its order.

They are named by the shard and by the version of `near_copies`; another version leaves the files of the last one alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bc_tasks import near_copies, shards
from bc_tasks.errors import ObjectNotFound
from bc_tasks.near_copies import Features
from bc_tasks.shards import Images
from bc_tasks.storage import Storage, join

IMAGES_A_TASK = 16
"""Handed to a process at a time, where many are extracted anew."""


def key_of(shard_key: str) -> str:
    """Return where a pixel shard's features lie, below the data root."""
    return f"near-copies/{near_copies.VERSION}/{shard_key.removeprefix('pixels/').removesuffix('.npy')}.features"


def write(storage: Storage, data_uri: str, shard_key: str, features: Sequence[Features]) -> None:
    """Store the features of a shard's images, in its order."""
    storage.write(join(data_uri, key_of(shard_key)), near_copies.pack(features))


def load(storage: Storage, data_uri: str, shard_key: str, executor: Executor) -> list[Features]:
    """Return the features of a shard's images, in its order.

    Where they aren't stored, for the shard is of an older version of ours, they are extracted from its pixels and
    stored, once.

    Raises:
        ObjectNotFound: there is no such shard either.
    """
    try:
        return near_copies.unpack(storage.read(join(data_uri, key_of(shard_key))))
    except ObjectNotFound:
        with open_pixels(storage, data_uri, shard_key) as images:
            features = list(executor.map(near_copies.extract, images, chunksize=IMAGES_A_TASK))
        write(storage, data_uri, shard_key, features)
        return features


@contextmanager
def open_pixels(storage: Storage, data_uri: str, shard_key: str) -> Iterator[Images]:
    """Give a pixel shard (N, S, S) of uint8, memory-mapped, for as long as it is needed.

    Raises:
        ObjectNotFound: there is no such shard.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shard.npy"
        storage.download(join(data_uri, shard_key), path)
        yield shards.open_shard(path)

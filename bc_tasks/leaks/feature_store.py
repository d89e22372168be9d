"""The features by which near copies are found, stored beside the pixel shards: one file for each, in its order.

They are named by the shard and by the version of `near_copies`; another version leaves the files of the last one alone.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bc_tasks import near_copies, shards
from bc_tasks.errors import BcError, DataError, InfrastructureError
from bc_tasks.near_copies import Features
from bc_tasks.shards import Images
from bc_tasks.storage import Storage, join

IMAGES_A_TASK = 16
"""Handed to a process at a time, where many are extracted anew."""

log = logging.getLogger(__name__)


def folder() -> str:
    """Return where all lies that this version of `near_copies` has made, below the data root."""
    return f"near-copies/{near_copies.VERSION}"


def key_of(shard_key: str) -> str:
    """Return where a pixel shard's features lie, below the data root."""
    return f"{folder()}/{shard_key.removeprefix('pixels/').removesuffix('.npy')}.features"


def write(storage: Storage, data_uri: str, shard_key: str, features: Sequence[Features]) -> None:
    """Store the features of a shard's images, in its order."""
    storage.write(join(data_uri, key_of(shard_key)), near_copies.pack(features))


def load_many(
    storage: Storage, data_uri: str, wanted: Sequence[tuple[str, int]], executor: Executor
) -> Iterator[list[Features]]:
    """Yield the features of all images of each shard, while the next are read; `wanted` are shards and their images.

    Where there are none, for the shard is of an older version of ours, or where the file is damaged or has too few,
    they are extracted from the shard's pixels and stored, once. At least as many images are there as `wanted` says.

    Raises:
        ObjectNotFound: there is no such shard either.
        InfrastructureError: a process that extracts features died.
    """
    uris = [join(data_uri, key_of(shard_key)) for shard_key, _ in wanted]
    stored = {item.uri: item for item in storage.list(join(data_uri, folder()))}
    files = storage.read_many([stored[uri] for uri in uris if uri in stored])
    for uri, (shard_key, num_images) in zip(uris, wanted, strict=True):
        features = _unpacked(uri, next(files)[1], num_images) if uri in stored else None
        yield _extracted(storage, data_uri, shard_key, executor) if features is None else features


def _unpacked(uri: str, data: bytes | BcError, num_images: int) -> list[Features] | None:
    try:
        if isinstance(data, BcError):
            raise data
        features = near_copies.unpack(data)
        if len(features) < num_images:
            raise DataError(f"it has the features of {len(features)} images, and there are {num_images} at least")
    except BcError as error:
        log.warning("%s is of no use (%s): made anew from the shard's pixels", uri, error)
        return None
    return features


def _extracted(storage: Storage, data_uri: str, shard_key: str, executor: Executor) -> list[Features]:
    with open_pixels(storage, data_uri, shard_key) as images, told_if_a_process_dies("extracts features"):
        features = list(executor.map(near_copies.extract, images, chunksize=IMAGES_A_TASK))
    write(storage, data_uri, shard_key, features)
    return features


@contextmanager
def told_if_a_process_dies(doing: str) -> Iterator[None]:
    """Make an error of ours, worth another try, of the death of one of an executor's processes."""
    try:
        yield
    except BrokenExecutor as error:
        raise InfrastructureError(
            f"a process that {doing} died, most often for lack of memory; give the step more memory"
        ) from error


@contextmanager
def open_pixels(storage: Storage, data_uri: str, shard_key: str) -> Iterator[Images]:
    """Give a pixel shard (N, S, S) of uint8, memory-mapped, for as long as it is needed.

    Raises:
        ObjectNotFound: there is no such shard.
    """
    with TemporaryDirectory() as local:
        path = Path(local) / "shard.npy"
        storage.download(join(data_uri, shard_key), path)
        yield shards.open_shard(path)

"""Reads new images once: downloads, checks, decodes, and packs the pixels and their features into shards."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import ParamSpec, TypeVar

import pandas as pd

from bc_tasks import identity, manifest, shards, withholding
from bc_tasks.config import IngestConfig
from bc_tasks.errors import BcError, InfrastructureError
from bc_tasks.examination import Examined, Facts, examine
from bc_tasks.leaks import feature_store
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.storage import Storage, StoredObject, join
from bc_tasks.withholding import Withdrawn

Result = tuple[StoredObject, Examined]
P = ParamSpec("P")
T = TypeVar("T")

AHEAD_IMAGES = 64
AHEAD_BYTES = 256 << 20
"""What may lie with the executor: enough for its processes never to wait, little enough for memory."""

FEW_BYTES = 4 << 20
"""Up to here, about a hundred JPEGs, starting processes takes longer than decoding in this one."""

log = logging.getLogger(__name__)


def read_images(
    storage: Storage,
    data_uri: str,
    rows: pd.DataFrame,
    objects: Mapping[str, StoredObject],
    config: IngestConfig,
    executor: Executor,
    unstored: Set[str] = frozenset(),
) -> pd.DataFrame:
    """Return manifest rows with what their images' bytes say; pixels go into shards of `shard_images` each.

    Of images whose own tags name a patient in `unstored` neither pixels nor features are stored.

    A shard's features, by which near copies are found, go into a file beside it, and before it: where a shard is, they
    are.

    `executor` decodes, so a process pool uses all cores.

    Raises:
        InfrastructureError: an object was overwritten since it was listed, or a decoding process died.
    """
    faults = {key: _fault(objects[key], config) for key in rows["key"]}
    facts: dict[str, Facts] = {key: fault for key, fault in faults.items() if fault}
    readable = {objects[key].uri: key for key, fault in faults.items() if not fault}
    examined = _examine(storage, [objects[key] for key in readable.values()], config, executor)
    store = partial(_store, storage, data_uri, preprocessing_sha256(config.pixels), unstored)
    for stored in _one_ahead(store, _groups(examined, config.shard_images)):
        facts |= {readable[uri]: of_image for uri, of_image in stored.items()}
        log.info("%d of %d images read", len(facts), len(rows))
    return _joined(rows, facts)


def read_allowed(
    storage: Storage,
    data_uri: str,
    rows: pd.DataFrame,
    objects: Mapping[str, StoredObject],
    config: IngestConfig,
    executor: Executor,
    *,
    withdrawn: Withdrawn,
    known: pd.DataFrame,
) -> pd.DataFrame:
    """Read images, and return them with the `known` rows, complete, those of withdrawn patients held back.

    Nothing is stored of an image whose tags name one of these; if many patients share the tag, it is read again.

    Raises:
        InfrastructureError: an object was overwritten since it was listed, or a decoding process died.
    """
    read = read_images(storage, data_uri, rows, objects, config, executor, unstored=withdrawn.names)
    held = withholding.hold_back(pd.concat([known, identity.complete(read)], ignore_index=True), withdrawn)
    lacks_pixels = held["quarantine_reason"].isna() & held["shard_key"].isna() & held["key"].isin(rows["key"])
    if not lacks_pixels.any():
        return held
    again = rows[rows["key"].isin(held.loc[lacks_pixels, "key"])]
    stored = read_images(storage, data_uri, again, objects, config, executor)
    return pd.concat([held[~lacks_pixels], identity.complete(stored)], ignore_index=True)


def _fault(item: StoredObject, config: IngestConfig) -> Facts | None:
    if item.num_bytes == 0:
        return _quarantined(QuarantineReason.EMPTY_FILE, "it has no bytes")
    if item.num_bytes > config.max_image_bytes:
        detail = f"{item.num_bytes} bytes; {config.max_image_bytes} are allowed"
        return _quarantined(QuarantineReason.TOO_LARGE, detail)
    return None


def _quarantined(reason: QuarantineReason, detail: str) -> Facts:
    return {"quarantine_reason": reason.value, "quarantine_detail": detail}


def _examine(
    storage: Storage, objects: list[StoredObject], config: IngestConfig, executor: Executor
) -> Iterator[Result]:
    """Yield each object with what its bytes say, in order, while the next ones are downloaded and decoded."""
    decoder = _Here() if sum(item.num_bytes for item in objects) <= FEW_BYTES else executor
    ahead: deque[tuple[StoredObject, Future[Examined]]] = deque()
    try:
        for item, data in storage.read_many(objects):
            while len(ahead) >= AHEAD_IMAGES or sum(other.num_bytes for other, _ in ahead) > AHEAD_BYTES:
                earlier, future = ahead.popleft()
                yield earlier, future.result()
            ahead.append((item, _submit(decoder, item, data, config)))
        for earlier, future in ahead:
            yield earlier, future.result()
    except BrokenExecutor as error:
        raise InfrastructureError(
            f"a process that decodes images died, most often for lack of memory, at one of {AHEAD_IMAGES} images up to "
            f"{item.uri}; give the step more memory, or lower ingest.max_source_pixels"
        ) from error
    finally:
        for _, future in ahead:
            future.cancel()


class _Here(Executor):
    """Does at once, in the calling thread, whatever it is given."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return a future that is done."""
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _submit(executor: Executor, item: StoredObject, data: bytes | BcError, config: IngestConfig) -> Future[Examined]:
    if isinstance(data, BcError):
        return _Here().submit(_vanished)
    return executor.submit(examine, data, item.uri, config)


def _vanished() -> Examined:
    return _quarantined(QuarantineReason.MISSING_IMAGE, "it was removed while it was read"), None


def _groups(results: Iterator[Result], size: int) -> Iterator[list[Result]]:
    while group := list(islice(results, size)):
        yield group


def _one_ahead(work: Callable[[list[Result]], T], groups: Iterable[list[Result]]) -> Iterator[T]:
    """Yield what `work` makes of each group, in order; it works on one while the next is gathered."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[T]] = deque()
        for group in groups:
            pending.append(pool.submit(work, group))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _store(
    storage: Storage, data_uri: str, preprocessing: str, unstored: Set[str], group: list[Result]
) -> dict[str, Facts]:
    """Write the usable images' pixels as one shard, if it isn't there yet; return all facts, with places, by URI."""
    facts = {item.uri: of_image for item, (of_image, _) in group}
    usable = [
        (item.uri, picture)
        for item, (of_image, picture) in group
        if picture is not None and of_image.get("tag_patient_id") not in unstored
    ]
    if usable:
        key = shards.shard_key(preprocessing, [str(facts[uri]["pixel_sha256"]) for uri, _ in usable])
        if storage.find(join(data_uri, key)) is None:
            feature_store.write(storage, data_uri, key, [picture.features for _, picture in usable])
            storage.write(join(data_uri, key), shards.pack([picture.pixels for _, picture in usable]))
        for row, (uri, _) in enumerate(usable):
            facts[uri] = facts[uri] | {"shard_key": key, "shard_row": row}
    return facts


def _joined(rows: pd.DataFrame, facts: Mapping[str, Facts]) -> pd.DataFrame:
    names = {name for of_image in facts.values() for name in of_image}
    found = pd.DataFrame([{"key": key, **of_image} for key, of_image in facts.items()], columns=["key", *names])
    return manifest.conform(rows.drop(columns=list(names)).merge(found, on="key", validate="one_to_one"))

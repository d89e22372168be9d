"""Reads new images once: downloads, checks, decodes, and packs the pixels into shards."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from itertools import islice

import pandas as pd

from bc_tasks import manifest, shards
from bc_tasks.config import IngestConfig
from bc_tasks.errors import BcError, InfrastructureError
from bc_tasks.examination import Examined, Facts, examine
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.storage import Storage, StoredObject, join

AHEAD_IMAGES = 64
AHEAD_BYTES = 256 << 20
"""What may lie with the executor: enough for its processes never to wait, little enough for memory."""

log = logging.getLogger(__name__)


def read_images(
    storage: Storage,
    data_uri: str,
    rows: pd.DataFrame,
    objects: Mapping[str, StoredObject],
    config: IngestConfig,
    executor: Executor,
) -> pd.DataFrame:
    """Return manifest rows with what their images' bytes say; pixels go into shards of `shard_images` each.

    `executor` decodes, so a process pool uses all cores.

    Raises:
        InfrastructureError: an object was overwritten since it was listed, or a decoding process died.
    """
    faults = {key: _fault(objects[key], config) for key in rows["key"]}
    facts: dict[str, Facts] = {key: fault for key, fault in faults.items() if fault}
    readable = {objects[key].uri: key for key, fault in faults.items() if not fault}
    examined = _examine(storage, [objects[key] for key in readable.values()], config, executor)
    preprocessing = preprocessing_sha256(config.pixels)
    while group := list(islice(examined, config.shard_images)):
        places = _store(storage, data_uri, preprocessing, [result for _, result in group])
        facts |= {readable[item.uri]: place for (item, _), place in zip(group, places, strict=True)}
        log.info("%d of %d images read", len(facts), len(rows))
    return _joined(rows, facts)


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
) -> Iterator[tuple[StoredObject, Examined]]:
    """Yield each object with what its bytes say, in order, while the next ones are downloaded and decoded."""
    ahead: deque[tuple[StoredObject, Future[Examined]]] = deque()
    try:
        for item, data in storage.read_many(objects):
            while len(ahead) >= AHEAD_IMAGES or sum(other.num_bytes for other, _ in ahead) > AHEAD_BYTES:
                yield _finished(*ahead.popleft())
            ahead.append((item, _submit(executor, item, data, config)))
        while ahead:
            yield _finished(*ahead.popleft())
    finally:
        for _, future in ahead:
            future.cancel()


def _submit(executor: Executor, item: StoredObject, data: bytes | BcError, config: IngestConfig) -> Future[Examined]:
    if isinstance(data, BcError):
        vanished: Future[Examined] = Future()
        vanished.set_result((_quarantined(QuarantineReason.MISSING_IMAGE, "it was removed while it was read"), None))
        return vanished
    return executor.submit(examine, data, item.uri, config)


def _finished(item: StoredObject, future: Future[Examined]) -> tuple[StoredObject, Examined]:
    try:
        return item, future.result()
    except BrokenExecutor as error:
        raise InfrastructureError(
            f"a process that decodes images died, most often for lack of memory, at {item.uri} or one of the next "
            f"{AHEAD_IMAGES}; give the step more memory, or lower ingest.max_source_pixels"
        ) from error


def _store(storage: Storage, data_uri: str, preprocessing: str, results: list[Examined]) -> list[Facts]:
    """Write the usable images' pixels as one shard, if it isn't there yet; return all facts, with their places."""
    usable = [(facts, pixels) for facts, pixels in results if pixels is not None]
    if not usable:
        return [facts for facts, _ in results]
    key = shards.shard_key(preprocessing, [str(facts["pixel_sha256"]) for facts, _ in usable])
    uri = join(data_uri, key)
    if storage.find(uri) is None:
        storage.write(uri, shards.pack([pixels for _, pixels in usable]))
    rows = iter(range(len(usable)))
    return [
        facts if pixels is None else {**facts, "shard_key": key, "shard_row": next(rows)} for facts, pixels in results
    ]


def _joined(rows: pd.DataFrame, facts: Mapping[str, Facts]) -> pd.DataFrame:
    found = pd.DataFrame(
        [{"key": key, **of_image} for key, of_image in facts.items()], columns=["key", *_found_in(facts)]
    )
    kept = rows.drop(columns=found.columns.drop("key"))
    return manifest.conform(kept.merge(found, on="key", validate="one_to_one"))


def _found_in(facts: Mapping[str, Facts]) -> set[str]:
    return {name for of_image in facts.values() for name in of_image}

"""Reads new images once: downloads, checks, decodes, and packs the pixels into shards."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict
from itertools import islice

import pandas as pd

from bc_tasks import manifest, shards
from bc_tasks.config import IngestConfig
from bc_tasks.errors import BcError, ImageError, ObjectNotFound
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.pixels import decode, preprocessing_sha256, statistics
from bc_tasks.storage import Storage, StoredObject, join

Facts = dict[str, object]


def read_images(
    storage: Storage,
    data_uri: str,
    rows: pd.DataFrame,
    objects: Mapping[str, StoredObject],
    config: IngestConfig,
    executor: Executor,
) -> pd.DataFrame:
    """Return manifest rows with what their images' bytes say; pixels go into shards of `shard_images` each.

    What a row says already stands; tags of the file fill the gaps, and the source stem stands in for a
    patient that nobody names. `executor` decodes, so a process pool uses all cores.
    """
    known: dict[str, Facts] = {row["key"]: row for row in rows.to_dict("records")}  # type: ignore[misc]  # names
    digest = preprocessing_sha256(config.pixels)
    finished = []
    read = _decoded(storage, [objects[key] for key in rows["key"]], config, executor)
    for group in _groups(read, config.shard_images):
        images = [image for _, _, image in group if image is not None]
        key = shards.shard_key(digest, [shards.pixel_sha256(image) for image in images]) if images else None
        if key is not None and storage.find(join(data_uri, key)) is None:
            storage.write(join(data_uri, key), shards.pack(images))
        position = 0
        for item, facts, image in group:
            place = {} if image is None else {"shard_key": key, "shard_row": position}
            position += image is not None
            finished.append(_complete(known[item.uri.removeprefix(data_uri + "/")], facts | place))
    return manifest.conform(pd.DataFrame(finished, columns=list(manifest.COLUMN_NAMES)))


_Read = tuple[StoredObject, Facts, shards.Images | None]


def _groups(items: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    while group := list(islice(items, size)):
        yield group


def _decoded(
    storage: Storage, objects: list[StoredObject], config: IngestConfig, executor: Executor
) -> Iterator[_Read]:
    """Yield each object with its facts and its pixels, in order; a shard's worth is decoded ahead."""
    fine = (item for item in objects if _refusal(item, config) is None)
    downloads = storage.read_many(fine)
    pending: list[tuple[StoredObject, Future[tuple[Facts, shards.Images | None]] | Facts]] = []
    for item in objects:
        refusal = _refusal(item, config)
        if refusal is not None:
            pending.append((item, _quarantined(*refusal)))
        else:
            _, data = next(downloads)
            pending.append((item, _submit(executor, item, data, config)))
        if len(pending) >= config.shard_images:
            yield _finish(*pending.pop(0))
    for waiting in pending:
        yield _finish(*waiting)


def _refusal(item: StoredObject, config: IngestConfig) -> tuple[QuarantineReason, str] | None:
    if item.num_bytes == 0:
        return QuarantineReason.EMPTY_FILE, "it has no bytes"
    if item.num_bytes > config.max_image_bytes:
        return QuarantineReason.TOO_LARGE, f"{item.num_bytes} bytes; {config.max_image_bytes} are allowed"
    return None


def _submit(
    executor: Executor, item: StoredObject, data: bytes | BcError, config: IngestConfig
) -> "Future[tuple[Facts, shards.Images | None]] | Facts":
    if isinstance(data, ObjectNotFound):
        return _quarantined(QuarantineReason.MISSING_IMAGE, "it vanished while it was read")
    if isinstance(data, BcError):
        raise data
    return executor.submit(examine, data, item.uri, config)


def _finish(item: StoredObject, outcome: "Future[tuple[Facts, shards.Images | None]] | Facts") -> _Read:
    if isinstance(outcome, Future):
        return item, *outcome.result()
    return item, outcome, None


def _quarantined(reason: str, detail: str) -> Facts:
    return {"quarantine_reason": reason, "quarantine_detail": detail}


def examine(data: bytes, name: str, config: IngestConfig) -> tuple[Facts, shards.Images | None]:
    """Decode one object's bytes; return manifest values and the pixels (S, S), or why it can't be used and None."""
    sha256 = {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        image = decode(data, name=name, config=config.pixels, max_source_pixels=config.max_source_pixels)
    except ImageError as error:
        return sha256 | _quarantined(error.reason, error.detail), None
    tags = {name: getattr(image, name) for name in ("patient_id", "view", "laterality", "age")}
    facts: Facts = {
        "source_width_px": image.source_width_px,
        "source_height_px": image.source_height_px,
        "was_inverted": image.was_inverted,
        "pixel_sha256": shards.pixel_sha256(image.pixels),
    }
    return sha256 | facts | asdict(statistics(image.pixels)) | tags, image.pixels


def _complete(row: Facts, facts: Facts) -> Facts:
    """Join what people say of an image with what its bytes say; people win."""
    said = {name: value for name, value in row.items() if not pd.isna(value)}  # type: ignore[call-overload]  # scalars
    complete = {name: value for name, value in facts.items() if value is not None} | said
    complete.setdefault("patient_id", complete["source_stem"])
    if "sha256" in complete:
        complete.setdefault("image_id", f"{complete['source_stem']}-{str(complete['sha256'])[:12]}")
    return complete

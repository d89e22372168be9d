"""The record of a night's leaks, with small pictures of the near copies beside what they are copies of."""

import base64
import io
import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from bc_tasks import shards
from bc_tasks.errors import DataError, ObjectNotFound
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.records import Leak, Leaks
from bc_tasks.shards import Images
from bc_tasks.storage import Storage, join

NUM_PICTURED = 20
THUMBNAIL_PX = 128
NEAR_COPIES = (QuarantineReason.HOLDOUT_NEAR_COPY, QuarantineReason.SPLIT_NEAR_COPY)

log = logging.getLogger(__name__)


def picture(
    storage: Storage, data_uri: str, leaks: Iterable[Leak], rows: pd.DataFrame, holdout_rows: pd.DataFrame
) -> Leaks:
    """Return the record of leaks, near copies first; the first of these with thumbnails, for a person to compare."""
    ordered = sorted(leaks, key=lambda leak: (leak.reason not in NEAR_COPIES, leak.key))
    pictured = [leak for leak in ordered[:NUM_PICTURED] if leak.reason in NEAR_COPIES]
    digest_of = rows[rows["key"].isin([leak.key for leak in pictured])].set_index("key")["pixel_sha256"]
    digests = [*digest_of, *(leak.other_pixel_sha256 for leak in pictured)]
    thumbnails = _thumbnails(storage, data_uri, digests, pd.concat([holdout_rows, rows]))
    shown = [
        leak.model_copy(
            update={
                "thumbnail": thumbnails.get(digest_of[leak.key], ""),
                "other_thumbnail": thumbnails.get(leak.other_pixel_sha256, ""),
            }
        )
        for leak in pictured
    ]
    return Leaks(leaks=(*shown, *ordered[len(shown) :]))


def _thumbnails(storage: Storage, data_uri: str, digests: Sequence[str], rows: pd.DataFrame) -> dict[str, str]:
    """Return a small JPEG in base64 for each picture's digest, and none of those whose pixels are gone."""
    wanted = rows[rows["pixel_sha256"].isin(digests) & rows["shard_key"].notna()].drop_duplicates("pixel_sha256")
    thumbnails = {}
    for digest, key, row in zip(wanted["pixel_sha256"], wanted["shard_key"], wanted["shard_row"], strict=True):
        uri = join(data_uri, key)
        try:
            thumbnails[digest] = _thumbnail(_pixels(storage, uri, int(row)))
        except (ObjectNotFound, DataError) as error:
            log.warning("image %s of %s is not pictured: %s", row, uri, error)
    return thumbnails


def _pixels(storage: Storage, uri: str, row: int) -> Images:
    """Return the pixels (S, S) of one image of a shard, and read no other."""
    start, side_px = shards.place_of(storage.read_range(uri, 0, shards.HEAD_BYTES), row)
    return np.frombuffer(storage.read_range(uri, start, side_px**2), np.uint8).reshape(side_px, side_px)


def _thumbnail(pixels: Images) -> str:
    buffer = io.BytesIO()
    small = Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()

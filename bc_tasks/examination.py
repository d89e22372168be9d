"""What an image's bytes say: runs in the worker processes, so it imports neither pandas nor boto3."""

import hashlib
from dataclasses import asdict, dataclass

from bc_tasks import near_copies, shards
from bc_tasks.config import IngestConfig
from bc_tasks.errors import ImageError
from bc_tasks.near_copies import Features
from bc_tasks.pixels import decode, statistics


@dataclass(frozen=True)
class Picture:
    """What is stored of an image: `pixels` (S, S) uint8, and the features by which its near copies are found."""

    pixels: shards.Images
    features: Features


Facts = dict[str, object]
Examined = tuple[Facts, Picture | None]


def examine(data: bytes, name: str, config: IngestConfig) -> Examined:
    """Decode one object's bytes; return manifest values and the picture, or why it can't be used and None."""
    digest: Facts = {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        image = decode(data, name=name, config=config.pixels, max_source_pixels=config.max_source_pixels)
    except ImageError as error:
        return digest | {"quarantine_reason": error.reason, "quarantine_detail": error.detail}, None
    return {
        **digest,
        "source_width_px": image.source_width_px,
        "source_height_px": image.source_height_px,
        "was_inverted": image.was_inverted,
        "tag_patient_id": image.patient_id,
        "tag_view": image.view,
        "tag_laterality": image.laterality,
        "tag_age": image.age,
        "pixel_sha256": shards.pixel_sha256(image.pixels),
        **asdict(statistics(image.pixels)),
    }, Picture(image.pixels, near_copies.extract(image.pixels))

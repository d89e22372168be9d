"""Pixel shards: a few immutable .npy files of uint8 images instead of thousands of JPEGs."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bc_tasks.errors import DataError

Images = npt.NDArray[np.uint8]

HEAD_BYTES = 128
"""Of a shard: they say how many images follow, and of which size."""


def pixel_sha256(pixels: Images) -> str:
    """Return the digest of one image's pixels (S, S), whatever file they came from."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def shard_key(preprocessing_sha256: str, pixel_digests: Sequence[str]) -> str:
    """Name a shard by what it holds, so that writing it twice gives one object."""
    digest = hashlib.sha256("\n".join(pixel_digests).encode()).hexdigest()
    return f"pixels/{preprocessing_sha256[:16]}/{digest}.npy"


def pack(images: Sequence[Images]) -> bytes:
    """Serialise images of one size (S, S) as a .npy array (N, S, S) of uint8."""
    header = io.BytesIO()
    shape = (len(images), *images[0].shape)
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "|u1"})
    # Not np.save, which would copy the images, a hundred megabytes, twice more.
    return b"".join([header.getvalue(), *(np.ascontiguousarray(image).data for image in images)])


def place_of(head: bytes, row: int) -> tuple[int, int]:
    """Return the first byte of an image in its shard, and the image's side in pixels; `head` begins the shard.

    Raises:
        DataError: this is no shard, or it has no such row.
    """
    start = io.BytesIO(head)
    try:
        np.lib.format.read_magic(start)
        (num_images, height_px, width_px), is_transposed, dtype = np.lib.format.read_array_header_1_0(start)
    except ValueError as error:
        raise DataError(f"no pixel shard begins with {head[:8]!r}: {error}") from error
    if is_transposed or dtype != np.uint8 or height_px != width_px or not 0 <= row < num_images:
        raise DataError(f"no image {row} in {num_images} of {height_px} x {width_px} {dtype}")
    return start.tell() + row * height_px * width_px, int(height_px)


def open_shard(path: Path) -> Images:
    """Memory-map a shard (N, S, S) of uint8, read-only."""
    array: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    return array

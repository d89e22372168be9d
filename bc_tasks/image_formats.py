"""Bytes of a JPEG or PNG -> an upright 8 bit grey image; what can't be trusted is refused, with a reason.

A format is told by its first bytes, and the file name must agree. `dicom.py` reads the third format into the same
`SourceImage`; `pixels.py` makes of it what models see.
"""

import io
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NoReturn

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from bc_tasks.errors import ImageError
from bc_tasks.mammogram import Laterality, QuarantineReason, View

MIN_SOURCE_PX = 32  # a smaller image is an icon; `validation.min_source_px` asks for more
MAX_COLOUR_SPREAD = 32  # between the channels of a grey image: tinted film and JPEG noise stay below, photos don't
STRETCH_PERCENTILES = (0.1, 99.9)  # so that a burned-in marker or a dead pixel doesn't set the scale

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Format(Enum):
    """The image formats that are read, with the file extensions each may have."""

    JPEG = (".jpg", ".jpeg")
    PNG = (".png",)
    DICOM = (".dcm", ".dicom", "")


@dataclass(frozen=True)
class SourceImage:
    """An image as it was stored, upright: `grey` is in Pillow's mode L; what only DICOM tags tell is None elsewhere."""

    grey: Image.Image
    stored_width_px: int
    stored_height_px: int
    white_is_low: bool | None = None
    view: View | None = None
    laterality: Laterality | None = None
    patient_id: str | None = None
    age: float | None = None


def detect(data: bytes, name: str) -> Format:
    """Return the format that the first bytes tell.

    Raises:
        ImageError: there are no bytes, the format isn't known, or the extension of `name` says another.
    """
    if not data:
        refuse(QuarantineReason.EMPTY_FILE, "0 bytes")
    if data.startswith(b"\xff\xd8\xff"):
        found = Format.JPEG
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        found = Format.PNG
    elif data[128:132] == b"DICM":
        found = Format.DICOM
    else:
        start = data[:4].hex(" ")
        refuse(QuarantineReason.UNKNOWN_FORMAT, f"starts with the bytes {start}; JPEG, PNG and DICOM are read")
    extension = PurePosixPath(name).suffix.lower()
    if extension[1:].isdigit():  # DICOM files are often named by their UID alone: 1.2.840.113619.2
        extension = ""
    if extension not in found.value:
        wanted = " or ".join(item for item in found.value if item)
        refuse(QuarantineReason.WRONG_EXTENSION, f"named {extension or 'without extension'}, but it is {wanted}")
    return found


def read_picture(data: bytes, image_format: Format, *, max_source_pixels: int) -> SourceImage:
    """Decode a JPEG or a PNG.

    Raises:
        ImageError: it is broken, too large or small, animated, not grey, or has a mode that mammograms don't come in.
    """
    try:
        # Not Image.open: it would guess the format again, and apply a limit of its own.
        opened = JpegImagePlugin.JpegImageFile if image_format is Format.JPEG else PngImagePlugin.PngImageFile
        opened(io.BytesIO(data)).verify()  # the checksums of a PNG; a JPEG has none
        image: ImageFile.ImageFile = opened(io.BytesIO(data))
        width_px, height_px = image.size
        check_size(width_px, height_px, max_source_pixels=max_source_pixels)
        _check_kind(image)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except ImageError:
        raise
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        reason = QuarantineReason.TRUNCATED if "truncated" in str(error).lower() else QuarantineReason.UNREADABLE
        raise ImageError(reason, f"{type(error).__name__}: {error}") from error
    grey = _to_grey(image)
    upright = grey.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else grey
    return SourceImage(upright, width_px, height_px)


def check_size(width_px: int, height_px: int, *, max_source_pixels: int) -> None:
    """Refuse an image that is too small to show anything, or too large to be decoded safely.

    Raises:
        ImageError: it is.
    """
    if min(width_px, height_px) < MIN_SOURCE_PX:
        refuse(QuarantineReason.TOO_SMALL, f"{width_px} x {height_px}; the shorter side must have {MIN_SOURCE_PX}")
    if width_px * height_px > max_source_pixels:
        refuse(QuarantineReason.TOO_LARGE, f"{width_px} x {height_px} is more than {max_source_pixels} pixels")


def to_8_bit(deep: np.ndarray[Any, Any]) -> Image.Image:
    """Stretch an image (H, W) of more than 8 bits linearly to 0 to 255.

    The stored range tells little (12 bits are common in 16, and detectors count differently), so the image's own
    percentiles set the scale.
    """
    low, high = np.percentile(deep[::4, ::4], STRETCH_PERCENTILES)
    scaled = (deep.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1e-6))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def refuse(reason: QuarantineReason, detail: str) -> NoReturn:
    """Raise the ImageError of `reason`."""
    raise ImageError(reason, detail)


def _check_kind(image: ImageFile.ImageFile) -> None:
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1:
        refuse(QuarantineReason.ANIMATED, f"{num_frames} frames; one is wanted")
    if image.mode not in ("L", "I;16", "RGB"):
        refuse(
            QuarantineReason.UNSUPPORTED_MODE, f"mode {image.mode}; grey (8 or 16 bit) and grey stored as RGB are read"
        )
    if "transparency" in image.info:
        refuse(QuarantineReason.UNSUPPORTED_MODE, "it has a transparent colour")


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        return to_8_bit(np.asarray(image))
    if image.mode == "RGB":
        small = np.asarray(image.reduce(4)).astype(np.int16)
        spread = int((small.max(axis=2) - small.min(axis=2)).max())
        if spread > MAX_COLOUR_SPREAD:
            refuse(
                QuarantineReason.NOT_GREY, f"its colour channels differ by up to {spread}; grey: {MAX_COLOUR_SPREAD}"
            )
    return image.convert("L")

"""Bytes of a DICOM mammogram -> a `SourceImage`: windowed to 8 bit, with what its tags tell of the image."""

import io
import subprocess
import sys
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from bc_tasks.errors import ImageError
from bc_tasks.image_formats import SourceImage, check_size, refuse, to_8_bit
from bc_tasks.mammogram import Laterality, QuarantineReason, View

Word = TypeVar("Word", bound=StrEnum)

DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"
DECOMPRESS_TIMEOUT_SECONDS = 120  # the largest mammograms take a few seconds
MAX_GREY = 1e30  # far above any detector's, and safe in float32
UNITS_A_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}  # Source: DICOM PS3.5, 6.2, value representation AS

_DECOMPRESS = """
import io, sys, numpy, pydicom
pixels, buffer = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read())).pixel_array, io.BytesIO()
numpy.save(buffer, pixels, allow_pickle=False)
sys.stdout.buffer.write(buffer.getbuffer())
"""


def read_dicom(data: bytes, *, max_source_pixels: int) -> SourceImage:
    """Decode a DICOM image of one grey frame, through its modality and VOI lookup tables or window.

    Raises:
        ImageError: it is broken, cut off, too large or small, in colour, or has more than one frame.

    Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT and window).
    """
    try:
        return _read(data, max_source_pixels)
    except ImageError:
        raise
    except Exception as error:  # pydicom and its decoders raise nearly anything on a malformed file
        raise ImageError(QuarantineReason.UNREADABLE, f"{type(error).__name__}: {str(error)[:200]}") from error


def _read(data: bytes, max_source_pixels: int) -> SourceImage:
    if DEFLATED_SYNTAX in data[:4096]:  # inflating has no limit, and happens before any tag can be seen
        refuse(QuarantineReason.UNSUPPORTED_MODE, "a deflated DICOM data set")
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_kind(dataset, max_source_pixels)
    return SourceImage(
        grey=to_8_bit(_windowed(data, dataset)),
        stored_width_px=int(dataset.Columns),
        stored_height_px=int(dataset.Rows),
        white_is_low=dataset.PhotometricInterpretation == "MONOCHROME1",
        view=_word(View, dataset, "ViewPosition"),
        laterality=_word(Laterality, dataset, "ImageLaterality") or _word(Laterality, dataset, "Laterality"),
        patient_id=_text(dataset, "PatientID") or None,
        age=_age(_text(dataset, "PatientAge")),
    )


def _check_kind(dataset: Dataset, max_source_pixels: int) -> None:
    if "PixelData" not in dataset:  # pydicom drops what isn't there to its end, in compressed files even everything
        was_cut = len(dataset) == 0 or "Rows" in dataset
        refuse(QuarantineReason.TRUNCATED if was_cut else QuarantineReason.UNREADABLE, "it holds no whole image")
    check_size(int(dataset.Columns), int(dataset.Rows), max_source_pixels=max_source_pixels)
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames > 1:
        refuse(QuarantineReason.ANIMATED, f"{num_frames} frames; one is wanted")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2") or dataset.SamplesPerPixel != 1:
        refuse(QuarantineReason.UNSUPPORTED_MODE, f"{dataset.PhotometricInterpretation}; MONOCHROME1 and 2 are read")
    if not _is_compressed(dataset):
        wanted = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        if len(dataset.PixelData) < wanted:
            refuse(QuarantineReason.TRUNCATED, f"{len(dataset.PixelData)} of {wanted} bytes of pixel data")


def _windowed(data: bytes, dataset: Dataset) -> np.ndarray[Any, Any]:
    stored = _decompressed(data, dataset) if _is_compressed(dataset) else dataset.pixel_array
    pixels = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):  # a table is looked up by whole numbers, which a rescale makes floats
        pixels = np.rint(pixels).astype(np.int32)
    windowed = np.asarray(apply_voi_lut(pixels, dataset))
    if not (np.abs(windowed) < MAX_GREY).all():  # NaN neither
        refuse(QuarantineReason.UNREADABLE, "its rescale or window makes grey values that aren't numbers")
    return windowed


def _is_compressed(dataset: Dataset) -> bool:
    return bool(dataset.file_meta.TransferSyntaxUID.is_encapsulated)


def _decompressed(data: bytes, dataset: Dataset) -> np.ndarray[Any, Any]:
    """Decompress in a process of its own, because GDCM aborts, crashes or hangs on about one broken stream in 100."""
    command = [sys.executable, "-W", "ignore", "-c", _DECOMPRESS]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=DECOMPRESS_TIMEOUT_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        name = dataset.file_meta.TransferSyntaxUID.name
        raise ImageError(QuarantineReason.UNREADABLE, f"its {name} stream can't be decompressed") from error
    return np.asarray(np.load(io.BytesIO(done.stdout), allow_pickle=False))


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _word(vocabulary: type[Word], dataset: Dataset, keyword: str) -> Word | None:
    value = _text(dataset, keyword).upper()
    return vocabulary(value) if value in {word.value for word in vocabulary} else None


def _age(text: str) -> float | None:
    number, unit = text[:-1], text[-1:].upper()
    return float(number) / UNITS_A_YEAR[unit] if number.isdigit() and unit in UNITS_A_YEAR else None

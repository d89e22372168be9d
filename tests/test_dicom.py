import io
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from pictures import HEIGHT_PX, WIDTH_PX, breast, stored
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from bc_tasks.config import PixelsConfig
from bc_tasks.errors import ImageError
from bc_tasks.mammogram import Laterality, QuarantineReason, View
from bc_tasks.pixels import DecodedImage, decode

CONFIG = PixelsConfig(size_px=64)
STORED = breast().astype(np.uint16) * 16  # 12 bits


def dataset(pixels: np.ndarray = STORED, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> Dataset:
    """A mammogram of 12 bits in 16; `tags` are set last."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    made.SOPInstanceUID = "1.2.3.4"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # malformed values are wanted here
        for keyword, value in tags.items():
            setattr(made, keyword, value)
    return made


def file_of(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(made: Dataset | bytes, name: str = "a.dcm") -> DecodedImage:
    data = made if isinstance(made, bytes) else file_of(made)
    return decode(data, name=name, config=CONFIG, max_source_pixels=10**6)


def refusal(made: Dataset | bytes) -> str:
    with pytest.raises(ImageError) as refused:
        read(made)
    return refused.value.reason


def compressed(syntax: UID) -> Dataset:
    if syntax == RLELossless:
        made = dataset()
        made.compress(RLELossless)
        return made
    if syntax == JPEG2000Lossless:
        stream = stored(STORED, "JPEG2000", no_jp2=True)
        return dataset(syntax=syntax, PixelData=encapsulate([stream]))
    shallow = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return dataset(syntax=syntax, PixelData=encapsulate([stored(breast())]), **shallow)


PLAIN = read(dataset()).pixels


def test_the_tags_tell_what_they_know() -> None:
    tags = {"ViewPosition": "MLO", "ImageLaterality": "R", "PatientID": "P7", "PatientAge": "062Y"}
    result = read(dataset(**tags))
    assert (result.view, result.laterality, result.patient_id, result.age) == (View.MLO, Laterality.RIGHT, "P7", 62)
    assert (result.source_width_px, result.source_height_px) == (WIDTH_PX, HEIGHT_PX)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"ViewPosition": "", "ImageLaterality": "", "PatientID": "", "PatientAge": ""},
        {"ViewPosition": "SIDEWAYS", "ImageLaterality": "B", "PatientAge": "old"},
    ],
    ids=["missing", "empty", "senseless"],
)
def test_tags_without_sense_are_unknown(tags: dict[str, str]) -> None:
    result = read(dataset(**tags))
    assert (result.view, result.laterality, result.patient_id, result.age) == (None, None, None, None)


@pytest.mark.parametrize(("text", "years"), [("006M", 0.5), ("052W", 52 / 52.18), ("100D", 100 / 365.25)])
def test_young_ages_are_turned_into_years(text: str, years: float) -> None:
    assert read(dataset(PatientAge=text)).age == years


def test_the_older_laterality_tag_is_read_too() -> None:
    assert read(dataset(Laterality="L")).laterality is Laterality.LEFT


@pytest.mark.parametrize("name", ["a.dcm", "a.DICOM", "IM0001", "1.2.840.113619.2"])
def test_dicom_files_may_be_named_as_scanners_do(name: str) -> None:
    assert np.array_equal(read(file_of(dataset()), name).pixels, PLAIN)


def test_monochrome1_is_inverted_and_monochrome2_is_not() -> None:
    negative = 4095 - STORED
    turned = read(dataset(negative, PhotometricInterpretation="MONOCHROME1"))
    assert turned.was_inverted
    assert np.abs(turned.pixels.astype(int) - PLAIN).max() <= 1
    assert not read(dataset(negative)).was_inverted


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 2048, "WindowWidth": 4096},
        {"WindowCenter": [2048, 9], "WindowWidth": [4096, 9]},
        {"RescaleSlope": "2", "RescaleIntercept": "-100"},
    ],
    ids=["window", "several windows", "rescale"],
)
def test_a_harmless_window_or_rescale_changes_nothing(tags: dict[str, Any]) -> None:
    assert np.abs(read(dataset(**tags)).pixels.astype(int) - PLAIN).max() <= 1


def test_a_window_cuts_off_what_lies_outside_it() -> None:
    between_background_and_tissue = read(dataset(WindowCenter=500, WindowWidth=100)).pixels
    assert dominant_levels(between_background_and_tissue).tolist() == [0, 255]
    assert dominant_levels(PLAIN).tolist() != [0, 255]


def test_a_voi_lookup_table_is_applied_after_a_rescale() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "OW", np.where(np.arange(4096) > 1000, 60_000, 0).astype(np.uint16).tobytes())
    pixels = read(dataset(VOILUTSequence=[table], RescaleSlope="1", RescaleIntercept="0")).pixels
    assert dominant_levels(pixels).tolist() == [0, 255]


def dominant_levels(pixels: np.ndarray) -> np.ndarray:
    """The grey values that fill more than 5 % of the image: resizing blurs edges only."""
    return np.flatnonzero(np.bincount(pixels.ravel(), minlength=256) > 0.05 * pixels.size)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGBaseline8Bit], ids=lambda syntax: syntax.keyword)
def test_compressed_images_are_decompressed(syntax: UID) -> None:
    assert np.corrcoef(read(compressed(syntax)).pixels.ravel(), PLAIN.ravel())[0, 1] > 0.99


def test_a_compressed_stream_that_is_cut_is_refused() -> None:
    whole = stored(STORED, "JPEG2000", no_jp2=True)
    cut = dataset(syntax=JPEG2000Lossless, PixelData=encapsulate([whole[: len(whole) // 2]]))
    assert refusal(cut) == QuarantineReason.UNREADABLE


def test_a_stream_that_crashes_the_decoder_is_refused() -> None:
    claims_more = stored(Image.new("I;16", (8, 8)), "JPEG2000", no_jp2=True)
    assert (
        refusal(dataset(syntax=JPEG2000Lossless, PixelData=encapsulate([claims_more]))) == QuarantineReason.UNREADABLE
    )


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (dataset(Rows=20), QuarantineReason.TOO_SMALL),
        (dataset(Rows=60_000, Columns=60_000), QuarantineReason.TOO_LARGE),
        (dataset(NumberOfFrames=3), QuarantineReason.ANIMATED),
        (dataset(SamplesPerPixel=3, PhotometricInterpretation="RGB"), QuarantineReason.UNSUPPORTED_MODE),
        (dataset(PhotometricInterpretation="PALETTE COLOR"), QuarantineReason.UNSUPPORTED_MODE),
        (dataset(syntax=DeflatedExplicitVRLittleEndian), QuarantineReason.UNSUPPORTED_MODE),
        (dataset(PixelData=STORED.tobytes()[:-2]), QuarantineReason.TRUNCATED),
        (dataset(WindowCenter=100, WindowWidth=0), QuarantineReason.UNREADABLE),
        (dataset(BitsStored=99), QuarantineReason.UNREADABLE),
        (dataset(RescaleSlope="1e200", RescaleIntercept="0"), QuarantineReason.UNREADABLE),
        (dataset(RescaleSlope=float("nan"), RescaleIntercept="0"), QuarantineReason.UNREADABLE),
    ],
    ids=["small", "large", "frames", "colour", "palette", "deflated", "short", "no width", "bits", "huge", "nan"],
)
def test_an_image_that_cannot_be_trusted_is_refused(made: Dataset, reason: QuarantineReason) -> None:
    assert refusal(made) == reason


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PhotometricInterpretation", "PixelRepresentation"])
def test_a_missing_tag_is_refused(keyword: str) -> None:
    made = dataset()
    delattr(made, keyword)
    assert refusal(made) == QuarantineReason.UNREADABLE


def test_an_object_without_an_image_is_unreadable_not_truncated() -> None:
    made = dataset()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(made, keyword)
    assert refusal(made) == QuarantineReason.UNREADABLE


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless], ids=lambda s: s.keyword
)
def test_a_file_that_is_cut_in_half_is_truncated(syntax: UID) -> None:
    data = file_of(compressed(syntax) if syntax == RLELossless else dataset(syntax=syntax))
    assert refusal(data[: len(data) // 2]) == QuarantineReason.TRUNCATED


def test_a_broken_file_raises_nothing_but_an_image_error_and_warns_of_nothing() -> None:
    random = np.random.default_rng(4)
    source = file_of(dataset(PatientAge="060Y", WindowCenter=2048, WindowWidth=4096))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            broken = bytearray(source)
            for place in random.integers(132, 700, size=3):
                broken[place] = random.integers(256)
            with suppress(ImageError):
                read(bytes(broken))


def test_the_made_files_are_real_dicom() -> None:
    assert np.array_equal(dcmread(io.BytesIO(file_of(dataset()))).pixel_array, STORED)

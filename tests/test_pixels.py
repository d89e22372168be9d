import io
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from pictures import BREAST_BOTTOM_PX, BREAST_RIGHT_PX, BREAST_TOP_PX, HEIGHT_PX, WIDTH_PX, breast, stored
from PIL import Image, ImageOps

from bc_tasks.config import PixelsConfig
from bc_tasks.pixels import DecodedImage, decode, preprocessing_sha256, statistics

CONFIG = PixelsConfig(size_px=160)


def decoded(image: np.ndarray | Image.Image, config: PixelsConfig = CONFIG) -> DecodedImage:
    return decode(stored(image, "PNG"), name="a.png", config=config, max_source_pixels=10**6)


def test_pixels_are_a_square_of_uint8() -> None:
    result = decoded(breast())
    assert result.pixels.shape == (160, 160)
    assert result.pixels.dtype == np.uint8
    assert (result.source_width_px, result.source_height_px) == (WIDTH_PX, HEIGHT_PX)


def test_the_same_bytes_give_the_same_pixels() -> None:
    assert np.array_equal(decoded(breast()).pixels, decoded(breast()).pixels)


def test_an_inverted_image_is_turned_black() -> None:
    upright, inverted = decoded(breast()), decoded(255 - breast())
    assert (upright.was_inverted, inverted.was_inverted) == (False, True)
    assert np.array_equal(upright.pixels, inverted.pixels)


@pytest.mark.parametrize("background", [0, 10, 30, 45])
@pytest.mark.parametrize("tissue", [70, 140, 200, 255])
def test_inversion_is_recognised_at_any_exposure(tissue: int, background: int) -> None:
    image = np.maximum(breast(tissue=tissue), background).astype(np.uint8)
    assert not decoded(image).was_inverted
    assert decoded(255 - image).was_inverted


def test_a_breast_that_fills_the_image_is_not_taken_for_an_inverted_background() -> None:
    rows, columns = np.mgrid[:320, :240]
    image = np.where((columns / 236) ** 2 + ((rows - 150) / 240) ** 2 < 1, 190, 0).astype(np.uint8)
    assert not decoded(image).was_inverted


def test_inversion_is_left_alone_when_the_configuration_says_so() -> None:
    result = decoded(255 - breast(), CONFIG.model_copy(update={"correct_inverted": False}))
    assert not result.was_inverted
    assert result.pixels[0, 80] > 200


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("label", [False, True], ids=["plain", "with a burned-in label"])
def test_the_crop_holds_the_whole_breast_and_little_else(label: bool, inverted: bool) -> None:
    image = breast(label=label)
    tissue = np.argwhere(decoded(255 - image if inverted else image).pixels > 60)
    (top, left), (bottom, right) = tissue.min(axis=0), tissue.max(axis=0)
    breast_height, breast_width = BREAST_BOTTOM_PX - BREAST_TOP_PX, BREAST_RIGHT_PX
    assert (bottom - top) / 160 == pytest.approx(0.92, abs=0.04)
    assert (right - left) / (bottom - top) == pytest.approx(breast_width / breast_height, abs=0.03)
    assert abs((left + right) - 160) < 12


def test_the_crop_can_be_switched_off() -> None:
    result = decoded(breast(), CONFIG.model_copy(update={"crop_to_breast": False}))
    expected = np.zeros((160, 160), np.uint8)
    expected[:, 20:140] = np.asarray(Image.fromarray(breast()).resize((120, 160), Image.Resampling.BICUBIC))
    assert np.array_equal(result.pixels, expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((200, 200), np.uint8),
        np.full((200, 200), 120, np.uint8),
        np.pad(np.full((12, 12), 200, np.uint8), 94),
    ],
    ids=["black", "grey", "a speck"],
)
def test_an_image_without_a_breast_is_left_whole(image: np.ndarray) -> None:
    expected = np.asarray(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC))
    assert np.array_equal(decoded(image).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = stored(breast(label=True), exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(lying)))
    result = decode(lying, name="a.jpg", config=CONFIG, max_source_pixels=10**6)
    assert np.array_equal(result.pixels, decoded(upright).pixels)


def test_16_bit_and_8_bit_files_of_one_image_look_alike() -> None:
    shallow = breast(tissue=200)
    deep = decoded(shallow.astype(np.uint16) * 16)  # 12 bits in 16
    tissue = decoded(shallow).pixels > 100
    assert deep.pixels[tissue].mean() > 200
    assert np.corrcoef(deep.pixels.ravel(), decoded(shallow).pixels.ravel())[0, 1] > 0.99


def test_a_16_bit_label_does_not_darken_the_breast() -> None:
    deep = breast().astype(np.uint16) * 16
    marked = deep.copy()
    marked[10:12, 200:220] = 65535
    assert np.array_equal(decoded(marked).pixels, decoded(deep).pixels)


def test_no_warning_leaks() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "a description that is longer than the file"
    cut = exif.tobytes()[:-20]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(stored(breast(), exif=cut), name="a.jpg", config=CONFIG, max_source_pixels=10**6).pixels.any()


def test_statistics_are_those_of_numpy() -> None:
    pixels = decoded(breast()).pixels
    assert asdict(statistics(pixels)) == pytest.approx(
        {
            "grey_mean": pixels.mean(),
            "grey_std": pixels.std(),
            "grey_min": pixels.min(),
            "grey_max": pixels.max(),
            "black_share": (pixels <= 8).mean(),
        }
    )


def test_the_preprocessing_digest_changes_with_every_setting() -> None:
    changes = [{}, {"size_px": 320}, {"crop_to_breast": False}, {"correct_inverted": False}]
    assert {key for change in changes for key in change} == set(PixelsConfig.model_fields)
    digests = {preprocessing_sha256(PixelsConfig(**change)) for change in changes}
    assert len(digests) == len(changes)
    assert preprocessing_sha256(PixelsConfig()) == preprocessing_sha256(PixelsConfig())

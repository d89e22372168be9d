import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from pictures import breast, stored
from PIL import Image

from bc_tasks.config import PixelsConfig
from bc_tasks.errors import ImageError
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.pixels import decode

CONFIG = PixelsConfig(size_px=64)
GREY = Image.fromarray(breast())
JPEG = stored(GREY)
PNG = stored(GREY, "PNG")
PHOTO = np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)


def refusal(data: bytes, name: str, max_source_pixels: int = 10**6) -> str:
    with pytest.raises(ImageError) as refused:
        decode(data, name=name, config=CONFIG, max_source_pixels=max_source_pixels)
    return refused.value.reason


def frames(image_format: str) -> bytes:
    return stored(GREY, image_format, save_all=True, append_images=[Image.fromarray(255 - breast())])


def png_claiming(width_px: int, height_px: int) -> bytes:
    """A tiny PNG whose header promises a huge image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return PNG[:8] + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (JPEG, "a.jpg"),
        (JPEG, "1/a.b.JPEG"),
        (stored(GREY, progressive=True), "a.jpg"),
        (stored(GREY.convert("RGB"), quality=40), "a.jpg"),
        (stored(GREY.convert("RGB"), keep_rgb=True), "a.jpg"),
        (stored(Image.merge("RGB", (GREY, GREY.point(lambda v: v * 0.95), GREY.point(lambda v: v * 0.9)))), "a.jpg"),
        (PNG, "a.png"),
        (stored(GREY.convert("RGB"), "PNG"), "a.png"),
        (stored(breast().astype(np.uint16) * 257, "PNG"), "a.png"),
    ],
    ids=["jpeg", "jpeg in capitals", "progressive", "as RGB", "RGB inside", "tinted film", "png", "png RGB", "png 16"],
)
def test_usual_files_are_read(data: bytes, name: str) -> None:
    pixels = decode(data, name=name, config=CONFIG, max_source_pixels=10**6).pixels
    plain = decode(PNG, name="a.png", config=CONFIG, max_source_pixels=10**6).pixels
    assert np.corrcoef(pixels.ravel(), plain.ravel())[0, 1] > 0.99


REFUSED = [
    (b"", "a.jpg", QuarantineReason.EMPTY_FILE),
    (b"no image at all", "a.txt", QuarantineReason.UNKNOWN_FORMAT),
    (b"path,label\n1.jpg,0\n", "a.jpg", QuarantineReason.UNKNOWN_FORMAT),
    (stored(GREY, "GIF"), "a.gif", QuarantineReason.UNKNOWN_FORMAT),
    (stored(GREY, "TIFF"), "a.tiff", QuarantineReason.UNKNOWN_FORMAT),
    (stored(GREY, "WEBP"), "a.png", QuarantineReason.UNKNOWN_FORMAT),
    (JPEG, "a.png", QuarantineReason.WRONG_EXTENSION),
    (PNG, "a.jpg", QuarantineReason.WRONG_EXTENSION),
    (JPEG, "a.dcm", QuarantineReason.WRONG_EXTENSION),
    (JPEG, "a", QuarantineReason.WRONG_EXTENSION),
    (JPEG[: len(JPEG) // 2], "a.jpg", QuarantineReason.TRUNCATED),
    (JPEG[:-2], "a.jpg", QuarantineReason.TRUNCATED),
    (PNG[: len(PNG) // 2], "a.png", QuarantineReason.TRUNCATED),
    (PNG[:60] + bytes(40) + PNG[100:], "a.png", QuarantineReason.UNREADABLE),
    (JPEG[:20] + bytes(400) + JPEG[420:], "a.jpg", QuarantineReason.UNREADABLE),
    (frames("PNG"), "a.png", QuarantineReason.ANIMATED),
    (stored(GREY.convert("CMYK")), "a.jpg", QuarantineReason.UNSUPPORTED_MODE),
    (stored(GREY.convert("P"), "PNG"), "a.png", QuarantineReason.UNSUPPORTED_MODE),
    (stored(GREY.convert("1"), "PNG"), "a.png", QuarantineReason.UNSUPPORTED_MODE),
    (stored(GREY.convert("LA"), "PNG"), "a.png", QuarantineReason.UNSUPPORTED_MODE),
    (stored(GREY.convert("RGBA"), "PNG"), "a.png", QuarantineReason.UNSUPPORTED_MODE),
    (stored(GREY, "PNG", transparency=0), "a.png", QuarantineReason.UNSUPPORTED_MODE),
    (stored(PHOTO), "a.jpg", QuarantineReason.NOT_GREY),
    (stored(PHOTO, "PNG"), "a.png", QuarantineReason.NOT_GREY),
    (stored(Image.new("L", (31, 400))), "a.jpg", QuarantineReason.TOO_SMALL),
    (png_claiming(60_000, 60_000), "a.png", QuarantineReason.TOO_LARGE),
    (png_claiming(900, 900), "a.png", QuarantineReason.TRUNCATED),
]


@pytest.mark.parametrize(("data", "name", "reason"), REFUSED, ids=[f"{row[2]}-{i}" for i, row in enumerate(REFUSED)])
def test_a_file_that_cannot_be_trusted_is_refused(data: bytes, name: str, reason: QuarantineReason) -> None:
    assert refusal(data, name) == reason


def test_a_drawing_in_colour_is_refused() -> None:
    marked = np.stack([breast()] * 3, axis=2)
    marked[150:170, 50:70] = (255, 0, 0)
    assert refusal(stored(marked), "a.jpg") == QuarantineReason.NOT_GREY


def test_a_jpeg_that_is_cut_anywhere_is_refused() -> None:
    after_the_headers = range(400, len(JPEG), 131)
    assert {refusal(JPEG[:length], "a.jpg") for length in after_the_headers} == {QuarantineReason.TRUNCATED}


def test_the_pixel_limit_is_inclusive() -> None:
    num_pixels = GREY.width * GREY.height
    decode(JPEG, name="a.jpg", config=CONFIG, max_source_pixels=num_pixels)
    assert refusal(JPEG, "a.jpg", num_pixels - 1) == QuarantineReason.TOO_LARGE


def test_a_broken_file_raises_nothing_but_an_image_error() -> None:
    random = np.random.default_rng(3)
    for source, name in ((JPEG, "a.jpg"), (PNG, "a.png")):
        for _ in range(60):
            broken = io.BytesIO(source)
            broken.seek(int(random.integers(4, len(source) - 8)))
            broken.write(random.bytes(8))
            with suppress(ImageError):
                decode(broken.getvalue(), name=name, config=CONFIG, max_source_pixels=10**6)

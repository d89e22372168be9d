"""Pixels -> the keypoints of an image with their descriptors, and a file of them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from bc_tasks.errors import DataError

VERSION = "sift-1"
"""Names everything that decides which copies are found; change it with any of that: files are named by it, and what
was found is noted with it."""

SIDE_PX = 256  # keypoints are found at this size, whatever size is stored
NUM_KEYPOINTS = 200
CONTRAST_PX = 6  # contrast is made equal within this distance: no bright muscle takes all the keypoints
CONTRAST_FLOOR = 3.0  # grey values; texture that is fainter is noise, and stays faint
CONTRAST_GAIN = 40.0  # grey values for one standard deviation
MIN_KEYPOINT_CONTRAST = 0.01  # low: the strongest are taken anyway

MAGIC = b"BCNC0001"
FILE_HEADER = struct.Struct("<8sI")
POINT_BYTES, DESCRIPTOR_BYTES = 4 * 4, 128


@dataclass(frozen=True)
class Features:
    """Keypoints of one image; K may be 0.

    `points` (K, 4) float32: x, y and size as shares of the image's side, angle in degrees clockwise from the x axis;
    `descriptors` (K, 128) uint8: RootSIFT, of length 512.
    Source: Lowe, "Distinctive image features from scale-invariant keypoints", 2004; Arandjelovic and Zisserman,
    "Three things everyone should know to improve object retrieval", 2012.
    """

    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]


def extract(pixels: npt.NDArray[np.uint8]) -> Features:
    """Return the 200 strongest keypoints of an image (S, S) uint8 of grey values; fewer, or none, of a smooth one."""
    cv2.setNumThreads(1)  # whoever has many images has a process for each core
    sift = cv2.SIFT.create(nfeatures=NUM_KEYPOINTS, contrastThreshold=MIN_KEYPOINT_CONTRAST)
    found, described = sift.detectAndCompute(_even_contrast(_resized(pixels)), None)
    if not found:
        return Features(np.zeros((0, 4), np.float32), np.zeros((0, DESCRIPTOR_BYTES), np.uint8))
    points = np.array([(*point.pt, point.size, point.angle) for point in found], np.float32)
    points[:, :2] += 0.5  # from the middle of the first pixel to its edge, so that mirroring is 1 - x
    points[:, :3] /= SIDE_PX
    return Features(points[:NUM_KEYPOINTS], _root(np.asarray(described, np.float32))[:NUM_KEYPOINTS])


def _resized(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    way = cv2.INTER_AREA if len(pixels) > SIDE_PX else cv2.INTER_CUBIC
    sized: npt.NDArray[np.uint8] = np.asarray(cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=way), np.uint8)
    return sized.astype(np.float32)


def _even_contrast(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    difference = grey - cv2.GaussianBlur(grey, (0, 0), CONTRAST_PX)
    spread = np.sqrt(cv2.GaussianBlur(difference**2, (0, 0), CONTRAST_PX))
    even = 128 + CONTRAST_GAIN * difference / (spread + CONTRAST_FLOOR)
    evened: npt.NDArray[np.uint8] = np.clip(even, 0, 255).astype(np.uint8)
    return evened


def _root(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    shares = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6)
    rooted: npt.NDArray[np.uint8] = np.minimum(np.rint(512 * np.sqrt(shares)), 255).astype(np.uint8)
    return rooted


def pack(features: Sequence[Features]) -> bytes:
    """Serialise the features of many images into one file, about 29 KB an image, which `unpack` reads."""
    counts = np.array([len(each.points) for each in features], "<u4")
    points = b"".join(each.points.astype("<f4").tobytes() for each in features)
    descriptors = b"".join(each.descriptors.tobytes() for each in features)
    return FILE_HEADER.pack(MAGIC, len(features)) + counts.tobytes() + points + descriptors


def unpack(data: bytes) -> list[Features]:
    """Read what `pack` made.

    Raises:
        DataError: these bytes are no such file, or not all of it.
    """
    if len(data) < FILE_HEADER.size or not data.startswith(MAGIC):
        raise DataError(
            f"a file of image features begins with {MAGIC!r}, this one with {data[:8]!r}; extract them again"
        )
    num_images = FILE_HEADER.unpack_from(data)[1]
    points_at = FILE_HEADER.size + 4 * num_images
    if len(data) < points_at:
        raise DataError(
            f"a file of the features of {num_images} images is cut off after {len(data)} bytes; extract them again"
        )
    counts = np.frombuffer(data, "<u4", num_images, FILE_HEADER.size)
    total = int(counts.sum(dtype=np.int64))
    wanted = points_at + total * (POINT_BYTES + DESCRIPTOR_BYTES)
    if len(data) != wanted:
        raise DataError(f"a file of image features has {len(data)} bytes and should have {wanted}; extract them again")
    points = np.frombuffer(data, "<f4", 4 * total, points_at).reshape(-1, 4).astype(np.float32)
    descriptors = np.frombuffer(data, np.uint8, offset=points_at + POINT_BYTES * total).reshape(-1, DESCRIPTOR_BYTES)
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return [Features(points[begin:end], descriptors[begin:end]) for begin, end in pairwise([0, *ends])]

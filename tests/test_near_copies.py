"""Copies that an exporter makes are found, and two different breasts are not taken for one."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bc_tasks.embedded.phantom_pictures import Breast, Scanner, draw
from bc_tasks.errors import DataError
from bc_tasks.mammogram import Density, Laterality, View
from bc_tasks.near_copies import Features, Index, extract, pack, unpack
from bc_tasks.near_copies.symmetry import Symmetry, applied

Grey = npt.NDArray[np.uint8]
SIZE_PX = 384
SCANNER = Scanner(gamma=1.0, gain=1.0, air=0.0, noise=0.02, blur_px=0.6, has_boxed_marker=True, stores_inverted=False)
NO_FEATURES = Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))


def phantom(seed: int, size_px: int = SIZE_PX) -> Grey:
    """Return a picture of one breast for each number; all of a view have the same marker."""
    rng = np.random.default_rng(seed)
    breast = Breast(depth=float(rng.uniform(0.5, 0.8)), density=list(Density)[seed % 4])
    view = View.CC if seed % 2 else View.MLO
    return draw(breast, None, SCANNER, view=view, laterality=Laterality.LEFT, size_px=size_px, rng=rng)


@pytest.fixture(scope="module")
def phantoms() -> list[Grey]:
    return [phantom(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def index(phantoms: list[Grey]) -> Index:
    return Index([extract(each) for each in phantoms])


def jpeg(pixels: Grey) -> Grey:
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def resized(pixels: Grey) -> Grey:
    small = cv2.resize(pixels, (250, 250), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC), np.uint8)


def cropped(pixels: Grey) -> Grey:
    cut = SIZE_PX // 10
    part = np.ascontiguousarray(pixels[cut // 2 : -cut // 2, :-cut])
    return np.asarray(cv2.resize(part, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC), np.uint8)


def turned(pixels: Grey) -> Grey:
    motion = cv2.getRotationMatrix2D((SIZE_PX / 2, SIZE_PX / 2), 17, 1)
    return np.asarray(cv2.warpAffine(pixels, motion, (SIZE_PX, SIZE_PX), flags=cv2.INTER_CUBIC), np.uint8)


def painted(pixels: Grey) -> Grey:
    copy = pixels.copy()
    copy[SIZE_PX // 2 : SIZE_PX // 2 + 130, 40:170] = 0
    return copy


def inverted(pixels: Grey) -> Grey:
    return 255 - pixels


def brighter(pixels: Grey) -> Grey:
    return np.asarray(np.clip(1.2 * pixels.astype(float) + 15, 0, 255), np.uint8)


def gamma(pixels: Grey) -> Grey:
    return np.asarray(255 * (pixels / 255) ** 0.6, np.uint8)


COPIES: list[tuple[str, Callable[[Grey], Grey], str]] = [
    ("re-encoded", jpeg, "as it is"),
    ("resized", resized, "as it is"),
    ("brighter", brighter, "as it is"),
    ("gamma", gamma, "as it is"),
    ("mirrored", np.fliplr, "mirrored"),
    ("upside down", np.flipud, "mirrored, turned by 180 degrees"),
    ("turned by a quarter", np.rot90, "turned by 90 degrees"),
    ("inverted", inverted, "inverted"),
    ("inverted and mirrored", lambda pixels: np.fliplr(inverted(pixels)), "mirrored, inverted"),
    ("cropped", cropped, "as it is"),
    ("turned a little", turned, "turned by 17 degrees"),
    ("painted on", painted, "as it is"),
]


@pytest.mark.parametrize(("change", "words"), [each[1:] for each in COPIES], ids=[each[0] for each in COPIES])
def test_a_copy_is_found_and_it_is_said_what_was_done_to_it(
    phantoms: list[Grey], index: Index, change: Callable[[Grey], Grey], words: str
) -> None:
    copies = [extract(jpeg(np.ascontiguousarray(change(each)))) for each in phantoms[:6]]
    found = index.find(copies)
    assert [[match.row for match in matches] for matches in found] == [[row] for row in range(6)]
    assert {match.transform for matches in found for match in matches} == {words}


def test_other_breasts_with_the_same_marker_are_no_copies(index: Index) -> None:
    others = [extract(phantom(seed)) for seed in range(100, 120)]
    assert index.find(others) == [[] for _ in others]


def test_images_that_are_their_own_index_find_themselves_and_their_copies_only(phantoms: list[Grey]) -> None:
    images = [extract(each) for each in [*phantoms[:4], np.ascontiguousarray(np.rot90(phantoms[2]))]]
    rows = [{match.row for match in matches} for matches in Index(images).find(images)]
    assert rows == [{0}, {1}, {2, 4}, {3}, {2, 4}]


def test_all_copies_in_the_index_are_found_the_likest_first(phantoms: list[Grey]) -> None:
    known = [extract(each) for each in (phantoms[5], painted(phantoms[3]), phantoms[3], phantoms[6])]
    [matches] = Index(known).find([extract(phantoms[3])])
    assert [match.row for match in matches] == [2, 1]
    assert matches[0].num_inliers > matches[1].num_inliers


def test_the_same_images_give_the_same_answers(phantoms: list[Grey]) -> None:
    def answers() -> tuple[bytes, object]:
        known = [extract(each) for each in phantoms[:5]]
        return pack(known), Index(known).find([extract(turned(each)) for each in phantoms[:5]])

    assert answers() == answers()


@pytest.mark.parametrize(
    ("symmetry", "change"),
    [
        (Symmetry(mirrored=True, inverted=False), np.fliplr),
        (Symmetry(mirrored=False, inverted=True), inverted),
        (Symmetry(mirrored=True, inverted=True), lambda pixels: np.fliplr(inverted(pixels))),
    ],
    ids=["mirrored", "inverted", "both"],
)
def test_features_of_the_mirrored_or_inverted_image_are_known_without_it(
    phantoms: list[Grey], symmetry: Symmetry, change: Callable[[Grey], Grey]
) -> None:
    derived = applied(symmetry, extract(phantoms[0]))
    extracted = extract(np.ascontiguousarray(change(phantoms[0])))
    closeness = derived.descriptors.astype(float) @ extracted.descriptors.astype(float).T / 512**2
    nearest = closeness.argmax(axis=1)
    place, size, angle = np.split(np.abs(derived.points - extracted.points[nearest]), (2, 3), axis=1)
    assert np.median(closeness.max(axis=1)) > 0.95
    assert np.median(place) < 0.002
    assert np.median(size) < 0.005
    assert np.median(np.minimum(angle, 360 - angle)) < 2


@pytest.mark.parametrize("size_px", [64, 256, 640])
@pytest.mark.parametrize("grey", [0, 255])
def test_a_plain_image_has_no_keypoints_and_is_a_copy_of_nothing(size_px: int, grey: int) -> None:
    plain = extract(np.full((size_px, size_px), grey, np.uint8))
    assert plain.points.shape == (0, 4)
    assert plain.descriptors.shape == (0, 128)
    assert Index([plain, extract(phantom(1))]).find([plain]) == [[]]


def test_a_tiny_image_finds_its_mirrored_copy() -> None:
    tiny = [cv2.resize(phantom(seed), (64, 64), interpolation=cv2.INTER_AREA) for seed in range(4)]
    index = Index([extract(np.asarray(each, np.uint8)) for each in tiny])
    found = index.find([extract(np.ascontiguousarray(np.fliplr(each))) for each in tiny])
    assert [[match.row for match in matches] for matches in found] == [[row] for row in range(4)]


@pytest.mark.parametrize("known", [[], [NO_FEATURES]], ids=["no image", "an image without keypoints"])
def test_an_empty_index_finds_nothing(known: list[Features]) -> None:
    assert Index(known).find([extract(phantom(1)), NO_FEATURES]) == [[], []]
    assert Index(known).find([]) == []


def test_the_index_asks_again_only_for_the_candidates(phantoms: list[Grey]) -> None:
    asked: list[int] = []

    class Lazy(Sequence[Features]):
        images = tuple(extract(each) for each in phantoms)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row):  # type: ignore[no-untyped-def]
            feature = self.images[row]
            asked.append(row)
            return feature

    index = Index(Lazy())
    asked.clear()
    index.find([extract(phantoms[7])], candidates=3)
    assert 7 in asked
    assert len(asked) <= 3


@given(counts=st.lists(st.integers(0, 5), max_size=6), seed=st.integers(0, 1000))
def test_packed_features_are_read_back_as_they_were(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = [
        Features(rng.random((count, 4), np.float32), rng.integers(0, 256, (count, 128), np.uint8)) for count in counts
    ]
    read = unpack(pack(features))
    assert len(read) == len(features)
    for before, after in zip(features, read, strict=True):
        np.testing.assert_array_equal(before.points, after.points)
        np.testing.assert_array_equal(before.descriptors, after.descriptors)
        assert (after.points.dtype, after.descriptors.dtype) == (np.float32, np.uint8)


@given(end=st.integers(0, 700))
def test_a_file_that_is_cut_off_is_refused(end: int) -> None:
    whole = pack([Features(np.zeros((5, 4), np.float32), np.zeros((5, 128), np.uint8)), NO_FEATURES])
    with pytest.raises(DataError, match="extract them again"):
        unpack(whole[: min(end, len(whole) - 1)])


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"BCNC0001" + b"\xff" * 40], ids=["empty", "numpy", "huge count"])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="extract them again"):
        unpack(data)

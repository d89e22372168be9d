"""What is a copy is found and noted once; nothing that goes wrong on the way loses it, or makes the night red."""

import io
import os
from base64 import b64decode
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from inboxes import local_storage
from PIL import Image

from bc_tasks import manifest, shards
from bc_tasks.errors import BcError, InfrastructureError, ObjectNotFound
from bc_tasks.leaks import copy_search, feature_store, found_store, leak_report, local_features
from bc_tasks.near_copies import VERSION, Features, extract, pack
from bc_tasks.records import Leak
from bc_tasks.storage import Storage, join

Pixels = npt.NDArray[np.uint8]
SIDE_PX = 64


@pytest.fixture
def here() -> Iterator[Executor]:
    """Works in a thread of this process."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _spots(seed: int) -> Pixels:
    """Return an image as no other seed gives it, nor anything like it."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
    spots = np.random.default_rng(seed).uniform((0.1, 0.1, 0.02, 40), (0.9, 0.9, 0.12, 120), (40, 4))
    grey = sum(value * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * r**2)) for a, b, r, value in spots)
    return np.asarray(np.clip(grey - 20, 0, 255), np.uint8)


@dataclass
class Archive:
    """Pictures in shards, and nights that seek the copies among them."""

    storage: Storage
    data_uri: str
    executor: Executor
    holdout: pd.DataFrame = field(default_factory=manifest.empty)
    committed: pd.DataFrame = field(default_factory=manifest.empty)

    def add(self, *images: Pixels, with_features: bool = True) -> pd.DataFrame:
        """Store images as one shard, and return their rows."""
        digests = [shards.pixel_sha256(image) for image in images]
        key = shards.shard_key("a" * 64, digests)
        if with_features:
            feature_store.write(self.storage, self.data_uri, key, [extract(image) for image in images])
        self.storage.write(join(self.data_uri, key), shards.pack(images))
        rows = [
            {"key": f"{key}/{row}", "image_id": f"i{digest[:6]}", "pixel_sha256": digest, "shard_row": row}
            for row, digest in enumerate(digests)
        ]
        return manifest.conform(pd.DataFrame(rows).assign(shard_key=key))

    def night(self, *rows: pd.DataFrame) -> pd.DataFrame:
        """Seek what is unsought, and return the rows with what was noted, by picture."""
        return copy_search.note_copies(
            self.storage, self.data_uri, _joined(*rows), self.committed, self.holdout, self.executor
        )

    def found(self) -> list[str]:
        """Return the parts of what was found."""
        return [item.uri for item in self.storage.list(join(self.data_uri, feature_store.folder(), "found"))]


@pytest.fixture
def archive(file_data_uri: str, here: Executor) -> Archive:
    """An archive with a holdout of two pictures."""
    archive = Archive(local_storage(), file_data_uri, here)
    archive.holdout = archive.add(_spots(1000), _spots(1001))
    return archive


def _joined(*rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a manifest, of which some may be of the same picture."""
    together = pd.concat(rows, ignore_index=True)
    return manifest.conform(together.assign(key=[f"{number:04}" for number in range(len(together))]))


def _notes(noted: pd.DataFrame) -> dict[str, str]:
    return dict(zip(noted["pixel_sha256"], noted["near_copies"], strict=True))


def _digest(image: Pixels) -> str:
    return shards.pixel_sha256(image)


def _mirrored(seed: int) -> Pixels:
    return np.ascontiguousarray(_spots(seed)[:, ::-1])


def test_a_copy_is_noted_with_what_it_is_a_copy_of_and_how_it_differs(archive: Archive) -> None:
    copies = archive.add(_mirrored(1000), _mirrored(3), _spots(4))
    noted = archive.night(archive.add(_spots(2), _spots(3)), copies)
    assert _notes(noted) == {
        _digest(_spots(2)): "{}",
        _digest(_spots(3)): f'{{"{_digest(_mirrored(3))}": "mirrored"}}',
        _digest(_mirrored(1000)): f'{{"{_digest(_spots(1000))}": "mirrored"}}',
        _digest(_mirrored(3)): f'{{"{_digest(_spots(3))}": "mirrored"}}',
        _digest(_spots(4)): "{}",
    }
    assert set(noted["near_copies_version"]) == {VERSION}


def test_pictures_of_the_holdout_are_compared_with_nothing(archive: Archive) -> None:
    noted = archive.night(archive.holdout, archive.add(_mirrored(1000)))
    assert _notes(noted)[_digest(_spots(1000))] == "{}"
    assert _digest(_spots(1000)) in _notes(noted)[_digest(_mirrored(1000))]


def test_every_row_of_a_picture_carries_its_note(archive: Archive) -> None:
    first = archive.night(archive.add(_spots(2), _mirrored(2)))
    twin = archive.add(_spots(2))
    noted = archive.night(first, twin, archive.add(_spots(5)))
    of_both = noted.loc[noted["pixel_sha256"] == _digest(_spots(2)), "near_copies"]
    assert of_both.tolist() == [f'{{"{_digest(_mirrored(2))}": "mirrored"}}'] * 2
    assert noted["near_copies_version"].tolist() == [VERSION] * 4


@pytest.mark.parametrize("index_images", [3, 1000], ids=["several indexes", "one index"])
def test_many_are_found_by_processes_as_few_are_in_this_one(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, index_images: int
) -> None:
    shard = archive.add(*(_spots(seed) for seed in range(6)), *(_mirrored(seed) for seed in range(0, 6, 2)))
    wanted = archive.night(shard)
    for uri in archive.found():
        archive.storage.delete(uri)
    monkeypatch.setattr(copy_search, "FEW_IMAGES", 0)
    monkeypatch.setattr(copy_search, "INDEX_IMAGES", index_images)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        archive.executor = processes
        pd.testing.assert_frame_equal(archive.night(shard), wanted)
    assert sum(text != "{}" for text in wanted["near_copies"]) == 6


def test_black_pictures_are_copies_of_nothing_and_disturb_nobody(archive: Archive) -> None:
    black = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    archive.holdout = archive.add(black)
    notes = _notes(archive.night(archive.add(black + 1, _spots(2), _mirrored(2))))
    assert notes[_digest(black + 1)] == "{}"
    assert notes[_digest(_mirrored(2))] != "{}"


# What was found is not sought again.


def _without_features(archive: Archive, rows: pd.DataFrame) -> None:
    """Take away all that a search would need."""
    for key in set(rows["shard_key"]):
        archive.storage.delete(join(archive.data_uri, key))
        archive.storage.delete(join(archive.data_uri, feature_store.key_of(key)))


def test_what_a_night_without_news_has_found_is_not_sought_again(archive: Archive) -> None:
    """Such a night commits no manifest, so the next one reads that of before it, without the notes."""
    archive.committed = archive.add(_spots(2), _mirrored(2))
    wanted = archive.night(archive.committed)
    _without_features(archive, archive.committed)
    pd.testing.assert_frame_equal(archive.night(archive.committed), wanted)


class _KilledError(Exception):
    pass


class _KilledAt(ThreadPoolExecutor):
    """Dies with the step at a task."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.left = number

    def map(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left < 0:
            raise _KilledError
        return super().map(*args, **kwargs)


def test_a_search_that_is_killed_goes_on_where_it_was(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = archive.add(*(_spots(seed) for seed in range(4)), _mirrored(0))
    undisturbed = Archive(archive.storage, f"{archive.data_uri}-undisturbed", archive.executor)
    undisturbed.holdout = undisturbed.add(_spots(1000), _spots(1001))
    wanted = undisturbed.night(undisturbed.add(*(_spots(seed) for seed in range(4)), _mirrored(0)))
    for name, value in (("FEW_IMAGES", 0), ("BLOCK_IMAGES", 2)):
        monkeypatch.setattr(copy_search, name, value)
    archive.executor = _KilledAt(3)  # it builds the indexes, and seeks two blocks of three
    with pytest.raises(_KilledError):
        archive.night(rows)
    assert len(archive.found()) == 2
    archive.executor = _KilledAt(2)  # enough to build them and to seek what is left
    pd.testing.assert_frame_equal(archive.night(rows), wanted)
    assert len(archive.found()) == 3


def test_a_picture_that_was_away_while_another_came_is_compared_with_it(archive: Archive) -> None:
    """On the one night the copy wasn't there, on the other the original; and neither night was committed."""
    original, copy = archive.add(_spots(2)), archive.add(_mirrored(2))
    assert set(_notes(archive.night(original)).values()) == {"{}"}
    assert set(_notes(archive.night(copy)).values()) == {"{}"}
    assert "{}" not in _notes(archive.night(original, copy)).values()


def test_two_runs_at_once_do_not_lose_each_others_findings(archive: Archive) -> None:
    for number in range(3):
        found_store.write(
            archive.storage, archive.data_uri, "k", {f"p{number}": "{}", "q": f'{{"{number}": "as it is"}}'}
        )
    found = found_store.read(archive.storage, archive.data_uri, {"p0", "p1", "p2", "q", "r"}, frozenset(), "k")
    assert found == {
        **dict.fromkeys(["p0", "p1", "p2"], "{}"),
        "q": '{"0": "as it is", "1": "as it is", "2": "as it is"}',
    }
    assert found_store.read(archive.storage, archive.data_uri, {"p0", "p1"}, {"p1"}, "other") == {"p1": "{}"}


def test_a_damaged_part_of_what_was_found_is_sought_again(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    rows = archive.add(_spots(2), _mirrored(2))
    wanted = archive.night(rows)
    (part,) = archive.found()
    archive.storage.write(part, b"no Parquet")
    pd.testing.assert_frame_equal(archive.night(rows), wanted)
    assert f"{part} is of no use" in caplog.text
    assert archive.storage.read(part) != b"no Parquet"


# Features that are gone or damaged.

DAMAGED = {
    "no features": b"something else",
    "cut off": pack([extract(_spots(2)), extract(_mirrored(2))])[:-1],
    "of fewer images": pack([extract(_spots(2))]),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_features_file_is_made_anew_from_the_pixels(
    archive: Archive, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    rows = archive.add(_spots(2), _mirrored(2))
    uri = join(archive.data_uri, feature_store.key_of(rows["shard_key"][0]))
    whole = archive.storage.read(uri)
    archive.storage.write(uri, data)
    assert "{}" not in _notes(archive.night(rows)).values()
    assert archive.storage.read(uri) == whole
    assert f"{uri} is of no use" in caplog.text


def test_without_features_and_without_pixels_it_says_what_is_missing(archive: Archive) -> None:
    rows = archive.add(_spots(2))
    _without_features(archive, rows)
    with pytest.raises(ObjectNotFound, match=rows["shard_key"][0]):
        archive.night(rows)


@pytest.mark.parametrize("with_features", [True, False], ids=["makes an index", "extracts features"])
def test_a_process_that_dies_is_a_sentence_and_may_be_tried_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, with_features: bool
) -> None:
    monkeypatch.setattr(copy_search, "FEW_IMAGES", 0)
    rows = archive.add(_spots(2), _spots(3), with_features=with_features)
    doing = "makes an index of near copies" if with_features else "extracts features"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os._exit, initargs=(9,)) as processes:
        archive.executor = processes
        with pytest.raises(InfrastructureError, match=f"a process that {doing} died, most often for lack of memory"):
            archive.night(rows)


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="29 KB an image of local disk"):
        local_features.keep([extract(_spots(1))], tmp_path / "none")


def test_features_on_the_disk_are_those_that_were_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    for images in (
        [],
        [np.zeros((SIDE_PX, SIDE_PX), np.uint8)],
        [_spots(1), np.zeros((SIDE_PX, SIDE_PX), np.uint8), _spots(2)],
    ):
        features: Sequence[Features] = [extract(image) for image in images]
        kept = local_features.keep(features, tmp_path_factory.mktemp("features"))
        assert len(kept) == len(features)
        for mine, wanted in zip(kept[::-1], features[::-1], strict=True):
            assert np.array_equal(mine.points, wanted.points)
            assert np.array_equal(mine.descriptors, wanted.descriptors)


# Thumbnails.


def _leak(row: pd.Series, other: Pixels) -> Leak:
    return Leak(
        reason="holdout_near_copy",
        key=row["key"],
        image_id=row["image_id"],
        detail="near copy",
        other_pixel_sha256=_digest(other),
    )


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_thumbnail_shows_its_own_image_of_the_shard(
    request: pytest.FixtureRequest, archive: Archive, data_uri: str, kind: str
) -> None:
    if kind == "s3":
        archive = Archive(request.getfixturevalue("storage"), data_uri, archive.executor)
        archive.holdout = archive.add(_spots(1000), _spots(1001))
    rows = archive.add(_spots(2), _spots(3), _spots(4))
    leaks = [_leak(rows.iloc[row], _spots(1001)) for row in (1, 2)]
    told = leak_report.picture(archive.storage, archive.data_uri, leaks, rows, archive.holdout).leaks
    for leak, shown in zip(told, (_spots(3), _spots(4)), strict=True):
        for text, image in ((leak.thumbnail, shown), (leak.other_thumbnail, _spots(1001))):
            thumbnail = np.asarray(Image.open(io.BytesIO(b64decode(text))), np.float64)
            wanted = np.asarray(Image.fromarray(image).resize(thumbnail.shape, Image.Resampling.LANCZOS), np.float64)
            assert np.abs(thumbnail - wanted).mean() < 3


@pytest.mark.parametrize("kind", ["file", "s3"])
@pytest.mark.parametrize("left", [None, b"", b"no shard at all, but of some length" * 9, "half"])
def test_a_shard_that_is_gone_or_damaged_costs_the_thumbnail_and_not_the_night(
    request: pytest.FixtureRequest, archive: Archive, data_uri: str, kind: str, left: bytes | str | None
) -> None:
    if kind == "s3":
        archive = Archive(request.getfixturevalue("storage"), data_uri, archive.executor, archive.holdout)
    rows = archive.add(_spots(2), _spots(3))
    uri = join(archive.data_uri, rows["shard_key"][0])
    whole = archive.storage.read(uri)
    archive.storage.delete(uri)
    if left is not None:
        archive.storage.write(uri, whole[: len(whole) // 2] if isinstance(left, str) else left)
    archive.holdout = archive.add(_spots(1000))
    (leak,) = leak_report.picture(
        archive.storage, archive.data_uri, [_leak(rows.iloc[1], _spots(1000))], rows, archive.holdout
    ).leaks
    assert leak.thumbnail == ""
    assert leak.other_thumbnail != ""


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_piece_of_an_object_is_that_piece_or_an_error_of_ours(
    request: pytest.FixtureRequest, file_data_uri: str, data_uri: str, kind: str
) -> None:
    storage: Storage = request.getfixturevalue("storage") if kind == "s3" else local_storage()
    uri = join(data_uri if kind == "s3" else file_data_uri, "letters")
    with pytest.raises(ObjectNotFound):
        storage.read_range(uri, 0, 1)
    storage.write(uri, b"abcdefgh")
    assert storage.read_range(uri, 2, 3) == b"cde"
    assert storage.read_range(uri, 0, 8) == b"abcdefgh"
    for start, num_bytes in ((6, 3), (8, 1), (20, 4)):
        with pytest.raises(BcError, match=r"too early|shorter than it should be"):
            storage.read_range(uri, start, num_bytes)

"""Images are read once, packed into immutable shards, and what can't be read gets a reason."""

import io
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from inboxes import dicom, local_storage, picture
from PIL import Image

from bc_tasks import intake, manifest, shards
from bc_tasks.config import IngestConfig, PixelsConfig
from bc_tasks.errors import InfrastructureError
from bc_tasks.leaks import feature_store
from bc_tasks.near_copies import Features, extract
from bc_tasks.pixels import decode
from bc_tasks.storage import Storage, StoredObject, join

CONFIG = IngestConfig(
    shard_images=4, max_image_bytes=100_000, max_source_pixels=10_000, pixels=PixelsConfig(size_px=64)
)


@pytest.fixture
def executor() -> Iterator[Executor]:
    """Decodes in a thread of this process."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _read(
    uri: str,
    contents: Mapping[str, bytes],
    executor: Executor,
    *,
    storage: Storage | None = None,
    config: IngestConfig = CONFIG,
) -> pd.DataFrame:
    storage = storage or local_storage()
    objects = {f"inbox/a/{path}": storage.write(f"{uri}/inbox/a/{path}", data) for path, data in contents.items()}
    return _read_listed(uri, objects, executor, storage, config)


def _read_listed(
    uri: str, objects: Mapping[str, StoredObject], executor: Executor, storage: Storage, config: IngestConfig = CONFIG
) -> pd.DataFrame:
    rows = manifest.conform(pd.DataFrame([{"key": key, "label": 1} for key in objects]))
    return intake.read_images(storage, uri, rows, objects, config, executor)


def _pixels(uri: str, row: Any) -> npt.NDArray[np.uint8]:
    shard = np.load(io.BytesIO(local_storage().read(join(uri, row["shard_key"]))))
    pixels: npt.NDArray[np.uint8] = shard[row["shard_row"]]
    return pixels


def _shards(uri: str) -> list[StoredObject]:
    return local_storage().list(join(uri, "pixels"))


def test_a_row_tells_what_its_bytes_say(file_data_uri: str, executor: Executor) -> None:
    data = picture(1)
    row = _read(file_data_uri, {"1.jpg": data}, executor).iloc[0]
    assert (row["label"], row["sha256"]) == (1, sha256(data).hexdigest())
    assert (row["source_width_px"], row["source_height_px"], row["was_inverted"]) == (80, 80, False)
    assert row["pixel_sha256"] == shards.pixel_sha256(_pixels(file_data_uri, row))
    assert 0 < row["grey_mean"] < 255
    assert pd.isna(row["quarantine_reason"])


def test_a_shard_holds_the_pixels_that_decoding_gives(file_data_uri: str, executor: Executor) -> None:
    contents = {f"{number:02}.jpg": picture(number) for number in range(10)}
    rows = _read(file_data_uri, contents, executor)
    assert sorted(np.load(io.BytesIO(local_storage().read(item.uri))).shape for item in _shards(file_data_uri)) == [
        (2, 64, 64),
        (4, 64, 64),
        (4, 64, 64),
    ]
    for (path, data), (_, row) in zip(contents.items(), rows.iterrows(), strict=True):
        wanted = decode(data, name=path, config=CONFIG.pixels, max_source_pixels=CONFIG.max_source_pixels).pixels
        assert np.array_equal(_pixels(file_data_uri, row), wanted)


def test_reading_again_writes_no_shard_anew(file_data_uri: str, executor: Executor) -> None:
    contents = {f"{number}.jpg": picture(number) for number in range(6)}
    first = _read(file_data_uri, contents, executor)
    before = _shards(file_data_uri)
    again = _read(file_data_uri, contents, executor)
    assert _shards(file_data_uri) == before
    pd.testing.assert_frame_equal(again, first)


def _features(uri: str, row: Any, executor: Executor) -> Features:
    wanted = [(row["shard_key"], row["shard_row"] + 1)]
    (of_shard,) = feature_store.load_many(local_storage(), uri, wanted, executor)
    features: Features = of_shard[row["shard_row"]]
    return features


def test_each_images_features_lie_beside_its_pixels(file_data_uri: str, executor: Executor) -> None:
    rows = _read(file_data_uri, {f"{number}.jpg": picture(number) for number in range(6)}, executor)
    stored = {item.uri for item in local_storage().list(join(file_data_uri, "near-copies"))}
    assert stored == {join(file_data_uri, feature_store.key_of(key)) for key in set(rows["shard_key"])}
    for _, row in rows.iterrows():
        features, wanted = _features(file_data_uri, row, executor), extract(_pixels(file_data_uri, row))
        assert len(features.points) > 10
        assert np.array_equal(features.points, wanted.points)
        assert np.array_equal(features.descriptors, wanted.descriptors)


def test_features_that_an_older_version_did_not_store_are_extracted_once(
    file_data_uri: str, executor: Executor
) -> None:
    rows = _read(file_data_uri, {f"{number}.jpg": picture(number) for number in range(6)}, executor)
    before = [_features(file_data_uri, row, executor) for _, row in rows.iterrows()]
    (first, *_) = stored = local_storage().list(join(file_data_uri, "near-copies"))
    local_storage().delete(first.uri)
    for features, (_, row) in zip(before, rows.iterrows(), strict=True):
        assert np.array_equal(_features(file_data_uri, row, executor).descriptors, features.descriptors)
    again = local_storage().list(join(file_data_uri, "near-copies"))
    assert [item.uri for item in again] == [item.uri for item in stored]
    local_storage().delete(join(file_data_uri, rows["shard_key"][0]))  # not needed any more
    assert len(_features(file_data_uri, rows.iloc[0], executor).points) > 10


def test_other_preparation_goes_into_other_shards(file_data_uri: str, executor: Executor) -> None:
    whole = CONFIG.model_copy(update={"pixels": PixelsConfig(size_px=64, crop_to_breast=False)})
    keys = [
        _read(file_data_uri, {"1.jpg": picture(1)}, executor, config=config)["shard_key"][0]
        for config in (CONFIG, whole)
    ]
    assert keys[0].rpartition("/")[0] != keys[1].rpartition("/")[0]


def _png(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


BAD_FILES = {
    "empty.jpg": (b"", "empty_file"),
    "heavy.jpg": (picture(1) + b"\0" * 100_000, "too_large"),
    "bomb.png": (_png(Image.new("L", (20_000, 20_000))), "too_large"),
    "text.jpg": (b"this is no image", "unknown_format"),
    "notes.tif": (picture(2), "wrong_extension"),
    "really_a_png.jpg": (picture(3, file_format="PNG"), "wrong_extension"),
    "cut.jpg": (picture(4)[:-500], "truncated"),
    "cut.png": (picture(5, file_format="PNG")[:200], "truncated"),
    "alpha.png": (_png(Image.new("RGBA", (80, 80))), "unsupported_mode"),
    "palette.png": (_png(Image.new("P", (80, 80))), "unsupported_mode"),
    "cmyk.jpg": (_png(Image.new("CMYK", (80, 80)), "JPEG"), "unsupported_mode"),
    "colourful.png": (_png(Image.new("RGB", (80, 80), (255, 0, 0))), "not_grey"),
    "moving.png": (
        _png(Image.new("L", (80, 80)), save_all=True, append_images=[Image.new("L", (80, 80), 9)]),
        "animated",
    ),
    "icon.png": (_png(Image.new("L", (8, 8))), "too_small"),
    "cut.dcm": (dicom(1)[:-500], "truncated"),
    "broken.dcm": (bytes(128) + b"DICM" + b"what follows is no DICOM at all" * 9, "unreadable"),
}


def test_each_bad_file_gets_its_reason_and_costs_no_other(file_data_uri: str, executor: Executor) -> None:
    contents = {path: data for path, (data, _) in BAD_FILES.items()}
    fine = {f"fine{number}.jpg": picture(100 + number) for number in range(5)}
    rows = _read(file_data_uri, contents | fine, executor).set_index("key")
    reasons = {path: rows.loc[f"inbox/a/{path}", "quarantine_reason"] for path in contents}
    assert reasons == {path: reason for path, (_, reason) in BAD_FILES.items()}
    assert rows.loc[[f"inbox/a/{path}" for path in fine], "quarantine_reason"].isna().all()
    bad = rows[rows["quarantine_reason"].notna()]
    assert bad["quarantine_detail"].notna().all()
    assert bad["shard_key"].isna().all()
    for _, row in rows[rows["quarantine_reason"].isna()].iterrows():
        assert shards.pixel_sha256(_pixels(file_data_uri, row)) == row["pixel_sha256"]


def test_a_night_of_bad_files_only_writes_no_shard(file_data_uri: str, executor: Executor) -> None:
    rows = _read(file_data_uri, {"a.jpg": b"", "b.jpg": b"text"}, executor)
    assert list(rows["quarantine_reason"]) == ["empty_file", "unknown_format"]
    assert _shards(file_data_uri) == []


def test_nothing_to_read_is_no_work(file_data_uri: str, executor: Executor) -> None:
    rows = _read(file_data_uri, {}, executor)
    pd.testing.assert_frame_equal(rows, manifest.empty())


def test_a_files_tags_are_kept_beside_what_people_say(file_data_uri: str, executor: Executor) -> None:
    tags = {"PatientID": "P7", "ViewPosition": "MLO", "ImageLaterality": "R", "PatientAge": "061Y"}
    row = _read(file_data_uri, {"1.dcm": dicom(1, **tags)}, executor).iloc[0]
    assert (row["tag_patient_id"], row["tag_view"], row["tag_laterality"], row["tag_age"]) == ("P7", "MLO", "R", 61)
    assert pd.isna(row["patient_id"])


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_an_image_that_is_removed_while_it_is_read_is_set_aside(
    request: pytest.FixtureRequest, file_data_uri: str, data_uri: str, executor: Executor, kind: str
) -> None:
    storage: Storage = request.getfixturevalue("storage") if kind == "s3" else local_storage()
    uri = data_uri if kind == "s3" else file_data_uri
    objects = {
        f"inbox/a/{number}.jpg": storage.write(f"{uri}/inbox/a/{number}.jpg", picture(number)) for number in (1, 2)
    }
    storage.delete(f"{uri}/inbox/a/1.jpg")
    rows = _read_listed(uri, objects, executor, storage)
    assert rows["quarantine_reason"].astype(object).where(rows["quarantine_reason"].notna(), None).tolist() == [
        "missing_image",
        None,
    ]


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_an_image_that_is_overwritten_while_it_is_read_lets_the_step_be_tried_again(
    request: pytest.FixtureRequest, file_data_uri: str, data_uri: str, executor: Executor, kind: str
) -> None:
    storage: Storage = request.getfixturevalue("storage") if kind == "s3" else local_storage()
    uri = data_uri if kind == "s3" else file_data_uri
    objects = {"inbox/a/1.jpg": storage.write(f"{uri}/inbox/a/1.jpg", picture(1))}
    storage.write(f"{uri}/inbox/a/1.jpg", picture(2))
    with pytest.raises(InfrastructureError, match=r"1.jpg was changed or replaced since it was listed"):
        _read_listed(uri, objects, executor, storage)


def _heavy(num_images: int) -> dict[str, bytes]:
    """Return so many bytes of images that they are worth starting processes for."""
    contents = {f"{number:03}.jpg": picture(number).ljust(90_000, b"\0") for number in range(num_images)}
    assert sum(map(len, contents.values())) > intake.FEW_BYTES
    return contents


def test_processes_read_many_images_as_this_process_reads_few(file_data_uri: str, executor: Executor) -> None:
    contents = _heavy(60)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        many = _read(file_data_uri, contents, processes)
    few = _read(file_data_uri, {path: contents[path] for path in ("000.jpg", "059.jpg")}, executor)
    changed = ["etag", "shard_key", "shard_row"]
    pd.testing.assert_frame_equal(
        many.iloc[[0, 59]].reset_index(drop=True).drop(columns=changed), few.drop(columns=changed)
    )


@pytest.mark.parametrize("num_images", [60, 200], ids=["at the end", "on the way"])
def test_a_decoding_process_that_dies_is_a_sentence_and_may_be_tried_again(file_data_uri: str, num_images: int) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os._exit, initargs=(9,)) as processes,
        pytest.raises(InfrastructureError, match="a process that decodes images died, most often for lack of memory"),
    ):
        _read(file_data_uri, _heavy(num_images), processes)


def test_many_images_pass_through_a_small_window(file_data_uri: str) -> None:
    """No more than a window's worth of images may lie with the executor, whatever the night's size."""
    waiting: list[int] = []

    class Watched(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            waiting.append(self._work_queue.qsize())
            return super().submit(*args, **kwargs)

    contents = _heavy(3 * intake.AHEAD_IMAGES)
    with Watched(1) as executor:
        rows = _read(file_data_uri, contents, executor, config=CONFIG.model_copy(update={"shard_images": 1000}))
    assert len(rows) == len(contents)
    assert max(waiting) <= intake.AHEAD_IMAGES

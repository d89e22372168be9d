from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bc_tasks import shards
from bc_tasks.errors import DataError, ObjectNotFound
from bc_tasks.mammogram import Split
from bc_tasks.storage import Storage, open_storage
from bc_tasks.training.data import epoch_batches, fetch_pixels, fetch_split, read_batches

SIZE = 32


@pytest.fixture
def files() -> Storage:
    return open_storage()


def store(storage: Storage, data_uri: str, num_images: int = 10, per_shard: int = 4) -> tuple[np.ndarray, pd.DataFrame]:
    """Write images into shards; return them, and the manifest's rows of them."""
    images = np.random.default_rng(2).integers(0, 256, (num_images, SIZE, SIZE), dtype=np.uint8)
    rows = []
    for start in range(0, num_images, per_shard):
        part = images[start : start + per_shard]
        digests = [shards.pixel_sha256(image) for image in part]
        key = shards.shard_key("ab" * 32, digests)
        storage.write(f"{data_uri}/{key}", shards.pack(part))
        rows += [
            {
                "image_id": f"i{start + row}",
                "shard_key": key,
                "shard_row": row,
                "pixel_sha256": digest,
                "label": (start + row) % 2,
                "split": "tuning" if start + row < 2 else "training",
            }
            for row, digest in enumerate(digests)
        ]
    return images, pd.DataFrame(rows)


def test_pixels_come_in_the_order_of_the_rows(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    images, rows = store(files, file_data_uri)
    order = np.random.default_rng(0).permutation(len(rows))[:7]
    pixels = fetch_pixels(files, file_data_uri, rows.iloc[order], tmp_path / "cache")
    assert len(pixels) == 7
    assert np.array_equal(np.stack(list(pixels)), images[order])
    assert np.array_equal(np.stack(list(pixels[2:5])), images[order[2:5]])


def test_pixels_come_out_of_s3(storage: Storage, data_uri: str, tmp_path: Path) -> None:
    images, rows = store(storage, data_uri)
    assert np.array_equal(np.stack(list(fetch_pixels(storage, data_uri, rows, tmp_path))), images)


def test_a_shard_is_downloaded_once(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    images, rows = store(files, file_data_uri)
    fetch_pixels(files, file_data_uri, rows, tmp_path / "cache")
    for key in set(rows["shard_key"]):
        files.delete(f"{file_data_uri}/{key}")
    assert np.array_equal(np.stack(list(fetch_pixels(files, file_data_uri, rows, tmp_path / "cache"))), images)


def test_a_shard_that_is_gone_is_named(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    _, rows = store(files, file_data_uri)
    files.delete(f"{file_data_uri}/{rows['shard_key'][5]}")
    with pytest.raises(ObjectNotFound, match=rows["shard_key"][5]):
        fetch_pixels(files, file_data_uri, rows, tmp_path / "cache")


def test_changed_pixels_are_refused_and_not_kept(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    images, rows = store(files, file_data_uri)
    key = rows["shard_key"][0]
    changed = images[:4].copy()
    changed[2, 0, 0] ^= 1
    files.write(f"{file_data_uri}/{key}", shards.pack(changed))
    with pytest.raises(DataError, match=r"1 of 4 images .* are not those of the manifest, e\.g\. \['i2'\]"):
        fetch_pixels(files, file_data_uri, rows, tmp_path / "cache")
    files.write(f"{file_data_uri}/{key}", shards.pack(images[:4]))
    fetch_pixels(files, file_data_uri, rows, tmp_path / "cache")


def test_a_row_beyond_its_shard_is_refused(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    _, rows = store(files, file_data_uri)
    rows.loc[0, "shard_row"] = 4
    with pytest.raises(DataError, match="'i0'"):
        fetch_pixels(files, file_data_uri, rows, tmp_path / "cache")


def test_a_split_brings_its_images_and_labels(files: Storage, file_data_uri: str, tmp_path: Path) -> None:
    images, rows = store(files, file_data_uri)
    training = fetch_split(files, file_data_uri, rows, Split.TRAINING, tmp_path / "cache")
    assert training.labels.tolist() == [0, 1] * 4
    assert np.array_equal(np.stack(list(training.images)), images[2:])


@pytest.mark.parametrize(("labels", "seen"), [([0, 0], r"its 2 images have \[0\]"), ([], r"its 0 images have \[\]")])
def test_a_split_without_both_labels_is_refused(
    labels: list[int], seen: str, files: Storage, file_data_uri: str, tmp_path: Path
) -> None:
    rows = pd.DataFrame({"split": ["tuning"] * len(labels), "label": labels})
    with pytest.raises(DataError, match=f"the tuning split needs images of both labels; {seen}"):
        fetch_split(files, file_data_uri, rows, Split.TUNING, tmp_path)


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (9, 4), (4, 4), (3, 8), (65, 32)])
def test_an_epoch_has_each_image_once_in_batches_of_nearly_one_size(num_images: int, batch_size: int) -> None:
    batches = epoch_batches(num_images, batch_size, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(num_images))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_come_in_order_however_many_workers_read_ahead(num_workers: int) -> None:
    images = np.arange(40, dtype=np.uint8).repeat(4).reshape(40, 2, 2)
    batches = epoch_batches(40, 7, np.random.default_rng(1))
    for wanted, seen in zip(batches, read_batches(images, batches, num_workers), strict=True):
        assert seen[:, 0, 0].tolist() == wanted.tolist()


def test_workers_read_no_further_ahead_than_they_are_many() -> None:
    read: list[int] = []

    class Watched(list[np.ndarray]):
        def __getitem__(self, index):
            read.append(index)
            return np.zeros((2, 2), dtype=np.uint8)

    batches = read_batches(Watched(), [np.array([index]) for index in range(100)], num_workers=2)
    next(batches)
    batches.close()
    assert max(read) <= 3


def test_the_digest_is_of_the_bytes_that_training_sees() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert shards.pixel_sha256(image) == sha256(bytes(range(16))).hexdigest()

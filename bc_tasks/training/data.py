"""Images out of pixel shards: fetched once, checked, memory-mapped, and served in batches without decoding.

Nothing is read twice from storage: a shard is named by what it holds and never changes.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from bc_tasks import shards
from bc_tasks.errors import DataError
from bc_tasks.mammogram import Label, Split
from bc_tasks.shards import Images

if TYPE_CHECKING:
    from bc_tasks.storage import Storage

ImageSource = Images | Sequence[Images]
Indices = npt.NDArray[np.int64]
PARALLEL_SHARDS = 4


@dataclass(frozen=True)
class Pixels(Sequence[Images]):
    """Images (S, S) of uint8 in the order of a manifest's rows, read from memory-mapped shards when asked for."""

    places: Sequence[tuple[Images, int]]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Images: ...
    @overload
    def __getitem__(self, index: slice) -> "Pixels": ...
    def __getitem__(self, index: int | slice) -> "Images | Pixels":
        if isinstance(index, slice):
            return Pixels(self.places[index])
        shard, row = self.places[index]
        image: Images = shard[row]
        return image


@dataclass(frozen=True)
class LabelledImages:
    """Images (S, S) of uint8 and their labels (N,) in {0, 1}."""

    images: Sequence[Images]
    labels: npt.NDArray[np.int64]


def fetch_split(storage: "Storage", data_uri: str, rows: pd.DataFrame, split: Split, cache: Path) -> LabelledImages:
    """Return the images and labels of one split of a manifest's usable rows.

    Raises:
        DataError: the split hasn't both labels, or pixels are not those that the manifest was made from.
    """
    chosen = rows[rows["split"] == split.value]
    labels = chosen["label"].to_numpy(dtype="int64")
    if set(labels) != set(Label):
        raise DataError(
            f"the {split.value} split needs images of both labels; its {len(labels)} images have "
            f"{sorted(set(labels.tolist()))}. Wait for more patients, or look at splits.tuning_share"
        )
    return LabelledImages(fetch_pixels(storage, data_uri, chosen, cache), labels)


def fetch_pixels(storage: "Storage", data_uri: str, rows: pd.DataFrame, cache: Path) -> Pixels:
    """Download the shards of a manifest's rows into `cache`, where they aren't there yet, and open them.

    Raises:
        DataError: pixels are not those that the manifest was made from.
    """

    def fetch(key: str) -> Images:
        path = cache / key
        if not path.exists():
            storage.download(f"{data_uri}/{key}", path)
        shard = shards.open_shard(path)
        _check(shard, rows[rows["shard_key"] == key], path)
        return shard

    keys = sorted(set(rows["shard_key"]))
    with ThreadPoolExecutor(PARALLEL_SHARDS) as pool:
        opened = dict(zip(keys, pool.map(fetch, keys), strict=True))
    return Pixels([(opened[key], int(row)) for key, row in zip(rows["shard_key"], rows["shard_row"], strict=True)])


def _check(shard: Images, rows: pd.DataFrame, path: Path) -> None:
    """Compare each image with its digest in the manifest; what doesn't fit is not kept in the cache."""
    wrong = [
        str(image_id)
        for image_id, row, digest in zip(rows["image_id"], rows["shard_row"], rows["pixel_sha256"], strict=True)
        if row >= len(shard) or shards.pixel_sha256(shard[int(row)]) != digest
    ]
    if wrong:
        path.unlink()
        raise DataError(
            f"{len(wrong)} of {len(rows)} images in the pixel shard {path.name} are not those of the manifest, "
            f"e.g. {wrong[:10]}; the local copy was removed. If another try says the same, the stored shard was "
            "changed: restore it from the bucket's versions or a backup"
        )


def epoch_batches(num_images: int, batch_size: int, generator: np.random.Generator) -> list[Indices]:
    """Shuffle `num_images` indices into batches of nearly one size, so that no last batch is tiny."""
    num_batches = -(-num_images // batch_size)
    return [np.asarray(part, dtype=np.int64) for part in np.array_split(generator.permutation(num_images), num_batches)]


def read_batches(images: ImageSource, batches: Iterable[Indices], num_workers: int) -> Iterator[Tensor]:
    """Give each batch of indices as a tensor (B, S, S) of uint8, read ahead by `num_workers` threads; 0: none.

    Threads suffice, because nothing is decoded: most of the time is the disk's.
    """

    def read(indices: Indices) -> Tensor:
        batch = torch.from_numpy(np.stack([images[int(index)] for index in indices]))
        return batch.pin_memory() if torch.cuda.is_available() else batch

    if num_workers == 0:
        yield from map(read, batches)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        ahead: deque[Future[Tensor]] = deque()
        for indices in batches:
            ahead.append(pool.submit(read, indices))
            if len(ahead) > num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

"""The features of very many images on the local disk, memory-mapped: any of them at once, by every process.

A search looks at ten images of each query's, anywhere among all: fetched shard by shard they would be read, from S3,
again and again. So each shard's are read once, about 29 KB an image, and lie here until the search has ended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from bc_tasks.errors import InfrastructureError
from bc_tasks.near_copies import Features

Array = npt.NDArray[Any]
POINTS, DESCRIPTORS, ENDS = "points", "descriptors", "ends"


@dataclass(frozen=True)
class LocalFeatures(Sequence[Features]):
    """Those `rows` of what lies in `folder`; a slice of it is one too, and both may be sent to another process."""

    folder: Path
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Features: ...
    @overload
    def __getitem__(self, index: slice) -> "LocalFeatures": ...
    def __getitem__(self, index: int | slice) -> "Features | LocalFeatures":
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        points, descriptors, ends = _opened(self.folder)
        row = self.rows[index]
        keypoints = slice(int(ends[row]), int(ends[row + 1]))
        return Features(points[keypoints], descriptors[keypoints])


def keep(features: Iterable[Features], folder: Path) -> LocalFeatures:
    """Write features into a folder, one after the other, and return all of them.

    Raises:
        InfrastructureError: there is no room.
    """
    ends = [0]
    try:
        with (folder / POINTS).open("wb") as points, (folder / DESCRIPTORS).open("wb") as descriptors:
            for each in features:
                points.write(each.points.tobytes())
                descriptors.write(each.descriptors.tobytes())
                ends.append(ends[-1] + len(each.points))
        (folder / ENDS).write_bytes(np.array(ends, np.int64).tobytes())
    except OSError as error:
        raise InfrastructureError(
            f"the features of image {len(ends)} can't be kept in {folder}: {error.strerror}. A search for near copies "
            "needs about 29 KB an image of local disk: give the step more, or set TMPDIR to where there is some"
        ) from error
    return LocalFeatures(folder, range(len(ends) - 1))


def close() -> None:
    """Let go of the files that this process has open."""
    _opened.cache_clear()


@lru_cache(maxsize=1)
def _opened(folder: Path) -> tuple[Array, Array, Array]:
    ends = np.fromfile(folder / ENDS, np.int64)
    points = _mapped(folder / POINTS, np.float32).reshape(-1, 4)
    return points, _mapped(folder / DESCRIPTORS, np.uint8).reshape(-1, 128), ends


def _mapped(path: Path, dtype: type[np.generic]) -> Array:
    if not path.stat().st_size:  # which can't be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))

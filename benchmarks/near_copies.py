"""How many copies of real images are found, how many images of other patients are taken for copies, and in what time.

Each copy goes the whole way: the source is changed, encoded as JPEG (quality 60 to 95), decoded and cropped as the
ingest step does, and its features are looked for among those of the holdout.

    python benchmarks/near_copies.py FOLDER [--size 640] [--copies 400] [--holdout 1000] [--scaling 10000 30000 100000]

FOLDER holds labels.csv with the columns `path` and `patient_id`.
"""

import argparse
import csv
import io
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps
from rich.console import Console
from rich.table import Table
from scipy.fft import dctn

from bc_tasks.config import PixelsConfig
from bc_tasks.cores import processes
from bc_tasks.near_copies import Features, Index, Match, extract
from bc_tasks.pixels import decode

Rng = np.random.Generator
Grey = npt.NDArray[np.uint8]


def resized(image: Image.Image, rng: Rng) -> Image.Image:
    """Half to one and a half times as large."""
    factor = rng.uniform(0.5, 1.5)
    return image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BICUBIC)


def stretched(image: Image.Image, rng: Rng) -> Image.Image:
    """Lower by up to a quarter: another aspect ratio."""
    return image.resize((image.width, int(image.height * rng.uniform(0.75, 1))), Image.Resampling.BICUBIC)


def turned_by_quarters(image: Image.Image, rng: Rng) -> Image.Image:
    """By 90, 180 or 270 degrees."""
    ways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(ways[rng.integers(3)])


def rotated(image: Image.Image, rng: Rng) -> Image.Image:
    """By up to 20 degrees, with black corners."""
    return image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC)


def brighter(image: Image.Image, rng: Rng) -> Image.Image:
    """Contrast times 0.7 to 1.3, brightness up to 25 grey values up or down."""
    gain, offset = rng.uniform((0.7, -25), (1.3, 25)).tolist()
    return _mapped(image, gain * np.arange(256) + offset)


def gamma(image: Image.Image, rng: Rng) -> Image.Image:
    """A gamma of 0.55 to 1.82."""
    return _mapped(image, 255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.6, 0.6)))


def cropped(image: Image.Image, rng: Rng) -> Image.Image:
    """Up to 10 % of the width and of the height is cut away, anywhere."""
    (across, down), (left, top) = rng.uniform(0, 0.1, 2), rng.uniform(0, 1, 2)
    x, y = int(left * across * image.width), int(top * down * image.height)
    return image.crop((x, y, x + int((1 - across) * image.width), y + int((1 - down) * image.height)))


def painted(image: Image.Image, rng: Rng) -> Image.Image:
    """A black rectangle on 5 to 15 % of the area."""
    area, aspect = rng.uniform((0.05, 0.5), (0.15, 2)).tolist()
    width, height = int((area * aspect) ** 0.5 * image.width), int((area / aspect) ** 0.5 * image.height)
    x, y = int(rng.integers(0, image.width - width)), int(rng.integers(0, image.height - height))
    copy = image.copy()
    ImageDraw.Draw(copy).rectangle((x, y, x + width, y + height), fill=0)
    return copy


def several(image: Image.Image, rng: Rng) -> Image.Image:
    """Perhaps mirrored, then rotated, cropped, and its gamma changed."""
    start = ImageOps.mirror(image) if rng.random() < 0.5 else image
    return gamma(cropped(rotated(start, rng), rng), rng)


def _mapped(image: Image.Image, levels: npt.NDArray[np.float64]) -> Image.Image:
    return image.point(np.clip(np.rint(levels), 0, 255).astype(int).tolist())


COPIES: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "re-encoded": lambda image, _: image,
    "resized to 50-150 %": resized,
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "upside down": lambda image, _: ImageOps.flip(image),
    "turned by 90, 180 or 270 degrees": turned_by_quarters,
    "inverted": lambda image, _: ImageOps.invert(image),
    "brightness and contrast": brighter,
    "gamma": gamma,
    "cropped by up to 10 %": cropped,
    "rotated by up to 20 degrees": rotated,
    "black rectangle on 5-15 %": painted,
    "squeezed by up to 25 %": stretched,
    "mirrored, rotated, cropped and gamma": several,
}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=640, help="side of the stored pixels")
    parser.add_argument("--copies", type=int, default=400, help="images of which all copies are made")
    parser.add_argument("--holdout", type=int, default=1000, help="images that are searched")
    parser.add_argument(
        "--scaling", type=int, nargs="*", default=[], help="search the holdout and synthetic images, so many"
    )
    options = parser.parse_args()
    with (options.folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [options.folder / row["path"] for row in rows]
    patients = np.array([row["patient_id"] for row in rows])
    with processes() as pool:
        originals = list(pool.map(partial(original, options.size), paths, chunksize=20))
        order = np.random.default_rng(1).permutation(len(paths))
        holdout = order[: options.holdout]
        copied = holdout[: options.copies].tolist()
        copies = list(pool.map(partial(all_copies, options.size), [paths[row] for row in copied], copied, chunksize=5))
    features = [each for each, _, _ in originals]
    milliseconds = 1000 * np.mean([seconds for _, _, seconds in originals])
    print(f"{options.size} px; extraction {milliseconds:.0f} ms an image, on as many cores as there are")
    began = time.perf_counter()
    index = Index([features[row] for row in holdout])
    print(f"index of {len(holdout)} images: {time.perf_counter() - began:.1f} s")
    show_found(index, [originals[row][1][0] for row in holdout], copies)
    show_flags(index, features, paths, patients, holdout, [hashes for _, hashes, _ in originals])
    hard = [row[-1][0] for row in copies[:100]]
    show_scaling([features[row] for row in holdout], hard, options.scaling)


def original(size_px: int, path: Path) -> tuple[Features, npt.NDArray[np.bool_], float]:
    """Return an image's features, its hashes in 8 symmetries and the seconds that the features took."""
    cv2.setNumThreads(1)
    return described(path.read_bytes(), size_px)


def all_copies(size_px: int, path: Path, seed: int) -> list[tuple[Features, npt.NDArray[np.bool_], float]]:
    """Do the same with one copy of each kind."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    image = Image.open(path).convert("L")
    return [described(encoded(change(image, rng), int(rng.integers(60, 96))), size_px) for change in COPIES.values()]


def encoded(image: Image.Image, quality: int) -> bytes:
    """Return a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def described(data: bytes, size_px: int) -> tuple[Features, npt.NDArray[np.bool_], float]:
    """Decode as the ingest step does, and return features, hashes and the seconds of the features."""
    config = PixelsConfig(size_px=size_px)
    pixels = decode(data, name="image.jpg", config=config, max_source_pixels=10**8).pixels
    began = time.perf_counter()
    features = extract(pixels)
    seconds = time.perf_counter() - began
    return features, hashes(pixels), seconds


def hashes(pixels: Grey) -> npt.NDArray[np.bool_]:
    """Return the usual perceptual hash, 63 bits of an 8 x 8 cosine transform, of the image's 8 symmetries: (8, 63)."""
    small = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    turned = [np.rot90(way, quarters) for way in (small, small[:, ::-1]) for quarters in range(4)]
    low = np.array([dctn(each)[:8, :8].ravel()[1:] for each in turned])
    return np.asarray(low > np.median(low, axis=1, keepdims=True))


def show_found(index: Index, known: Sequence[npt.NDArray[np.bool_]], copies: Sequence[Sequence[tuple]]) -> None:
    """Print the share of each kind of copy whose original is found; copy n is of the n-th indexed image."""
    table = Table("copy", "found", "share", "hash at <= 4 bits", title=f"{len(copies)} images of each kind")
    for kind, name in enumerate(COPIES):
        found = index.find([row[kind][0] for row in copies])
        num_found = sum(any(match.row == row for match in matches) for row, matches in enumerate(found))
        num_hashed = sum(int((row[kind][1] != known[n]).sum(axis=1).min() <= 4) for n, row in enumerate(copies))
        table.add_row(name, str(num_found), f"{num_found / len(copies):.3f}", f"{num_hashed / len(copies):.3f}")
    Console(width=120).print(table)


def show_flags(index, features, paths, patients, holdout, all_hashes) -> None:  # type: ignore[no-untyped-def]
    """Print which images are taken for copies of another patient's image in the holdout, and the time that it took."""
    began = time.perf_counter()
    found: list[list[Match]] = index.find(features)
    seconds = time.perf_counter() - began
    print(f"{len(features)} x {len(holdout)}: {seconds:.0f} s, {3000 * seconds / len(features):.0f} s for 3,000")
    missed = sum(all(match.row != n for match in found[row]) for n, row in enumerate(holdout.tolist()))
    print(f"holdout images that do not find themselves: {missed}")
    others = [
        (row, m) for row, matches in enumerate(found) for m in matches if patients[holdout[m.row]] != patients[row]
    ]
    same = {
        r for r, ms in enumerate(found) for m in ms if patients[holdout[m.row]] == patients[r] and holdout[m.row] != r
    }
    num_flagged = len({row for row, _ in others})
    print(f"images flagged for another patient's image: {num_flagged}; for another of the same patient: {len(same)}")
    for row, match in others:
        print(f"    {paths[row].name} {paths[holdout[match.row]].name} {match}")
    began = time.perf_counter()
    one = np.stack([each[0] for each in all_hashes])
    eight = np.stack([all_hashes[row] for row in holdout])
    flagged = 0
    for row, bits in enumerate(one):
        distance = (bits != eight).sum(axis=2).min(axis=1)
        flagged += bool(((distance <= 4) & (patients[holdout] != patients[row])).any())
    print(f"the same by 63-bit hashes at <= 4 bits: {flagged} images flagged, {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    for row in holdout[:500].tolist():
        matcher.knnMatch(features[0].descriptors, features[row].descriptors, k=2)
    pair = (time.perf_counter() - began) / 500
    minutes = 3000 * 1000 * 4 * pair / 60
    print(f"all pairs of descriptors by OpenCV: {1000 * pair:.2f} ms a pair, {minutes:.0f} min for 3,000 x 1,000 x 4")


class Many(Sequence[Features]):
    """Real images first, then any number made of their keypoints at random, each when it is asked for."""

    def __init__(self, real: Sequence[Features], number: int) -> None:
        self.real = real
        self.points = np.concatenate([each.points for each in real])
        self.descriptors = np.concatenate([each.descriptors for each in real])
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Features]:
        return (self[row] for row in range(self.number))

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if row < len(self.real):
            return self.real[row]
        chosen = np.random.default_rng(row).integers(0, len(self.points), 200)
        return Features(self.points[chosen], self.descriptors[chosen])


def show_scaling(known: Sequence[Features], copies: Sequence[Features], numbers: Sequence[int]) -> None:
    """Print what an index of that many images takes; copy n is of the n-th of the real ones among them."""
    for number in numbers:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        index = Index(Many(known, number))
        built = time.perf_counter()
        found = index.find(copies)
        seconds = time.perf_counter() - built
        num_found = sum(any(match.row == row for match in matches) for row, matches in enumerate(found))
        num_flags = sum(any(match.row != row for match in matches) for row, matches in enumerate(found))
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{number} images: built in {built - began:.0f} s, peak memory + {memory:.0f} MB, 3,000 queries in"
            f" {3000 * seconds / len(copies):.0f} s; of {len(copies)} copies {num_found} found, {num_flags} with others"
        )


if __name__ == "__main__":
    main()

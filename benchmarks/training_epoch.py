"""A training epoch out of pixel shards, against the usual ImageFolder + DataLoader loop on the same images.

    python benchmarks/training_epoch.py [--images 400] [--repeats 2] ...

Same JPEGs (640 x 640 px, made up, grey), same augmentations, image size, device and number of threads. The data alone
are timed, then whole epochs: of one and the same network, which leaves the data as the only difference, and of the
network as the usual loop has it: contiguous, its frozen batch-norms run as they are. Everything is timed in turns.
On a machine that is busy with other things too, set OMP_WAIT_POLICY=PASSIVE.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bc_tasks import shards
from bc_tasks.config import AugmentationConfig
from bc_tasks.training.augment import augment, draw
from bc_tasks.training.backbones import build, lookup
from bc_tasks.training.data import Pixels, epoch_batches, read_batches
from bc_tasks.training.freezing import fold_frozen_norms, freeze
from bc_tasks.training.inputs import InputFormat, normalise, resize
from bc_tasks.training.scoring import best_device

JPEG_PX = 640
HALVES = (0.5, 0.5, 0.5)
AUGMENTATION = AugmentationConfig()
Batches = Iterator[tuple[Tensor, Tensor]]


def main() -> None:
    """Make the images, time everything in turns, print the table."""
    options = _options()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"making {options.images} JPEGs of {JPEG_PX} x {JPEG_PX} px ...")
        pixels, labels = make_images(Path(folder), options.images, options.stored_px)
        cases = _cases(Path(folder), pixels, labels, options)
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(options.repeats):
            for name, run_epoch in cases.items():
                console.print(f"turn {turn + 1} of {options.repeats}: {name}")
                started = time.perf_counter()
                run_epoch()
                seconds[name].append(time.perf_counter() - started)
    console.print(_table({name: median(times) for name, times in seconds.items()}, options))


def make_images(folder: Path, num_images: int, stored_px: int) -> tuple[Pixels, np.ndarray]:
    """Write JPEGs as ImageFolder wants them, and the same images into one shard, as ingest does."""
    draw = np.random.default_rng(1)
    labels = np.arange(num_images) % 2
    stored = []
    for number, label in enumerate(labels):
        # As busy as a mammogram: about 40 KB of JPEG.
        coarse = Image.fromarray(draw.integers(20, 200, (80, 80), dtype=np.uint8))
        grain = draw.normal(0, 4, (JPEG_PX, JPEG_PX))
        pixels = np.asarray(coarse.resize((JPEG_PX, JPEG_PX), Image.Resampling.BICUBIC)) + grain
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        path = folder / "jpeg" / str(label) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=75)
        stored.append(np.asarray(image.resize((stored_px, stored_px), Image.Resampling.LANCZOS)))
    (folder / "shard.npy").write_bytes(shards.pack(stored))
    shard = shards.open_shard(folder / "shard.npy")
    return Pixels([(shard, row) for row in range(num_images)]), labels


def from_shards(pixels: Pixels, labels: np.ndarray, options: argparse.Namespace, device: torch.device) -> Batches:
    """Give the batches of an epoch as our training loop makes them."""
    taken = InputFormat(options.image_px, HALVES, HALVES)
    batches = epoch_batches(len(labels), options.batch_size, np.random.default_rng(2))
    generator = torch.Generator().manual_seed(3)
    for indices, images in zip(batches, read_batches(pixels, batches, num_workers=0), strict=True):
        draws = draw(len(indices), generator)
        grey = augment(resize(images.to(device), taken.size_px), AUGMENTATION, draws)
        yield normalise(grey, taken, torch.channels_last), torch.from_numpy(labels[indices]).to(device)


def from_folder(folder: Path, options: argparse.Namespace, device: torch.device, num_workers: int) -> Batches:
    """Give the batches of an epoch as the usual loop makes them."""
    steps = [
        transforms.Resize((options.image_px, options.image_px)),
        transforms.RandomHorizontalFlip(AUGMENTATION.horizontal_flip_probability),
        transforms.RandomVerticalFlip(AUGMENTATION.vertical_flip_probability),
        transforms.RandomRotation(AUGMENTATION.rotation_degrees),
        transforms.ToTensor(),
        transforms.Normalize(HALVES, HALVES),
        transforms.RandomErasing(
            AUGMENTATION.rectangle_probability,
            (AUGMENTATION.rectangle_min_share, AUGMENTATION.rectangle_max_share),
        ),
    ]
    images = ImageFolder(str(folder / "jpeg"), transforms.Compose(steps))
    for batch, labels in DataLoader(images, options.batch_size, shuffle=True, num_workers=num_workers):
        yield batch.to(device), labels.to(device)


def train_epoch(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Train on each batch once."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    network.train()
    for images, labels in batches:
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cases(
    folder: Path, pixels: Pixels, labels: np.ndarray, options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    device = best_device()
    backbone = lookup(options.backbone)

    def network() -> tuple[nn.Module, list[nn.Module]]:
        model = build(backbone.timm_name).to(device)
        return model, freeze(model, backbone, options.trainable_stages)

    plain, _ = network()
    model, trainable = network()
    ours = fold_frozen_norms(model.to(memory_format=torch.channels_last), trainable)
    workers = options.workers

    def shard() -> Batches:
        return from_shards(pixels, labels, options, device)

    def usual(num_workers: int) -> Batches:
        return from_folder(folder, options, device, num_workers)

    return {
        "data, shards": lambda: exhaust(shard()),
        "data, usual, 0 workers": lambda: exhaust(usual(0)),
        f"data, usual, {workers} workers": lambda: exhaust(usual(workers)),
        "epoch, shards, our network": lambda: train_epoch(ours, shard()),
        f"epoch, usual, {workers} workers, our network": lambda: train_epoch(ours, usual(workers)),
        f"epoch, usual, {workers} workers, plain network": lambda: train_epoch(plain, usual(workers)),
    }


def exhaust(batches: Batches) -> None:
    """Make every batch, and do nothing with it."""
    for _ in batches:
        pass


def _table(seconds: dict[str, float], options: argparse.Namespace) -> Table:
    table = Table(
        Column("what", no_wrap=True),
        "seconds",
        "images/s",
        "ratio to shards",
        title=f"one epoch of {options.images} images at {options.image_px} px, {options.backbone}, "
        f"trainable stages: {options.trainable_stages}, on {best_device().type}, {torch.get_num_threads()} threads",
    )
    for name, value in seconds.items():
        shards_too = next(other for other in seconds if other.startswith(name.partition(",")[0]))
        table.add_row(name, f"{value:.2f}", f"{options.images / value:.0f}", f"{value / seconds[shards_too]:.2f}")
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--stored-px", type=int, default=256, help="side of the squares in the shards")
    parser.add_argument("--image-px", type=int, default=224, help="side of the squares that the network sees")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--trainable-stages", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader, beside 0")
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

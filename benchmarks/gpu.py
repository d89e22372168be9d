"""Fine-tune each of the four large backbones as a night does, and check on the way what a GPU could get wrong.

    python benchmarks/gpu.py [--images FOLDER] [--size 640] [--batch-size 16] [--epochs 4] [--weights none] ...

FOLDER holds a folder for each label, named 0 and 1; without one, phantoms are drawn. For each backbone: does the
training loss fall, does a checkpoint after the first epoch lead to the same curve, do CPU and GPU give the same scores;
and how many images a second, and how much memory at most. Works on a CPU too, for a look at whether it runs:

    python benchmarks/gpu.py --backbones efficientnet_lite0 --size 64 --patients 10 --epochs 2
"""

import argparse
import resource
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Column, Table

from bc_tasks.config import PixelsConfig, TrainingConfig
from bc_tasks.embedded.phantoms import make_patients
from bc_tasks.pixels import decode
from bc_tasks.storage import open_storage
from bc_tasks.training import scoring, weights
from bc_tasks.training.backbones import build, lookup
from bc_tasks.training.checkpoints import Checkpoint, EpochResult
from bc_tasks.training.data import LabelledImages
from bc_tasks.training.inputs import InputFormat
from bc_tasks.training.loop import Watcher, train

LARGE = ("resnet50", "resnet101", "efficientnetv2_s", "convnext_tiny")
TUNING_SHARE = 4
"""Every so many images is one of tuning."""
MAX_SOURCE_PIXELS = 100_000_000


@dataclass(frozen=True)
class Result:
    """What one backbone came to; scores and losses are compared by their largest difference."""

    backbone: str
    losses: list[float]
    images_per_second: float
    peak_memory_gib: float
    resumed_differs_by: float
    cpu_differs_by: float


def main() -> None:
    """Train each backbone, print its line as soon as it is known, and the table at the end."""
    options = _options()
    console = Console(soft_wrap=True)
    images = _read(options.images, options.size) if options.images else _draw(options.patients, options.size)
    device = scoring.device_name()
    console.print(f"{len(images.labels)} images, {images.labels.sum()} with cancer, on {device}")
    results = []
    for backbone in options.backbones:
        results.append(measure(backbone, images, options))
        console.print(results[-1], highlight=False)
    console.print(
        _table(results, f"{options.size} px, batches of {options.batch_size}, {options.precision}, on {device}")
    )
    if any(result.losses[-1] >= result.losses[0] for result in results):
        raise SystemExit("a training loss did not fall")


def measure(name: str, images: LabelledImages, options: argparse.Namespace) -> Result:
    """Train a backbone, train it again from its first checkpoint, and score with what came out on CPU and GPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    epochs, checkpoints = _fine_tune(name, images, None, options)
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_bytes()
    resumed, _ = _fine_tune(name, images, checkpoints[0], options)
    losses, again = [epoch.training_loss for epoch in epochs], [epoch.training_loss for epoch in resumed]
    return Result(
        backbone=name,
        losses=[round(loss, 4) for loss in losses],
        images_per_second=median(epoch.images_per_second for epoch in epochs[1:]),  # the first one warms up
        peak_memory_gib=memory / 2**30,
        resumed_differs_by=float(np.abs(np.subtract(losses[1:], again)).max()),
        cpu_differs_by=_compare_devices(name, checkpoints[-1], images, options),
    )


def _fine_tune(
    name: str, images: LabelledImages, resume: Checkpoint | None, options: argparse.Namespace
) -> tuple[list[EpochResult], list[Checkpoint]]:
    config = TrainingConfig(
        image_size_px=options.size,
        batch_size=options.batch_size,
        epochs=options.epochs,
        early_stop_epochs=options.epochs,
        trainable_stages=options.trainable_stages,
        learning_rate=options.learning_rate,
        precision=options.precision,
        num_workers=options.workers,
    )
    model, backbone = build(lookup(name).timm_name, config.seed), lookup(name)
    weights.initialise(model, backbone, options.weights, download=open_storage().download, cache=options.cache)
    is_tuning = np.arange(len(images.labels)) % TUNING_SHARE == 0
    epochs: list[EpochResult] = []
    checkpoints: list[Checkpoint] = []
    train(
        model,
        backbone,
        _format(name, options.size),
        config,
        training=_part(images, ~is_tuning),
        tuning=_part(images, is_tuning),
        device=scoring.best_device(),
        resume=resume,
        watcher=Watcher(lambda *_: None, epochs.append, checkpoints.append),
    )
    return epochs, checkpoints


def _compare_devices(name: str, trained: Checkpoint, images: LabelledImages, options: argparse.Namespace) -> float:
    """Return the largest difference of a score on the CPU from that on the best device, both in float32."""
    model = build(lookup(name).timm_name)
    model.load_state_dict(trained.model)
    on_cpu, on_best = (
        scoring.probabilities(
            model.to(device),
            _format(name, options.size),
            images.images[: options.compared],
            batch_size=options.batch_size,
            device=device,
        )
        for device in (torch.device("cpu"), scoring.best_device())
    )
    return float(np.abs(on_cpu - on_best).max())


def _format(name: str, size_px: int) -> InputFormat:
    pretrained = timm.get_pretrained_cfg(lookup(name).timm_name)
    return InputFormat(size_px, pretrained.mean, pretrained.std)


def _part(images: LabelledImages, chosen: np.ndarray) -> LabelledImages:
    return LabelledImages(np.asarray(images.images)[chosen], images.labels[chosen])


def _read(folder: Path, size_px: int) -> LabelledImages:
    config, pixels, labels = PixelsConfig(size_px=size_px), [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name in ("0", "1")):
        decoded = decode(path.read_bytes(), name=path.name, config=config, max_source_pixels=MAX_SOURCE_PIXELS)
        pixels.append(decoded.pixels)
        labels.append(int(path.parent.name))
    shuffled = np.random.default_rng(1).permutation(len(labels))
    return LabelledImages(np.stack(pixels)[shuffled], np.array(labels)[shuffled])


def _draw(num_patients: int, size_px: int) -> LabelledImages:
    phantoms = list(make_patients(num_patients, seed=1, size_px=size_px))
    return LabelledImages(
        np.stack([phantom.pixels for phantom in phantoms]), np.array([int(p.label) for p in phantoms])
    )


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(results: list[Result], title: str) -> Table:
    table = Table(
        Column("backbone", no_wrap=True),
        "images/s",
        "peak GiB",
        "training loss by epoch",
        "resumed",
        "CPU and GPU",
        title=title,
    )
    for result in results:
        table.add_row(
            result.backbone,
            f"{result.images_per_second:.0f}",
            f"{result.peak_memory_gib:.1f}",
            " ".join(f"{loss:.3f}" for loss in result.losses),
            f"{result.resumed_differs_by:.1e}",
            f"{result.cpu_differs_by:.1e}",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=LARGE)
    parser.add_argument("--images", type=Path, help="a folder with the folders 0 and 1")
    parser.add_argument("--patients", type=int, default=200, help="drawn where there is no folder, 2 to 4 images each")
    parser.add_argument("--size", type=int, default=640, help="side of the squares that the network sees")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4, help="2 or more")
    parser.add_argument("--trainable-stages", type=lambda text: text if text == "all" else int(text), default="all")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--weights", default="none", help="as training.weights: none, hub, package or a URI")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "bc-tasks")
    parser.add_argument("--workers", type=int, default=4, help="threads that read ahead")
    parser.add_argument("--compared", type=int, default=16, help="images whose scores on CPU and GPU are compared")
    return parser.parse_args()


if __name__ == "__main__":
    main()

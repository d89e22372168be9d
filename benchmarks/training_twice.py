"""Train on a CPU with the same number of threads and with another, and say how far the weights lie apart.

    python benchmarks/training_twice.py [--images 40] [--size 64] [--epochs 2]

EfficientNet-Lite0 starts from its package's weights, the others from random ones.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from rich.console import Console

from bc_tasks.config import TrainingConfig
from bc_tasks.embedded.phantoms import make_patients
from bc_tasks.storage import open_storage
from bc_tasks.training import scoring, weights
from bc_tasks.training.backbones import build, lookup
from bc_tasks.training.data import LabelledImages
from bc_tasks.training.inputs import InputFormat
from bc_tasks.training.loop import Watcher, train

CASES = (
    ("efficientnet_lite0", 0),
    ("efficientnet_lite0", 2),
    ("efficientnet_lite0", "all"),
    ("resnet50", 1),
    ("convnext_tiny", 1),
)
"""Backbones, and how many of their last stages are trained."""


@dataclass(frozen=True)
class Outcome:
    """What one training came to: the weights of its last epoch, and the loss of each."""

    weights: dict[str, torch.Tensor]
    losses: list[float]

    def differs_from(self, other: "Outcome") -> str:
        """Say how far the weights lie apart at most, and the losses."""
        furthest = max(float((tensor - other.weights[name]).abs().max()) for name, tensor in self.weights.items())
        return f"weights {furthest:.1e}, losses {np.abs(np.subtract(self.losses, other.losses)).max():.1e}"


def main() -> None:
    """Train each case three times, and print a line for it."""
    options, console = _options(), Console(soft_wrap=True, highlight=False)
    num_threads = scoring.num_threads()
    console.print(
        f"{num_threads} threads against as many and one, {scoring.instruction_set()}, torch {torch.__version__}"
    )
    for name, stages in CASES:
        first, again, alone = (_train(name, stages, count, options) for count in (num_threads, num_threads, 1))
        console.print(f"{name}, {stages} stages: {first.differs_from(again)} | {first.differs_from(alone)}")


def _train(name: str, stages: int | str, num_threads: int, options: argparse.Namespace) -> Outcome:
    torch.set_num_threads(num_threads)
    config = TrainingConfig.model_validate(
        {"image_size_px": options.size, "batch_size": 8, "epochs": options.epochs, "trainable_stages": stages}
    )
    backbone = lookup(name)
    model, pretrained = build(backbone.timm_name, config.seed), timm.get_pretrained_cfg(backbone.timm_name)
    source = "package" if backbone.has_package else "none"
    weights.initialise(model, backbone, source, download=open_storage().download, cache=Path())
    losses: list[float] = []
    last: list[dict[str, torch.Tensor]] = []
    train(
        model,
        backbone,
        InputFormat(options.size, pretrained.mean, pretrained.std),
        config,
        training=_draw(options.images, 1, options.size),
        tuning=_draw(options.images // 2, 2, options.size),
        device=torch.device("cpu"),
        resume=None,
        watcher=Watcher(
            lambda *_: None, lambda result: losses.append(result.training_loss), lambda state: last.append(state.model)
        ),
    )
    return Outcome({key: tensor.double() for key, tensor in last[-1].items()}, losses)


def _draw(num_images: int, seed: int, size_px: int) -> LabelledImages:
    phantoms = list(make_patients(num_images, seed=seed, size_px=size_px))[:num_images]
    return LabelledImages(
        np.stack([phantom.pixels for phantom in phantoms]), np.array([int(p.label) for p in phantoms])
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=64, help="side of the squares that the network sees")
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

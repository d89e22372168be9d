"""What the tests let several processes do; each of them imports this, so it asks for little: not for timm."""

import os
import signal
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bc_tasks.errors import OutOfMemory
from bc_tasks.training.distributed import Workers

NUM_IMAGES = 5


def learn_once(workers: Workers, path: Path) -> None:
    """Go one step of the kind that training goes, and store the gradients and the statistics that it gave."""
    torch.manual_seed(3)
    images, labels = torch.randn(NUM_IMAGES, 3, 8, 8), torch.arange(NUM_IMAGES) % 2
    if not workers.is_first:
        torch.manual_seed(4)  # other weights, which the first one's must replace
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    network.extend([nn.Flatten(), nn.Linear(64, 2)])
    parallel, own = workers.parallel(network), workers.share(NUM_IMAGES)
    loss = F.cross_entropy(parallel(images[own]), labels[own], reduction="sum") / NUM_IMAGES
    (loss * workers.count).backward()
    if workers.is_first:
        torch.save(_learnt(network), path)


def _learnt(network: nn.Module) -> dict[str, Tensor]:
    gradients = {f"{name}.grad": parameter.grad for name, parameter in network.named_parameters()}
    return {name: tensor for name, tensor in (gradients | network.state_dict()).items() if tensor is not None}


def agree(workers: Workers, path: Path) -> None:
    """Write whether two flags are seen by all where one process has raised the first."""
    path.with_suffix(f".{workers.rank}").write_text(f"{workers.any(workers.rank == 1)} {workers.any(False)}")


def run_out_of_memory(workers: Workers) -> None:
    if workers.rank == 1:
        raise OutOfMemory("too many pixels")
    workers.any(False)


def be_killed(workers: Workers) -> None:
    if workers.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    workers.any(False)


def learn_agree(workers: Workers, path: Path) -> None:
    learn_once(workers, path)
    agree(workers, path)

"""Several processes that train one network: each takes its part of every batch, and what they find is added up.

All of them go through the same steps with the same weights and come to the same decisions. One process alone is the
same, with nobody to add to, so the training loop need not know which it is.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn.parallel import DistributedDataParallel

OVER_IMAGE_AND_BATCH = (0, 2, 3)


@dataclass(frozen=True)
class Workers:
    """This process's number, from 0, and how many there are."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    def share(self, num_items: int) -> slice:
        """Return this process's part of `num_items`; the parts differ by one at most."""
        return slice(num_items * self.rank // self.count, num_items * (self.rank + 1) // self.count)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors, the same in each of them."""
        if self.count == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Say whether `flag` is true in any process; also waits until all have come here.

        The flags go over the CPU, so that no GPU is waited for.
        """
        return bool(self.add_up(torch.tensor(int(flag))))

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return `network` so that its gradients become the mean over all processes; it starts as the first one's."""
        if self.count == 1:
            return network
        _share_statistics(network, self)
        # It tells of a depthwise convolution's gradient, whose strides are written in another way, but mean the same.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Statistics are shared already, so there is nothing to broadcast before each step.
        return DistributedDataParallel(network, forward_sync_buffers=False)


ALONE = Workers(rank=0, count=1)


@contextmanager
def joined(rank: int, count: int) -> Iterator[Workers]:
    """Meet the other processes, on a GPU of one's own where there are any; addresses come from torch's launcher."""
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield Workers(rank, count)
    # Not after an error: it would wait for processes that are no more.
    dist.destroy_process_group()


def _share_statistics(network: nn.Module, workers: Workers) -> None:
    """Let every batch-norm that learns normalise by the statistics of the whole batch, as one process would.

    torch's own SyncBatchNorm does that too, but on GPUs only; this one is the same everywhere.
    """
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = _shared_forward(norm, workers)  # type: ignore[method-assign] # on this module only


def _shared_forward(norm: nn.BatchNorm2d, workers: Workers) -> Any:
    own_forward = norm.forward

    def forward(inputs: Tensor) -> Tensor:
        if not norm.training:
            return own_forward(inputs)
        outputs, mean, variance, count = _SharedBatchNorm.apply(inputs, norm.weight, norm.bias, norm.eps, workers)
        _keep_statistics(norm, mean, variance * count / (count - 1))
        # timm's batch-norms carry the activation that comes after them.
        activated: Tensor = getattr(norm, "act", nn.Identity())(outputs)
        return activated

    return forward


@torch.no_grad()
def _keep_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    for kept, seen in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert kept is not None
        assert norm.momentum is not None
        kept.lerp_(seen, norm.momentum)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1


class _SharedBatchNorm(Function):
    """Batch normalisation over the images of all processes; keeps only its input for the way back.

    Source: Ioffe & Szegedy, arXiv 1502.03167, algorithm 1 and section 3.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, workers: Workers
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own_count = torch.tensor([inputs.numel() / inputs.shape[1]], device=inputs.device)
        own_sum = inputs.sum(OVER_IMAGE_AND_BATCH, dtype=torch.float32)
        total = workers.add_up(torch.cat([own_sum, own_count]))
        count = total[-1]
        mean = total[:-1] / count
        own_squares = (inputs - _spread(mean)).square().sum(OVER_IMAGE_AND_BATCH)
        variance = workers.add_up(own_squares) / count
        ctx.save_for_backward(inputs, weight, mean, variance, count)
        ctx.eps, ctx.workers = eps, workers
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(inputs, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance, count = ctx.saved_tensors
        scale = torch.rsqrt(variance + ctx.eps)
        normalised = (inputs - _spread(mean)) * _spread(scale)
        of_weight = (gradient * normalised).sum(OVER_IMAGE_AND_BATCH)
        of_bias = gradient.sum(OVER_IMAGE_AND_BATCH, dtype=torch.float32)
        total_of_weight, total_of_bias = ctx.workers.add_up(torch.stack([of_weight, of_bias])) / count
        of_normalised = gradient - _spread(total_of_bias) - normalised * _spread(total_of_weight)
        return (of_normalised * _spread(weight * scale)).to(inputs.dtype), of_weight, of_bias, None, None


def _spread(channels: Tensor) -> Tensor:
    return channels.view(1, -1, 1, 1)

"""What is trained and what stays as it was pretrained.

A frozen module costs no gradient: torch records nothing up to the first trainable one. Its batch-norm
keeps its pretrained statistics, also after `model.train()`.
"""

import copy
from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bc_tasks.errors import ConfigError
from bc_tasks.training.backbones import Backbone


def freeze(model: nn.Module, backbone: Backbone, trainable_stages: int | Literal["all"]) -> list[nn.Module]:
    """Freeze all of `model` but its head and its last `trainable_stages` stages; return the trainable modules.

    Raises:
        ConfigError: the backbone hasn't so many stages.
    """
    if trainable_stages == "all":
        return [model]
    num_stages = len(backbone.stages)
    if trainable_stages > num_stages:
        raise ConfigError(
            f"training.trainable_stages is {trainable_stages}, but {backbone.timm_name} has {num_stages} stages; "
            f'write 0 to {num_stages}, or "all" to train the stem too'
        )
    first = num_stages - trainable_stages
    frozen = [*backbone.stem, *(name for stage in backbone.stages[:first] for name in stage)]
    trainable = [*(name for stage in backbone.stages[first:] for name in stage), backbone.head]
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
        _keep_in_eval(model.get_submodule(name))
    return [model.get_submodule(name) for name in trainable]


def _keep_in_eval(module: nn.Module) -> None:
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign] # noqa: ARG005 - on this module only


def fold_frozen_norms(model: nn.Module, trainable: Sequence[nn.Module]) -> nn.Module:
    """Return a faster twin of `model` for training: frozen batch-norms are folded into the convolutions before them.

    The twin shares the `trainable` modules with `model`, so training one trains the other; `model` keeps the
    weights as they are stored. On a CPU, batch-norm is a third of the time of a frozen EfficientNet.
    """
    shared = {id(module): module for module in trainable}
    twin = copy.deepcopy(model, shared)
    if twin is not model:
        _fold(twin, frozenset(shared))
    return twin


def _fold(parent: nn.Module, shared: frozenset[int]) -> None:
    """Fold every batch-norm that follows a convolution among the children of `parent`, and so on below."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(parent.named_children()):
        if id(child) in shared:
            continue
        if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
            # timm's batch-norms carry the activation that comes after them.
            setattr(parent, name, getattr(child, "act", nn.Identity()))
        else:
            _fold(child, shared)
        before = (name, child)

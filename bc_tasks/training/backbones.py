"""`BACKBONES`: the one table of networks that can be fine-tuned, and where each can be cut.

To add one: a line here and its name in `config.BackboneName`; the tests run over the table.
"""

from dataclasses import dataclass
from typing import cast

import timm
import torch
from torch import nn

from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import ConfigError
from bc_tasks.records import ModelSpec

NUM_LOGITS = 2
"""No cancer and cancer: two logits under a softmax, so that each label has a weight of its own in the loss."""


@dataclass(frozen=True)
class Backbone:
    """A network: its pinned weights, and the names of its modules from input to output.

    Every parameter lies in the stem, in one stage or in the head; each stage names the modules that it is
    made of. `why` says why these weights and no others.
    """

    timm_name: str
    stem: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    head: str
    gains_from_channels_last: bool
    has_package: bool
    why: str


_RESNET_STAGES = (("layer1",), ("layer2",), ("layer3",), ("layer4",))


def _efficientnet_stages(num_stages: int) -> tuple[tuple[str, ...], ...]:
    blocks = [(f"blocks.{index}",) for index in range(num_stages)]
    return (*blocks[:-1], (*blocks[-1], "conv_head", "bn2"))


# A timm name without its tag means "the first weights" and can change between versions, so each has its tag.
# The top-1 figures are on ImageNet, from timm's own table, results/results-imagenet.csv.
BACKBONES: dict[str, Backbone] = {
    "resnet50": Backbone(
        timm_name="resnet50.a1_in1k",
        stem=("conv1", "bn1"),
        stages=_RESNET_STAGES,
        head="fc",
        gains_from_channels_last=True,
        has_package=False,
        why="the longest recipe of 'ResNet strikes back' (arXiv 2110.00476); the slightly better semi-weakly "
        "supervised weights may not be used commercially",
    ),
    "resnet101": Backbone(
        timm_name="resnet101.a1h_in1k",
        stem=("conv1", "bn1"),
        stages=_RESNET_STAGES,
        head="fc",
        gains_from_channels_last=True,
        has_package=False,
        why="the best free ResNet-101 in timm (top-1 82.8 %)",
    ),
    "efficientnetv2_s": Backbone(
        timm_name="tf_efficientnetv2_s.in21k_ft_in1k",
        stem=("conv_stem", "bn1"),
        stages=_efficientnet_stages(6),
        head="classifier",
        gains_from_channels_last=True,
        has_package=False,
        why="saw ImageNet-21k first: top-1 84.3 %, against 83.9 % from ImageNet-1k alone",
    ),
    "convnext_tiny": Backbone(
        timm_name="convnext_tiny.in12k_ft_in1k",
        stem=("stem",),
        stages=(("stages.0",), ("stages.1",), ("stages.2",), ("stages.3",)),
        head="head",
        gains_from_channels_last=False,
        has_package=False,
        why="saw ImageNet-12k first; the ImageNet-22k weights of the same size and resolution are the worst of "
        "them (top-1 78.9 %, less than from ImageNet-1k alone)",
    ),
    "efficientnet_lite0": Backbone(
        timm_name="tf_efficientnet_lite0.in1k",
        stem=("conv_stem", "bn1"),
        stages=_efficientnet_stages(7),
        head="classifier",
        gains_from_channels_last=True,
        has_package=True,
        why="3.4 million parameters: trains on two cores, and its weights install from the package registry",
    ),
}


def lookup(name: str) -> Backbone:
    """Return a backbone by its name in the configuration.

    Raises:
        ConfigError: there is none of that name; lists those there are.
    """
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone {name!r}; there are {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build(timm_name: str, seed: int = 0) -> nn.Module:
    """Build a network of two logits with random weights out of `seed`, and leave torch's own randomness untouched.

    Raises:
        ConfigError: this timm doesn't know the name.
    """
    if not timm.is_model(timm_name):
        raise ConfigError(f"timm {timm.__version__} has no model {timm_name!r}; install the version it was made with")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(nn.Module, timm.create_model(timm_name, pretrained=False, num_classes=NUM_LOGITS))


def specify(name: BackboneName, config: RunConfig, preprocessing_sha256: str) -> ModelSpec:
    """Return the specification of a model to be trained; its operating point is 0.5 until one is fitted."""
    backbone = lookup(name)
    pretrained = timm.get_pretrained_cfg(backbone.timm_name)
    return ModelSpec(
        backbone=name,
        timm_name=backbone.timm_name,
        image_size_px=config.training.image_size_px,
        mean=pretrained.mean,
        std=pretrained.std,
        preprocessing_sha256=preprocessing_sha256,
        pixels_size_px=config.ingest.pixels.size_px,
        crop_to_breast=config.ingest.pixels.crop_to_breast,
        correct_inverted=config.ingest.pixels.correct_inverted,
        operating_point=0.5,
    )

from collections.abc import Callable
from typing import get_args

import pytest
import timm
import torch
from torch import nn

from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import ConfigError
from bc_tasks.training.backbones import BACKBONES, build, lookup, specify
from bc_tasks.training.inputs import INTERPOLATION, InputFormat, normalise

every_backbone = pytest.mark.parametrize("name", BACKBONES)


def test_the_table_and_the_configuration_name_the_same_backbones() -> None:
    assert tuple(BACKBONES) == get_args(BackboneName)


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'vgg16'.*resnet50, resnet101, .*efficientnet_lite0"):
        lookup("vgg16")


def test_a_network_that_this_timm_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"timm {timm.__version__} has no model 'resnet51.b2'"):
        build("resnet51.b2")


@every_backbone
def test_weights_are_pinned_by_a_tag_that_timm_knows(name: str) -> None:
    assert BACKBONES[name].timm_name in timm.list_pretrained()
    assert "." in BACKBONES[name].timm_name


@every_backbone
def test_pretrained_weights_were_made_with_our_interpolation(name: str) -> None:
    assert timm.get_pretrained_cfg(BACKBONES[name].timm_name).interpolation == INTERPOLATION


@every_backbone
def test_weights_may_be_used_commercially(name: str) -> None:
    assert timm.get_pretrained_cfg(BACKBONES[name].timm_name).license == "apache-2.0"


@every_backbone
def test_every_parameter_is_in_the_stem_one_stage_or_the_head(name: str, network: Callable[[str], nn.Module]) -> None:
    backbone = BACKBONES[name]
    modules = [*backbone.stem, *(module for stage in backbone.stages for module in stage), backbone.head]
    for parameter, _ in network(name).named_parameters():
        assert sum(parameter.startswith(f"{module}.") for module in modules) == 1, parameter


@every_backbone
def test_a_network_turns_grey_images_into_two_logits(name: str, network: Callable[[str], nn.Module]) -> None:
    config = RunConfig.model_validate({"data_uri": "s3://images", "training": {"image_size_px": 64}})
    spec = specify(name, config, "0" * 64)
    inputs = normalise(torch.rand(2, 1, 64, 64), InputFormat.of(spec), torch.channels_last)
    assert network(name).eval()(inputs).shape == (2, 2)


def test_the_specification_carries_what_the_pixels_were_made_with() -> None:
    config = RunConfig.model_validate(
        {
            "data_uri": "s3://images",
            "ingest": {"pixels": {"size_px": 320, "crop_to_breast": False}},
            "training": {"image_size_px": 160},
        }
    )
    spec = specify("resnet50", config, "ab" * 32)
    assert (spec.pixels_size_px, spec.crop_to_breast, spec.correct_inverted) == (320, False, True)
    assert (spec.image_size_px, spec.preprocessing_sha256) == (160, "ab" * 32)
    assert spec.mean == (0.485, 0.456, 0.406)


def test_one_seed_builds_one_network_and_leaves_torch_alone() -> None:
    name = BACKBONES["efficientnet_lite0"].timm_name
    before = torch.random.get_rng_state()
    first, again, other = (build(name, seed).state_dict()["conv_stem.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)

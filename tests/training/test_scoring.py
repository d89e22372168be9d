from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_images import make_images

from bc_tasks.config import RunConfig
from bc_tasks.errors import ConfigError
from bc_tasks.records import ModelSpec
from bc_tasks.training import weights
from bc_tasks.training.backbones import build, specify
from bc_tasks.training.scoring import load_model, score

CPU = torch.device("cpu")
IMAGES = make_images(15, seed=3).images


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    config = RunConfig.model_validate({"data_uri": "s3://images", "training": {"image_size_px": 64}})
    return specify("efficientnet_lite0", config, "0" * 64)


@pytest.fixture(scope="module")
def stored(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights.write(build(spec.timm_name, seed=4).state_dict(), path)
    return path


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_the_batch_size_does_not_matter(batch_size: int, spec: ModelSpec, stored: Path) -> None:
    model = load_model(spec, stored)
    whole = score(model, spec, IMAGES, batch_size=15, device=CPU)
    assert np.allclose(score(model, spec, IMAGES, batch_size=batch_size, device=CPU), whole, atol=1e-6)
    assert len(set(np.round(whole, 6))) == 15, "the images are told apart"


def test_scores_are_probabilities_of_cancer(spec: ModelSpec, stored: Path) -> None:
    model = load_model(spec, stored)
    scores = score(model, spec, IMAGES, batch_size=4, device=CPU)
    assert scores.shape == (15,)
    assert scores.dtype == np.float64
    with torch.no_grad():
        nn.init.constant_(model.get_submodule("classifier").bias, 0)
        nn.init.zeros_(model.get_submodule("classifier").weight)
        model.get_submodule("classifier").bias[1] = 3.0
    assert score(model, spec, IMAGES, batch_size=4, device=CPU) == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_a_list_of_images_scores_like_an_array(spec: ModelSpec, stored: Path) -> None:
    model = load_model(spec, stored)
    from_list = score(model, spec, list(IMAGES), batch_size=4, device=CPU)
    assert np.array_equal(from_list, score(model, spec, IMAGES, batch_size=4, device=CPU))


def test_a_model_left_in_training_is_put_into_eval_and_not_changed(spec: ModelSpec, stored: Path) -> None:
    model = load_model(spec, stored).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = score(model, spec, IMAGES, batch_size=4, device=CPU)
    assert np.array_equal(first, score(model.train(), spec, IMAGES, batch_size=4, device=CPU))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_images_have_no_scores(spec: ModelSpec, stored: Path) -> None:
    assert score(load_model(spec, stored), spec, IMAGES[:0], batch_size=4, device=CPU).shape == (0,)


def test_the_stored_weights_are_the_loaded_ones(spec: ModelSpec, stored: Path) -> None:
    model = load_model(spec, stored)
    assert not model.training
    original = build(spec.timm_name, seed=4).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_backbone_are_refused(spec: ModelSpec, stored: Path) -> None:
    other = spec.model_copy(update={"backbone": "resnet50", "timm_name": "resnet50.a1_in1k"})
    with pytest.raises(ConfigError, match=r"model\.safetensors don't fit ResNet"):
        load_model(other, stored)


def test_weights_without_a_head_are_refused(spec: ModelSpec, tmp_path: Path) -> None:
    headless = {name: t for name, t in build(spec.timm_name).state_dict().items() if not name.startswith("classifier")}
    weights.write(headless, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"classifier\.weight is missing"):
        load_model(spec, tmp_path / "model.safetensors")

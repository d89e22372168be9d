import copy
from pathlib import Path

import pytest
import torch
from process_tasks import NUM_IMAGES, learn_agree, learn_once
from timm.layers import BatchNormAct2d
from torch import nn

from bc_tasks.training.distributed import ALONE, Workers, _share_statistics
from bc_tasks.training.launcher import launch


@pytest.mark.parametrize(("num_items", "count"), [(32, 2), (7, 2), (7, 3), (3, 3), (1, 4), (0, 2)])
def test_shares_hold_each_item_once_and_differ_by_one_at_most(num_items: int, count: int) -> None:
    shares = [range(num_items)[Workers(rank, count).share(num_items)] for rank in range(count)]
    assert [item for share in shares for item in share] == list(range(num_items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("training", [True, False])
def test_alone_shared_statistics_are_ones_own(kind: type[nn.BatchNorm2d], training: bool) -> None:
    torch.manual_seed(1)
    ours = kind(5).train(training)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = copy.deepcopy(ours)
    _share_statistics(ours, ALONE)
    inputs, gradient = torch.randn(6, 5, 7, 4) * 3 + 2, torch.randn(6, 5, 7, 4)
    seen = []
    for norm in (ours, theirs):
        own_inputs = inputs.clone().requires_grad_()
        outputs = norm(own_inputs)
        outputs.backward(gradient)
        seen.append([outputs, own_inputs.grad, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()])
    for our, their in zip(*seen, strict=True):
        assert torch.allclose(our, their, rtol=1e-5, atol=1e-5)


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Five images, so that the processes have parts of different sizes."""
    assert NUM_IMAGES % 2 == 1
    learn_once(ALONE, tmp_path / "one.pt")
    launch(learn_agree, (tmp_path / "two.pt",), count=2, grace_seconds=10)
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-6), name
    assert [(tmp_path / f"two.{rank}").read_text() for rank in (0, 1)] == ["True False", "True False"]

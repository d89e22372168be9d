"""Networks for the tests of training."""

import copy
import functools
from collections.abc import Callable

import pytest
from torch import nn

from bc_tasks.training.backbones import BACKBONES, build


@pytest.fixture(scope="session")
def network() -> Callable[[str], nn.Module]:
    """A new network by its backbone's name; copied, because a large one's random weights take a second to draw."""
    built = functools.cache(lambda name: build(BACKBONES[name].timm_name, seed=5))
    return lambda name: copy.deepcopy(built(name))

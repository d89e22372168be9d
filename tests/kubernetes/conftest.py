"""Each overlay is built once, by the real kubectl."""

import pytest
from cluster import KUBERNETES, OVERLAYS, Cluster, build

from bc_tasks.config import RunConfig
from bc_tasks.config_file import load_config


@pytest.fixture(scope="session", params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(request.param, build(KUBERNETES / "overlays" / request.param))


@pytest.fixture(scope="session")
def config(cluster: Cluster) -> RunConfig:
    """The nights' configuration that goes with the overlay."""
    return load_config(KUBERNETES.parent / "config" / OVERLAYS[cluster.overlay])

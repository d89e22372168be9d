"""A fake cluster for each test, and a real client for it."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from fake_kubernetes import FakeKubernetes, Node
from fake_kubernetes.samples import IMAGE, client_of, python_image

if "airflow" not in sys.modules:  # else another folder's tests have given it a home already
    HOME = tempfile.mkdtemp(prefix="airflow-")
    os.environ |= {"AIRFLOW_HOME": HOME, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)


@pytest.fixture
def kubernetes() -> Iterator[FakeKubernetes]:
    """A cluster of one node with one GPU, and one image in which `python` is this Python."""
    with FakeKubernetes(nodes=[Node(gpus=1)], images={IMAGE: python_image()}) as kubernetes:
        yield kubernetes


@pytest.fixture
def api(kubernetes: FakeKubernetes, tmp_path: Path) -> client.CoreV1Api:
    """The real client."""
    return client_of(kubernetes, tmp_path)

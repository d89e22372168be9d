"""A fake cluster for each test, a real client for it, and pods to try it with."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from fake_kubernetes import FakeKubernetes, Image, Node
from fake_kubernetes.objects import Json

IMAGE = "registry.example/trainer:1.0"

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


def client_of(kubernetes: FakeKubernetes, folder: Path, **options: Any) -> client.CoreV1Api:
    """A real client of a cluster."""
    kubeconfig = kubernetes.kubeconfig(folder / "kubeconfig", **options)
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def python_image() -> Image:
    """An image with nothing but this Python."""
    return Image(programs={"python": [sys.executable]})


def pod_of(script: str = "", name: str = "step", *, spec: Json | None = None, **container: Any) -> Json:
    """A pod that runs a shell script, with more in its specification or in that of its container."""
    base = {"name": "base", "image": IMAGE, "command": ["sh", "-c", script], **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "training"}},
        "spec": {"restartPolicy": "Never", "containers": [base], **(spec or {})},
    }


def gpu(number: int) -> Json:
    """Resources with so many GPUs."""
    return {"limits": {"nvidia.com/gpu": str(number)}}

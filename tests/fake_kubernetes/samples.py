"""Pods, an image and a client to try the fake with."""

import sys
from pathlib import Path
from typing import Any

from kubernetes import client, config

from fake_kubernetes.cluster import FakeKubernetes
from fake_kubernetes.images import Image
from fake_kubernetes.objects import Json

IMAGE = "registry.example/trainer:1.0"


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

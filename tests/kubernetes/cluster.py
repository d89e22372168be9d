"""What kustomize makes of include/kubernetes, to ask questions of."""

import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

INCLUDE = Path(__file__).parents[2] / "include"
KUBERNETES = INCLUDE / "kubernetes"
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
OVERLAYS = {"gpu": "production.toml", "cpu-trial": "kubernetes-cpu-trial.toml"}
"""Each overlay, and the configuration of the nights that goes with it."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """The documents of one overlay."""

    overlay: str
    documents: list[Document]

    def of(self, *kinds: str) -> list[Document]:
        """Return the documents of these kinds."""
        return [document for document in self.documents if document["kind"] in kinds]

    def the(self, kind: str, namespace: str | None, name: str) -> Document:
        """Return one document, which must be there once."""
        (found,) = [
            document for document in self.of(kind) if (namespace_of(document), name_of(document)) == (namespace, name)
        ]
        return found

    @property
    def workloads(self) -> list[Document]:
        """What starts pods."""
        return self.of("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod")

    @property
    def containers(self) -> list[tuple[str, Document]]:
        """Each container of each workload, those that run first included, with a name to be complained of by."""
        return [
            (f"{name_of(workload)}/{container['name']}", container)
            for workload in self.workloads
            for container in containers_of(pod_of(workload)["spec"])
        ]


def build(folder: Path) -> list[Document]:
    """Return the documents that the real kubectl makes of a kustomization."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def name_of(document: Document) -> str:
    """Return a document's name."""
    return str(document["metadata"]["name"])


def namespace_of(document: Document) -> str | None:
    """Return the namespace that a document is in; None: the cluster itself."""
    namespace: str | None = document["metadata"].get("namespace")
    return namespace


def pod_of(workload: Document) -> Document:
    """Return the template of a workload's pods."""
    template: Document = workload["spec"]["template"]
    return template


def containers_of(pod_spec: Document) -> list[Document]:
    """Return all containers of a pod."""
    return [*pod_spec.get("initContainers", []), *pod_spec["containers"]]


def references(node: Any, *keys: str) -> Iterator[str]:
    """Give the `name` of everything below `node` that hangs on one of these keys, such as `secretRef`."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys:
                yield value.get("name") or value["secretName"]
            else:
                yield from references(value, *keys)
    elif isinstance(node, list):
        for item in node:
            yield from references(item, *keys)

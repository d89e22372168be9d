"""Which node a pod goes to: by capacity, selector, affinity and taints, as the real scheduler chooses.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain

from kubernetes.utils.quantity import parse_quantity

from fake_kubernetes.objects import Json, containers_of

HOST_NAME = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Taint:
    """What keeps pods off a node unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True)
class Node:
    """A machine that isn't there: its pods run as processes of this one. It is large unless told otherwise."""

    name: str = "node-1"
    gpus: int = 0
    cpu: str = "64"
    memory: str = "1Ti"
    ephemeral_storage: str = "10Ti"
    gpu_resource: str = "nvidia.com/gpu"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()

    @property
    def all_labels(self) -> dict[str, str]:
        """Its labels, with its name as kubelets add it."""
        return {HOST_NAME: self.name, **self.labels}

    @property
    def capacity(self) -> dict[str, Decimal]:
        """What it has of each resource."""
        sizes = {"cpu": self.cpu, "memory": self.memory, "ephemeral-storage": self.ephemeral_storage}
        return {name: parse_quantity(size) for name, size in sizes.items()} | {self.gpu_resource: Decimal(self.gpus)}


@dataclass(frozen=True)
class Unschedulable:
    """Why no node will do, in the scheduler's words."""

    message: str


def choose(pod: Json, nodes: Sequence[Node], placed: Sequence[Json]) -> Node | Unschedulable:
    """Return the node for a pod, given the pods that hold capacity now."""
    reasons = {node.name: _reason_against(pod, node, _on(node, placed)) for node in nodes}
    fitting = [node for node in nodes if not reasons[node.name]]
    if fitting:
        return max(fitting, key=lambda node: (_preference(pod, node), -len(_on(node, placed))))
    counted = Counter(reason for reason in reasons.values() if reason)
    listed = ", ".join(f"{number} {reason}" for reason, number in sorted(counted.items()))
    return Unschedulable(
        f"0/{len(nodes)} nodes are available: {listed}." if nodes else "no nodes available to schedule pods"
    )


def _on(node: Node, placed: Sequence[Json]) -> list[Json]:
    return [pod for pod in placed if pod["spec"]["nodeName"] == node.name]


def _reason_against(pod: Json, node: Node, others: Sequence[Json]) -> str:
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not _is_tolerated(taint, pod):
            return f"node(s) had untolerated taint(s) {{{taint.key}: {taint.value}}}"
    if not _is_wanted(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    used = _requests_of(others)
    for name, amount in _requests_of([pod]).items():
        if amount and amount > node.capacity.get(name, Decimal(0)) - used.get(name, Decimal(0)):
            return f"Insufficient {name}"
    return ""


def _requests_of(pods: Sequence[Json]) -> dict[str, Decimal]:
    requests: dict[str, Decimal] = {}
    for container in chain.from_iterable(map(containers_of, pods)):
        for name, quantity in container["resources"].get("requests", {}).items():
            requests[name] = requests.get(name, Decimal(0)) + parse_quantity(quantity)
    return requests


def _is_tolerated(taint: Taint, pod: Json) -> bool:
    return any(
        toleration.get("effect", "") in ("", taint.effect)
        and toleration.get("key", "") in ("", taint.key)
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value)
        for toleration in pod["spec"]["tolerations"]
    )


def _is_wanted(pod: Json, node: Node) -> bool:
    selector = pod["spec"].get("nodeSelector", {})
    required = _affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    return selector.items() <= node.all_labels.items() and (
        required is None or any(_fits(term, node) for term in required["nodeSelectorTerms"])
    )


def _preference(pod: Json, node: Node) -> int:
    """Return how much a pod likes a node: the weights of its preferences, less the taints it would rather not meet."""
    preferred = _affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution", [])
    disliked = [taint for taint in node.taints if not _is_tolerated(taint, pod)]
    weights: list[int] = [term["weight"] for term in preferred if _fits(term["preference"], node)]
    return sum(weights) - len(disliked)


def _affinity(pod: Json) -> Json:
    affinity: Json = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    return affinity


def _fits(term: Json, node: Node) -> bool:
    expressions = [(node.all_labels, expression) for expression in term.get("matchExpressions", [])]
    fields = [({"metadata.name": node.name}, expression) for expression in term.get("matchFields", [])]
    return bool(expressions or fields) and all(
        OPERATORS[expression["operator"]](labels.get(expression["key"]), expression.get("values", []))
        for labels, expression in expressions + fields
    )


OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
    "Gt": lambda value, values: value is not None and int(value) > int(values[0]),
    "Lt": lambda value, values: value is not None and int(value) < int(values[0]),
}

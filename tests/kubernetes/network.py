"""What NetworkPolicies let through, worked out as a network plug-in would.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from cluster import Cluster, Document, namespace_of

Labels = dict[str, str]


@dataclass(frozen=True)
class Peer:
    """Somebody on the network: a pod, with its labels and its namespace's, or an address outside."""

    namespace: str = ""
    labels: Labels = field(default_factory=dict)
    namespace_labels: Labels = field(default_factory=dict)
    address: str = ""


def reaches(cluster: Cluster, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Say whether the source may open a connection to the target: the one must be let out, and the other let in."""
    wanted = (protocol, port)
    return _allows(cluster, source, target, "Egress", wanted) and _allows(cluster, target, source, "Ingress", wanted)


def _allows(cluster: Cluster, who: Peer, other: Peer, direction: str, wanted: tuple[str, int]) -> bool:
    policies = [
        policy["spec"]
        for policy in cluster.of("NetworkPolicy")
        if namespace_of(policy) == who.namespace
        and selects(policy["spec"]["podSelector"], who.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    return not policies or any(_fits(rule, who, other, direction, wanted) for rule in rules)


def _fits(rule: Document, who: Peer, other: Peer, direction: str, wanted: tuple[str, int]) -> bool:
    peers = rule["to" if direction == "Egress" else "from"]
    ports = {(port["protocol"], port["port"]) for port in rule["ports"]}
    return wanted in ports and any(_is(peer, who, other) for peer in peers)


def _is(peer: Document, who: Peer, other: Peer) -> bool:
    if "ipBlock" in peer:
        return bool(other.address) and ip_address(other.address) in ip_network(peer["ipBlock"]["cidr"])
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace} | other.namespace_labels
        in_namespace = selects(peer["namespaceSelector"], labels)
    else:
        in_namespace = other.namespace == who.namespace
    return in_namespace and selects(peer.get("podSelector", {}), other.labels)


def selects(selector: Document, labels: Labels) -> bool:
    """Say whether a label selector takes something with these labels; an empty one takes everything."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions), "no other operator is known here"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )

"""What an API server writes into a pod that leaves things open, and what kind of service it gets.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

import re
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from fake_kubernetes.objects import Json, containers_of

SPEC: Json = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "securityContext": {},
    "serviceAccountName": "default",
}
CONTAINER: Json = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
UNHEALTHY_NODES = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def fill(pod: Json) -> None:
    """Fill in what a pod leaves open."""
    spec = pod["spec"]
    _default(spec, SPEC)
    spec["serviceAccount"] = spec["serviceAccountName"]
    for container in containers_of(pod):
        _fill_container(container)
    for volume in spec.get("volumes", []):
        if "secret" in volume or "configMap" in volume:
            _default(volume.get("secret", volume.get("configMap")), {"defaultMode": 0o644})
    for key in UNHEALTHY_NODES:
        if not any(toleration.get("key") in (None, key) for toleration in spec.setdefault("tolerations", [])):
            spec["tolerations"].append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )


def _fill_container(container: Json) -> None:
    _default(container, CONTAINER)
    container.setdefault("imagePullPolicy", "IfNotPresent" if _has_fixed_tag(container["image"]) else "Always")
    resources = container["resources"]
    if "limits" in resources:
        resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    for port in container.get("ports", []):
        _default(port, {"protocol": "TCP"})
    for variable in container.get("env", []):
        if "fieldRef" in variable.get("valueFrom", {}):
            _default(variable["valueFrom"]["fieldRef"], {"apiVersion": "v1"})


def _default(item: Json, defaults: dict[str, Any]) -> None:
    for name, value in defaults.items():
        item.setdefault(name, value.copy() if isinstance(value, dict) else value)


def _has_fixed_tag(image: str) -> bool:
    tag = re.search(r":([^:/@]+)$", image.partition("@")[0])
    return "@" in image or (tag is not None and tag[1] != "latest")


def quality_of_service(pod: Json) -> str:
    """Return the class by which a node that runs out of memory chooses whom to kill.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
    """
    resources = [container.get("resources", {}) for container in containers_of(pod)]
    if not any(amounts.get(name) for amounts in resources for name in ("requests", "limits")):
        return "BestEffort"
    for amounts in resources:
        for name in ("cpu", "memory"):
            limit = amounts.get("limits", {}).get(name)
            if limit is None or parse_quantity(limit) != parse_quantity(amounts.get("requests", {}).get(name, limit)):
                return "Burstable"
    return "Guaranteed"

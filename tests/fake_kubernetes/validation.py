"""What an API server finds wrong with a pod whose fields and types are right, and what this fake can't run.

Messages are worded as the real ones, so that a test which fails on them reads as a cluster's refusal would.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain

from kubernetes.utils.quantity import parse_quantity

from fake_kubernetes.api_errors import bad_request, invalid
from fake_kubernetes.objects import Json
from fake_kubernetes.schema import problems

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUALIFIED_NAME = re.compile(
    rf"({SUBDOMAIN.pattern.removeprefix('(?=.{1,253}$)')}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
)
NATIVE_RESOURCES = ("cpu", "memory", "ephemeral-storage")
CHOICES = {
    "restartPolicy": ("Always", "Never", "OnFailure"),
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
}
VOLUME_KINDS = ("emptyDir", "secret", "configMap")
FIELD_REFS = re.compile(
    r"metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])"
    r"|spec\.(nodeName|serviceAccountName)|status\.(podIP|hostIP)"
)
MUTABLE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")


def check(pod: Json) -> None:
    """Refuse a pod that a server would refuse: 400 for wrong fields or types, 422 for wrong values."""
    if pod.get("kind") != "Pod" or pod.get("apiVersion") != "v1":
        raise bad_request("Object 'Kind' or 'apiVersion' is missing or not that of a v1 Pod")
    if wrong := list(problems(pod, "V1Pod")):
        raise bad_request(f'Pod in version "v1" cannot be handled as a Pod: strict decoding error: {", ".join(wrong)}')
    name = pod["metadata"].get("name", "")
    if wrong := list(chain(_metadata(pod["metadata"]), _spec(pod["spec"]), _beyond_this_fake(pod["spec"]))):
        raise invalid("pods", name, wrong)


def check_update(before: Json, after: Json) -> None:
    """Refuse a change of what may not change in a pod."""
    name = before["metadata"]["name"]
    if wrong := list(problems(after, "V1Pod")):
        raise bad_request(f"strict decoding error: {', '.join(wrong)}")
    wrong = list(_metadata(after["metadata"]))
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"):
        if before["metadata"].get(field) != after["metadata"].get(field):
            wrong.append(f"metadata.{field}: Invalid value: {after['metadata'].get(field)!r}: field is immutable")
    if {**before["spec"], **dict.fromkeys(MUTABLE)} != {**after["spec"], **dict.fromkeys(MUTABLE)}:
        wrong.append(f"spec: Forbidden: pod updates may not change fields other than {', '.join(MUTABLE)}")
    if wrong:
        raise invalid("pods", name, wrong)


def _metadata(metadata: Json) -> Iterator[str]:
    if not SUBDOMAIN.fullmatch(metadata.get("name", "")):
        yield f"metadata.name: Invalid value: {metadata.get('name', '')!r}: a lowercase RFC 1123 subdomain is needed"
    for key, value in metadata.get("labels", {}).items():
        if not QUALIFIED_NAME.fullmatch(key):
            yield f"metadata.labels: Invalid value: {key!r}: name part must consist of alphanumeric characters"
        if not LABEL_VALUE.fullmatch(value):
            yield f"metadata.labels: Invalid value: {value!r}: a valid label must be at most 63 alphanumeric characters"
    for key in metadata.get("annotations", {}):
        if not QUALIFIED_NAME.fullmatch(key.lower()):
            yield f"metadata.annotations: Invalid value: {key!r}: name part must consist of alphanumeric characters"


def _spec(spec: Json) -> Iterator[str]:
    if not spec.get("containers"):
        yield "spec.containers: Required value"
    for field, choices in CHOICES.items():
        if spec.get(field, choices[0]) not in choices:
            yield f"spec.{field}: Unsupported value: {spec[field]!r}: supported values: {', '.join(choices)}"
    for field, least in (("activeDeadlineSeconds", 1), ("terminationGracePeriodSeconds", 0)):
        if spec.get(field, least) < least:
            yield f"spec.{field}: Invalid value: {spec[field]}: must be greater than or equal to {least}"
    volumes = [volume.get("name", "") for volume in spec.get("volumes", [])]
    yield from _names("spec.volumes", volumes)
    yield from _names("spec.containers", [container.get("name", "") for container in spec.get("containers", [])])
    for index, container in enumerate(spec.get("containers", [])):
        yield from _container(f"spec.containers[{index}]", container, volumes)
    yield from _affinity(spec.get("affinity", {}).get("nodeAffinity", {}))
    for index, toleration in enumerate(spec.get("tolerations", [])):
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            yield f"spec.tolerations[{index}].operator: Invalid value: value must be empty when `operator` is 'Exists'"
        if not toleration.get("key") and toleration.get("operator") != "Exists":
            yield f"spec.tolerations[{index}].operator: Invalid value: operator must be Exists when `key` is empty"


def _affinity(affinity: Json) -> Iterator[str]:
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    for term in [*required, *(weighted["preference"] for weighted in preferred)]:
        for expression in term.get("matchFields", []):
            if len(expression.get("values", [])) != 1:
                yield "spec.affinity.nodeAffinity: matchFields.values: Invalid value: must have one element"


def _names(path: str, names: list[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        if not LABEL.fullmatch(name):
            yield f"{path}[{index}].name: Invalid value: {name!r}: a lowercase RFC 1123 label is needed"
        if name in names[:index]:
            yield f"{path}[{index}].name: Duplicate value: {name!r}"


def _container(path: str, container: Json, volumes: list[str]) -> Iterator[str]:
    if not container.get("image", "").strip():
        yield f"{path}.image: Required value"
    yield from _resources(f"{path}.resources", container.get("resources", {}))
    mounts = container.get("volumeMounts", [])
    for index, mount in enumerate(mounts):
        if mount.get("name") not in volumes:
            yield f"{path}.volumeMounts[{index}].name: Not found: {mount.get('name')!r}"
        if mount.get("mountPath") in [other.get("mountPath") for other in mounts[:index]]:
            yield f"{path}.volumeMounts[{index}].mountPath: Invalid value: {mount.get('mountPath')!r}: must be unique"
    for index, variable in enumerate(container.get("env", [])):
        if not variable.get("name"):
            yield f"{path}.env[{index}].name: Required value"
        if variable.get("value") and "valueFrom" in variable:
            yield f"{path}.env[{index}].valueFrom: Invalid value: may not be specified when `value` is not empty"
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is False and security.get("privileged"):
        yield f"{path}.securityContext: Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged`"


def _resources(path: str, resources: Json) -> Iterator[str]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, quantity in amounts.items():
            if _amount(quantity) is None:
                yield f"{path}.{kind}[{name}]: Invalid value: {quantity!r}: this is no quantity"
            elif "/" not in name and name not in NATIVE_RESOURCES and not name.startswith("hugepages-"):
                yield f"{path}.{kind}[{name}]: Invalid value: {name!r}: must be a standard resource for containers"
            elif "/" in name and (_amount(quantity) or Decimal(0)) % 1:
                yield f"{path}.{kind}[{name}]: Invalid value: {quantity!r}: must be an integer"
    for name, quantity in requests.items():
        request, limit = _amount(quantity), _amount(limits.get(name, ""))
        if "/" in name and name not in limits:
            yield f"{path}.limits[{name}]: Required value: Limit must be set for non overcommitable resources"
        elif "/" in name and request != limit:
            yield f"{path}.requests[{name}]: Invalid value: {quantity!r}: must be equal to {name} limit"
        elif request is not None and limit is not None and request > limit:
            yield f"{path}.requests[{name}]: Invalid value: {quantity!r}: must be less than or equal to {name} limit"


def _amount(quantity: str) -> Decimal | None:
    try:
        amount: Decimal = parse_quantity(quantity)
    except ValueError:
        return None
    return amount


def _beyond_this_fake(spec: Json) -> Iterator[str]:
    """Give what a real cluster could run and this fake can't, rather than run it wrongly."""
    if spec.get("restartPolicy") != "Never":
        yield "spec.restartPolicy: this fake never restarts a container, so it must be Never"
    for field in ("initContainers", "ephemeralContainers"):
        if spec.get(field):
            yield f"spec.{field}: this fake runs none"
    for index, volume in enumerate(spec.get("volumes", [])):
        if not any(kind in volume for kind in VOLUME_KINDS):
            yield f"spec.volumes[{index}]: this fake has no other volumes than {', '.join(VOLUME_KINDS)}"
    for container in spec.get("containers", []):
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            path = source.get("fieldRef", {}).get("fieldPath", "metadata.name")
            if "resourceFieldRef" in source or not FIELD_REFS.fullmatch(path):
                yield f"spec.containers: this fake does not fill {variable['name']} from {source}"

"""What a cluster refuses beyond the pod itself: who may do what, what must exist, and Pod Security's profile.

Sources: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/ and
https://kubernetes.io/docs/concepts/security/pod-security-standards/ (the profile "restricted")
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fake_kubernetes.api_errors import forbidden
from fake_kubernetes.objects import Json, containers_of

USER = "system:serviceaccount:airflow:airflow"
# The smallest Role with which KubernetesPodOperator works, as (verb, resource).
ROLE = frozenset(
    {
        ("create", "pods"),
        ("get", "pods"),
        ("list", "pods"),
        ("watch", "pods"),
        ("patch", "pods"),
        ("delete", "pods"),
        ("get", "pods/log"),
        ("list", "events"),
        ("watch", "events"),
    }
)


@dataclass(frozen=True)
class Rules:
    """What there is in the cluster, and whether namespaces enforce Pod Security's profile "restricted"."""

    service_accounts: tuple[str, ...] = ("default", "trainer")
    priority_classes: Mapping[str, int] = field(default_factory=dict)
    runtime_classes: tuple[str, ...] = ()
    enforces_restricted: bool = False


def admit(pod: Json, rules: Rules) -> None:
    """Let a pod in that has its defaults, and give it its priority; 403 where it may not come in."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    account, priority_class, runtime_class = (
        spec.get(key, "") for key in ("serviceAccountName", "priorityClassName", "runtimeClassName")
    )
    if account not in rules.service_accounts:
        why = f"error looking up service account {pod['metadata']['namespace']}/{account}"
        raise forbidden("pods", name, f'{why}: serviceaccount "{account}" not found')
    if priority_class and priority_class not in rules.priority_classes:
        raise forbidden("pods", name, f"no PriorityClass with name {priority_class} was found")
    if runtime_class and runtime_class not in rules.runtime_classes:
        raise forbidden("pods", name, f'pod rejected: RuntimeClass "{runtime_class}" not found')
    if rules.enforces_restricted and (violations := list(_violations(pod))):
        raise forbidden("pods", name, f'violates PodSecurity "restricted:latest": {", ".join(violations)}')
    spec["priority"] = rules.priority_classes.get(priority_class, 0)


def _violations(pod: Json) -> Iterator[str]:
    for field_name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod["spec"].get(field_name):
            yield f"host namespaces ({field_name}=true)"
    for container in containers_of(pod):
        for violation in _violations_of(container, pod["spec"]["securityContext"]):
            yield f'{violation} (container "{container["name"]}")'


def _violations_of(container: Json, of_pod: Json) -> Iterator[str]:
    own = container.get("securityContext", {})
    capabilities, both = own.get("capabilities", {}), {**of_pod, **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation != false"
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "unrestricted capabilities"
    if not both.get("runAsNonRoot"):
        yield "runAsNonRoot != true"
    if both.get("runAsUser") == 0:
        yield "runAsUser=0"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"

"""What every overlay promises to a cluster and to a security reviewer."""

import os
import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from cluster import (
    KUBERNETES,
    Cluster,
    Document,
    build,
    containers_of,
    name_of,
    namespace_of,
    pod_of,
    references,
)

from bc_tasks.pods_config import amount

RELEASE = "1.36"
FIXED_TAG = re.compile(r"^\S+/\S+:v?\d+\.\d+[\w.-]*$")
FIXED_NAMES = {"endpoints"}
"""Config maps without a hash in their name: the nights' configuration and Airflow's values name them."""
TRIAL_ONLY = {("breast-tumour-mlflow", "seaweedfs")}
POD_TEMPLATE = KUBERNETES / "pod-template.yaml"
NIGHTS_PODS = sorted((Path(__file__).parents[1] / "dags" / "golden").glob("*.yaml"))
"""The pods of both configurations, as the real operator renders them."""


def _not_restricted(spec: Document) -> list[str]:
    """Return what the "restricted" profile, or we beyond it, would refuse in a pod.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    pod = spec.get("securityContext", {})
    complaints = [f"{key} is shared with the node" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    complaints += [
        f"volume {volume['name']} is of the node" for volume in spec.get("volumes", []) if "hostPath" in volume
    ]
    if not (pod.get("runAsNonRoot") and pod.get("runAsUser") and pod.get("runAsGroup")):
        complaints.append("may run as root")
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        complaints.append("no seccomp profile")
    if spec.get("automountServiceAccountToken") is not False:
        complaints.append("holds a token for the cluster's API")
    for container in containers_of(spec):
        context = container.get("securityContext", {})
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        complaints += [f"{container['name']}: {key}" for key, value in wanted.items() if context.get(key) != value]
        complaints += [f"{container['name']}: sets {key}" for key in context if key not in wanted]
    return complaints


def test_each_document_is_what_this_release_of_kubernetes_takes(cluster: Cluster) -> None:
    for document in cluster.documents:
        kubernetes_validate.validate(document, RELEASE, strict=True)


def test_a_document_with_a_misspelt_field_would_be_refused(cluster: Cluster) -> None:
    wrong = {**cluster.the("Service", "breast-tumour-mlflow", "mlflow"), "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASE, strict=True)


def test_no_secret_is_in_the_repository(cluster: Cluster) -> None:
    assert cluster.of("Secret") == []
    words = re.compile(r"PASSWORD|SECRET|_KEY|TOKEN", re.IGNORECASE)
    settings = [key for config_map in cluster.of("ConfigMap") for key in config_map["data"]]
    settings += [
        entry["name"] for _, container in cluster.containers for entry in container.get("env", []) if "value" in entry
    ]
    assert [setting for setting in settings if words.search(setting)] == []


def test_no_pod_has_more_rights_than_it_needs(cluster: Cluster) -> None:
    assert {name_of(workload): _not_restricted(pod_of(workload)["spec"]) for workload in cluster.workloads} == {
        name_of(workload): [] for workload in cluster.workloads
    }


@pytest.mark.parametrize("path", NIGHTS_PODS, ids=lambda path: path.stem)
def test_the_cluster_and_the_namespace_let_the_nights_pods_in(path: Path) -> None:
    pod = yaml.safe_load(path.read_text())
    kubernetes_validate.validate(pod, RELEASE, strict=True)
    assert _not_restricted(pod["spec"]) == []


def test_the_job_that_fixes_the_holdout_is_let_in_too(cluster: Cluster) -> None:
    job = yaml.safe_load((KUBERNETES / "holdout.yaml").read_text())
    kubernetes_validate.validate(job, RELEASE, strict=True)
    spec = pod_of(job)["spec"]
    assert _not_restricted(spec) == []
    cluster.the("ServiceAccount", namespace_of(job), spec["serviceAccountName"])
    for name in references(spec, "configMapRef"):
        cluster.the("ConfigMap", namespace_of(job), name)
    hard = cluster.the("ResourceQuota", namespace_of(job), "nights")["spec"]["hard"]
    for side, amounts in spec["containers"][0]["resources"].items():
        assert all(amount(value) <= amount(hard[f"{side}.{name}"]) for name, value in amounts.items())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hostNetwork": True}, "hostNetwork is shared with the node"),
        ({"securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}}, "may run as root"),
        ({"containers": [{"name": "a", "securityContext": {"privileged": True}}]}, "a: sets privileged"),
    ],
)
def test_a_pod_with_more_rights_would_be_complained_of(cluster: Cluster, change: Document, complaint: str) -> None:
    spec = pod_of(cluster.the("Deployment", "breast-tumour-mlflow", "mlflow"))["spec"]
    assert complaint in _not_restricted(spec | change)


def test_both_namespaces_refuse_pods_with_more_rights(cluster: Cluster) -> None:
    for namespace in cluster.of("Namespace"):
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        assert labels["pod-security.kubernetes.io/enforce-version"] == f"v{RELEASE}"


def test_everything_is_in_one_of_the_namespaces_or_in_airflows(cluster: Cluster) -> None:
    ours = {name_of(namespace) for namespace in cluster.of("Namespace")}
    assert ours == {"breast-tumour-training", "breast-tumour-mlflow"}
    free = {"Namespace", "PriorityClass"}
    assert {namespace_of(document) for document in cluster.documents if document["kind"] not in free} == {
        *ours,
        "airflow",
    }
    assert {document["kind"] for document in cluster.documents if namespace_of(document) == "airflow"} == {"ConfigMap"}


def test_each_container_says_what_it_needs_and_what_it_may_take(cluster: Cluster) -> None:
    kinds = {"cpu", "memory", "ephemeral-storage"}
    assert cluster.containers
    for name, container in cluster.containers:
        assert set(container["resources"]["requests"]) == kinds, name
        assert set(container["resources"]["limits"]) == kinds, name


def test_each_container_that_stays_is_looked_after(cluster: Cluster) -> None:
    for workload in cluster.workloads:
        for container in pod_of(workload)["spec"]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), container["name"]


def test_each_image_has_a_registry_and_a_fixed_tag(cluster: Cluster) -> None:
    assert [
        (name, container["image"]) for name, container in cluster.containers if not FIXED_TAG.match(container["image"])
    ] == []


def test_each_service_and_each_claim_finds_its_pods(cluster: Cluster) -> None:
    for service in cluster.of("Service"):
        (workload,) = [
            workload
            for workload in cluster.workloads
            if namespace_of(workload) == namespace_of(service)
            and service["spec"]["selector"].items() <= pod_of(workload)["metadata"]["labels"].items()
        ]
        offered = {
            port["name"] for container in containers_of(pod_of(workload)["spec"]) for port in container.get("ports", [])
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= offered


def test_each_volume_is_mounted_and_each_mount_has_a_volume(cluster: Cluster) -> None:
    for workload in cluster.workloads:
        spec = pod_of(workload)["spec"]
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        volumes += [name_of(claim) for claim in workload["spec"].get("volumeClaimTemplates", [])]
        mounted = {mount["name"] for container in containers_of(spec) for mount in container.get("volumeMounts", [])}
        assert set(volumes) == mounted, name_of(workload)


def test_each_service_account_and_config_map_is_there(cluster: Cluster) -> None:
    there = {(document["kind"], namespace_of(document), name_of(document)) for document in cluster.documents}
    for workload in cluster.workloads:
        spec, namespace = pod_of(workload)["spec"], namespace_of(workload)
        assert ("ServiceAccount", namespace, spec["serviceAccountName"]) in there
        for name in references(spec, "configMapRef", "configMapKeyRef", "configMap"):
            assert ("ConfigMap", namespace, name) in there, name


def test_a_changed_setting_of_mlflow_starts_it_anew(cluster: Cluster) -> None:
    hashed = [name_of(config_map) for config_map in cluster.of("ConfigMap") if name_of(config_map) not in FIXED_NAMES]
    assert [re.sub(r"-[a-z0-9]{10}$", "", name) for name in hashed] == ["mlflow-server"]
    assert hashed != ["mlflow-server"]


@pytest.fixture(scope="session")
def external_secrets(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """The external secrets of a site's own overlay, which adds them to one of ours."""
    folder = tmp_path_factory.mktemp("site")
    site = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERNETES / "overlays" / cluster.overlay, folder)],
        "components": [os.path.relpath(KUBERNETES / "components" / "external-secrets", folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(site))
    return Cluster(cluster.overlay, build(folder)).of("ExternalSecret")


def test_each_secret_is_one_that_a_site_is_told_to_make(cluster: Cluster, external_secrets: list[Document]) -> None:
    told = {(namespace_of(secret), name_of(secret)) for secret in external_secrets} | TRIAL_ONLY
    for workload in cluster.workloads:
        for name in references(pod_of(workload)["spec"], "secretRef", "secretKeyRef", "secret"):
            assert (namespace_of(workload), name) in told, name


def test_an_external_secret_makes_the_secret_of_its_name(external_secrets: list[Document]) -> None:
    for secret in external_secrets:
        assert secret["spec"]["target"]["name"] == name_of(secret)
        assert secret["spec"]["dataFrom"][0]["extract"]["key"].startswith("breast-tumour-retraining/")


def _example() -> Document:
    """Return the example in the pod template's comments."""
    lines = POD_TEMPLATE.read_text().partition("# For example")[2].splitlines()[2:]
    document: Document = yaml.safe_load("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    return document


@pytest.mark.parametrize("pod", [yaml.safe_load(POD_TEMPLATE.read_text()), _example()], ids=["as it is", "example"])
def test_the_pod_template_is_a_pod(pod: Document) -> None:
    kubernetes_validate.validate(pod, RELEASE, strict=True)


def test_the_pod_template_changes_nothing_as_it_is() -> None:
    night = PodGenerator.deserialize_model_file(str(NIGHTS_PODS[0]))
    template = PodGenerator.deserialize_model_file(str(POD_TEMPLATE))
    assert PodGenerator.reconcile_pods(template, night).spec == night.spec

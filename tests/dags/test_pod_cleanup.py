"""Old pods go, young ones and other people's stay."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_kubernetes import FakeKubernetes, Image, Node
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.config import new_client_from_config

from bc_tasks.orchestration.pod_cleanup import is_old, remove_old_pods
from bc_tasks.orchestration.pods import make_pod
from bc_tasks.pods_config import PodsConfig

IMAGE = "registry.hospital.example/trainer:1.0"
KUBECONFIG = "kubeconfig"
PODS = PodsConfig(image=IMAGE, env_from_secrets=(), env_from_config_maps=(), keep_failed_hours=24)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    image = Image(programs={"bc": [sys.executable, "-c", "import sys; sys.exit(int(sys.argv[1]))"]})
    with FakeKubernetes(nodes=[Node(gpus=0)], images={IMAGE: image}) as fake:
        connection = {
            "conn_type": "kubernetes",
            "extra": {"kube_config_path": str(fake.kubeconfig(tmp_path / KUBECONFIG))},
        }
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
        yield fake


def create(
    cluster: FakeKubernetes, tmp_path: Path, name: str, *, exit_code: int = 0, gpus: int = 0, ours: bool = True
) -> None:
    """Create a pod that ends with a code, or waits for ever where it wants a GPU."""
    size = PODS.evaluate.model_copy(
        update={"gpus_per_pod": gpus, "cpu": "100m", "memory": "64Mi", "shared_memory": "1Mi"}
    )
    pod = make_pod(PODS.model_copy(update={"evaluate": size}), "evaluate", timedelta(minutes=1))
    pod.metadata.name = name
    pod.spec.containers[0].command = ["bc", str(exit_code)]
    if not ours:
        pod.metadata.labels = {"app.kubernetes.io/part-of": "something-else"}
    client = new_client_from_config(str(tmp_path / KUBECONFIG))
    CoreV1Api(client).create_namespaced_pod(PODS.namespace, pod)
    phase = "Pending" if gpus else "Failed" if exit_code else "Succeeded"
    cluster.wait_for(lambda: cluster.pod(name)["status"]["phase"] == phase)


def names(cluster: FakeKubernetes) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.pods()}


def later(**after: float) -> datetime:
    return datetime.now(UTC) + timedelta(**after)


def test_a_failed_pod_stays_for_as_long_as_the_configuration_says(cluster: FakeKubernetes, tmp_path: Path) -> None:
    create(cluster, tmp_path, "failed", exit_code=65)
    assert remove_old_pods(PODS, now=later(hours=23)) == 0
    assert names(cluster) == {"failed"}
    assert remove_old_pods(PODS, now=later(hours=25)) == 1
    cluster.wait_for(lambda: not names(cluster))


def test_a_pod_for_which_nobody_waits_any_more_goes_too(cluster: FakeKubernetes, tmp_path: Path) -> None:
    create(cluster, tmp_path, "waiting", gpus=1)
    longest_wait = PODS.schedule_timeout_minutes + PODS.startup_timeout_minutes
    assert remove_old_pods(PODS, now=later(minutes=longest_wait)) == 0
    assert remove_old_pods(PODS, now=later(minutes=2 * longest_wait + 1)) == 1
    cluster.wait_for(lambda: not names(cluster))


def test_other_peoples_pods_are_not_touched(cluster: FakeKubernetes, tmp_path: Path) -> None:
    create(cluster, tmp_path, "theirs", exit_code=1, ours=False)
    assert remove_old_pods(PODS, now=later(days=999)) == 0
    assert names(cluster) == {"theirs"}


def test_a_refusal_is_no_success(tmp_path: Path, cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = cluster.kubeconfig(tmp_path / "stale", token="of yesterday")
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(stale)}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    with pytest.raises(ApiException, match="Unauthorized"):
        remove_old_pods(PODS, now=later())


def test_an_evicted_pod_whose_end_nobody_knows_stops_nothing() -> None:
    ended = k8s.V1ContainerStateTerminated(exit_code=137, reason="ContainerStatusUnknown")  # finishedAt is null
    status = k8s.V1ContainerStatus(
        name="train",
        image=IMAGE,
        image_id="",
        ready=False,
        restart_count=0,
        state=k8s.V1ContainerState(terminated=ended),
    )
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(creation_timestamp=later(hours=-25)),
        status=k8s.V1PodStatus(phase="Failed", reason="Evicted", container_statuses=[status]),
    )
    assert is_old(pod, PODS, later())
    assert not is_old(pod, PODS, later(hours=-2))

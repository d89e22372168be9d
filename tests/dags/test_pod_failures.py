"""What a pod's end, as the cluster's API tells it, becomes: an error with the right sentence, retried or not."""

import json
from typing import Any

import pytest
from kubernetes.client import ApiClient, ApiException
from kubernetes.client import models as k8s
from urllib3.exceptions import ConnectTimeoutError

from bc_tasks.errors import BcError, ConfigError, DataError, InfrastructureError, Interrupted, OutOfMemory
from bc_tasks.orchestration.pod_failures import no_record, to_cluster_error, to_pod_error


def pod(component: str = "train", deleted: bool = False, **status: Any) -> k8s.V1Pod:
    """A pod as the API server sends it; `status` in the API's own spelling."""
    tree = {
        "metadata": {"name": "train-abc", "labels": {"app.kubernetes.io/component": component}},
        "spec": {
            "nodeName": "gpu-1",
            "activeDeadlineSeconds": 28800,
            "containers": [{"name": component, "resources": {"limits": {"memory": "16Gi"}}}],
        },
        "status": {"phase": "Failed", **status},
    }
    if deleted:
        tree["metadata"]["deletionTimestamp"] = "2026-11-23T02:00:00Z"
    for container in tree["status"].get("containerStatuses", [])[-1:]:
        container["name"] = component  # the last: what a site puts beside it may come first
    response = type("Response", (), {"data": json.dumps(tree)})
    return ApiClient().deserialize(response, "V1Pod")


def ended(exit_code: int, reason: str = "Error", message: str | None = None) -> list[dict[str, Any]]:
    return _container({"terminated": {"exitCode": exit_code, "reason": reason, "message": message}})


def waiting(reason: str, message: str) -> list[dict[str, Any]]:
    return _container({"waiting": {"reason": reason, "message": message}})


def _container(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "train", "image": "trainer:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}]


SIDECAR = [ended(0, "Completed")[0] | {"name": "istio-proxy"}]
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu."}]
EVICTED_DISK = "Pod ephemeral local storage usage exceeds the total limit of containers 40Gi. "
EVICTED_CONTAINER = 'Container train exceeded its local ephemeral storage limit "40Gi". '
EVICTED_NODE_OLD = (
    "The node was low on resource: memory. Container train was using 7Gi, which exceeds its request of 4Gi. "
)
EVICTED_NODE = "The node was low on resource: memory. "


@pytest.mark.parametrize(
    ("seen", "kind", "sentences"),
    [
        (None, InfrastructureError, ["vanished", "left no record"]),
        (pod(containerStatuses=ended(65)), DataError, ["exit code 65", "data can't be used"]),
        (pod(containerStatuses=ended(71)), OutOfMemory, ["exit code 71", "lower the batch size"]),
        (pod(containerStatuses=ended(75)), InfrastructureError, ["did not answer"]),
        (pod(containerStatuses=ended(78)), ConfigError, ["configuration"]),
        (pod(containerStatuses=ended(143)), Interrupted, ["interrupted", "checkpoint"]),
        (pod(containerStatuses=ended(137)), InfrastructureError, ["ended by SIGKILL"]),
        (
            pod(containerStatuses=ended(137, "OOMKilled")),
            OutOfMemory,
            ["OOMKilled at 16Gi", "raise execution.pods.train.memory", "training.batch_size"],
        ),
        (pod("validate", containerStatuses=ended(137, "OOMKilled")), OutOfMemory, ["execution.pods.data.memory"]),
        (pod("evaluate", containerStatuses=ended(137, "OOMKilled")), OutOfMemory, ["evaluation.batch_size"]),
        (pod(containerStatuses=[*SIDECAR, *ended(65)]), DataError, ["exit code 65"]),
        (pod(phase="Running", deleted=True), InfrastructureError, ["node gpu-1 does not say that it has ended"]),
        (
            pod(containerStatuses=ended(128, "StartError", 'exec: "bc": not found')),
            ConfigError,
            ['exec: "bc": not found', "right image"],
        ),
        (
            pod(reason="DeadlineExceeded", containerStatuses=ended(143)),
            BcError,
            ["480 minutes", "schedule.training_timeout_minutes"],
        ),
        (pod("evaluate", reason="DeadlineExceeded"), BcError, ["schedule.step_timeout_minutes"]),
        (pod(reason="Evicted", message=EVICTED_DISK), ConfigError, ["40Gi", "execution.pods.train.ephemeral_storage"]),
        (pod(reason="Evicted", message=EVICTED_CONTAINER), ConfigError, ["execution.pods.train.ephemeral_storage"]),
        (pod(reason="Evicted", message=EVICTED_NODE), InfrastructureError, ["node gpu-1", "low on resource: memory"]),
        (pod(reason="Evicted", message=EVICTED_NODE_OLD), InfrastructureError, ["low on resource: memory"]),
        (pod(reason="NodeLost"), InfrastructureError, ["node gpu-1", "NodeLost"]),
        (
            pod(phase="Pending", containerStatuses=waiting("ErrImagePull", "manifest unknown")),
            InfrastructureError,
            ["manifest unknown", "image_pull_secrets"],
        ),
        (
            pod(phase="Pending", containerStatuses=waiting("CreateContainerConfigError", 'secret "s3" not found')),
            ConfigError,
            ['secret "s3" not found'],
        ),
        (pod(phase="Pending", conditions=UNSCHEDULABLE), InfrastructureError, ["3 Insufficient nvidia.com/gpu"]),
        (pod(phase="Running"), InfrastructureError, ["still Running"]),
    ],
)
def test_what_became_of_a_pod_is_said_in_a_sentence(seen: Any, kind: type[BcError], sentences: list[str]) -> None:
    error = to_pod_error("train (resnet50)", seen)
    assert type(error) is kind
    for sentence in ("train (resnet50)", *sentences):
        assert sentence in str(error)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, 'pods is forbidden: User "airflow" cannot create resource "pods"', ConfigError),
        (403, "pods is forbidden: exceeded quota: gpus, requested: 1, used: 4, limited: 4", InfrastructureError),
        (404, 'namespaces "breast-tumour-training" not found', ConfigError),
        (422, 'Pod "train" is invalid: spec.containers[0].image', ConfigError),
        (429, "too many requests", InfrastructureError),
        (503, "etcd leader changed", InfrastructureError),
    ],
)
def test_what_the_cluster_refuses_is_said_in_its_own_words(status: int, message: str, kind: type[BcError]) -> None:
    refusal = ApiException(status=status, reason="Refused")
    refusal.body = json.dumps({"kind": "Status", "message": message})
    error = to_cluster_error("train", refusal)
    assert type(error) is kind
    assert message in str(error)


def test_a_proxys_page_in_place_of_an_answer_is_no_second_failure() -> None:
    refusal = ApiException(status=502, reason="Bad Gateway")
    refusal.body = "<html>"
    assert type(to_cluster_error("train", refusal)) is InfrastructureError


def test_a_cluster_that_does_not_answer_may_answer_later() -> None:
    assert to_cluster_error("train", ConnectTimeoutError("timed out")).retryable


def test_a_pod_that_says_it_succeeded_is_not_believed_without_its_record() -> None:
    error = no_record("train", "s3://images/runs/night/train-resnet50.json")
    assert not error.retryable
    assert "s3://images/runs/night/train-resnet50.json" in str(error)

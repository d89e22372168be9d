"""What became of a pod, as an error that says so in a sentence and knows whether a retry can help."""

import json
from http import HTTPStatus
from typing import Any

from kubernetes.client import ApiException

from bc_tasks.errors import BcError, ConfigError, InfrastructureError, OutOfMemory
from bc_tasks.orchestration.exit_codes import to_error

IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
CONFIG_REASONS = {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
START_REASONS = {"StartError", "ContainerCannotRun"}
"""Why a container waits, or never ran.

Source: pkg/kubelet/images/types.go and pkg/kubelet/kuberuntime/kuberuntime_container.go of Kubernetes.
"""

PASSING = {
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Answers of the cluster's API that another try may not meet again."""


def to_pod_error(step: str, pod: Any) -> BcError:
    """Return what kept a pod from leaving its record; `step` names it to people.

    `pod` is the `V1Pod` as it was last seen, or None where it has vanished.
    """
    if pod is None:
        return InfrastructureError(
            f"the pod of {step} vanished and left no record: its node was drained or lost, or somebody deleted it"
        )
    if pod.metadata.deletion_timestamp is not None and pod.status.phase == "Running":
        return InfrastructureError(
            f"the pod of {step} was deleted, but its node {pod.spec.node_name} does not say that it has ended: "
            "the node is down, or cut off"
        )
    if error := _of_pod(step, pod) or _of_container(step, pod) or _of_waiting(step, pod):
        return error
    return InfrastructureError(f"the pod of {step} was still {pod.status.phase} when Airflow stopped waiting for it")


def no_record(step: str, uri: str) -> BcError:
    """Return the error of a pod that ended well but left nothing."""
    return BcError(
        f"the pod of {step} succeeded, but there is no record at {uri}. Does the pod see the same storage as Airflow, "
        "and is its image of the same version?"
    )


def to_cluster_error(step: str, error: Exception) -> BcError:
    """Return what the cluster's API, refusing or not answering, means for a step."""
    if not isinstance(error, ApiException):
        return InfrastructureError(f"the cluster's API did not answer when it was asked about {step}: {error}")
    said = _message(error)
    if error.status in PASSING or "exceeded quota" in said:
        return InfrastructureError(f"the cluster did not take the pod of {step} now ({error.status}: {said})")
    return ConfigError(
        f"the cluster refused the pod of {step} ({error.status}: {said}). Look at execution.pods, at the Airflow "
        "connection that it names, and at the rights in include/kubernetes/base"
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):  # no Status object: a proxy answered
        return str(error.reason)


def _of_pod(step: str, pod: Any) -> BcError | None:
    """Explain what the cluster did to the pod as a whole."""
    reason, message, section = pod.status.reason, (pod.status.message or "").rstrip(". "), _section(pod)
    if reason == "DeadlineExceeded":
        minutes = pod.spec.active_deadline_seconds / 60
        field = "training_timeout_minutes" if section.endswith(".train") else "step_timeout_minutes"
        return BcError(f"{step} did not end within {minutes:g} minutes: it hung, or schedule.{field} is too short")
    if (
        reason == "Evicted" and "exceed" in message and "low on resource" not in message
    ):  # its own limit, not the node's
        return ConfigError(
            f"{step} was evicted: {message}. Raise {section}.ephemeral_storage, or {section}.shared_memory where "
            "that is the volume"
        )
    if reason:  # Evicted, Preempting, NodeLost, Terminated, UnexpectedAdmissionError, ...
        return InfrastructureError(f"the pod of {step} was ended on node {pod.spec.node_name}: {reason}: {message}")
    return None


def _of_container(step: str, pod: Any) -> BcError | None:
    """Explain how the container ended."""
    ended = _state(pod, "terminated")
    if ended is None or ended.exit_code == 0:
        return None
    if ended.reason == "OOMKilled":
        (container,) = [container for container in pod.spec.containers if container.name == _component(pod)]
        batch_size = "evaluation.batch_size" if _component(pod) == "evaluate" else "training.batch_size"
        return OutOfMemory(
            f"{step} was OOMKilled at {container.resources.limits['memory']}: raise {_section(pod)}.memory, or lower "
            f"{batch_size}"
        )
    if ended.reason in START_REASONS:
        return ConfigError(f"the container of {step} could not be started: {ended.message}. Is it the right image?")
    return to_error(step, ended.exit_code)


def _of_waiting(step: str, pod: Any) -> BcError | None:
    """Explain what a pod that never ran was waiting for."""
    waiting = _state(pod, "waiting")
    if waiting is not None and waiting.reason in IMAGE_REASONS:
        return InfrastructureError(
            f"the image of {step} could not be fetched ({waiting.reason}: {waiting.message}). Is its name in "
            "execution.pods right, does the node reach the registry, and do image_pull_secrets let it in?"
        )
    if waiting is not None and waiting.reason in CONFIG_REASONS:
        return ConfigError(f"the pod of {step} can't be started: {waiting.reason}: {waiting.message}")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return InfrastructureError(
                f"no node was found in time for the pod of {step} ({condition.message}): is a GPU free, and does "
                "execution.pods.node_selector fit a node?"
            )
    return None


def _section(pod: Any) -> str:
    """Name the part of the configuration that gave the pod its size."""
    component = _component(pod)
    return f"execution.pods.{component if component in ('train', 'evaluate') else 'data'}"


def _component(pod: Any) -> str:
    """Return the step that the pod is for; its container has that name too, whatever a site has put beside it."""
    return str(pod.metadata.labels["app.kubernetes.io/component"])


def _state(pod: Any, name: str) -> Any:
    """Return the state of the step's container, if it is in that state."""
    statuses = [status for status in pod.status.container_statuses or [] if status.name == _component(pod)]
    return getattr(statuses[0].state, name) if statuses else None

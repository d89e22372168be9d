"""Removes the pods of nights gone by: failed ones are kept for a look, but not for ever."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from http import HTTPStatus

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from bc_tasks.orchestration.pods import OUR_PODS
from bc_tasks.pods_config import PodsConfig

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30


def remove_old_pods(pods: PodsConfig, *, now: datetime) -> int:
    """Remove pods that ended long ago, and those that wait although nobody waits for them any more; return how many."""
    client = KubernetesHook(conn_id=pods.kubernetes_conn_id).core_v1_client
    ours = client.list_namespaced_pod(pods.namespace, label_selector=OUR_PODS, _request_timeout=TIMEOUT_SECONDS)
    old = [pod for pod in ours.items if is_old(pod, pods, now)]
    for pod in old:
        log.info("removing %s: %s, created at %s", pod.metadata.name, pod.status.phase, pod.metadata.creation_timestamp)
        try:
            client.delete_namespaced_pod(pod.metadata.name, pods.namespace, _request_timeout=TIMEOUT_SECONDS)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:  # somebody else was faster
                raise
    log.info("%s pods removed", len(old))
    return len(old)


def is_old(pod: k8s.V1Pod, pods: PodsConfig, now: datetime) -> bool:
    """Say whether a pod ended so long ago, or has waited so long, that nobody will look at it any more."""
    created: datetime = pod.metadata.creation_timestamp
    if pod.status.phase in ("Succeeded", "Failed"):
        return now - max([created, *_ends(pod)]) > timedelta(hours=pods.keep_failed_hours)
    # The operator has given up by then; were its worker dead, nobody would take the pod away.
    longest_wait = timedelta(minutes=pods.schedule_timeout_minutes + pods.startup_timeout_minutes)
    return bool(pod.status.phase == "Pending") and now - created > 2 * longest_wait


def _ends(pod: k8s.V1Pod) -> Iterator[datetime]:
    for container in pod.status.container_statuses or []:
        ended = container.state.terminated
        if ended is not None and ended.finished_at is not None:  # an evicted pod's container may have no known end
            yield ended.finished_at

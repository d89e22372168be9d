"""The house operator for pods: KubernetesPodOperator, with the record in storage as the truth."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import KubernetesApiException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodPhase, parse_log_line
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from urllib3.exceptions import HTTPError

from bc_tasks.orchestration.pod_failures import no_record, to_cluster_error, to_pod_error
from bc_tasks.orchestration.pod_trigger import KUBELET, PodStepTrigger, is_lost, is_new, since_seconds
from bc_tasks.orchestration.pods import prefer_other_nodes
from bc_tasks.orchestration.step import Step
from bc_tasks.records import trained_file_name

TROUBLE = (ApiException, HTTPError, KubernetesApiException)
"""What the cluster's API not answering, or refusing, is raised as."""
FAILED_NODES_KEY = "failed_nodes"
"""Of Airflow's task state store, which outlives an attempt."""


class PodStepOperator(Step, KubernetesPodOperator):
    """Runs `bc <task id> --run-uri ...` in a pod, and waits for it without holding a worker.

    Done is what has left its record: a step whose record is there starts no pod, a pod that vanished after writing it
    succeeded, and one that ended well without it failed. Every attempt of a step writes the same record, last, so it
    does not matter which of them did.
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "run_uri", "backbone")

    def __init__(self, *, run_uri: str, backbone: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_uri = run_uri
        self.backbone = backbone
        self._failed_nodes: list[str] = []

    def execute(self, context: Context) -> None:
        """Create the pod, or find the one that a dead worker has left, and sleep until it ends.

        Raises:
            TaskDeferred: a pod runs; this is how Airflow sleeps.
            BcError: no pod could be created, or one that was found had failed.
        """
        if self._is_done():
            self.log.info("The record %s is there: nothing is left to do.", self.record_uri)
            self.conclude(context["ti"], None)
            return
        self.cmds, self.arguments = ["bc"], self.step_arguments()
        self.name = "-".join(filter(None, (self.task_id, self.backbone)))
        self._failed_nodes = context["task_state_store"].get(FAILED_NODES_KEY) or []
        try:
            self._see_off(context)
            super().execute(context)
        except TROUBLE as error:
            self.conclude(context["ti"], to_cluster_error(self.step_name, error))

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """Conclude from what the trigger saw: the pod ended, vanished, or did not start in time.

        Raises:
            BcError: it left no record.
        """
        failure: Exception | None = None
        try:
            super().trigger_reentry(context, event)
        except (AirflowException, ApiException, HTTPError) as error:
            failure = error
        if self._is_done():
            if failure is not None:
                self.log.warning("The pod ended badly, but only after it had left its record: the step is done.")
            self.conclude(context["ti"], None)
        elif failure is None:
            self.conclude(context["ti"], no_record(self.step_name, self.record_uri))
        elif isinstance(failure, TROUBLE):
            self.conclude(context["ti"], to_cluster_error(self.step_name, failure))
        else:
            self._conclude_failed_pod(context)

    def _conclude_failed_pod(self, context: Context) -> None:
        error = to_pod_error(self.step_name, self.pod)
        if self.pod is not None:
            if error.retryable and (node := self.pod.spec.node_name):
                store = context["task_state_store"]
                store.set(FAILED_NODES_KEY, sorted({*(store.get(FAILED_NODES_KEY) or []), node}))
            try:
                self._end(self.pod)
            except TROUBLE as trouble:
                self.log.warning("The pod could not be removed; clean_up_pods will: %s", trouble)
        self.conclude(context["ti"], error)

    def _see_off(self, context: Context) -> None:
        """Wait for a pod of an attempt before this one that is being deleted, so that it isn't taken for ours."""
        pod = self._get_pod_from_task_state_store(context) or self.find_pod(self.namespace, context)
        if pod is not None and pod.metadata.deletion_timestamp is not None and not self._is_gone_in_time(pod):
            self.patch_already_checked(pod)

    def _end(self, pod: k8s.V1Pod) -> None:
        """End a pod that still waits or runs, and wait for that: the next attempt must be alone."""
        if pod.status.phase not in (PodPhase.PENDING, PodPhase.RUNNING) or is_lost(pod, datetime.now(UTC)):
            return
        self.pod_manager.delete_pod(pod)
        self._is_gone_in_time(pod)

    def _is_gone_in_time(self, pod: k8s.V1Pod) -> bool:
        deadline = time.monotonic() + pod.spec.termination_grace_period_seconds + KUBELET.total_seconds()
        while time.monotonic() < deadline:
            try:
                self.hook.get_pod(pod.metadata.name, pod.metadata.namespace)
            except ApiException as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return True
                raise
            time.sleep(1)
        self.log.warning("The pod %s was deleted, but its node does not say that it is gone.", pod.metadata.name)
        return False

    def _is_done(self) -> bool:
        from bc_tasks.storage import open_storage

        return open_storage().find(self.record_uri) is not None

    def defer(self, *, trigger: BaseTrigger, **kwargs: Any) -> NoReturn:
        """Sleep until our own trigger fires, in place of the one that KubernetesPodOperator has just made.

        It finds the cluster as we did: by itself the provider's (10.25.0) looks for a kubeconfig, even inside of a pod.
        """
        _, arguments = trigger.serialize()
        if self.hook.is_in_cluster:
            arguments |= {"in_cluster": True, "config_dict": None}
        super().defer(trigger=PodStepTrigger(**arguments), **kwargs)
        raise AssertionError("the line above raises TaskDeferred")

    def _write_logs(self, pod: k8s.V1Pod, follow: bool = False, since_time: datetime | None = None) -> None:
        """Log what the trigger has not."""
        since = {"since_seconds": since_seconds(since_time, datetime.now(UTC))} if since_time else {}
        lines = self.client.read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=self.base_container_name,
            follow=follow,
            timestamps=True,
            _preload_content=False,
            **since,
        )
        for line in (raw.decode("utf-8", errors="backslashreplace").rstrip("\n") for raw in lines):
            if is_new(line, since_time):
                self.log.info("[%s] %s", self.base_container_name, parse_log_line(line)[1])

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """Return the pod to create, away from the nodes where an attempt before this one failed."""
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        if self._failed_nodes:
            prefer_other_nodes(pod, self._failed_nodes)
        return pod

    @property
    def record_uri(self) -> str:
        """Where the step leaves its record."""
        return f"{self.run_uri}/{trained_file_name(self.backbone) if self.backbone else f'{self.task_id}.json'}"

"""The house factory of pods: what a step's pod looks like, whatever the step, by the configuration."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.utils.pod_manager import OnFinishAction
from kubernetes.client import models as k8s

from bc_tasks.pods_config import PodsConfig, PodSizeConfig, TolerationConfig

SCRATCH = "/scratch"
"""The one folder that a step can write to, beside /dev/shm; it goes with the pod."""
SCRATCH_ENV = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "BC_CACHE": f"{SCRATCH}/cache"}
PART_OF = "breast-tumour-retraining"
OUR_PODS = f"app.kubernetes.io/part-of={PART_OF},app.kubernetes.io/managed-by=airflow"
"""Selects the pods of all nights, and nothing else."""


def operator_arguments(pods: PodsConfig, step: str, timeout: timedelta, *, config_folder: Path) -> dict[str, Any]:
    """Return what KubernetesPodOperator must know of a step.

    `timeout` is how long the step may run, not counting the wait for a node; `config_folder` is where
    `template_file` is looked for.
    """
    waiting = timedelta(minutes=pods.schedule_timeout_minutes + pods.startup_timeout_minutes)
    template = {"pod_template_file": str(config_folder / pods.template_file)} if pods.template_file else {}
    return template | {
        "full_pod_spec": make_pod(pods, step, timeout),
        "base_container_name": step,
        "kubernetes_conn_id": pods.kubernetes_conn_id,
        "namespace": pods.namespace,
        "deferrable": True,  # a night of waiting holds no worker
        "durable": True,  # a worker that died comes back to the same pod
        "do_xcom_push": False,  # the record in storage is the result; a sidecar would be one more image to trust
        "schedule_timeout_seconds": round(60 * pods.schedule_timeout_minutes),
        "startup_timeout_seconds": round(60 * pods.startup_timeout_minutes),
        "startup_check_interval_seconds": pods.poll_interval_seconds,
        "poll_interval": pods.poll_interval_seconds,
        "logging_interval": pods.log_interval_seconds,
        "termination_grace_period": pods.grace_seconds,
        # The pod's own deadline lets it write a checkpoint; this one is for a pod that ignores it.
        "execution_timeout": waiting + timeout + timedelta(seconds=2 * pods.grace_seconds),
        "on_finish_action": OnFinishAction.DELETE_SUCCEEDED_POD.value,  # a failed pod stays to be looked at
        "log_events_on_failure": True,
        "log_pod_spec_on_failure": False,  # pages of it, and no news
    }


def make_pod(pods: PodsConfig, step: str, timeout: timedelta) -> k8s.V1Pod:
    """Return the pod of a step, but for its name and command, which come with the run.

    It runs as nobody in particular, with a read-only root file system, without capabilities and without a token for
    the cluster's API.

    Source: the "restricted" profile of https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    size = pods.size_of(step)
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=k8s.V1ObjectMeta(
            labels={
                "app.kubernetes.io/name": f"bc-{step}",
                "app.kubernetes.io/component": step,
                "app.kubernetes.io/part-of": PART_OF,
                "app.kubernetes.io/managed-by": "airflow",
            },
            # Else the autoscaler may empty the node under a training to save money.
            annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        ),
        spec=k8s.V1PodSpec(
            containers=[_container(pods, step, size)],
            volumes=[
                k8s.V1Volume(
                    name="scratch",
                    empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=size.limits["ephemeral-storage"]),
                ),
                # The default of 64 MiB ends in a "Bus error" where NCCL's processes talk through it.
                k8s.V1Volume(
                    name="shared-memory",
                    empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=size.shared_memory),
                ),
            ],
            restart_policy="Never",  # Airflow decides whether a retry can help
            active_deadline_seconds=round(timeout.total_seconds()),
            termination_grace_period_seconds=pods.grace_seconds,
            service_account_name=pods.service_account,
            automount_service_account_token=False,
            enable_service_links=False,  # a service called "mlflow" would set MLFLOW_PORT, which MLflow reads
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=pods.run_as_user,
                run_as_group=pods.run_as_user,
                fs_group=pods.run_as_user,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            node_selector=pods.node_selector or None,
            tolerations=[_toleration(toleration) for toleration in pods.tolerations] or None,
            priority_class_name=pods.priority_class or None,
            runtime_class_name=pods.runtime_class or None,
            image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in pods.image_pull_secrets] or None,
        ),
    )


def _container(pods: PodsConfig, step: str, size: PodSizeConfig) -> k8s.V1Container:
    gpus = {pods.gpu_resource: str(size.gpus_per_pod)} if size.gpus_per_pod else {}
    secrets = [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in pods.env_from_secrets]
    config_maps = [
        k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=name)) for name in pods.env_from_config_maps
    ]
    return k8s.V1Container(
        name=step,
        image=pods.image_of(step),
        image_pull_policy=pods.image_pull_policy,
        working_dir=SCRATCH,
        env=[k8s.V1EnvVar(name=name, value=value) for name, value in SCRATCH_ENV.items()],
        env_from=[*config_maps, *secrets],
        resources=k8s.V1ResourceRequirements(requests=size.requests | gpus, limits=size.limits | gpus),
        volume_mounts=[
            k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH),
            k8s.V1VolumeMount(name="shared-memory", mount_path="/dev/shm"),  # noqa: S108  # that is its name
        ],
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        ),
    )


def _toleration(toleration: TolerationConfig) -> k8s.V1Toleration:
    return k8s.V1Toleration(**{name: value or None for name, value in toleration.model_dump().items()})


def prefer_other_nodes(pod: k8s.V1Pod, nodes: list[str]) -> None:
    """Ask the scheduler to put a pod elsewhere if it can; where only these nodes are left, one of them will do."""
    elsewhere = k8s.V1PreferredSchedulingTerm(
        weight=100,
        preference=k8s.V1NodeSelectorTerm(
            # One for each, and all must hold: the API server takes one name only in each.
            match_fields=[
                k8s.V1NodeSelectorRequirement(key="metadata.name", operator="NotIn", values=[node]) for node in nodes
            ]
        ),
    )
    pod.spec.affinity = pod.spec.affinity or k8s.V1Affinity()
    of_node = pod.spec.affinity.node_affinity = pod.spec.affinity.node_affinity or k8s.V1NodeAffinity()
    of_node.preferred_during_scheduling_ignored_during_execution = [
        *(of_node.preferred_during_scheduling_ignored_during_execution or []),
        elsewhere,
    ]

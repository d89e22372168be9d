"""The part of the configuration that says what the pods of a night look like; `orchestration/pods.py` builds them."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bc_tasks.section import Section

PodStep = Literal["ingest", "validate", "train", "evaluate"]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
OptionalQuantity = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?)?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
OptionalObjectName = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")]
# A digest, or a tag after the last slash: a colon before it is a registry's port.
Image = Annotated[str, Field(pattern=r"^(\S+@sha256:[0-9a-f]{64}|\S+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")]

UNITS = {"m": "0.001", "": "1", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"} | {
    f"{letter}i": str(1024**power) for power, letter in enumerate("KMGT", start=1)
}


def amount(quantity: str) -> Decimal:
    """Return what a Kubernetes quantity such as "500m" or "16Gi" comes to, in cores or bytes.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    unit = quantity.lstrip("0123456789.")
    return Decimal(quantity.removesuffix(unit)) * Decimal(UNITS[unit])


class PodSizeConfig(Section):
    """What a pod asks for, and may use at most."""

    gpus_per_pod: int = Field(0, ge=0, le=16, description="GPUs")
    cpu: Quantity = Field("4", description="cores it asks for")
    cpu_limit: OptionalQuantity = Field("", description="cores it may use; empty: as many as it asks for")
    memory: Quantity = Field("16Gi", description="memory it asks for")
    memory_limit: OptionalQuantity = Field("", description="above it the pod is killed; empty: what it asks for")
    ephemeral_storage: Quantity = Field("40Gi", description="local disk it asks for: shards, weights, checkpoints")
    ephemeral_storage_limit: OptionalQuantity = Field("", description="above it the pod is evicted; empty: as asked")
    shared_memory: Quantity = Field(
        "2Gi", description="in-memory /dev/shm, through which the processes of several GPUs talk; counts as memory"
    )

    @property
    def requests(self) -> dict[str, str]:
        """Amounts by Kubernetes' names, without GPUs."""
        return {"cpu": self.cpu, "memory": self.memory, "ephemeral-storage": self.ephemeral_storage}

    @property
    def limits(self) -> dict[str, str]:
        """Amounts by Kubernetes' names, without GPUs."""
        return {
            "cpu": self.cpu_limit or self.cpu,
            "memory": self.memory_limit or self.memory,
            "ephemeral-storage": self.ephemeral_storage_limit or self.ephemeral_storage,
        }

    @model_validator(mode="after")
    def _limits_hold_requests(self) -> "PodSizeConfig":
        for name, limit in self.limits.items():
            if amount(limit) < amount(self.requests[name]):
                raise ValueError(f"the limit of {name} ({limit}) must not be below what is asked for")
        if amount(self.shared_memory) >= amount(self.limits["memory"]):
            raise ValueError("shared_memory counts as memory, so it must be below the limit of memory")
        return self


class GpuPodSizeConfig(PodSizeConfig):
    """The same, of a pod that wants a GPU."""

    gpus_per_pod: int = Field(1, ge=0, le=16, description="GPUs; above 1 training runs one process for each")


class TolerationConfig(Section):
    """A taint that pods put up with, in Kubernetes' words."""

    key: str = Field("", max_length=317, description="the taint's key; empty: every taint")
    operator: Literal["Equal", "Exists"] = Field("Exists", description="whether its value matters")
    value: str = Field("", max_length=63, description="its value, for Equal")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("", description="empty: every effect")


class PodsConfig(Section):
    """How the steps that run in pods are launched on Kubernetes."""

    steps: tuple[PodStep, ...] = Field(
        ("train", "evaluate"), description="steps that run in pods; others on the worker"
    )
    image: Image = Field("", description="trainer image, by digest or fixed tag")
    data_image: Image = Field("", description="airflow image, for ingest and validate where they run in pods")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="when the node fetches the image"
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field((), description="secrets with the registry's credentials")
    kubernetes_conn_id: str = Field(
        "kubernetes_default",
        min_length=1,
        description="Airflow connection to the cluster; where there is none: the pod's own cluster, or KUBECONFIG",
    )
    namespace: ObjectName = Field("breast-tumour-training", description="where pods are created")
    service_account: ObjectName = Field("trainer", description="whom they run as; it needs no rights")
    env_from_secrets: tuple[ObjectName, ...] = Field(
        ("s3-credentials", "mlflow-credentials"), description="secrets whose keys become environment variables"
    )
    env_from_config_maps: tuple[ObjectName, ...] = Field(("endpoints",), description="config maps, likewise")
    run_as_user: int = Field(10001, ge=1, le=2**31 - 1, description="user and group of the processes; never root")
    gpu_resource: str = Field(
        "nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+$", description="what a GPU is called in the cluster"
    )
    node_selector: dict[str, str] = Field({}, description="labels that a node must have")
    tolerations: tuple[TolerationConfig, ...] = Field((), description="taints that pods put up with")
    priority_class: OptionalObjectName = Field("", description="who makes room for whom; empty: the cluster's default")
    runtime_class: OptionalObjectName = Field("", description='e.g. "nvidia"; empty: the cluster\'s default')
    template_file: str = Field(
        "", description="pod template with what a site adds, relative to this file; empty: none is used"
    )
    parallel_trainings: int = Field(1, ge=1, le=64, description="backbones trained at the same time")
    schedule_timeout_minutes: float = Field(60, gt=0, le=1440, description="to find a node, scale-up included")
    startup_timeout_minutes: float = Field(30, gt=0, le=1440, description="to fetch the image and start")
    grace_seconds: int = Field(120, ge=5, le=3600, description="from SIGTERM to SIGKILL: time to write a checkpoint")
    poll_interval_seconds: float = Field(10, ge=0.1, le=300, description="between two looks at a pod")
    log_interval_seconds: int = Field(60, ge=1, le=3600, description="between two fetches of its log")
    keep_failed_hours: int = Field(72, ge=1, le=8760, description="after which failed pods are removed")
    train: GpuPodSizeConfig = GpuPodSizeConfig()
    evaluate: GpuPodSizeConfig = GpuPodSizeConfig()
    data: PodSizeConfig = PodSizeConfig()

    @model_validator(mode="after")
    def _fixed_tag(self) -> "PodsConfig":
        for image in (self.image, self.data_image):
            if image.endswith(":latest"):
                raise ValueError(f"{image}: latest is no fixed tag; name a digest or a version")
        return self

    def size_of(self, step: str) -> PodSizeConfig:
        """Return the size of a step's pod."""
        return {"train": self.train, "evaluate": self.evaluate}.get(step, self.data)

    def image_of(self, step: str) -> str:
        """Return the image of a step's pod; only Airflow's has Great Expectations, only the trainer's has torch."""
        return self.image if step in ("train", "evaluate") else self.data_image

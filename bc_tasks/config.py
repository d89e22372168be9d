"""The configuration of a night: one tree of frozen models, read from a TOML file.

Each field carries its unit in its name, its range in its type and its meaning in its description;
`config_file.py` reads it, and cuts Airflow's trigger form from the same models.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bc_tasks.gate_config import GateConfig
from bc_tasks.pods_config import PodsConfig
from bc_tasks.section import Section, Share, unique

BackboneName = Literal["resnet50", "resnet101", "efficientnetv2_s", "convnext_tiny", "efficientnet_lite0"]
OperatingPointPolicy = Literal["best_f1", "recall_at_specificity", "recall_floor"]


def _storage_uri(uri: str) -> str:
    if not uri.startswith(("s3://", "file:///")) or uri.endswith("/"):
        raise ValueError(
            f"{uri!r} is no storage URI: write s3://bucket[/prefix] or file:///folder, without a final slash"
        )
    return uri


class StorageConfig(Section):
    """How S3 is spoken to; the endpoint and the credentials come from the AWS_* environment."""

    num_threads: int = Field(16, ge=1, le=256, description="parallel transfers, and the size of the connection pool")
    connect_timeout_seconds: float = Field(5, gt=0, le=300, description="to open a connection")
    read_timeout_seconds: float = Field(60, gt=0, le=3600, description="between two bytes of an answer")
    max_attempts: int = Field(5, ge=1, le=20, description="tries of a request, the first one included")


class PixelsConfig(Section):
    """How an image becomes pixels; a change of it makes another data set."""

    size_px: int = Field(640, ge=64, le=2048, description="side of the square that is stored")
    crop_to_breast: bool = Field(True, description="cut away the empty background")
    correct_inverted: bool = Field(True, description="turn images with a white background black")


class IngestConfig(Section):
    """What is taken out of the inbox."""

    inbox_prefix: str = Field(
        "inbox/", pattern=r"^([A-Za-z0-9_.=-]+/)+$", description="where batches arrive, below data_uri"
    )
    settle_minutes: float = Field(
        15, ge=0, le=10_080, description="a batch with a younger object waits for the next night"
    )
    complete_marker: str = Field(
        "", max_length=200, description="object that says a batch is complete; empty: none is needed"
    )
    max_image_bytes: int = Field(300_000_000, ge=1, description="a larger object is quarantined unread")
    max_source_pixels: int = Field(100_000_000, ge=1, description="width x height above which an image is not decoded")
    shard_images: int = Field(256, ge=1, le=65_536, description="images in one pixel shard")
    pixels: PixelsConfig = PixelsConfig()


class HoldoutConfig(Section):
    """The fixed set of patients that every model is measured on."""

    fingerprint: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="the holdout that must be there; empty: any that was never changed",
    )


class SplitsConfig(Section):
    """How patients are divided into training and tuning."""

    tuning_share: float = Field(0.2, gt=0, lt=1, description="share of the patients that tunes, not trains")
    salt: str = Field(
        "2026",
        min_length=1,
        max_length=100,
        description="another salt is another division; never change it in production",
    )


class ValidationConfig(Section):
    """What data must look like before anything is trained on it."""

    max_bad_share: Share = Field(
        0.05, description="share of the night's new images that may be bad; above it the night stops"
    )
    max_leak_share: Share = Field(
        0.05,
        description="share of the night's new images that may be known pictures under other names; above it the night "
        "stops",
    )
    min_images: int = Field(100, ge=2, description="usable images in the snapshot")
    min_shrink_ratio: Share = Field(
        0.9, description="usable images, as a share of the previous snapshot's, below which something vanished"
    )
    min_class_share: float = Field(0.05, ge=0, le=0.5, description="share of the rarer label in the snapshot")
    max_class_share_change: Share = Field(0.15, description="change of the cancer share since the previous snapshot")
    max_site_share_change: Share = Field(0.3, description="change of any site's share since the previous snapshot")
    max_machine_share_change: Share = Field(
        0.3, description="change of any machine's share since the previous snapshot"
    )
    min_source_px: int = Field(64, ge=1, description="shorter side of an image as delivered")
    min_grey_std: float = Field(
        2, ge=0, le=128, description="standard deviation of the grey values; below it an image is constant"
    )
    max_black_share: Share = Field(0.98, description="share of black pixels; above it an image shows nothing")
    min_age_years: float = Field(18, ge=0, le=150, description="of a patient; a lower age is a mistake")
    max_age_years: float = Field(110, ge=0, le=150, description="of a patient; a higher age is a mistake")


class AugmentationConfig(Section):
    """What training does to images at random; tuning and holdout images are never touched."""

    horizontal_flip_probability: Share = Field(0.5, description="of a mirrored image")
    vertical_flip_probability: Share = Field(0.5, description="of an image upside down")
    rotation_degrees: float = Field(20, ge=0, le=180, description="rotation by up to this much, either way")
    rectangle_probability: Share = Field(0.35, description="of a black rectangle")
    rectangle_min_share: float = Field(0.05, gt=0, le=1, description="its smallest area, as a share of the image")
    rectangle_max_share: float = Field(0.15, gt=0, le=1, description="its largest area")

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentationConfig":
        if self.rectangle_min_share > self.rectangle_max_share:
            raise ValueError("rectangle_min_share must not exceed rectangle_max_share")
        return self


class TrainingConfig(Section):
    """How backbones are fine-tuned."""

    backbones: Annotated[tuple[BackboneName, ...], AfterValidator(unique)] = Field(
        ("efficientnet_lite0",), min_length=1, description="backbones to fine-tune, each in a task of its own"
    )
    train_if_nothing_new: bool = Field(False, description="train even if no image is new")
    weights: str = Field(
        "default",
        pattern=r"^(default|hub|package|none|(s3|file)://.+)$",
        description="start from: default (the package where there is one, else the hub), hub (timm's cache), package, "
        "none, or the URI of a .safetensors file or of a folder of <timm name>.safetensors",
    )
    warm_start: bool = Field(False, description="start from the champion where it has the same backbone")
    image_size_px: int = Field(224, ge=32, le=2048, description="side of the square that the backbone sees")
    trainable_stages: int | Literal["all"] = Field(
        1, description='last stages trained beside the head: a number from 0, or "all"'
    )
    batch_size: int = Field(32, ge=2, le=4096, description="images in one optimisation step")
    epochs: int = Field(20, ge=1, le=1000, description="passes over the training images, at most")
    early_stop_epochs: int = Field(
        5, ge=1, le=1000, description="epochs without a better tuning score after which training stops"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW's, at the end of the warm-up")
    min_learning_rate: float = Field(1e-5, ge=0, le=1, description="at the end of the cosine")
    warmup_epochs: float = Field(1, ge=0, le=100, description="in which the learning rate rises from zero")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="AdamW's; biases and norms have none")
    class_weights: Literal["balanced"] | tuple[float, float] = Field(
        "balanced", description="of no cancer and cancer in the loss"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, else float32"
    )
    channels_last: Literal["auto", "on", "off"] = Field("auto", description="auto: where the backbone gains from it")
    num_workers: int = Field(
        0, ge=0, le=64, description="threads that read batches ahead; 0: the training process itself"
    )
    seed: int = Field(17, ge=0, le=2**31 - 1, description="of every random choice of a night")
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if isinstance(self.trainable_stages, int) and self.trainable_stages < 0:
            raise ValueError('trainable_stages must be 0 or more, or "all"')
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate must not exceed learning_rate")
        if self.class_weights != "balanced" and min(self.class_weights) <= 0:
            raise ValueError("class_weights must be above 0")
        return self


class OperatingPointConfig(Section):
    """From which probability on an image is called cancer; fitted on tuning, and kept by the model."""

    policy: OperatingPointPolicy = Field(
        "best_f1",
        description="best_f1: the highest F1; recall_at_specificity: the highest recall where specificity reaches "
        "min_specificity; recall_floor: the highest specificity where recall reaches min_recall",
    )
    min_specificity: Share = Field(0.9, description="specificity on tuning that recall_at_specificity requires")
    min_recall: Share = Field(0.9, description="recall on tuning that recall_floor requires")
    calibrate: bool = Field(True, description="first scale the probabilities by a temperature fitted on tuning")


class EvaluationConfig(Section):
    """How models are measured on the holdout."""

    num_resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples of patients")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals")
    batch_size: int = Field(64, ge=1, le=4096, description="images scored at a time")


class RegistryConfig(Section):
    """Where models live in MLflow; the server comes from MLFLOW_TRACKING_URI."""

    experiment: str = Field("breast-tumour-retraining", min_length=1, max_length=250, description="MLflow experiment")
    model_name: str = Field(
        "breast-tumour-classifier", pattern=r"^[A-Za-z0-9_-]{1,200}$", description="registered model"
    )
    champion_alias: str = Field("champion", pattern=r"^[a-z][a-z0-9_-]*$", description="only people move it")
    challenger_alias: str = Field(
        "challenger", pattern=r"^[a-z][a-z0-9_-]*$", description="moved by every registration"
    )
    timeout_seconds: int = Field(60, ge=1, le=3600, description="of one request to MLflow")


class ScheduleConfig(Section):
    """When the night runs and how long its steps may take."""

    cron: str = Field("0 2 * * *", min_length=1, description="five cron fields, in UTC")
    owner: str = Field("ml-platform", min_length=1, description="whom Airflow names as the owner")
    retries: int = Field(2, ge=0, le=10, description="of a step, for errors that a retry can help")
    retry_delay_seconds: int = Field(120, ge=0, le=86_400, description="before the first retry; it doubles")
    step_timeout_minutes: float = Field(60, gt=0, le=10_080, description="of every step but training")
    training_timeout_minutes: float = Field(480, gt=0, le=10_080, description="of one backbone's training")
    failure_conn_id: str = Field(
        "", description="Airflow connection that failures are sent to (smtp or http); empty: none"
    )
    failure_recipients: tuple[str, ...] = Field((), description="e-mail addresses, for an smtp connection")


class ExecutionConfig(Section):
    """Where training and evaluation run."""

    launcher: Literal["subprocess", "kubernetes"] = Field(
        "subprocess", description="subprocess: on Airflow's worker; kubernetes: in pods, by the same command lines"
    )
    pods: PodsConfig = PodsConfig()

    @model_validator(mode="after")
    def _images_named(self) -> "ExecutionConfig":
        if self.launcher == "kubernetes":
            for step in self.pods.steps:
                if not self.pods.image_of(step):
                    field = "image" if step in ("train", "evaluate") else "data_image"
                    raise ValueError(f"{step} runs in a pod, so pods.{field} must name an image")
        return self

    def in_pod(self, step: str) -> bool:
        """Say whether a step runs in a pod."""
        return self.launcher == "kubernetes" and step in self.pods.steps


class RunConfig(Section):
    """Everything that decides what a night does; frozen into the run's first record."""

    data_uri: Annotated[str, AfterValidator(_storage_uri)] = Field(
        description="root of inbox, snapshots, pixels, holdout and runs"
    )
    storage: StorageConfig = StorageConfig()
    ingest: IngestConfig = IngestConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    splits: SplitsConfig = SplitsConfig()
    validation: ValidationConfig = ValidationConfig()
    training: TrainingConfig = TrainingConfig()
    operating_point: OperatingPointConfig = OperatingPointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _sizes(self) -> "RunConfig":
        if self.training.image_size_px > self.ingest.pixels.size_px:
            raise ValueError(
                f"training.image_size_px ({self.training.image_size_px}) must not exceed "
                f"ingest.pixels.size_px ({self.ingest.pixels.size_px}): pixels are stored once, at that size"
            )
        return self

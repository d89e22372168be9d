"""What the steps hand to each other: one frozen record a step, written last, as its commit mark."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from bc_tasks.config import BackboneName, RunConfig

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A piece of a record: frozen, unknown keys refused, NaN and infinity kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Record(Part):
    """What one step leaves under `<run_uri>/<step>.json`; `step` names it."""

    step: ClassVar[str]

    @property
    def file_name(self) -> str:
        """The record's object name below the run's URI."""
        return f"{self.step}.json"


class Run(Record):
    """The start of a night: everything that decides what it does."""

    step: ClassVar[str] = "start"

    run_uri: str
    started_at: datetime
    trigger: str = Field(description="scheduled, manual, or whoever started it")
    code_version: str
    config: RunConfig


class Counts(Part):
    """How many usable images a snapshot holds, by what is known of them."""

    num_images: int
    num_patients: int
    num_quarantined: int
    by_label: dict[str, int]
    by_split: dict[str, int]
    by_view: dict[str, int]
    by_site: dict[str, int]


class Snapshot(Record):
    """All images that a model may learn from, as the inbox stood on one night.

    It is a candidate until validation commits it; then `number` is set.
    """

    step: ClassVar[str] = "ingest"

    manifest_uri: str
    fingerprint: Sha256
    number: int | None = Field(description="place in the row of committed snapshots, from 1; None: not committed")
    base_number: int | None = Field(description="the committed snapshot it was compared with; None: it is the first")
    base_is_unfinished: bool = Field(description="that snapshot's night broke off before its verdict was carried out")
    preprocessing_sha256: Sha256
    holdout_fingerprint: Sha256
    num_new: int
    num_revised: int
    num_withdrawn: int
    counts: Counts
    quarantined_now: dict[str, int] = Field(description="images set aside tonight, by reason")
    waiting_batches: tuple[str, ...] = Field(description="still being uploaded; taken on a later night")
    notes: tuple[str, ...] = Field(description="what an operator should know, a sentence each")

    @property
    def has_changes(self) -> bool:
        """Whether anything differs from the snapshot before."""
        return self.num_new + self.num_revised + self.num_withdrawn > 0

    @property
    def has_news(self) -> bool:
        """Whether there is something to train on: changes, or a snapshot whose own night broke off."""
        return self.has_changes or self.base_is_unfinished


class ExpectationOutcome(Part):
    """One expectation, and what was seen of it."""

    name: str
    passed: bool
    severity: Literal["row", "table"] = Field(description="row: bad rows are quarantined; table: the night stops")
    seen: str
    wanted: str
    why: str
    num_unexpected: int
    image_ids: tuple[str, ...] = Field(max_length=10, description="the first of them")


class ValidationReport(Record):
    """What Great Expectations saw, and the snapshot that was committed on it."""

    step: ClassVar[str] = "validate"

    snapshot: Snapshot
    expectations: tuple[ExpectationOutcome, ...]
    num_quarantined: int = Field(description="images that this validation set aside, in the whole snapshot")
    bad_share: float = Field(description="of the night's new and revised images, those quarantined by ingest or here")
    data_docs_uri: str


FAILED_VALIDATION = "validate-failed.json"
"""A validation report of a night that stopped; not `validate.json`, for that one means passed."""


class Interval(Part):
    """A value with its bootstrap interval; `low` and `high` are NaN where none can be made."""

    value: float
    low: float
    high: float


class ConfusionMatrix(Part):
    """Counts of images at the operating point."""

    num_true_positive: int
    num_false_positive: int
    num_true_negative: int
    num_false_negative: int


class ModelSpec(Part):
    """Everything beside the weights that turns pixels into a call; stored next to the weights."""

    backbone: BackboneName
    timm_name: str
    image_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    preprocessing_sha256: Sha256
    pixels_size_px: int
    crop_to_breast: bool
    correct_inverted: bool
    operating_point: float = Field(ge=0, le=1, description="called cancer from this probability on; fitted on tuning")


class Environment(Part):
    """Where a model was made."""

    python: str
    platform: str
    device: str
    packages: dict[str, str]


class TrainedModel(Record):
    """One fine-tuned backbone."""

    step: ClassVar[str] = "train"

    spec: ModelSpec
    weights_uri: str
    weights_sha256: Sha256
    mlflow_run_id: str
    snapshot_fingerprint: Sha256
    num_training_images: int
    num_tuning_images: int
    num_epochs: int
    best_epoch: int
    tuning_metrics: dict[str, float]
    started_from: str = Field(description="where its first weights came from")
    seed: int
    environment: Environment
    seconds: float

    @property
    def file_name(self) -> str:
        """One record for each backbone of the night."""
        return trained_file_name(self.spec.backbone)


def trained_file_name(backbone: str) -> str:
    """The name of a backbone's training record below the run's URI."""
    return f"train-{backbone}.json"


class ScoredImage(Part):
    """A model's probability of cancer for one image of the holdout."""

    image_id: str
    patient_id: str
    label: int
    probability: float


class ModelScores(Part):
    """One model on the holdout."""

    name: str = Field(description="what a person calls it, e.g. `champion, version 3`")
    weights_sha256: Sha256
    spec: ModelSpec
    holdout_fingerprint: Sha256
    scores: tuple[ScoredImage, ...]
    metrics: dict[str, Interval]
    confusion: ConfusionMatrix


class Evaluation(Record):
    """The night's best model and the champion, measured on the same holdout by the same code."""

    step: ClassVar[str] = "evaluate"

    challenger_backbone: BackboneName
    challenger_mlflow_run_id: str
    challenger: ModelScores
    champion: ModelScores | None
    champion_version: str | None = Field(description="its version in the registry; None: there is no champion")
    champion_problem: str | None = Field(description="why the champion could not be measured, if there is one")
    ranking: dict[str, float] = Field(description="the tuning score of each backbone that was trained")


class RuleOutcome(Part):
    """One rule of the gate: what was seen, what was required, and a sentence."""

    rule: str
    passed: bool
    seen: str
    required: str
    sentence: str


class Verdict(Record):
    """Whether the challenger may be registered, and why."""

    step: ClassVar[str] = "gate"

    passed: bool
    kind: Literal["bootstrap", "comparison", "cannot-compare"]
    rules: tuple[RuleOutcome, ...]
    summary: str
    dry_run: bool


class RegisteredModel(Record):
    """The model version that reviewers see."""

    step: ClassVar[str] = "register"

    name: str
    version: str
    aliases: tuple[str, ...]
    mlflow_run_id: str
    model_uri: str
    was_there_already: bool

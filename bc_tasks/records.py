"""What the steps hand to each other: one frozen record a step, written last, as its commit mark."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from bc_tasks.config import BackboneName, OperatingPointPolicy, RunConfig
from bc_tasks.gate_config import EvidenceGrade, GateConfig

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A piece of a record: frozen, unknown keys refused, NaN and infinity kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Record(Part):
    """What one step leaves under `<run_uri>/<step>.json`; `step` names it."""

    step: ClassVar[str]

    @classmethod
    def usual_name(cls) -> str:
        """The object name of such a record below the run's URI, where the step leaves one only."""
        return f"{cls.step}.json"

    @property
    def file_name(self) -> str:
        """This record's object name below the run's URI."""
        return self.usual_name()


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
    is_routine: bool = Field(
        False,
        description="what is used is the same as in the snapshot before, and no change needs looking at: more images "
        "of the holdout's patients, or copies",
    )

    @property
    def has_changes(self) -> bool:
        """Whether anything differs from the snapshot before."""
        return self.num_new + self.num_revised + self.num_withdrawn > 0

    @property
    def has_news(self) -> bool:
        """Whether there is something to look at or train on: changes, or a snapshot whose own night broke off."""
        return (self.has_changes and not self.is_routine) or self.base_is_unfinished


class Leak(Part):
    """An image that ingest set aside, because a model would learn from it what it is measured or tuned on."""

    reason: str = Field(description="a QuarantineReason")
    key: str
    image_id: str
    detail: str = Field(description="what was seen, as the manifest says it; names patients")
    other_image_id: str = Field("", description="the image that it shows; empty where only the patient is the same")
    other_pixel_sha256: str = ""
    transform: str = Field("", description="how it differs from the other image, in a few words")
    was_learnt: bool = Field(False, description="of the holdout, and the snapshot before trained or tuned on it")
    thumbnail: str = Field("", description="a small JPEG in base64; only of the first near copies")
    other_thumbnail: str = ""


class Leaks(Record):
    """Tonight's leaks, for the page that validation makes; ingest writes them before its own record."""

    step: ClassVar[str] = "leaks"

    leaks: tuple[Leak, ...]


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
    leak_share: float = Field(0.0, description="of the same images, those that are known pictures under other names")
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
    temperature: float = Field(
        1.0, gt=0, description="the probability is expit(logit / temperature) of the network's; fitted on tuning"
    )


class Environment(Part):
    """Where a model was made; on a CPU all of it, with the same records, gives the same weights to the bit."""

    python: str
    platform: str
    device: str
    num_threads: int = Field(0, description="that a CPU's sums were divided among; 0: not noted then")
    instruction_set: str = Field("", description="of the CPU, as torch uses it, e.g. AVX2; empty: not noted then")
    packages: dict[str, str]


class Calibration(Part):
    """A temperature, and how far probabilities were from shares of cancer on the images that it was fitted on."""

    temperature: float = Field(gt=0, description="1: the probabilities are the network's own")
    log_loss_before: float = Field(description="in nats")
    log_loss_after: float
    error_before: float = Field(description="expected calibration error, 0 to 1")
    error_after: float
    num_images: int
    note: str = Field(description="why the temperature is 1, or what else is odd; empty: nothing")


NOT_CALIBRATED = Calibration(
    temperature=1.0,
    log_loss_before=float("nan"),
    log_loss_after=float("nan"),
    error_before=float("nan"),
    error_after=float("nan"),
    num_images=0,
    note="the model is older than calibration",
)


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
    calibration: Calibration = NOT_CALIBRATED
    operating_point_policy: OperatingPointPolicy = "best_f1"
    operating_point_reached: str = Field("", description="what the policy found on tuning, in a sentence")
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
    laterality: str | None = None
    view: str | None = None
    site_id: str | None = None
    machine_id: str | None = None
    density: str | None = None


class ModelScores(Part):
    """One model on the holdout."""

    name: str = Field(description="what a person calls it, e.g. `champion, version 3`")
    weights_sha256: Sha256
    spec: ModelSpec
    holdout_fingerprint: Sha256
    scores: tuple[ScoredImage, ...]
    metrics: dict[str, Interval] = Field(description="of single images")
    by_breast: dict[str, Interval] = Field({}, description="of breasts, each by the highest of its probabilities")
    by_patient: dict[str, Interval] = Field({}, description="of patients, likewise")
    confusion: ConfusionMatrix

    @property
    def figures(self) -> dict[str, float]:
        """Each metric and its bounds by its name in MLflow, e.g. `holdout_recall`, `holdout_breast_recall_low`."""
        return {
            f"holdout_{unit}{name}{ending}": value
            for unit, metrics in (("", self.metrics), ("breast_", self.by_breast), ("patient_", self.by_patient))
            for name, metric in metrics.items()
            for ending, value in (("", metric.value), ("_low", metric.low), ("_high", metric.high))
        }


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
    other_versions: tuple[str, ...] = Field((), description="versions in the registry, where none of them is champion")


class CasePart(Part):
    """One model on the holdout, as the gate sees it."""

    name: str
    weights_sha256: Sha256
    preprocessing_sha256: Sha256
    holdout_fingerprint: Sha256
    images_sha256: Sha256 = Field(description="of the ids and labels of the images that it was measured on")
    operating_point: float
    probabilities: tuple[float, ...] = Field(
        description="of cancer, by image id; empty where the images are others than the challenger's"
    )


class Case(Part):
    """All that the gate decides on, without ids of patients or images.

    Images are in the order of their ids; patients are numbered in the order of theirs. So who has the holdout can
    name each, and nobody else.
    """

    challenger_backbone: BackboneName
    challenger: CasePart
    champion: CasePart | None
    champion_version: str | None
    champion_problem: str | None
    first_champion: CasePart | None = Field(description="of this holdout; None: it is the champion, or there is none")
    other_versions: tuple[str, ...] = Field(description="versions in the registry, where none of them is champion")
    labels: tuple[int, ...]
    patients: tuple[int, ...]
    subgroups: dict[str, tuple[str | None, ...]] = Field(description="of each image, by column")
    seed: int = Field(description="of the resamples")


class Look(Record):
    """One look at a holdout, in its ledger: how much error of the budget it spends."""

    step: ClassVar[str] = "look"

    number: int = Field(ge=1)
    holdout_fingerprint: Sha256
    run_uri: str
    looked_at: datetime
    challenger_sha256: Sha256 = Field(description="of its weights; other weights are another look")
    champion_sha256: Sha256 | None = Field(description="of the champion's; None: none was measured")
    champion_version: str | None
    error: float = Field(ge=0, description="what this look may spend; 0: nothing was compared, or nothing is left")
    spent: float = Field(ge=0, description="by all looks up to this one")
    total_error: float = Field(description="the policy's budget that night")
    expected_looks: int


class RuleOutcome(Part):
    """One rule of the gate: what was seen, what was required, and a sentence."""

    rule: str
    passed: bool
    seen: str
    required: str
    sentence: str
    too_few: tuple[str, ...] = Field((), description="groups with too few images to say")


class Gain(Part):
    """What the challenger has more than the champion in one metric, and how sure that is."""

    value: float
    standard_error: float
    nightly_bound: float = Field(description="one-sided lower bound at gate.nightly_error")
    ledger_bound: float | None = Field(description="the same at the error that the ledger gave; None: it gave none")


class Power(Part):
    """How small a true gain this holdout can see."""

    num_positives: int = Field(description="images with cancer")
    num_patients: int
    detectable_gain: float | None = Field(
        description="in recall, seen about four times in five at the policy's grade; None: no gain at all"
    )
    sentence: str


class MadeWith(Part):
    """The versions that a verdict was computed with."""

    code_version: str
    platform: str
    python: str
    numpy: str


class Verdict(Record):
    """Whether the challenger may be registered, and why; with all that it takes to compute it again."""

    step: ClassVar[str] = "gate"

    passed: bool
    kind: Literal["bootstrap", "comparison", "cannot-compare"]
    grade: EvidenceGrade | None = Field(description="of the evidence; None: nothing was compared")
    rules: tuple[RuleOutcome, ...]
    summary: str
    notes: tuple[str, ...] = Field(description="what a reviewer should know beside the rules, a sentence each")
    dry_run: bool
    metrics: dict[str, dict[str, float]] = Field(description="by model, of the calls and probabilities")
    gains: dict[str, Gain]
    power: Power
    policy: GateConfig
    look: Look
    case: Case
    made_with: MadeWith

    @classmethod
    def usual_name(cls) -> str:
        """`verdict.json`, by which auditors know it."""
        return "verdict.json"


class Override(Record):
    """A person's word that a challenger may be registered although its champion could not be measured."""

    step: ClassVar[str] = "override"

    by: str
    at: datetime
    reason: str = Field(min_length=1)
    verdict_sha256: Sha256


class RegisteredModel(Record):
    """The model version that reviewers see."""

    step: ClassVar[str] = "register"

    name: str
    version: str
    aliases: tuple[str, ...]
    mlflow_run_id: str
    model_uri: str
    was_there_already: bool

"""The gate's part of the configuration: what a challenger must show, and the profiles that say it in one word."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from bc_tasks.section import Section, Share, unique

EvidenceGrade = Literal["unproven", "suggestive", "confirmed"]
"""How sure it is that a gain is not chance, the weakest first."""

Subgroup = Literal["site_id", "machine_id", "view", "density"]

GATE_PROFILES: dict[str, dict[str, Any]] = {
    "default": {},
    "strict": {"evidence": "confirmed"},
    "literal": {
        "evidence": "unproven",
        "recall_margin": 0.0,
        "f1_margin": 0.0,
        "max_specificity_loss": 1.0,
        "max_specificity_loss_in_all": 1.0,
    },
}
"""What a profile sets where the configuration doesn't say otherwise; literal: recall and F1 are higher, no more."""


class GateConfig(Section):
    """When a challenger may be registered."""

    profile: Literal["default", "strict", "literal"] = Field(
        "default",
        description="sets the fields that are not given: strict asks for confirmed evidence, literal, beside soundness "
        "and floors, only that recall and F1 are higher",
    )
    dry_run: bool = Field(
        False, description="say what the gate decides, but register nothing; it is a look at the holdout all the same"
    )
    min_recall: Share = Field(0.5, description="floor of the challenger's recall")
    min_f1: Share = Field(0.5, description="floor of its F1")
    min_specificity: Share = Field(0.3, description="floor of its specificity: calling everything cancer has recall 1")
    recall_margin: float = Field(0.005, ge=0, le=1, description="how much its recall must exceed the champion's")
    f1_margin: float = Field(0.005, ge=0, le=1, description="how much its F1 must exceed the champion's")
    max_specificity_loss: Share = Field(0.05, description="how much lower its specificity may be than the champion's")
    max_specificity_loss_in_all: Share = Field(
        0.1, description="how much lower it may be than the first champion's on this holdout"
    )
    evidence: EvidenceGrade = Field(
        "suggestive",
        description="lowest grade of evidence that passes: confirmed clears zero at what the ledger still allows, "
        "suggestive at nightly_error, unproven not at all",
    )
    nightly_error: float = Field(
        0.05, gt=0, lt=0.5, description="chance that equal models look suggestively better, a night and metric"
    )
    total_error: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="the same for confirmed, over all looks at a holdout together: the ledger's budget",
    )
    expected_looks: int = Field(90, ge=1, le=5000, description="nights that the budget is spread over")
    num_resamples: int = Field(10_000, ge=1000, le=100_000, description="resamples of patients that evidence rests on")
    subgroups: Annotated[tuple[Subgroup, ...], AfterValidator(unique)] = Field(
        (), description="columns of which no group may fall"
    )
    max_subgroup_loss: Share = Field(
        0.1, description="how much recall or specificity of a group may fall; a larger fall within chance is named only"
    )
    min_subgroup_images: int = Field(
        20, ge=1, description="images with cancer, or without, of a group; fewer are too few to say"
    )

    @model_validator(mode="before")
    @classmethod
    def _profiled(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return GATE_PROFILES.get(str(data.get("profile", "default")), {}) | data

    @model_validator(mode="after")
    def _fine_enough(self) -> "GateConfig":
        needed = math.ceil(max(self.expected_looks / self.total_error, 1 / self.nightly_error))
        if self.num_resamples < needed:
            raise ValueError(
                f"num_resamples must be {needed} at least (expected_looks / total_error, and 1 / nightly_error), or no "
                "gain is ever sure enough"
            )
        return self

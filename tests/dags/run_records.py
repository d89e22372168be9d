"""A run's records, small and made up, for what Airflow reads of them."""

from datetime import UTC, datetime
from typing import Any

from gate_cases import CHAMPION, GOOD, MADE_WITH, case, look

from bc_tasks import gates
from bc_tasks.config import RunConfig
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import (
    Counts,
    ExpectationOutcome,
    RegisteredModel,
    Run,
    Snapshot,
    ValidationReport,
    Verdict,
)

SHA256 = "a" * 64


def run(run_uri: str, **training: Any) -> Run:
    """The start of a run on the defaults, but for what is given of `[training]`."""
    config = RunConfig.model_validate({"data_uri": run_uri.rsplit("/runs/", 1)[0], "training": training})
    started_at = datetime(2026, 11, 23, 2, tzinfo=UTC)
    return Run(run_uri=run_uri, started_at=started_at, trigger="scheduled", code_version="test", config=config)


def snapshot(**changes: Any) -> Snapshot:
    """A candidate with 420 new images, three of them quarantined."""
    facts: dict[str, Any] = {
        "manifest_uri": "file:///candidate.parquet",
        "fingerprint": SHA256,
        "number": None,
        "base_number": 1,
        "base_is_unfinished": False,
        "preprocessing_sha256": SHA256,
        "holdout_fingerprint": SHA256,
        "num_new": 420,
        "num_revised": 0,
        "num_withdrawn": 0,
        "counts": Counts(
            num_images=800, num_patients=400, num_quarantined=3, by_label={}, by_split={}, by_view={}, by_site={}
        ),
        "quarantined_now": {"not_an_image": 2, "too_large": 1},
        "waiting_batches": (),
        "notes": (),
    }
    return Snapshot.model_validate(facts | changes)


def report(number: int | None, *broken: str) -> ValidationReport:
    """A report on `snapshot()`: committed as `number`, or refused with these wanted sentences unmet."""
    expectations = tuple(
        ExpectationOutcome(
            name="x",
            passed=False,
            severity="row",
            seen="9",
            wanted=wanted,
            why="x",
            num_unexpected=9,
            image_ids=("P7",),
        )
        for wanted in broken
    )
    return ValidationReport(
        snapshot=snapshot(number=number),
        expectations=expectations,
        num_quarantined=0,
        bad_share=0.31 if broken else 0.0,
        data_docs_uri="file:///data-docs/index.html",
    )


def verdict(*, passed: bool = True, dry_run: bool = False) -> Verdict:
    """A verdict with a one-sentence summary."""
    summary = "Passed: better than the champion." if passed else "Rejected: recall 0.610 is not above 0.630 by 0.005."
    made = gates.decide(case(GOOD, CHAMPION), GateConfig(num_resamples=2000), look(), MADE_WITH)
    return made.model_copy(update={"passed": passed, "summary": summary, "dry_run": dry_run})


def registered() -> RegisteredModel:
    """Version 7."""
    return RegisteredModel(
        name="breast-tumour-classifier",
        version="7",
        aliases=("challenger",),
        mlflow_run_id="abc",
        model_uri="models:/breast-tumour-classifier/7",
        was_there_already=False,
    )

"""Cases for the gate, made of how many images with and without cancer each model calls cancer."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bc_tasks.records import Case, CasePart, Look, MadeWith

NUM_POSITIVES, NUM_NEGATIVES = 100, 200
HOLDOUT = "b" * 64
MADE_WITH = MadeWith(code_version="1", platform="here", python="3.11", numpy="2")


class Found(NamedTuple):
    """How many of the hundred images with cancer, and of the two hundred without, a model calls cancer."""

    true_positive: int
    false_positive: int


GOOD = Found(70, 40)  # recall 0.70, F1 0.667, specificity 0.80
CHAMPION = Found(60, 40)  # recall 0.60, F1 0.60, specificity 0.80


def part(found: Found, *, name: str = "challenger", **changes: Any) -> CasePart:
    """Return a model that calls the first images of each label cancer."""
    called = [number < found.true_positive for number in range(NUM_POSITIVES)]
    called += [number < found.false_positive for number in range(NUM_NEGATIVES)]
    model = part_of([0.9 if is_called else 0.1 for is_called in called], name=name)
    return model.model_copy(update=changes)


def part_of(probabilities: Sequence[float], *, name: str = "challenger") -> CasePart:
    """Return a model with these probabilities, and an operating point of one half."""
    return CasePart(
        name=name,
        weights_sha256="c" * 64,
        preprocessing_sha256="a" * 64,
        holdout_fingerprint=HOLDOUT,
        images_sha256="d" * 64,
        operating_point=0.5,
        probabilities=tuple(probabilities),
    )


def case(challenger: CasePart | Found, champion: CasePart | Found | None, **changes: Any) -> Case:
    """Return a case of three hundred patients with an image each."""
    theirs = part(champion, name="champion") if isinstance(champion, Found) else champion
    facts: dict[str, Any] = {
        "challenger_backbone": "resnet50",
        "challenger": part(challenger) if isinstance(challenger, Found) else challenger,
        "champion": theirs,
        "champion_version": "3" if theirs else None,
        "champion_problem": None,
        "first_champion": None,
        "other_versions": (),
        "labels": (1,) * NUM_POSITIVES + (0,) * NUM_NEGATIVES,
        "patients": tuple(range(NUM_POSITIVES + NUM_NEGATIVES)),
        "subgroups": {},
        "seed": 17,
    }
    return Case(**(facts | changes))


def look(number: int = 1, *, error: float = 0.05 / 90, **changes: Any) -> Look:
    """Return a look at the holdout, the others before it having spent as much."""
    facts: dict[str, Any] = {
        "number": number,
        "holdout_fingerprint": HOLDOUT,
        "run_uri": "s3://images/runs/a",
        "looked_at": datetime(2026, 11, 23, 3, 0, tzinfo=UTC),
        "challenger_sha256": "c" * 64,
        "champion_sha256": "c" * 64,
        "champion_version": "3",
        "error": error,
        "spent": number * error,
        "total_error": 0.05,
        "expected_looks": 90,
    }
    return Look(**(facts | changes))

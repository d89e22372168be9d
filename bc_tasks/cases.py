"""Makes the gate's case out of an evaluation: sorted, numbered, and without ids of patients or images."""

import hashlib

from bc_tasks.gate_config import Subgroup
from bc_tasks.records import Case, CasePart, Evaluation, ModelScores, ScoredImage


def build(
    evaluation: Evaluation, first_champion: ModelScores | None, *, subgroups: tuple[Subgroup, ...], seed: int
) -> Case:
    """Return what the gate decides on; `first_champion` is the first that this holdout measured, if any did."""
    images = _sorted(evaluation.challenger)
    patients = {patient: number for number, patient in enumerate(sorted({image.patient_id for image in images}))}
    wanted = images_sha256(evaluation.challenger)
    champion = part(evaluation.champion, wanted) if evaluation.champion else None
    return Case(
        challenger_backbone=evaluation.challenger_backbone,
        challenger=part(evaluation.challenger, wanted),
        champion=champion,
        champion_version=evaluation.champion_version,
        champion_problem=evaluation.champion_problem,
        first_champion=yardstick(first_champion, champion, wanted),
        other_versions=evaluation.other_versions,
        labels=tuple(image.label for image in images),
        patients=tuple(patients[image.patient_id] for image in images),
        subgroups={column: tuple(getattr(image, column) for image in images) for column in subgroups},
        seed=seed,
    )


def yardstick(first: ModelScores | None, champion: CasePart | None, wanted_sha256: str) -> CasePart | None:
    """Return the first champion to compare with; none without a champion, or where that is the first one."""
    if first is None or champion is None or first.weights_sha256 == champion.weights_sha256:
        return None
    return part(first, wanted_sha256)


def images_sha256(model: ModelScores) -> str:
    """Return the digest of which images, with which labels, a model was measured on."""
    lines = (f"{image.image_id}\t{image.label}\n" for image in _sorted(model))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sorted(model: ModelScores) -> list[ScoredImage]:
    return sorted(model.scores, key=lambda image: image.image_id)


def part(model: ModelScores, wanted_sha256: str) -> CasePart:
    """Return one model of a case; with its scores where its images and labels are the wanted ones."""
    digest = images_sha256(model)
    return CasePart(
        name=model.name,
        weights_sha256=model.weights_sha256,
        preprocessing_sha256=model.spec.preprocessing_sha256,
        holdout_fingerprint=model.holdout_fingerprint,
        images_sha256=digest,
        operating_point=model.spec.operating_point,
        probabilities=tuple(image.probability for image in _sorted(model)) if digest == wanted_sha256 else (),
    )

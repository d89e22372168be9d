"""From images to breasts and to patients: each shows cancer where any of its images does, and scores as its highest.

So a breast, or a patient, is called cancer at a model's operating point where any of its images is.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bc_tasks.records import ScoredImage


@dataclass(frozen=True)
class Groups:
    """The G groups of a model's scored images, in the order of their first image.

    `labels` (G,) in {0, 1} and `probabilities` (G,) are the highest of their images; `num_left_out` counts images
    that are in no group.
    """

    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    patient_ids: npt.NDArray[np.str_]
    num_left_out: int

    def __len__(self) -> int:
        return len(self.labels)


def by_image(scores: Sequence[ScoredImage]) -> Groups:
    """Let each image stand for itself."""
    return _group(scores, lambda score: score.image_id)


def by_breast(scores: Sequence[ScoredImage]) -> Groups:
    """Group images by patient and laterality; where the laterality isn't known, the image is left out."""
    return _group(scores, lambda score: (score.patient_id, score.laterality) if score.laterality else None)


def by_patient(scores: Sequence[ScoredImage]) -> Groups:
    """Group images by patient."""
    return _group(scores, lambda score: score.patient_id)


def _group(scores: Sequence[ScoredImage], key_of: Callable[[ScoredImage], Hashable | None]) -> Groups:
    groups: dict[Hashable, list[ScoredImage]] = {}
    for score in scores:
        key = key_of(score)
        if key is not None:
            groups.setdefault(key, []).append(score)
    members = list(groups.values())
    return Groups(
        labels=np.array([max(score.label for score in group) for group in members], dtype=np.int64),
        # NumPy's maximum, because of a NaN it makes a NaN wherever it stands.
        probabilities=np.array([np.max([score.probability for score in group]) for group in members], dtype=np.float64),
        patient_ids=np.array([group[0].patient_id for group in members], dtype=str),
        num_left_out=len(scores) - sum(map(len, members)),
    )

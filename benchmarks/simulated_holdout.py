"""Made-up holdouts and models whose true recall and F1 are known: what the gate's simulations are made of.

Scores are binormal: an image's score is the distance of its label's mean, plus what its patient adds, plus its own
noise; a part of both is common to all models, which look at the same images, and the rest is each model's own.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
NORMAL = NormalDist()

POSITIVE_SHARE = 0.3
MEAN_IMAGES = 4.5  # of a patient: 1 to 8, each as likely
CANCER_PATIENTS = 0.4  # of which three images in four show it
COMMON = 0.8  # correlation of two models' scores of an image
OF_PATIENT = 0.4  # correlation of the scores of two images of one patient with the same label
FIRST_RECALL = 0.75
THRESHOLD = 0.8  # of a specificity of 0.79


@dataclass(frozen=True)
class Holdout:
    """The labels and patients (N,) of a holdout; patients are in order, 0 to P - 1."""

    labels: Ints
    patients: Ints

    @property
    def num_patients(self) -> int:
        """Return P."""
        return int(self.patients[-1]) + 1


@dataclass(frozen=True)
class Truth:
    """What a model's recall, F1 and specificity are on all the patients in the world."""

    recall: float
    f1: float
    specificity: float


def make_holdout(num_positive: int, generator: np.random.Generator) -> Holdout:
    """Make a holdout with about so many images of cancer."""
    num_patients = round(num_positive / POSITIVE_SHARE / MEAN_IMAGES)
    patients = np.repeat(np.arange(num_patients), generator.integers(1, 9, num_patients))
    has_cancer = generator.random(num_patients) < CANCER_PATIENTS
    shown = generator.random(len(patients)) < POSITIVE_SHARE / CANCER_PATIENTS
    return Holdout((has_cancer[patients] & shown).astype(np.int64), patients)


def make_noise(num_rows: int, holdout: Holdout, generator: np.random.Generator) -> Floats:
    """Return what patients and images add to scores (R, N), of variance 1; all models share `COMMON` of it."""
    of_patients = generator.standard_normal((num_rows, holdout.num_patients))[:, holdout.patients]
    of_images = generator.standard_normal((num_rows, len(holdout.patients)))
    return OF_PATIENT**0.5 * of_patients + (1 - OF_PATIENT) ** 0.5 * of_images


def distance_for(recall: float) -> float:
    """Return how far a model must set cancer apart to have this recall at the threshold."""
    return THRESHOLD + NORMAL.inv_cdf(recall)


def truth(distance: float, threshold: float) -> Truth:
    """Return the true values of a model with this distance, at this threshold."""
    recall, specificity = NORMAL.cdf(distance - threshold), NORMAL.cdf(threshold)
    found, false_alarms = POSITIVE_SHARE * recall, (1 - POSITIVE_SHARE) * (1 - specificity)
    return Truth(recall, 2 * found / (found + false_alarms + POSITIVE_SHARE), specificity)


def sum_by_patient(holdout: Holdout, called: Bools) -> Floats:
    """Return for M models' calls (M, N) the true and the false positives of each patient (2, M, P)."""
    cancer = holdout.labels == 1
    return _per_patient(holdout, np.stack([called & cancer, called & ~cancer]))


def count_by_patient(holdout: Holdout) -> Floats:
    """Return the images with cancer and without of each patient (2, P)."""
    cancer = holdout.labels == 1
    return _per_patient(holdout, np.stack([cancer, ~cancer]))


def _per_patient(holdout: Holdout, values: Bools) -> Floats:
    starts = np.flatnonzero(np.diff(holdout.patients, prepend=-1))
    return np.add.reduceat(values, starts, axis=-1, dtype=np.int32).astype(np.float64)

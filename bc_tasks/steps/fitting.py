"""Fits, on tuning alone, what makes calls of a network's probabilities: the temperature and the operating point."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bc_tasks import calibration, metrics, operating_point
from bc_tasks.errors import DataError, TrainingDiverged
from bc_tasks.holdout import Holdout
from bc_tasks.mammogram import Split
from bc_tasks.records import Calibration, ModelSpec
from bc_tasks.steps.fine_tuning import Job
from bc_tasks.storage import Storage
from bc_tasks.training import memory, scoring
from bc_tasks.training.data import LabelledImages, fetch_split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A specification with its temperature and operating point, and what they reach on tuning."""

    spec: ModelSpec
    calibration: Calibration
    reached: str
    tuning_metrics: dict[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """What MLflow shows of it."""
        figures = {
            **self.tuning_metrics,
            "temperature": self.calibration.temperature,
            "log_loss_before_calibration": self.calibration.log_loss_before,
            "log_loss": self.calibration.log_loss_after,
            "calibration_error_before_calibration": self.calibration.error_before,
            "calibration_error": self.calibration.error_after,
        }
        return {f"best_tuning_{name}": value for name, value in figures.items()}


def fit(job: Job, weights: Path, rows: pd.DataFrame, fixed: Holdout, storage: Storage) -> Fitted:
    """Score the tuning images among a manifest's rows with the weights as they were written, and fit on that.

    The pixels are those of the very rows that were looked through for the holdout's, and are compared with
    their digests again; evaluation scores in the same way.

    Raises:
        DataError: a tuning image is of the holdout; nothing was scored.
        TrainingDiverged: a probability is no finite number.
    """
    chosen = rows[rows["split"] == Split.TUNING.value]
    _refuse_holdout(chosen, fixed)
    tuning = fetch_split(storage, job.config.data_uri, chosen, Split.TUNING, job.cache)
    scores = _score(job, weights, tuning)
    if not np.isfinite(scores).all():
        raise TrainingDiverged(
            f"the trained weights give {(~np.isfinite(scores)).sum()} of {len(scores)} tuning images no finite "
            "probability; lower training.learning_rate"
        )
    policy = job.config.operating_point
    scale = (calibration.fit if policy.calibrate else calibration.none)(tuning.labels, scores)
    calibrated = calibration.apply(scores, scale.temperature)
    found = operating_point.fit(tuning.labels, calibrated, policy)
    if not found.is_met:
        logger.warning("operating point: %s", found.sentence)
    spec = job.spec.model_copy(update={"temperature": scale.temperature, "operating_point": found.point})
    return Fitted(spec, scale, found.sentence, metrics.summarise(tuning.labels, calibrated, found.point))


def _refuse_holdout(tuning: pd.DataFrame, fixed: Holdout) -> None:
    """Refuse what a model is measured on, once more and where it would count: the point would be fitted to it."""
    leaks = tuning[fixed.holds(tuning)]
    if len(leaks):
        raise DataError(
            f"{len(leaks)} of {len(tuning)} tuning images are of the holdout, e.g. {list(leaks['image_id'].head(10))}; "
            "no operating point was fitted. The snapshot was changed after validation, or the holdout before it"
        )


def _score(job: Job, weights: Path, tuning: LabelledImages) -> scoring.Probabilities:
    batch_size = job.config.evaluation.batch_size
    with memory.explained(
        scoring.best_device(),
        batch_size=batch_size,
        image_size_px=job.spec.image_size_px,
        lower="evaluation.batch_size",
    ):
        return scoring.score(scoring.load_model(job.spec, weights), job.spec, tuning.images, batch_size=batch_size)

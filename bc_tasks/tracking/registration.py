"""Makes a version in MLflow's registry from the records of a night; a part of `tracking.py`.

Model, evidence, version: each is looked for by what it carries before it is made, and the version, with all its
tags, is made last by one request. So after a crash anywhere in between, trying again ends in one version.
"""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
)
from mlflow.models import Model

from bc_tasks.config import RegistryConfig
from bc_tasks.errors import DataError
from bc_tasks.records import Evaluation, Snapshot
from bc_tasks.tracking.client import BACKBONE, RUN_URI, WEIGHTS_SHA256, if_missing, sent_once
from bc_tasks.tracking.model_card import Night, describe_model, describe_version
from bc_tasks.tracking.package import write_package


def find(client: Any, model_name: str, night: Night) -> str | None:
    """Return the version that was made of this night before, if any.

    Raises:
        DataError: it has other weights.
    """
    run_uri, weights_sha256 = night.run.run_uri, night.trained.weights_sha256
    found = client.search_model_versions(f"name = '{model_name}' and tags.`{RUN_URI}` = '{run_uri}'")
    for version in found:
        if version.tags.get(WEIGHTS_SHA256) != weights_sha256:
            raise DataError(
                f"{run_uri} was registered as version {version.version}, with other weights than it has now; "
                "a run has one version: train anew in a new run"
            )
    return str(found[0].version) if found else None


def create(client: Any, config: RegistryConfig, experiment_id: str, night: Night, weights: Path) -> str:
    """Upload the model with its evidence and make a version of it; return its number."""
    with if_missing():
        client.create_registered_model(config.model_name, description=describe_model(config))
    model_id = _log_model(client, experiment_id, night, weights)
    _log_evidence(client, model_id, night)
    with sent_once():
        made = client.create_model_version(
            config.model_name,
            f"models:/{model_id}",
            run_id=night.trained.mlflow_run_id,
            tags=_tags(night),
            description=describe_version(night),
            model_id=model_id,
            await_creation_for=0,
        )
    # By this tag MLflow shows the version on the page of the run.
    shown = [{"name": config.model_name, "version": made.version}]
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(shown)})
    return str(made.version)


def _tags(night: Night) -> dict[str, str]:
    return {
        RUN_URI: night.run.run_uri,
        BACKBONE: night.trained.spec.backbone,
        WEIGHTS_SHA256: night.trained.weights_sha256,
        "bc.code_version": night.run.code_version,
        "bc.holdout_fingerprint": night.evaluation.challenger.holdout_fingerprint,
        "bc.operating_point": str(night.trained.spec.operating_point),
        "bc.snapshot_fingerprint": night.snapshot.fingerprint,
        "bc.snapshot_number": str(night.snapshot.number),
        "bc.verdict_kind": night.verdict.kind,
        "bc.verdict_passed": str(night.verdict.passed).lower(),
        "bc.evidence_grade": night.verdict.grade or "none",
        **({"bc.overridden_by": night.override.by} if night.override else {}),
    }


def _log_model(client: Any, experiment_id: str, night: Night, weights: Path) -> str:
    tags = {RUN_URI: night.run.run_uri, WEIGHTS_SHA256: night.trained.weights_sha256}
    logged = _find_logged(client, experiment_id, tags) or _create_logged(client, experiment_id, night, tags)
    if logged.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "model"
            write_package(package, night.trained, weights, Model(model_id=logged.model_id, run_id=logged.source_run_id))
            client.log_model_artifacts(logged.model_id, str(package))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _find_logged(client: Any, experiment_id: str, tags: Mapping[str, str]) -> Any:
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    return next(iter(client.search_logged_models([experiment_id], wanted, max_results=1)), None)


def _create_logged(client: Any, experiment_id: str, night: Night, tags: Mapping[str, str]) -> Any:
    mlflow_run_id = night.trained.mlflow_run_id
    params = client.get_run(mlflow_run_id).data.params
    with sent_once():
        return client.create_logged_model(
            experiment_id, name=night.trained.spec.backbone, source_run_id=mlflow_run_id, tags=dict(tags), params=params
        )


def _log_evidence(client: Any, model_id: str, night: Night) -> None:
    """Put beside the model, and in its run, what the gate saw and decided, and the data that it learned from."""
    mlflow_run_id = night.trained.mlflow_run_id
    at = int(night.run.started_at.timestamp() * 1000)  # the same when it is tried again: MLflow then keeps one
    client.log_batch(
        mlflow_run_id,
        metrics=[
            Metric(name, value, at, 0, model_id=model_id, run_id=mlflow_run_id)
            for name, value in _metrics(night.evaluation).items()
        ],
    )
    for record in filter(None, (night.verdict, night.override)):
        client.log_text(mlflow_run_id, record.model_dump_json(indent=1), record.file_name)
    client.log_inputs(mlflow_run_id, [_dataset(night.snapshot)])
    outputs = client.get_run(mlflow_run_id).outputs.model_outputs
    if model_id not in {output.model_id for output in outputs}:
        with sent_once():
            client.log_outputs(mlflow_run_id, [LoggedModelOutput(model_id, step=0)])


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    return {name: value for name, value in evaluation.challenger.figures.items() if math.isfinite(value)}


def _dataset(snapshot: Snapshot) -> DatasetInput:
    source = json.dumps({"uri": snapshot.manifest_uri})
    dataset = Dataset(
        name=f"snapshot {snapshot.number}",
        digest=snapshot.fingerprint[:36],  # MLflow's limit
        source_type=snapshot.manifest_uri.split(":", 1)[0],
        source=source,
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])

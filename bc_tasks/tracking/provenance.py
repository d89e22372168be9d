"""Reads all that MLflow says and keeps of a version, to be compared with the records; a part of `tracking.py`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any

import mlflow.artifacts

from bc_tasks.errors import ObjectNotFound
from bc_tasks.tracking import version as model_version
from bc_tasks.tracking.package import SPEC_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class Entry:
    """A version as MLflow has it; what is gone there is None."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created_at: datetime
    model_uri: str
    mlflow_run_id: str
    tags: Mapping[str, str]
    weights_sha256: str | None
    spec: bytes | None
    verdict: bytes | None
    metrics: Mapping[str, float]
    dataset_digests: tuple[str, ...]


def read(client: Any, model_name: str, version: str, verdict_name: str) -> Entry:
    """Read a version, the digest of its weights, its run's figures and data sets, and the verdict kept there."""
    found, model_uri = client.get_model_version(model_name, version), model_version.uri(model_name, version)
    run = client.get_run(found.run_id)
    with tempfile.TemporaryDirectory() as folder:
        weights = _download(model_uri, WEIGHTS_FILE, Path(folder))
        spec = _download(model_uri, SPEC_FILE, Path(folder))
        return Entry(
            name=found.name,
            version=str(found.version),
            aliases=tuple(sorted(found.aliases)),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            model_uri=model_uri,
            mlflow_run_id=found.run_id,
            tags=dict(found.tags),
            weights_sha256=_digest(weights) if weights else None,
            spec=spec.read_bytes() if spec else None,
            verdict=_run_artifact(client, found.run_id, verdict_name, Path(folder)),
            metrics=dict(run.data.metrics),
            dataset_digests=tuple(one.dataset.digest for one in run.inputs.dataset_inputs),
        )


def _download(model_uri: str, file_name: str, folder: Path) -> Path | None:
    try:
        return model_version.download_artifact(model_uri, file_name, folder)
    except ObjectNotFound:
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _run_artifact(client: Any, mlflow_run_id: str, name: str, folder: Path) -> bytes | None:
    if name not in {item.path for item in client.list_artifacts(mlflow_run_id)}:
        return None
    uri = f"runs:/{mlflow_run_id}/{name}"
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))).read_bytes()

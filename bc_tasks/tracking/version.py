"""Reads a version in MLflow's registry, and the files that training can go on with; a part of `tracking.py`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import mlflow.artifacts
from pydantic import ValidationError

from bc_tasks.errors import DataError, ObjectNotFound
from bc_tasks.records import ModelSpec
from bc_tasks.tracking.client import WEIGHTS_SHA256
from bc_tasks.tracking.package import SPEC_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, with what is needed to score it again."""

    version: str
    model_uri: str
    mlflow_run_id: str
    tags: Mapping[str, str]
    spec: ModelSpec
    weights_sha256: str


def uri(model_name: str, version: str) -> str:
    """Return the URI by which MLflow loads a version."""
    return f"models:/{model_name}/{version}"


def read(client: Any, model_name: str, version: str) -> RegisteredVersion:
    """Read a version's tags and its specification.

    Raises:
        DataError: it is none of ours, or its specification is none.
        ObjectNotFound: its specification is gone.
    """
    found, model_uri = client.get_model_version(model_name, version), uri(model_name, version)
    if WEIGHTS_SHA256 not in found.tags:
        raise DataError(f"{model_uri} has no tag {WEIGHTS_SHA256}: it was not registered by this system")
    with tempfile.TemporaryDirectory() as folder:
        spec = download_artifact(model_uri, SPEC_FILE, Path(folder)).read_bytes()
    try:
        return RegisteredVersion(
            version=version,
            model_uri=model_uri,
            mlflow_run_id=found.run_id,
            tags=dict(found.tags),
            spec=ModelSpec.model_validate_json(spec),
            weights_sha256=found.tags[WEIGHTS_SHA256],
        )
    except ValidationError as error:
        raise DataError(f"the {SPEC_FILE} of {model_uri} is no model specification: {error}") from error


def download_weights(version: RegisteredVersion, folder: Path) -> Path:
    """Download a version's weights, and check their digest.

    Raises:
        DataError: they are not those that were registered.
        ObjectNotFound: they are gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = download_artifact(version.model_uri, WEIGHTS_FILE, folder)
    with path.open("rb") as file:
        seen = file_digest(file, "sha256").hexdigest()
    if seen != version.weights_sha256:
        path.unlink()
        raise DataError(
            f"the weights of {version.model_uri} were changed after it was registered: their digest is {seen[:12]}, "
            f"the version's tag says {version.weights_sha256[:12]}; promote another version"
        )
    return path


def download_artifact(model_uri: str, file_name: str, folder: Path) -> Path:
    """Download a file that lies beside a version's weights into `folder`.

    Raises:
        ObjectNotFound: it is gone.
    """
    # Listed first, because MLflow's download reports a missing file as the server's error, which a retry might mend.
    listed = mlflow.artifacts.list_artifacts(artifact_uri=f"{model_uri}/artifacts")
    if f"artifacts/{file_name}" not in {item.path for item in listed}:
        raise ObjectNotFound(f"{model_uri} has no artifacts/{file_name} any more; promote another version")
    return Path(
        mlflow.artifacts.download_artifacts(artifact_uri=f"{model_uri}/artifacts/{file_name}", dst_path=str(folder))
    )

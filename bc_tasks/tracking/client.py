"""How an MLflow server is spoken to: its address, the time a call may take, and what its errors mean to us."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow import environment_variables as settings
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client

from bc_tasks.errors import BcError, ConfigError, InfrastructureError, ObjectNotFound

RUN_URI, BACKBONE, WEIGHTS_SHA256 = "bc.run_uri", "bc.backbone", "bc.weights_sha256"
"""Tags by which a run, a model and a version are found again."""

MAX_RETRIES = 10  # MLflow refuses more


def address() -> str:
    """Return the server's address, from MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: it is not set, is no server's address, or holds credentials.
    """
    uri = (settings.MLFLOW_TRACKING_URI.get() or "").rstrip("/")
    parts = urlsplit(uri)
    if parts.username or parts.password:
        raise ConfigError(
            "MLFLOW_TRACKING_URI holds credentials, which MLflow would write into its errors: take them out, and "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI is {repr(uri) if uri else 'not set'}: "
            "it must be the address of an MLflow server, such as http://mlflow.example:5000"
        )
    return uri


def connect(uri: str, timeout_seconds: int) -> MlflowClient:
    """Make a client whose every request ends in a bounded time, in this process and those it starts."""
    settings.MLFLOW_HTTP_REQUEST_TIMEOUT.set(timeout_seconds)
    # The pauses between tries are 0, 2, 4, 8 ... seconds: together they stay below the time-out.
    settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.set(1)
    settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(min(int(math.log2(timeout_seconds + 2)), MAX_RETRIES))
    settings.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.set(False)
    # A step's log says what the step has to say; MLflow's progress bars, links and reports of success add nothing.
    settings.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    settings.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # minds that an environment of uv has no pip
    # Requirements come from the trainer's record, not from a lock file in whatever folder this runs in.
    settings.MLFLOW_UV_AUTO_DETECT.set(False)
    # A hospital's night tells nobody outside that it ran; MLflow makes this client when it is imported.
    settings.MLFLOW_DISABLE_TELEMETRY.set(True)
    set_telemetry_client()
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def asking(purpose: str, uri: str) -> Iterator[None]:
    """Turn what a call to the server raises into our own errors; `purpose` completes "could not ..."."""
    try:
        yield
    except MlflowException as error:
        raise _translated(error.get_http_status_code(), purpose, uri, error) from error
    except requests.HTTPError as error:
        raise _translated(error.response.status_code, purpose, uri, error) from error
    except requests.RequestException as error:
        raise InfrastructureError(f"could not {purpose}: the connection to {uri} broke: {error}") from error


def _translated(status: int, purpose: str, uri: str, error: Exception) -> BcError:
    seen = f"could not {purpose} at {uri}: {str(error)[:500]}"
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        return ConfigError(
            f"{seen}; check MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, what that user may do, "
            "and whether the server's --allowed-hosts names this address"
        )
    if getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND":
        return ConfigError(f"{seen}; check MLFLOW_TRACKING_URI: no MLflow server of this version answers there")
    if status == requests.codes.not_found:
        return ObjectNotFound(seen)
    if status >= requests.codes.server_error or status == requests.codes.too_many_requests:
        return InfrastructureError(f"{seen}; check that MLflow and its database are up, then try the step again")
    return BcError(seen)


@contextmanager
def sent_once() -> Iterator[None]:
    """Send what makes something new once only.

    MLflow would send it again when nothing but its answer was lost, and there would be two. The step's own
    retry looks first whether the thing is there.
    """
    retries = settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
    settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
    try:
        yield
    finally:
        settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(retries)


@contextmanager
def if_missing() -> Iterator[None]:
    """Make a thing of which there can be one only: if somebody else was first, all is well."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

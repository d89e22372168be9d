"""What Kubernetes objects are here: plain JSON, as it goes over the wire; and the times in it."""

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def now() -> datetime:
    """Return the time of day, with its zone."""
    return datetime.now(tz=UTC)


def timestamp(time: datetime) -> str:
    """Return a time as most fields have it: whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def log_timestamp(time: datetime) -> str:
    """Return a time as logs have it: nanoseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def containers_of(pod: Json) -> list[Json]:
    """Return the containers that a pod asks for."""
    containers: list[Json] = pod["spec"]["containers"]
    return containers


def is_over(pod: Json) -> bool:
    """Say whether a pod has come to its end and holds no capacity any more."""
    return pod["status"]["phase"] in ("Succeeded", "Failed")

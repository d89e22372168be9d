"""Waits for a pod in Airflow's triggerer, as the provider's own trigger does, but loses no line of its log."""

from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager, parse_log_line


class PodStepTrigger(KubernetesPodTrigger):
    """KubernetesPodTrigger with another reader of logs."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return this class's path, and its arguments."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        """What reads the pod's log."""
        return WholeLogs(async_hook=self.hook)


def earlier(since_time: datetime | None) -> datetime | None:
    """Return what to ask the API for: it rounds, and counts back from when the request has reached it."""
    return since_time and since_time - timedelta(seconds=1)


class WholeLogs(AsyncPodManager):
    """Reads a log bit by bit, each line once.

    A bit ends with the last full second, because the API can only be asked for whole seconds. Provider 10.25.0 means to
    do so too, but goes on from the very moment of its reading, so what was written in that second before it is lost.
    """

    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: Any = None
    ) -> Any:
        """Log what was written since `since_time`, up to the last full second; return where to go on."""
        self._since_time = since_time
        read_at = await super().fetch_container_logs_before_current_sec(pod, container_name, earlier(since_time))
        return read_at.replace(microsecond=0)

    def _emit_container_logs(self, logs: list[str], now: Any, container_name: str) -> None:
        """Leave out what was logged already."""
        new = [line for line in logs if self._is_new(line)]
        super()._emit_container_logs(new, now, container_name)

    def _is_new(self, line: str) -> bool:
        written_at, _ = parse_log_line(line)
        return written_at is None or self._since_time is None or bool(written_at >= self._since_time)

"""Waits for a pod in Airflow's triggerer, as the provider's own trigger does, but for three things.

It loses no line of the pod's log, it doesn't wait for a pod whose node is dead, nor for one that can't be started.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import (
    AsyncPodManager,
    PodLaunchTimeoutException,
    parse_log_line,
)

from bc_tasks.orchestration.pod_failures import CONFIG_REASONS

KUBELET = timedelta(seconds=30)
"""What a node may need beyond a pod's grace period to report that the pod is gone."""
PATIENCE = timedelta(seconds=60)
"""How long a secret or config map that a pod names may be missing: whoever makes them may just be at it."""
CLOCKS = timedelta(seconds=60)
"""How far the clocks of nodes may be apart; also, the API rounds to seconds what it is asked for."""


def is_lost(pod: Any, now: datetime) -> bool:
    """Say whether a pod should have been gone by now: its node does not answer, or nobody would wait for it.

    The API server sets `deletionTimestamp` when the grace period will have passed.
    """
    deleted_at = pod.metadata.deletion_timestamp
    return deleted_at is not None and bool(now > deleted_at + KUBELET)


def since_seconds(since: datetime, now: datetime) -> int:
    """Return what to ask the API for, which counts back by its own clock; what comes too early is left out later."""
    return round((now - since + CLOCKS).total_seconds())


def is_new(line: str, since: datetime | None) -> bool:
    """Say whether a line that begins with its time was written after `since`, by the same clock."""
    written_at, _ = parse_log_line(line)
    return written_at is None or since is None or bool(written_at > since)


class PodStepTrigger(KubernetesPodTrigger):
    """KubernetesPodTrigger with another reader of logs, and less patience."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return this class's path, and its arguments."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        """What reads the pod and its log."""
        return StepPodManager(async_hook=self.hook)

    async def _get_pod(self) -> Any:
        pod = await super()._get_pod()
        _refuse_to_wait(pod)
        return pod


class StepPodManager(AsyncPodManager):
    """Reads a pod's log bit by bit, each line once, by the times that stand in it.

    Provider 10.25.0 goes by the triggerer's clock in whole seconds, and loses what is written in the second in which it
    reads.
    """

    async def read_pod(self, pod: Any) -> Any:
        """Return the pod as it is now, if it is worth waiting for."""
        seen = await super().read_pod(pod)
        _refuse_to_wait(seen)
        return seen

    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: datetime | None = None
    ) -> datetime | None:
        """Log what was written after `since_time`, when the last line so far was; return when the last one now was."""
        self._last_time = since_time
        await super().fetch_container_logs_before_current_sec(pod, container_name, since_time and since_time - CLOCKS)
        return self._last_time

    def _emit_container_logs(self, logs: list[str], now: Any, container_name: str) -> None:
        new = [line for line in logs if is_new(line, self._last_time)]
        # The provider leaves out lines of the second `now`, so that they don't come twice; with us they don't.
        super()._emit_container_logs(new, now.replace(year=1), container_name)
        self._last_time = max(_times(new), default=self._last_time)


def _times(lines: list[str]) -> Iterator[datetime]:
    return (time for time, _ in map(parse_log_line, lines) if time is not None)


def _refuse_to_wait(pod: Any) -> None:
    """Raise what the provider takes for a time-out: it ends the wait, and asks nothing more of the pod."""
    now = datetime.now(UTC)
    if is_lost(pod, now):
        raise PodLaunchTimeoutException(f"node {pod.spec.node_name} does not say what became of the pod")
    waiting = [container.state.waiting for container in pod.status.container_statuses or []]
    reasons = {state.reason for state in waiting if state is not None} & CONFIG_REASONS
    scheduled = [item.last_transition_time for item in pod.status.conditions or [] if item.type == "PodScheduled"]
    if reasons and scheduled and now > scheduled[0] + PATIENCE:
        raise PodLaunchTimeoutException(f"the pod can't be started: {', '.join(sorted(reasons))}")

"""One pod's life on its node: images, start, run, and an end of its own or from outside."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TypeVar

from kubernetes.utils.quantity import parse_quantity

from fake_kubernetes.api_errors import ApiError, not_found
from fake_kubernetes.container import Command, Container
from fake_kubernetes.endings import Ending, deadline
from fake_kubernetes.events import EventRecorder, EventType
from fake_kubernetes.images import Image
from fake_kubernetes.objects import Json, containers_of, now, timestamp
from fake_kubernetes.pod_status import (
    ADDRESS,
    container_status,
    failed_to_start,
    phase_of,
    set_phase,
    state_of,
    waiting,
)
from fake_kubernetes.preparation import NotReady, Sources, make_volumes, missing_image, prepare
from fake_kubernetes.store import Store

Result = TypeVar("Result")

POLL_SECONDS = 0.05
EVENTS = {"ImagePullBackOff": "BackOff", "ContainerCreating": "FailedMount"}


class Ended(Exception):
    """The pod is being ended from outside, so whatever its life was doing is over."""


@dataclass(frozen=True)
class NodeSettings:
    """What every pod's life needs of its node; what is missing may come later."""

    store: Store
    events: EventRecorder
    images: dict[str, Image]
    sources: Sources
    may_start: threading.Event
    enforces_memory: bool
    backoff_seconds: float


class PodLife:
    """A pod that has a node. `run` is what its thread does; `end` and `kill` are for others."""

    def __init__(self, pod: Json, node: NodeSettings, folder: Path) -> None:
        self._pod, self._node, self._folder = pod, node, folder
        self.containers: dict[str, Container] = {}
        self._states = {container["name"]: waiting("ContainerCreating") for container in containers_of(pod)}
        self._ending: Ending | None = None
        self._kill_at = float("inf")
        self._deadline = time.monotonic() + pod["spec"].get("activeDeadlineSeconds", float("inf"))
        self._woken = threading.Event()

    def end(self, ending: Ending) -> None:
        """End the pod. A second ending can make it sooner, and remove what the first would keep."""
        if self._ending is None or ending.removes:
            self._ending = ending
        self._kill_at = min(self._kill_at, time.monotonic() + ending.grace_seconds)
        self._woken.set()

    def kill(self, *, out_of_memory: bool = False) -> None:
        """SIGKILL to every container."""
        for container in self.containers.values():
            container.kill(out_of_memory=out_of_memory)

    def run(self) -> None:
        """Live."""
        try:
            with suppress(ApiError):  # removed by force, so there is nothing left to report to
                self._live()
                self._conclude()
        finally:
            self.kill()

    def _live(self) -> None:
        try:
            self._update(lambda pod: pod["status"].update(startTime=timestamp(now()), podIP=ADDRESS, hostIP=ADDRESS))
            self._retry(containers_of(self._pod)[0], lambda: make_volumes(self._pod, self._node.sources, self._folder))
            commands = [(specification, self._command(specification)) for specification in containers_of(self._pod)]
            while not self._node.may_start.is_set():
                self._pause(POLL_SECONDS)
            for specification, command in commands:
                self._start(specification, command)
            self._watch()
        except Ended:
            self._terminate()

    def _pause(self, seconds: float) -> None:
        """Wait. Raises: Ended: somebody ends the pod, or its own deadline does."""
        left = self._deadline - time.monotonic()
        if self._woken.wait(max(0.0, min(seconds, left))):
            raise Ended
        if left < seconds:
            self.end(deadline(self._pod["spec"]["terminationGracePeriodSeconds"]))
            raise Ended

    def _command(self, specification: Json) -> Command:
        """Return what to run for a container, when its image and all that it needs are there."""
        reasons = cycle(("ErrImagePull", "ImagePullBackOff"))
        name = specification["image"]

        def pull() -> Image:
            self._tell("Normal", "Pulling", f'Pulling image "{name}"')
            if name not in self._node.images:
                raise missing_image(specification, next(reasons))
            return self._node.images[name]

        image = self._retry(specification, pull)
        self._pause(image.pull_seconds)
        self._tell("Normal", "Pulled", f'Successfully pulled image "{name}"')
        sources = self._node.sources
        return self._retry(specification, lambda: prepare(self._pod, specification, image, sources, self._folder))

    def _retry(self, specification: Json, attempt: Callable[[], Result]) -> Result:
        """Try until nothing is missing any more; meanwhile the container's state says what is."""
        while True:
            try:
                return attempt()
            except NotReady as missing:
                self._states[specification["name"]] = waiting(missing.reason, missing.message)
                self._report()
                self._tell("Warning", EVENTS.get(missing.reason, "Failed"), missing.message)
                self._pause(self._node.backoff_seconds)

    def _start(self, specification: Json, command: Command) -> None:
        name = specification["name"]
        try:
            self.containers[name] = Container(command)
        except OSError as error:
            self._states[name] = failed_to_start(str(error))
            self._tell("Warning", "Failed", f"Error: {error}")
        else:
            self._tell("Normal", "Started", f"Started container {name}")

    def _watch(self) -> None:
        """Wait for the end of all containers."""
        self._report()
        while not all(container.ended.wait(0) for container in self.containers.values()):
            self._pause(POLL_SECONDS)
            self._report()
            if self._node.enforces_memory:
                self._enforce_memory()

    def _enforce_memory(self) -> None:
        for specification in containers_of(self._pod):
            limit = specification["resources"].get("limits", {}).get("memory")
            container = self.containers.get(specification["name"])
            if container and limit and container.resident_bytes > parse_quantity(limit):
                container.kill(out_of_memory=True)

    def _terminate(self) -> None:
        running = self.containers.values()
        for container in running:
            container.terminate()
        while time.monotonic() < self._kill_at and not all(container.ended.is_set() for container in running):
            time.sleep(POLL_SECONDS)
        self.kill()
        for container in running:
            container.ended.wait()

    def _conclude(self) -> None:
        """Report the end and remove what is to be removed, with nobody in between who would ask for that."""
        with self._node.store.lock:
            ending = self._ending
            self._report(ending)
            if ending and ending.removes:
                self._node.store.delete("pods", self._pod["metadata"]["namespace"], self._pod["metadata"]["name"])

    def _report(self, ending: Ending | None = None) -> None:
        """Write the state of every container, and what follows from them, into the pod's status."""
        for specification in containers_of(self._pod):
            if container := self.containers.get(specification["name"]):
                self._states[specification["name"]] = state_of(container, specification)

        def change(pod: Json) -> None:
            pod["status"]["containerStatuses"] = [self._status_of(item) for item in containers_of(pod)]
            set_phase(pod["status"], phase_of(self._states))
            if ending:
                ending.write_into(pod["status"])

        self._update(change)

    def _status_of(self, specification: Json) -> Json:
        container = self.containers.get(specification["name"])
        return container_status(specification, self._states[specification["name"]], container.id if container else "")

    def _update(self, change: Callable[[Json], None]) -> None:
        """Change the pod's object, and keep a copy; 404 where it is gone, or another has its name."""

        def change_ours(pod: Json) -> None:
            if pod["metadata"]["uid"] != self._pod["metadata"]["uid"]:
                raise not_found("pods", pod["metadata"]["name"])
            change(pod)

        metadata = self._pod["metadata"]
        self._pod = self._node.store.update("pods", metadata["namespace"], metadata["name"], change_ours)

    def _tell(self, kind: EventType, reason: str, message: str) -> None:
        self._node.events.tell(self._pod, kind, reason, message)

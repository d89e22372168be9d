"""Scheduler and kubelet: pods without a node get one when there is room, and a thread of its own lives each pod."""

import threading
from collections.abc import Iterable
from pathlib import Path

from fake_kubernetes.container import Container
from fake_kubernetes.endings import Ending
from fake_kubernetes.objects import Json, is_over
from fake_kubernetes.pod_life import NodeSettings, PodLife
from fake_kubernetes.pod_status import set_condition
from fake_kubernetes.scheduler import Node, Unschedulable, choose

POLL_SECONDS = 0.5


class Kubelet:
    """The machinery that runs pods; one kubelet is enough for all nodes, since all are this machine."""

    def __init__(self, settings: NodeSettings, nodes: Iterable[Node], folder: Path) -> None:
        self._settings, self._store, self._folder = settings, settings.store, folder
        self._nodes = {node.name: node for node in nodes}
        self._lives: dict[str, PodLife] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._scheduler = threading.Thread(target=self._schedule_for_ever, name="fake scheduler", daemon=True)
        self._scheduler.start()

    def add_node(self, node: Node) -> None:
        """Let there be a node more."""
        with self._store.lock:
            self._nodes[node.name] = node
            self._store.lock.notify_all()

    def remove_node(self, name: str) -> None:
        """Let a node be gone."""
        with self._store.lock:
            del self._nodes[name]

    def end(self, pod: Json, ending: Ending) -> None:
        """End a pod that has a node."""
        self._lives[pod["metadata"]["uid"]].end(ending)

    def kill(self, pod: Json, *, out_of_memory: bool) -> None:
        """SIGKILL to a pod's containers, as the kernel does it."""
        self._lives[pod["metadata"]["uid"]].kill(out_of_memory=out_of_memory)

    def container(self, pod: Json, name: str) -> Container | None:
        """Return a pod's container if it was ever started; also when the pod is gone."""
        life = self._lives.get(pod["metadata"]["uid"])
        return life.containers.get(name) if life else None

    def stop(self, ending: Ending) -> None:
        """End every pod and the scheduler, and wait for them."""
        self._stopped.set()
        self._store.close()
        self._scheduler.join()
        for life in self._lives.values():
            life.end(ending)
        for thread in self._threads:
            thread.join()

    def _schedule_for_ever(self) -> None:
        while not self._stopped.is_set():
            with self._store.lock:
                version = self._store.version
                self._schedule()
                if self._store.version == version:
                    self._store.wait(POLL_SECONDS)

    def _schedule(self) -> None:
        """Give nodes to the pods that wait, those of high priority first, then those that wait longest."""
        pods = [pod for pod in self._store.items("pods") if not is_over(pod)]
        placed = [pod for pod in pods if "nodeName" in pod["spec"]]
        pending = [pod for pod in pods if "nodeName" not in pod["spec"]]
        for pod in sorted(pending, key=lambda pod: -pod["spec"]["priority"]):
            match choose(pod, list(self._nodes.values()), placed):
                case Node() as node:
                    placed.append(self._bind(pod, node))
                case Unschedulable(message):
                    self._leave(pod, message)

    def _bind(self, pod: Json, node: Node) -> Json:
        def bind(pod: Json) -> None:
            pod["spec"]["nodeName"] = node.name
            set_condition(pod["status"], "PodScheduled", is_true=True)

        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        bound = self._store.update("pods", namespace, name, bind)
        self._settings.events.tell(
            bound, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {node.name}"
        )
        self._live(bound)
        return bound

    def _leave(self, pod: Json, message: str) -> None:
        def refuse(pod: Json) -> None:
            set_condition(pod["status"], "PodScheduled", is_true=False, reason="Unschedulable", message=message)

        metadata = pod["metadata"]
        before = pod["metadata"]["resourceVersion"]
        after = self._store.update("pods", metadata["namespace"], metadata["name"], refuse)
        if after["metadata"]["resourceVersion"] != before:
            self._settings.events.tell(pod, "Warning", "FailedScheduling", message)

    def _live(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        folder = self._folder / uid
        folder.mkdir(parents=True)
        self._lives[uid] = PodLife(pod, self._settings, folder)
        name = f"fake pod {pod['metadata']['name']}"
        self._threads.append(threading.Thread(target=self._lives[uid].run, name=name, daemon=True))
        self._threads[-1].start()

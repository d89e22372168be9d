"""The fake as tests hold it."""

import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from fake_kubernetes.admission import ROLE, Rules
from fake_kubernetes.api import Access, Api
from fake_kubernetes.endings import eviction, node_lost, shutdown
from fake_kubernetes.events import EventRecorder
from fake_kubernetes.images import Image
from fake_kubernetes.kubelet import Kubelet
from fake_kubernetes.objects import Json, containers_of, is_over, now, timestamp
from fake_kubernetes.pod_life import NodeSettings
from fake_kubernetes.preparation import Sources
from fake_kubernetes.scheduler import Node
from fake_kubernetes.selection import matches_labels
from fake_kubernetes.server import ApiServer
from fake_kubernetes.store import Store

Result = TypeVar("Result")

NAMESPACE = "breast-tumour-training"
POLL_SECONDS = 0.05


class FakeKubernetes:
    """A cluster that runs while its `with` block does; nothing of it is left afterwards."""

    def __init__(
        self,
        *,
        nodes: Sequence[Node] = (Node(),),
        images: Mapping[str, Image] | None = None,
        namespaces: Sequence[str] = (NAMESPACE,),
        allowed: Collection[tuple[str, str]] = ROLE,
        rules: Rules | None = None,
        enforces_memory: bool = False,
        backoff_seconds: float = 0.3,
    ) -> None:
        self.token = secrets.token_hex(16)
        self._namespace = namespaces[0]
        self._folder = Path(tempfile.mkdtemp(prefix="fake-kubernetes-"))
        self._store, self._sources, self._images = Store(), Sources(), dict(images or {})
        self._may_start = threading.Event()
        self._may_start.set()
        for name in namespaces:
            self._store.create("namespaces", _namespace(name))
        settings = NodeSettings(
            self._store,
            EventRecorder(self._store),
            self._images,
            self._sources,
            self._may_start,
            enforces_memory,
            backoff_seconds,
        )
        self._kubelet = Kubelet(settings, nodes, self._folder)
        self._api = Api(self._store, self._kubelet, rules or Rules(), allowed)
        self._server = ApiServer(self._api, self.token)

    def __enter__(self) -> "FakeKubernetes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process and thread, and remove every file."""
        self._kubelet.stop(shutdown())
        self._server.stop()
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._server.url

    def kubeconfig(self, path: Path, *, token: str | None = None) -> Path:
        """Write a kubeconfig for clients, with the right token or another one."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "airflow", "user": {"token": token or self.token}}],
            "contexts": [
                {"name": "fake", "context": {"cluster": "fake", "user": "airflow", "namespace": self._namespace}}
            ],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config))
        return path

    def add_node(self, node: Node) -> None:
        """Let there be a node more, as when a node pool scales up."""
        self._kubelet.add_node(node)

    def lose_node(self, name: str) -> None:
        """Let a node be gone with its pods: SIGKILL, and their objects removed as PodGC removes them."""
        with self._store.lock:
            self._kubelet.remove_node(name)
            for pod in self._store.items("pods"):
                if pod["spec"].get("nodeName") != name:
                    continue
                if is_over(pod):
                    self._store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
                else:
                    self._kubelet.end(pod, node_lost())

    def silence(self, name: str, *, seconds: float) -> None:
        """Let a pod's node have been silent for long: the pod was to be gone so many seconds ago, but seems to run."""
        gone_by = timestamp(now() - timedelta(seconds=seconds))
        marks = {"deletionTimestamp": gone_by, "deletionGracePeriodSeconds": 0}
        namespace = self.pod(name)["metadata"]["namespace"]
        self._store.update("pods", namespace, name, lambda pod: pod["metadata"].update(marks))

    def add_image(self, name: str, image: Image) -> None:
        """Let there be an image more, also for pods that try to pull it."""
        self._images[name] = image

    def add_secret(self, name: str, contents: Mapping[str, str], *, namespace: str = NAMESPACE) -> None:
        """Let there be a secret; pods can use it, the API shows none."""
        self._sources.secrets[namespace, name] = dict(contents)

    def add_config_map(self, name: str, contents: Mapping[str, str], *, namespace: str = NAMESPACE) -> None:
        """Let there be a config map; pods can use it, the API shows none."""
        self._sources.config_maps[namespace, name] = dict(contents)

    def pause(self) -> None:
        """Start no containers until `resume`; those that run go on."""
        self._may_start.clear()

    def resume(self) -> None:
        """Start containers again."""
        self._may_start.set()

    def oom_kill(self, name: str) -> None:
        """Kill a pod's containers as the kernel does when they go above their memory limit."""
        self._kubelet.kill(self.pod(name), out_of_memory=True)

    def evict(self, name: str, message: str, *, grace_seconds: float | None = None) -> None:
        """Evict a pod as a kubelet does whose node runs out of disk or memory; the object stays."""
        pod = self.pod(name)
        grace = pod["spec"]["terminationGracePeriodSeconds"] if grace_seconds is None else grace_seconds
        self._kubelet.end(pod, eviction(grace, message))

    @property
    def requests(self) -> list[Access]:
        """Every request so far, as (verb, resource, name)."""
        return list(self._api.requests)

    def on_pod_created(self, callback: Callable[[Json], None]) -> None:
        """Call this with every pod that is created, before the client gets its answer."""
        self._api.on_pod_created = callback

    def pods(self, selector: str = "") -> list[Json]:
        """Return the pods there are, those of a label selector."""
        return [pod for pod in self._store.items("pods") if matches_labels(selector, pod["metadata"].get("labels", {}))]

    def pod(self, name: str) -> Json:
        """Return a pod."""
        return next(pod for pod in self._store.items("pods") if pod["metadata"]["name"] == name)

    def created_pods(self) -> list[Json]:
        """Return every pod that was ever created, as it was then."""
        return [change.object for change in self._store.changes("pods") if change.type == "ADDED"]

    def deleted_pods(self) -> list[Json]:
        """Return every pod that is gone, in its last state."""
        return [change.object for change in self._store.changes("pods") if change.type == "DELETED"]

    def events(self, name: str) -> list[Json]:
        """Return the events of a pod."""
        return [event for event in self._store.items("events") if event["involvedObject"]["name"] == name]

    def log(self, name: str, container: str | None = None) -> str:
        """Return the output of a pod's container (its first), also when the pod is gone; empty before it starts."""
        pod = next(pod for pod in reversed(self.created_pods()) if pod["metadata"]["name"] == name)
        started = self._kubelet.container(pod, container or containers_of(pod)[0]["name"])
        return started.log.text() if started else ""

    def wait_for(self, what: Callable[[], Result], *, seconds: float = 20) -> Result:
        """Return what `what` returns, once it is true. Raises: TimeoutError: it wasn't in time."""
        end = time.monotonic() + seconds
        while not (result := what()):
            if time.monotonic() > end:
                states = [(pod["metadata"]["name"], pod["status"]) for pod in self.pods()]
                raise TimeoutError(f"not so within {seconds} s; pods: {json.dumps(states)}")
            time.sleep(POLL_SECONDS)
        return result


def _namespace(name: str) -> Json:
    metadata = {"name": name, "namespace": "", "labels": {"kubernetes.io/metadata.name": name}}
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata, "status": {"phase": "Active"}}

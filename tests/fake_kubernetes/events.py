"""Events: what scheduler and kubelet tell about a pod."""

import uuid
from hashlib import sha256
from typing import Literal

from fake_kubernetes.objects import Json, now, timestamp
from fake_kubernetes.store import Store

EventType = Literal["Normal", "Warning"]


class EventRecorder:
    """Writes events; one that is told again is counted, as in a real cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tell(self, pod: Json, kind: EventType, reason: str, message: str) -> None:
        """Write down that something happened to a pod."""
        metadata, time = pod["metadata"], timestamp(now())
        same = sha256("\n".join((metadata["uid"], reason, message)).encode()).hexdigest()[:16]
        name = f"{metadata['name']}.{same}"

        def count(event: Json) -> None:
            event["count"] += 1
            event["lastTimestamp"] = time

        with self._store.lock:
            if any(event["metadata"]["name"] == name for event in self._store.items("events", metadata["namespace"])):
                self._store.update("events", metadata["namespace"], name, count)
                return
            self._store.create("events", _event(pod, name, time) | {"type": kind, "reason": reason, "message": message})


def _event(pod: Json, name: str, time: str) -> Json:
    namespace = pod["metadata"]["namespace"]
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": time},
        "involvedObject": {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": namespace,
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": "fake-kubernetes"},
        "reportingComponent": "fake-kubernetes",
        "reportingInstance": "fake-kubernetes",
    }

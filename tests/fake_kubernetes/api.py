"""The part of the core/v1 REST API that KubernetesPodOperator, its trigger and a clean-up use.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import json
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from fake_kubernetes import patches, validation
from fake_kubernetes.admission import USER, Rules, admit
from fake_kubernetes.api_errors import ApiError, bad_request, forbidden
from fake_kubernetes.defaults import fill, quality_of_service
from fake_kubernetes.endings import deletion
from fake_kubernetes.kubelet import Kubelet
from fake_kubernetes.objects import Json, containers_of, is_over, now, timestamp
from fake_kubernetes.schema import without_nulls
from fake_kubernetes.selection import matches_fields, matches_labels
from fake_kubernetes.store import Store

KINDS = {"pods": "Pod", "events": "Event", "namespaces": "Namespace"}
WATCH_SECONDS = 1800.0


class Access(NamedTuple):
    """What a request was about, as an audit log has it."""

    verb: str
    resource: str
    name: str


@dataclass(frozen=True)
class Request:
    """A request, read: `resource` is as RBAC has it ("pods/log"), `namespace` is empty for the whole cluster."""

    verb: str
    resource: str
    namespace: str
    name: str
    query: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    body: bytes = b""

    def asks(self, option: str) -> bool:
        """Say whether a yes-or-no option is asked for."""
        return self.query.get(option, "").lower() in ("true", "1")

    @property
    def json(self) -> Json:
        """The body. Raises: ApiError: it is no JSON."""
        try:
            content: Json = json.loads(self.body or b"{}")
        except ValueError as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from None
        return content


@dataclass(frozen=True)
class Answer:
    """An object, or a stream of bytes that ends when it ends."""

    content: Json | Iterator[bytes]
    code: int = 200
    content_type: str = "application/json"


class Api:
    """What is answered to whom."""

    def __init__(self, store: Store, kubelet: Kubelet, rules: Rules, allowed: Collection[tuple[str, str]]) -> None:
        self._store, self._kubelet, self._rules, self._allowed = store, kubelet, rules, allowed
        self.requests: list[Access] = []
        self.on_pod_created: Callable[[Json], None] = lambda _: None
        self._operations = {
            ("create", "pods"): self._create_pod,
            ("patch", "pods"): self._patch_pod,
            ("delete", "pods"): self._delete_pod,
            ("get", "pods/log"): self._log,
            **{("get", resource): self._get for resource in KINDS},
            **{("list", resource): self._list for resource in KINDS},
            **{("watch", resource): self._watch for resource in KINDS},
        }

    def answer(self, request: Request) -> Answer:
        """Answer a request of somebody who is known. Raises: ApiError: it is refused."""
        self.requests.append(Access(request.verb, request.resource, request.name))
        self._authorize(request)
        try:
            operation = self._operations[request.verb, request.resource]
        except KeyError:
            message = f"this fake has no {request.verb} for {request.resource}"
            raise ApiError(405, "MethodNotAllowed", message) from None
        return operation(request)

    def _authorize(self, request: Request) -> None:
        is_whole_cluster = not request.namespace and request.resource != "namespaces"
        if (request.verb, request.resource) not in self._allowed or is_whole_cluster:
            where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
            why = f'User "{USER}" cannot {request.verb} resource "{request.resource}" in API group "" {where}'
            raise forbidden(request.resource.split("/")[0], request.name, why)

    def _get(self, request: Request) -> Answer:
        return Answer(self._store.read(request.resource, request.namespace, request.name))

    def _list(self, request: Request) -> Answer:
        with self._store.lock:
            items = [item for item in self._store.items(request.resource, request.namespace) if _fits(request, item)]
            metadata = {"resourceVersion": self._store.version}
        kind = f"{KINDS[request.resource]}List"
        return Answer({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items})

    def _watch(self, request: Request) -> Answer:
        """Give changes as they come; without a resource version, what there is comes first."""
        _fits(request, {"metadata": {}})  # a selector that can't be read is refused before the stream begins
        return Answer(self._changes(request))

    def _changes(self, request: Request) -> Iterator[bytes]:
        version = int(request.query.get("resourceVersion") or 0)
        with self._store.lock:
            there = [] if version else self._store.items(request.resource, request.namespace)
            version = version or int(self._store.version)
        for item in there:
            if _fits(request, item):
                yield _watch_event("ADDED", item)
        seconds = float(request.query.get("timeoutSeconds") or WATCH_SECONDS)
        for change in self._store.watch(request.resource, version, seconds):
            if _is_in(request.namespace, change.object) and _fits(request, change.object):
                yield _watch_event(change.type, change.object)

    def _create_pod(self, request: Request) -> Answer:
        self._store.read("namespaces", "", request.namespace)
        pod = without_nulls(request.json)
        metadata, _ = pod.setdefault("metadata", {}), pod.setdefault("spec", {})
        if "generateName" in metadata:
            metadata.setdefault("name", metadata["generateName"] + uuid.uuid4().hex[:5])
        if metadata.setdefault("namespace", request.namespace) != request.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        validation.check(pod)
        fill(pod)
        admit(pod, self._rules)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp(now()), "generation": 1}
        pod["status"] = {"phase": "Pending", "qosClass": quality_of_service(pod)}
        if "dryRun" in request.query:
            return Answer(pod, 201)
        created = self._store.create("pods", pod)
        self.on_pod_created(created)
        return Answer(created, 201)

    def _patch_pod(self, request: Request) -> Answer:
        def change(pod: Json) -> None:
            before = json.loads(json.dumps(pod))
            patches.apply(request.content_type, pod, request.json)
            validation.check_update(before, pod)

        return Answer(self._store.update("pods", request.namespace, request.name, change))

    def _delete_pod(self, request: Request) -> Answer:
        """Mark a pod and let its node end it; one that has no node or is over goes away at once."""
        options = request.json
        with self._store.lock:
            pod = self._store.read("pods", request.namespace, request.name)
            wanted = options.get("preconditions", {}).get("uid", pod["metadata"]["uid"])
            if wanted != pod["metadata"]["uid"]:
                raise ApiError(
                    409, "Conflict", f"Precondition failed: UID in precondition: {wanted}, UID in object meta"
                )
            grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
            seconds = pod["spec"]["terminationGracePeriodSeconds"] if grace is None else int(grace)
            if "nodeName" in pod["spec"]:
                self._kubelet.end(pod, deletion(seconds))
            if "nodeName" not in pod["spec"] or is_over(pod) or seconds == 0:
                return Answer(self._store.delete("pods", request.namespace, request.name))
            marks = {
                "deletionTimestamp": timestamp(now() + timedelta(seconds=seconds)),
                "deletionGracePeriodSeconds": seconds,
            }
            return Answer(
                self._store.update("pods", request.namespace, request.name, lambda pod: pod["metadata"].update(marks))
            )

    def _log(self, request: Request) -> Answer:
        pod = self._store.read("pods", request.namespace, request.name)
        names = [container["name"] for container in containers_of(pod)]
        name = request.query.get("container") or names[0]
        if name not in names:
            raise bad_request(f"container {name} is not valid for pod {request.name}")
        if request.asks("previous"):
            raise bad_request(f'previous terminated container "{name}" in pod "{request.name}" not found')
        container = self._kubelet.container(pod, name)
        if container is None:
            raise bad_request(f'container "{name}" in pod "{request.name}" is waiting to start: ContainerCreating')
        last = int(request.query["tailLines"]) if "tailLines" in request.query else None
        lines = container.log.read(since=_since(request), last=last, follow=request.asks("follow"))
        with_time = request.asks("timestamps")
        return Answer((line.with_time() if with_time else line.text for line in lines), content_type="text/plain")


def _fits(request: Request, item: Json) -> bool:
    return matches_labels(
        request.query.get("labelSelector", ""), item["metadata"].get("labels", {})
    ) and matches_fields(request.query.get("fieldSelector", ""), request.resource, item)


def _is_in(namespace: str, item: Json) -> bool:
    return namespace in ("", item["metadata"]["namespace"])


def _watch_event(kind: str, item: Json) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _since(request: Request) -> datetime | None:
    if "sinceSeconds" in request.query:
        return now() - timedelta(seconds=int(request.query["sinceSeconds"]))
    if "sinceTime" in request.query:
        return datetime.fromisoformat(request.query["sinceTime"])
    return None

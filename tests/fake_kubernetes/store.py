"""Where the objects are: every change gets the next resource version, and watchers read the list of changes."""

import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from fake_kubernetes.api_errors import already_exists, not_found
from fake_kubernetes.objects import Json

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True)
class Change:
    """What happened to an object; its resource version says when."""

    type: ChangeType
    resource: str
    object: Json

    @property
    def version(self) -> int:
        """The resource version, as a number."""
        return int(self.object["metadata"]["resourceVersion"])


class Store:
    """Objects by resource ("pods"), namespace and name; what goes in and out is a copy."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._changes: list[Change] = []
        self._closed = False

    @property
    def lock(self) -> threading.Condition:
        """Hold this (`with store.lock:`) to read and write with nobody in between."""
        return self._changed

    @property
    def version(self) -> str:
        """The resource version of the last change."""
        with self._changed:
            return str(len(self._changes))

    def create(self, resource: str, item: Json) -> Json:
        """Add an object; 409 where its name is taken."""
        key = (resource, item["metadata"]["namespace"], item["metadata"]["name"])
        with self._changed:
            if key in self._objects:
                raise already_exists(resource, key[2])
            return self._record("ADDED", key, deepcopy(item))

    def read(self, resource: str, namespace: str, name: str) -> Json:
        """Return an object; 404 where there is none."""
        with self._changed:
            return deepcopy(self._find(resource, namespace, name))

    def items(self, resource: str, namespace: str = "") -> list[Json]:
        """Return the objects of a namespace, or of all, in the order of their creation."""
        with self._changed:
            return [
                deepcopy(item)
                for (kind, place, _), item in self._objects.items()
                if kind == resource and namespace in ("", place)
            ]

    def update(self, resource: str, namespace: str, name: str, change: Callable[[Json], None]) -> Json:
        """Let `change` alter a copy of an object, and put it in its place if that is different."""
        with self._changed:
            before = self._find(resource, namespace, name)
            after = deepcopy(before)
            change(after)
            return deepcopy(after) if after == before else self._record("MODIFIED", (resource, namespace, name), after)

    def delete(self, resource: str, namespace: str, name: str) -> Json:
        """Remove an object at once, and return its last state; 404 where there is none."""
        with self._changed:
            item = deepcopy(self._find(resource, namespace, name))
            return self._record("DELETED", (resource, namespace, name), item)

    def changes(self, resource: str, after: int = 0) -> list[Change]:
        """Return what happened to objects of a kind behind a resource version."""
        with self._changed:
            return [change for change in self._changes[after:] if change.resource == resource]

    def watch(self, resource: str, after: int, seconds: float) -> Iterator[Change]:
        """Give each change behind a resource version as it comes, until the time is over or the store is closed."""
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            with self._changed:
                news = self.changes(resource, after)
                after = len(self._changes)
                if not news:
                    self._changed.wait(left)
            yield from news

    def wait(self, seconds: float) -> None:
        """Wait for the next change, at most so long."""
        with self._changed:
            if not self._closed:
                self._changed.wait(seconds)

    def close(self) -> None:
        """End every watch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _find(self, resource: str, namespace: str, name: str) -> Json:
        try:
            return self._objects[resource, namespace, name]
        except KeyError:
            raise not_found(resource, name) from None

    def _record(self, kind: ChangeType, key: tuple[str, str, str], item: Json) -> Json:
        item["metadata"]["resourceVersion"] = str(len(self._changes) + 1)
        if kind == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = item
        self._changes.append(Change(kind, key[0], deepcopy(item)))
        self._changed.notify_all()
        return deepcopy(item)

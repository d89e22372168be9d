"""The three kinds of patch that an API server takes, told apart by their content type.

Source: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from typing import Any

from fake_kubernetes.api_errors import ApiError, bad_request, invalid
from fake_kubernetes.objects import Json

# By which field the items of a list are told apart in a strategic merge; other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "conditions": "type",
}


def apply(content_type: str, item: Json, patch: Any) -> None:
    """Alter an object by a patch; 415 for a kind that isn't known here, server-side apply among them."""
    match content_type:
        case "application/merge-patch+json":
            _merge(item, patch, strategic=False)
        case "application/strategic-merge-patch+json":
            _merge(item, patch, strategic=True)
        case "application/json-patch+json":
            for operation in patch:
                _operate(item, operation)
        case _:
            raise ApiError(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}"
            )


def _merge(item: Json, patch: Json, *, strategic: bool) -> None:
    for name, value in patch.items():
        if value is None:
            item.pop(name, None)
        elif isinstance(value, dict):
            if not isinstance(item.get(name), dict):
                item[name] = {}
            _merge(item[name], value, strategic=strategic)
        elif strategic and isinstance(value, list) and name in MERGE_KEYS:
            item[name] = _merge_list(item.get(name, []), value, MERGE_KEYS[name])
        else:
            item[name] = value


def _merge_list(items: list[Json], patches: list[Json], key: str) -> list[Json]:
    by_key = {item[key]: item for item in items}
    for patch in patches:
        if patch.get("$patch") == "delete":
            by_key.pop(patch[key], None)
        else:
            _merge(by_key.setdefault(patch[key], {}), patch, strategic=True)
    return list(by_key.values())


def _operate(item: Json, operation: Json) -> None:
    """Do one operation of a JSON patch (RFC 6902); moves and copies aren't known here."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = item
    try:
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        _change(place, last, operation)
    except (KeyError, IndexError, TypeError, ValueError):
        raise invalid("pods", item["metadata"]["name"], [f"the patch does not fit: {operation}"]) from None


def _change(place: Any, last: str, operation: Json) -> None:
    kind, key = operation["op"], int(last) if isinstance(place, list) and last != "-" else last
    if kind == "add" and isinstance(place, list):
        place.insert(len(place) if key == "-" else int(key), operation["value"])
    elif kind == "add":
        place[key] = operation["value"]
    elif kind == "replace":
        place[key] = (place[key], operation["value"])[1]
    elif kind == "remove":
        del place[key]
    elif kind == "test":
        if place[key] != operation["value"]:
            raise ValueError
    else:
        raise bad_request(f"this fake does no {kind} in a JSON patch")

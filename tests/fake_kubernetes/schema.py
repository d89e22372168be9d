"""Whether JSON has the fields and types of its kind, checked against the kubernetes client's own models.

Stricter than a real server's default, which drops unknown fields with a warning: here they are refused, as with
`fieldValidation=Strict`, for an unknown field is a misspelt one.
"""

import re
from collections.abc import Iterator
from typing import Any

from kubernetes.client import models

SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "datetime": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}
LIST = re.compile(r"list\[(.+)\]")
MAPPING = re.compile(r"dict[\[(]str, (.+)[\])]")


def problems(value: object, type_name: str, path: str = "") -> Iterator[str]:
    """Give a sentence for each field that is unknown or of another type than the kind `type_name` (V1Pod) has."""
    if value is None or type_name == "object":
        return
    if type_name in SCALARS:
        if not isinstance(value, SCALARS[type_name]) or (isinstance(value, bool) and type_name != "bool"):
            yield f"cannot unmarshal {type(value).__name__} into field {path} of type {type_name}"
    elif match := LIST.fullmatch(type_name):
        yield from _problems_of_list(value, match[1], path)
    elif match := MAPPING.fullmatch(type_name):
        yield from _problems_of_object(value, path, lambda _: match[1])
    else:
        model = getattr(models, type_name)
        types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
        yield from _problems_of_object(value, path, types.get)


def _problems_of_list(value: object, item_type: str, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"cannot unmarshal {type(value).__name__} into field {path}, which is a list"
        return
    for index, item in enumerate(value):
        yield from problems(item, item_type, f"{path}[{index}]")


def _problems_of_object(value: object, path: str, type_of: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"cannot unmarshal {type(value).__name__} into field {path}, which is an object"
        return
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        kind = type_of(name)
        if kind is None:
            yield f'unknown field "{inner}"'
        else:
            yield from problems(item, kind, inner)


def without_nulls(value: Any) -> Any:
    """Return JSON without the fields that are null, which a server takes for absent."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value

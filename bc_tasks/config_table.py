"""The configuration as a Markdown table, for the README: each field with its default, range and meaning."""

import json
from collections.abc import Iterator
from typing import Any

from bc_tasks.config import RunConfig

HEADING = "| field | default | allowed | meaning |\n| --- | --- | --- | --- |"
LIMITS = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}


def config_table() -> str:
    """Return one row for each field of `RunConfig`, in the order of the models."""
    schema = RunConfig.model_json_schema()
    return "\n".join([HEADING, *_rows(schema, schema["$defs"], "")])


def _rows(node: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, field in node["properties"].items():
        path = f"{prefix}{name}"
        if "$ref" in field:
            yield from _rows(definitions[field["$ref"].rsplit("/", 1)[1]], definitions, f"{path}.")
        else:
            cells = (f"`{path}`", _default(field), _allowed(field), field.get("description", ""))
            yield f"| {' | '.join(cells)} |"


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "must be set"
    return f"`{json.dumps(field['default'])}`"


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(filter(None, map(_allowed, field["anyOf"])))
    choices = (
        field.get("enum") or field.get("items", {}).get("enum") or ([field["const"]] if "const" in field else None)
    )
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = ", ".join(text.format(field[key]) for key, text in LIMITS.items() if key in field)
    words = {
        "boolean": "true, false",
        "string": "text",
        "array": "a list",
        "integer": "whole number",
        "number": "number",
    }
    kind = words.get(field["type"], field["type"])
    return f"{kind} {limits}".strip()

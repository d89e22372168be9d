"""Reads a configuration file, and cuts the trigger form from the same models, so the two can't drift."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bc_tasks.config import RunConfig
from bc_tasks.errors import ConfigError

FORM_FIELDS: dict[str, str] = {
    "backbones": "training.backbones",
    "epochs": "training.epochs",
    "image_size_px": "training.image_size_px",
    "train_if_nothing_new": "training.train_if_nothing_new",
    "dry_run": "gate.dry_run",
}
"""What the trigger form may change: the form's name and the field's path."""


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a TOML file and check it; `overrides` maps field paths such as "training.epochs" to values.

    Raises:
        ConfigError: the file can't be read, or a field is unknown or out of range; names each such field.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return build_config(tree, overrides or {}, source=str(path))


def build_config(tree: Mapping[str, Any], overrides: Mapping[str, Any], *, source: str) -> RunConfig:
    """Build a checked `RunConfig` from a nested mapping and overrides by field path; `source` is named in errors.

    Raises:
        ConfigError: a field is unknown or out of range; names each such field.
    """
    merged = dict(tree)
    for path, value in overrides.items():
        merged = _with(merged, path.split("."), value)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source} is refused:\n" + "\n".join(_complaints(error))) from error


def _with(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    below = tree.get(name)
    return {**tree, name: _with(below if isinstance(below, Mapping) else {}, rest, value) if rest else value}


def apply_form(config: RunConfig, form: Mapping[str, Any]) -> RunConfig:
    """Return `config` with what a person chose in the trigger form.

    Raises:
        ConfigError: a form field is unknown, or its value out of range.
    """
    unknown = sorted(set(form) - set(FORM_FIELDS))
    if unknown:
        raise ConfigError(f"the trigger form has no field {unknown}; it has {list(FORM_FIELDS)}")
    overrides = {FORM_FIELDS[name]: value for name, value in form.items()}
    return build_config(config.model_dump(mode="json"), overrides, source="the trigger form")


def form_schema(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return for each form field its JSON schema, with this configuration's value as the default."""
    whole = RunConfig.model_json_schema()
    dumped = config.model_dump(mode="json")
    return {name: _field_schema(whole, path) | {"default": _lookup(dumped, path)} for name, path in FORM_FIELDS.items()}


def _field_schema(whole: dict[str, Any], path: str) -> dict[str, Any]:
    node = whole
    for part in path.split("."):
        node = node["properties"][part]
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return {key: value for key, value in node.items() if key != "default"}


def _lookup(tree: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _complaints(error: ValidationError) -> list[str]:
    """Return a line for each refused field; where it may be of several kinds, with what each of them asks."""
    by_field: dict[str, list[str]] = {}
    for item in error.errors():
        path, model = _field(item["loc"])
        by_field.setdefault(path, []).append(_complaint(item, model))
    return [f"  {path}: {'; or '.join(complaints)}" for path, complaints in by_field.items()]


def _complaint(item: ErrorDetails, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key; known here: {', '.join(model.model_fields)}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    seen = "" if item["type"] == "missing" else f", not {repr(item['input'])[:80]}"
    return item["msg"] + seen


def _field(loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """Return the path of a field, without pydantic's names for the kinds it may be of, and the model it is in."""
    model: type[BaseModel] = RunConfig
    for depth, part in enumerate(loc, start=1):
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ".".join(map(str, loc[:depth])), model
        model = inner
    return ".".join(map(str, loc)) or "the whole", model


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read `path=value` pairs, the value spelt as in TOML; a bare word is text.

    Raises:
        ConfigError: a pair has no `=`.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is no setting; write for example training.epochs=3")
        try:
            overrides[path.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[path.strip()] = text.strip()
    return overrides

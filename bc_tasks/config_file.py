"""Reads a configuration file, and cuts the trigger form from the same models, so the two can't drift."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

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
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return build_config(tree, overrides or {}, source=str(path))


def build_config(tree: Mapping[str, Any], overrides: Mapping[str, Any], *, source: str) -> RunConfig:
    """Build a checked `RunConfig` from a nested mapping and overrides by field path; `source` is named in errors.

    Raises:
        ConfigError: a field is unknown or out of range; names each such field.
    """
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for path, value in overrides.items():
        node = merged
        *parents, leaf = path.split(".")
        for parent in parents:
            node[parent] = dict(node.get(parent, {}))
            node = node[parent]
        node[leaf] = value
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source} is refused:\n" + "\n".join(_complaints(error))) from error


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
    return [_complaint(tuple(item["loc"]), item) for item in error.errors()]


def _complaint(loc: tuple[int | str, ...], item: Any) -> str:
    path = ".".join(str(part) for part in loc) or "(the whole)"
    if item["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(loc[:-1]))
        return f"  {path}: unknown key; known here: {known}"
    seen = "" if item["type"] in ("missing", "value_error") else f", not {item['input']!r}"
    return f"  {path}: {item['msg']}{seen}"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)


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
            overrides[path.strip()] = text
    return overrides

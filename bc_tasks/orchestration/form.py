"""The form that a person fills in to start a night by hand, cut from the models of the configuration."""

from typing import Any

from airflow.sdk import Param

from bc_tasks.config import RunConfig
from bc_tasks.config_file import form_schema


def trigger_form(config: RunConfig) -> dict[str, Param]:
    """Return the form's fields, with the configuration's values filled in."""
    return {name: _param(name, schema) for name, schema in form_schema(config).items()}


def _param(name: str, schema: dict[str, Any]) -> Param:
    extra: dict[str, Any] = {"title": _title(name)}
    if schema["type"] == "array":
        # Airflow's form offers the choices of a list only under `examples`; `items` is what it checks against.
        extra |= {"examples": schema["items"]["enum"], "uniqueItems": True}
    default, description = schema["default"], schema["description"]
    rest = {key: value for key, value in schema.items() if key not in ("default", "description")}
    return Param(default, description=f"{description[0].upper()}{description[1:]}.", **rest | extra)


def _title(name: str) -> str:
    words = name.removesuffix("_px").replace("_", " ").capitalize()
    return f"{words} (px)" if name.endswith("_px") else words

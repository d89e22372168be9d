"""What the command line's modules share: the options that mean the same everywhere, and how they are opened."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bc_tasks.config import RunConfig

if TYPE_CHECKING:
    from bc_tasks.storage import Storage
    from bc_tasks.tracking import Tracking

RunUri = Annotated[str, typer.Option(help="the run's folder, s3://... or file://...")]
ConfigFile = Annotated[Path, typer.Option("--config", envvar="BC_CONFIG", help="the TOML file", show_default=True)]
Settings = Annotated[
    list[str],
    typer.Option("--set", default_factory=list, help="a field and its value, e.g. training.epochs=3; repeatable"),
]
DEFAULT_CONFIG = Path("include/config/laptop.toml")


def storage_of(config: RunConfig | None = None) -> "Storage":
    """Open storage as the configuration wants it."""
    from bc_tasks.storage import open_storage

    return open_storage(config.storage) if config else open_storage()


def tracking_of(config: RunConfig) -> "Tracking":
    """Open MLflow as the configuration wants it."""
    from bc_tasks.tracking import open_tracking

    return open_tracking(config.registry)


def open_run(run_uri: str) -> "tuple[RunConfig, Storage]":
    """Return the run's frozen configuration, and storage as it wants it."""
    from bc_tasks import runs
    from bc_tasks.records import Run

    config = runs.read(storage_of(), run_uri, Run).config
    return config, storage_of(config)


def read_config(path: Path, settings: list[str]) -> RunConfig:
    """Read a configuration file with the settings of the command line."""
    from bc_tasks.config_file import load_config, parse_settings

    return load_config(path, parse_settings(settings))

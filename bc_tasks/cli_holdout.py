"""`bc holdout`: fixes the holdout, once, and shows it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bc_tasks import cores
from bc_tasks.cli_options import DEFAULT_CONFIG, ConfigFile, Settings, read_config, storage_of

app = typer.Typer(no_args_is_help=True, help="The fixed set of patients that every model is measured on.")


@app.command()
def create(
    settings: Settings,
    config_file: ConfigFile = DEFAULT_CONFIG,
    patients: Annotated[Path | None, typer.Option(help="a text file with one patient id a line")] = None,
    batch: Annotated[str | None, typer.Option(help="draw from, or with --share 1 take all of, this batch only")] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="share of the patients to draw, by label and site")] = 0.2,
    seed: Annotated[int, typer.Option(help="of the draw")] = 17,
) -> None:
    """Fix the holdout, once, out of the images in the inbox; it is never made anew."""
    from bc_tasks.holdout import summary
    from bc_tasks.holdout_creation import Choice, create

    config = read_config(config_file, settings)
    named = frozenset(patients.read_text(encoding="utf-8").split()) if patients else None
    choice = Choice(patient_ids=named, batch=batch, share=share, seed=seed)
    with cores.processes() as executor:
        fixed = create(storage_of(config), config, choice, now=datetime.now(UTC), executor=executor)
    Console().print_json(data=summary(fixed))


@app.command()
def show(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Check the holdout's fingerprint and count its images."""
    from bc_tasks.holdout import load, summary

    config = read_config(config_file, settings)
    fixed = load(storage_of(config), config.data_uri, config.holdout.fingerprint)
    Console().print_json(data=summary(fixed))

"""What an auditor or a privacy officer asks: `bc lineage`, `bc where-used`, `bc withdraw` and `bc withdrawals`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bc_tasks.cli_options import DEFAULT_CONFIG, ConfigFile, Settings, read_config, storage_of, tracking_of
from bc_tasks.errors import DataError

if TYPE_CHECKING:
    from bc_tasks.proof.lineage import Lineage
    from bc_tasks.proof.where_used import Uses

PatientId = Annotated[str, typer.Argument(help="the pseudonymous id, as the snapshots have it")]
AsJson = Annotated[bool, typer.Option("--json", help="for a program")]
MAX_LISTED = 20


def lineage(
    settings: Settings,
    version: Annotated[str, typer.Argument(help="its number in the registry, or an alias")],
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
    images: Annotated[bool, typer.Option("--images", help="list each image: ids, split and digests")] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="look at every stored pixel too, which takes longer")
    ] = False,
) -> None:
    """Follow a registered version back to its run, data, code and verdict, and check every link on the way.

    Exits with 65 where one of them is broken.
    """
    from bc_tasks.proof.lineage import trace

    config = read_config(config_file, settings)
    traced = trace(storage_of(config), tracking_of(config), version, pixels=pixels)
    if as_json:
        shown = traced.model_dump(mode="json", exclude=set() if images else {"images"})
        typer.echo(json.dumps({"holds": not traced.broken, "sentence": traced.sentence, **shown}, indent=1))
    else:
        _show_lineage(traced, images)
    if traced.broken:
        names = ", ".join(link.what for link in traced.broken)
        raise DataError(f"version {traced.version} does not hold: {names}; see above what each witness says")


def _show_lineage(traced: "Lineage", images: bool) -> None:
    from bc_tasks.proof.lineage_checks import Image
    from bc_tasks.proof.lineage_page import sections

    out = Console(soft_wrap=True, highlight=False)
    out.print(traced.sentence, style="bold red" if traced.broken else "bold green", markup=False)
    for title, rows in sections(traced).items():
        out.print(f"\n{title}", style="bold")
        for word, saying in rows or [("", "its record can't be read")]:
            out.print(f"  {word:<24} {saying}", markup=False)
    out.print("\nChecked", style="bold")
    for link in traced.links:
        mark, style = ("ok    ", "") if link.holds else ("BROKEN", "red")
        out.print(f"  {mark} {link.what}: {link.sentence}", style=style, markup=False)
    if images:
        typer.echo("\n" + "\t".join(Image.model_fields))
        for image in traced.images:
            typer.echo("\t".join(image.model_dump().values()))


def where_used(
    settings: Settings, patient_id: PatientId, config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Say which snapshots hold a patient, and which models learnt from or were measured on them."""
    from bc_tasks.proof.where_used import find

    config = read_config(config_file, settings)
    uses = find(storage_of(config), config.data_uri, patient_id)
    if as_json:
        typer.echo(uses.model_dump_json(indent=1))
    else:
        _show_uses(uses, Console(highlight=False))


def _show_uses(uses: "Uses", out: Console) -> None:
    from bc_tasks.proof.where_used_page import models, sentences, snapshots

    for sentence in sentences(uses):
        out.print(sentence, markup=False, soft_wrap=True)
    for rows in (snapshots(uses), models(uses)):
        if rows[1:]:
            table = Table(*rows[0])
            for row in rows[1 : MAX_LISTED + 1]:
                table.add_row(*map(escape, row))
            out.print(table)
            if len(rows) > MAX_LISTED + 1:
                out.print(f"and {len(rows) - MAX_LISTED - 1} more: --json lists all")


def withdraw(
    settings: Settings,
    patient_id: PatientId,
    reason: Annotated[str, typer.Option(help="why; it stays for good, so name nobody")],
    by: Annotated[str, typer.Option(help="who says so; empty: the user of this machine")] = "",
    config_file: ConfigFile = DEFAULT_CONFIG,
    unknown_ok: Annotated[bool, typer.Option("--unknown-ok", help="though no snapshot holds the patient yet")] = False,
) -> None:
    """Take a patient out of all snapshots to come, and say which models saw them; nothing undoes it.

    Exits with 65 where the patient is in the holdout, which stays as it is.
    """
    from datetime import UTC, datetime

    from bc_tasks import environment, withdrawing

    config = read_config(config_file, settings)
    outcome = withdrawing.withdraw(
        storage_of(config),
        config.data_uri,
        patient_id,
        reason=reason,
        by=by or environment.user(),
        now=datetime.now(UTC),
        unknown_ok=unknown_ok,
    )
    for sentence in outcome.sentences:
        typer.echo(sentence)
    if outcome.uses.holdout is not None:
        raise DataError(withdrawing.OF_THE_HOLDOUT.format(patient_id=patient_id, data_uri=config.data_uri))


def withdrawals(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the patients who were withdrawn, the earliest first."""
    from bc_tasks import withdrawals

    config = read_config(config_file, settings)
    found = withdrawals.read_all(storage_of(config), config.data_uri)
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
        return
    table = Table("patient", "withdrawn", "by", "reason", title=f"{len(found)} patients withdrawn")
    for one in found:
        when = f"{one.withdrawn_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(*map(escape, (one.patient_id, when, one.withdrawn_by, one.reason)))
    Console(highlight=False).print(table)

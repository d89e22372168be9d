"""`bc ledger`, `bc replay` and `bc override`: what people ask of a verdict, and what they may say against it."""

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from bc_tasks.cli_options import DEFAULT_CONFIG, ConfigFile, Settings, open_run, read_config, storage_of
from bc_tasks.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bc_tasks.records import Verdict
    from bc_tasks.replay import Difference
    from bc_tasks.storage import Storage

ledger_app = typer.Typer(no_args_is_help=True, help="How often a holdout was looked at, and what that spent.")
RunArgument = Annotated[str, typer.Argument(help="the run's folder, s3://... or file://...")]


@ledger_app.command()
def show(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """List every look at the holdout, what it spent of the error budget, and what is left."""
    from bc_tasks import holdout, ledger

    config = read_config(config_file, settings)
    storage = storage_of(config)
    fixed = holdout.load(storage, config.data_uri, config.holdout.fingerprint)
    looks = ledger.read(storage, config.data_uri, fixed.fingerprint)
    columns = ("look", "when", Column("run", overflow="fold"), "champion", "error spent", "in all")
    table = Table(*columns, title=f"Holdout {fixed.fingerprint[:12]}")
    for look in looks:
        champion = f"version {look.champion_version}" if look.champion_version else "none"
        run = look.run_uri.rsplit("/", 1)[1]
        spent = (f"{look.error:.5f}", f"{look.spent:.5f}")
        table.add_row(str(look.number), f"{look.looked_at:%Y-%m-%d %H:%M}", run, champion, *spent)
    out = Console()
    out.print(table)
    out.print(ledger.sentence(looks, config.gate), soft_wrap=True, highlight=False)


def replay(run_uri: RunArgument) -> None:
    """Compute a run's verdict again from its own record: the same bytes come out, or the first difference is named.

    A folder with nothing but a `verdict.json` will do. With the run's other records its policy and scores are compared
    with theirs, and where the run lies in its place, its look with the ledger.
    """
    from bc_tasks import replay
    from bc_tasks.environment import made_with
    from bc_tasks.records import Verdict
    from bc_tasks.storage import join

    storage = storage_of()
    recorded = storage.read(join(run_uri, Verdict.usual_name()))
    again = replay.replay(recorded)
    difference, compared = again.difference, "its own record"
    if difference is None:
        difference, compared = _beside(storage, run_uri, again.verdict)
    if difference:
        changed = "; ".join(replay.versions_differing(again.verdict.made_with, made_with()))
        reason = f"Versions have changed since: {changed}" if changed else "It was edited, or made by uncommitted code"
        raise DataError(
            f"the verdict of {run_uri} can't be reproduced. First difference: {difference.path} was recorded as "
            f"{difference.recorded}, and is computed as {difference.computed}. {reason}"
        )
    digest = hashlib.sha256(recorded).hexdigest()
    typer.echo(f"The same {len(recorded):,} bytes came out (sha256 {digest}), and agree with {compared}.")
    typer.echo(again.verdict.summary)


def _beside(storage: "Storage", run_uri: str, verdict: "Verdict") -> "tuple[Difference | None, str]":
    """Compare a verdict with the records that lie beside it, and say which these are."""
    from bc_tasks import ledger, replay, runs
    from bc_tasks.records import Evaluation, Run

    if not all(runs.exists(storage, run_uri, kind.usual_name()) for kind in (Run, Evaluation)):
        return None, "its own record; the run's other records aren't there"
    run = runs.read(storage, run_uri, Run)
    difference = replay.check_records(verdict, run, runs.read(storage, run_uri, Evaluation))
    if difference or run.run_uri != run_uri.rstrip("/"):
        return difference, "the run's records; this is a copy, so the ledger was not asked"
    holdout = verdict.look.holdout_fingerprint
    looks = ledger.read(storage, run.config.data_uri, holdout)
    first_champion = ledger.first_champion_of(storage, run.config.data_uri, holdout)
    return replay.check_ledger(verdict, looks, first_champion), "the run's records and the ledger"


def override(
    run_uri: RunArgument,
    reason: Annotated[str, typer.Option(help="why the challenger may be registered all the same; it is shown")],
    by: Annotated[str, typer.Option(help="who says so; empty: the user of this machine")] = "",
) -> None:
    """Let a challenger be registered although its champion could not be measured; then register it.

    The same where the only thing against it is the comparison with the first champion of the holdout.
    """
    from bc_tasks import environment
    from bc_tasks.cli import register
    from bc_tasks.steps import override as step

    who = by.strip() or environment.user()
    if not (reason.strip() and who):
        raise ConfigError("say why, and who you are (--by): it is what the reviewer and the auditor will read")
    _, storage = open_run(run_uri)
    record = step.run(run_uri, storage=storage, by=who, reason=reason.strip(), now=datetime.now(UTC))
    typer.echo(f"{record.by} overrides the verdict of {run_uri}: {record.reason}")
    register(run_uri)

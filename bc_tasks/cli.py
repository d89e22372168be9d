"""`bc`: the steps of a night by name, and what people run by hand."""

import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bc_tasks import cli_gate, cli_holdout, cli_proof, cores, interruption
from bc_tasks.cli_options import (
    DEFAULT_CONFIG,
    ConfigFile,
    RunUri,
    Settings,
    open_run,
    read_config,
    storage_of,
    tracking_of,
)
from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import BcError, ConfigError

if TYPE_CHECKING:
    from bc_tasks.records import Record

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RunName = Annotated[str, typer.Option(help="the run's name; empty: by-hand-<time>")]
Cache = Annotated[Path, typer.Option(envvar="BC_CACHE", help="where shards, weights and checkpoints are kept")]
State = Annotated[Path, typer.Option(help="where the embedded servers keep their data")]
DEFAULT_STATE = Path(".bc")
DEFAULT_CACHE = Path.home() / ".cache" / "bc-tasks"
console = Console(stderr=True, soft_wrap=True)


def main() -> None:
    """Run the command line; an error that is meant for people is a sentence and an exit code, not a traceback.

    SIGTERM is such an error too.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for name in ("botocore", "urllib3", "great_expectations", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with interruption.ending_at_once():
            app()
    except BcError as error:
        console.print(f"{type(error).__name__}: {error}", style="bold red", markup=False, highlight=False)
        raise SystemExit(error.exit_code) from error


def _done(record: "Record") -> None:
    from bc_tasks.summaries import summarise

    typer.echo(summarise(record))


@app.command()
def config(
    settings: Settings,
    path: Annotated[Path, typer.Argument()] = DEFAULT_CONFIG,
    table: Annotated[bool, typer.Option("--table", help="every field with its range and meaning, as Markdown")] = False,
) -> None:
    """Check a configuration and print it in full, defaults included."""
    from bc_tasks.config_table import config_table

    typer.echo(config_table() if table else read_config(path, settings).model_dump_json(indent=2))


@app.command()
def start(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG, name: RunName = "") -> None:
    """Begin a run by hand: freeze its configuration and print its URI, which every other step takes."""
    typer.echo(_start(read_config(config_file, settings), name).run_uri)


def _start(config: RunConfig, name: str) -> Any:
    from bc_tasks.environment import code_version, user
    from bc_tasks.steps import start as step

    now = datetime.now(UTC)
    run_name = name or f"by-hand-{now:%Y-%m-%dT%H-%M-%S}"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", run_name):
        raise ConfigError(f"a run's name has letters, digits, '.', '_' and '-' only, not {run_name!r}")
    return step.run(
        config,
        storage=storage_of(config),
        run_name=run_name,
        started_at=now,
        trigger=", ".join(filter(None, ["by hand", user()])),
        code_version=code_version(),
    )


@app.command()
def ingest(run_uri: RunUri) -> None:
    """Prepare tonight's candidate snapshot out of the inbox."""
    from bc_tasks.steps import ingest as step

    _, storage = open_run(run_uri)
    with cores.processes() as executor:
        _done(step.run(run_uri, storage=storage, now=datetime.now(UTC), executor=executor))


@app.command()
def validate(run_uri: RunUri) -> None:
    """Check the candidate with Great Expectations and commit it as the next snapshot."""
    from bc_tasks.steps import validate as step

    _, storage = open_run(run_uri)
    _done(step.run(run_uri, storage=storage))


@app.command()
def train(
    run_uri: RunUri,
    backbone: Annotated[BackboneName, typer.Option(help="which of the run's backbones")],
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Fine-tune one backbone on the committed snapshot; tried again, it goes on from its checkpoint."""
    cores.share()
    from bc_tasks.steps import train as step

    config, storage = open_run(run_uri)
    _done(step.run(run_uri, backbone, storage=storage, tracking=tracking_of(config), cache=cache))


@app.command()
def evaluate(run_uri: RunUri, cache: Cache = DEFAULT_CACHE) -> None:
    """Measure the best of the run's models and the champion on the holdout."""
    cores.share()
    from bc_tasks.steps import evaluate as step

    config, storage = open_run(run_uri)
    _done(step.run(run_uri, storage=storage, tracking=tracking_of(config), cache=cache, now=datetime.now(UTC)))


@app.command()
def gate(run_uri: RunUri) -> None:
    """Decide whether the challenger may be registered."""
    from bc_tasks.environment import made_with
    from bc_tasks.steps import gate as step

    _, storage = open_run(run_uri)
    _done(step.run(run_uri, storage=storage, now=datetime.now(UTC), made_with=made_with()))


@app.command()
def register(run_uri: RunUri) -> None:
    """Register the challenger in MLflow, for a person to promote."""
    from bc_tasks.steps import register as step

    config, storage = open_run(run_uri)
    _done(step.run(run_uri, storage=storage, tracking=tracking_of(config)))


@app.command()
def night(
    settings: Settings,
    config_file: ConfigFile = DEFAULT_CONFIG,
    name: RunName = "",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Run a whole night here, step by step, without Airflow; given the name of a broken run, it goes on from there."""
    run = _start(read_config(config_file, settings), name)
    typer.echo(run.run_uri)
    ingest(run.run_uri)
    if not _has_news(run.run_uri) and not run.config.training.train_if_nothing_new:
        typer.echo("Nothing is new: the night ends here.")
        return
    validate(run.run_uri)
    for backbone in run.config.training.backbones:
        train(run.run_uri, backbone, cache)
    evaluate(run.run_uri, cache)
    gate(run.run_uri)
    if _passed(run.run_uri):
        register(run.run_uri)


def _has_news(run_uri: str) -> bool:
    from bc_tasks import runs
    from bc_tasks.records import Snapshot

    return runs.read(storage_of(), run_uri, Snapshot).has_news


def _passed(run_uri: str) -> bool:
    from bc_tasks import runs
    from bc_tasks.records import Verdict

    verdict = runs.read(storage_of(), run_uri, Verdict)
    return verdict.passed and not verdict.dry_run


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="a folder of your own labelled images; else phantoms are drawn")
    ] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    state: State = DEFAULT_STATE,
    stay: Annotated[bool, typer.Option(help="leave the servers running until Ctrl-C")] = True,
) -> None:
    """Run a season of four nights on this machine, through a real Airflow, S3 and MLflow."""
    from bc_tasks.embedded import demo

    if not demo.run(state, config_path=config_file.resolve(), images=data, stay=stay, console=Console()):
        raise BcError("a night did not end as it should; see the table above and the tasks' logs in Airflow")


@app.command()
def down(state: State = DEFAULT_STATE) -> None:
    """Stop what `bc demo` started, whatever became of it."""
    from bc_tasks.embedded import processes

    typer.echo(f"{processes.stop(state)} processes stopped")


app.command()(cli_gate.replay)
app.command()(cli_gate.override)
app.add_typer(cli_gate.ledger_app, name="ledger")
app.command()(cli_proof.lineage)
app.command()(cli_proof.where_used)
app.command()(cli_proof.withdraw)
app.command()(cli_proof.withdrawals)
app.add_typer(cli_holdout.app, name="holdout")


if __name__ == "__main__":
    main()

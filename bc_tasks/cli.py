"""`bc`: the steps of a night by name, and what people run by hand."""

import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bc_tasks import cores, interruption
from bc_tasks.config import BackboneName, RunConfig
from bc_tasks.errors import BcError, ConfigError

if TYPE_CHECKING:
    from bc_tasks.records import Record
    from bc_tasks.storage import Storage
    from bc_tasks.tracking import Tracking

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
holdout_app = typer.Typer(no_args_is_help=True, help="The fixed set of patients that every model is measured on.")
app.add_typer(holdout_app, name="holdout")

RunUri = Annotated[str, typer.Option(help="the run's folder, s3://... or file://...")]
ConfigFile = Annotated[Path, typer.Option("--config", envvar="BC_CONFIG", help="the TOML file", show_default=True)]
Settings = Annotated[
    list[str],
    typer.Option("--set", default_factory=list, help="a field and its value, e.g. training.epochs=3; repeatable"),
]
RunName = Annotated[str, typer.Option(help="the run's name; empty: by-hand-<time>")]
Cache = Annotated[Path, typer.Option(envvar="BC_CACHE", help="where shards, weights and checkpoints are kept")]
DEFAULT_CONFIG = Path("include/config/laptop.toml")
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


def _storage(config: RunConfig | None = None) -> "Storage":
    from bc_tasks.storage import open_storage

    return open_storage(config.storage) if config else open_storage()


def _tracking(config: RunConfig) -> "Tracking":
    from bc_tasks.tracking import open_tracking

    return open_tracking(config.registry)


def _open(run_uri: str) -> "tuple[RunConfig, Storage]":
    """Return the run's frozen configuration, and storage as it wants it."""
    from bc_tasks import runs
    from bc_tasks.records import Run

    config = runs.read(_storage(), run_uri, Run).config
    return config, _storage(config)


def _load(path: Path, settings: list[str]) -> RunConfig:
    from bc_tasks.config_file import load_config, parse_settings

    return load_config(path, parse_settings(settings))


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

    typer.echo(config_table() if table else _load(path, settings).model_dump_json(indent=2))


@app.command()
def start(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG, name: RunName = "") -> None:
    """Begin a run by hand: freeze its configuration and print its URI, which every other step takes."""
    typer.echo(_start(_load(config_file, settings), name).run_uri)


def _start(config: RunConfig, name: str) -> Any:
    from bc_tasks.environment import code_version
    from bc_tasks.steps import start as step

    now = datetime.now(UTC)
    run_name = name or f"by-hand-{now:%Y-%m-%dT%H-%M-%S}"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", run_name):
        raise ConfigError(f"a run's name has letters, digits, '.', '_' and '-' only, not {run_name!r}")
    return step.run(
        config,
        storage=_storage(config),
        run_name=run_name,
        started_at=now,
        trigger="by hand",
        code_version=code_version(),
    )


@app.command()
def ingest(run_uri: RunUri) -> None:
    """Prepare tonight's candidate snapshot out of the inbox."""
    from bc_tasks.steps import ingest as step

    _, storage = _open(run_uri)
    with cores.processes() as executor:
        _done(step.run(run_uri, storage=storage, now=datetime.now(UTC), executor=executor))


@app.command()
def validate(run_uri: RunUri) -> None:
    """Check the candidate with Great Expectations and commit it as the next snapshot."""
    from bc_tasks.steps import validate as step

    _, storage = _open(run_uri)
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

    config, storage = _open(run_uri)
    _done(step.run(run_uri, backbone, storage=storage, tracking=_tracking(config), cache=cache))


@app.command()
def evaluate(run_uri: RunUri, cache: Cache = DEFAULT_CACHE) -> None:
    """Measure the best of the run's models and the champion on the holdout."""
    cores.share()
    from bc_tasks.steps import evaluate as step

    config, storage = _open(run_uri)
    _done(step.run(run_uri, storage=storage, tracking=_tracking(config), cache=cache))


@app.command()
def gate(run_uri: RunUri) -> None:
    """Decide whether the challenger may be registered."""
    from bc_tasks.steps import gate as step

    _done(step.run(run_uri, storage=_storage()))


@app.command()
def register(run_uri: RunUri) -> None:
    """Register the challenger in MLflow, for a person to promote."""
    from bc_tasks.steps import register as step

    config, storage = _open(run_uri)
    _done(step.run(run_uri, storage=storage, tracking=_tracking(config)))


@app.command()
def night(
    settings: Settings,
    config_file: ConfigFile = DEFAULT_CONFIG,
    name: RunName = "",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Run a whole night here, step by step, without Airflow; given the name of a broken run, it goes on from there."""
    run = _start(_load(config_file, settings), name)
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

    return runs.read(_storage(), run_uri, Snapshot).has_news


def _passed(run_uri: str) -> bool:
    from bc_tasks import runs
    from bc_tasks.records import Verdict

    verdict = runs.read(_storage(), run_uri, Verdict)
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


@holdout_app.command()
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

    config = _load(config_file, settings)
    named = frozenset(patients.read_text(encoding="utf-8").split()) if patients else None
    choice = Choice(patient_ids=named, batch=batch, share=share, seed=seed)
    with cores.processes() as executor:
        fixed = create(_storage(config), config, choice, now=datetime.now(UTC), executor=executor)
    console.print_json(data=summary(fixed))


@holdout_app.command()
def show(settings: Settings, config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Check the holdout's fingerprint and count its images."""
    from bc_tasks.holdout import load, summary

    config = _load(config_file, settings)
    fixed = load(_storage(config), config.data_uri, config.holdout.fingerprint)
    console.print_json(data=summary(fixed))


if __name__ == "__main__":
    main()

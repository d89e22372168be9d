"""The map of who may import what, seen in fresh processes, so that an indirect import counts too."""

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    *("airflow", "boto3", "botocore", "great_expectations", "kubernetes", "mlflow", "safetensors"),
    *("sklearn", "timm", "torch", "torchvision"),
)
S3 = frozenset({"boto3", "botocore"})
TORCH = frozenset({"torch", "torchvision", "timm", "safetensors"})

CORE = (
    *(
        "",
        "errors",
        "interruption",
        "cores",
        "mammogram",
        "section",
        "pods_config",
        "gate_config",
        "config",
        "config_file",
    ),
    *("config_table", "records", "manifest", "environment", "summaries", "steps", "training"),
    *("fingerprint", "splits", "shards", "delta", "identity", "ties", "labels_file", "withholding"),
    *("metrics", "resampling", "evidence", "cases", "gate_scene", "gate_groups", "gate_rules", "gates", "replay"),
    *("operating_point", "calibration", "grouping"),
    *("image_formats", "dicom", "pixels", "examination", "near_copies*"),
    *("leaks", "leaks.leakage", "leaks.local_features", "proof", "proof.witnesses", "proof.lineage_checks"),
)
"""The pure core: no heavy library at all. (The names of bare packages stand here too.)"""

ON_STORAGE = (
    *("storage*", "runs", "snapshots", "holdout", "inbox", "intake", "holdout_creation", "ledger"),
    *("leaks.feature_store", "leaks.found_store", "leaks.copy_search", "leaks.leak_report"),
    *("withdrawals", "withdrawing"),
    *("proof.where_used*", "proof.model_uses", "proof.lineage", "proof.lineage_reading", "proof.lineage_page"),
)

# In one process, so each row may use what the rows above it may, and nothing else.
CHAINS: dict[str, tuple[tuple[tuple[str, ...], frozenset[str]], ...]] = {
    "scheduler": (
        (CORE, frozenset()),
        ((*ON_STORAGE, "steps.start", "steps.ingest", "steps.gate", "steps.override", "embedded*"), S3),
        (("expectations*", "steps.validate"), frozenset({"great_expectations"})),
    ),
    "trainer": (
        (("training.*",), TORCH),
        (("steps.evaluate", "steps.fine_tuning", "steps.fitting"), S3),
        (("steps.train",), frozenset({"mlflow"})),
    ),
    "registry": (
        (("tracking*", "served_model"), frozenset({"mlflow"})),
        (("steps.register",), S3),
    ),
    "Airflow": (
        (("cli", "cli_*"), frozenset()),
        (("orchestration", "orchestration.[!p]*", "orchestration.plugin"), S3 | {"airflow"}),
        (("orchestration.pod*",), frozenset({"kubernetes"})),
    ),
}

# Lowest first. A module may import from lower layers, and from its own family; cores from their whole layer.
LAYERS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("errors", "mammogram", "section", "pods_config", "gate_config", "config"),),
    (CORE,),
    (("storage*",), ("expectations*",), ("tracking*", "served_model"), ("training*",)),
    (ON_STORAGE,),
    (("steps*",),),
    (("cli", "cli_*"), ("embedded*",), ("orchestration*",)),
)
EXCEPTIONS = {
    ("holdout_creation", "expectations"): "a one-off, run by hand: it judges images as a night does",
    ("served_model", "training.scoring"): "a registered model is scored by the code that trained it",
    ("cli", "embedded.demo"): "bc demo",
    ("cli", "embedded.processes"): "bc down",
}

IMPORT_ONE_BY_ONE = """
import importlib, json, os, sys, threading
heavy, modules = json.loads(sys.argv[1])
seen = {}
for module in modules:
    importlib.import_module(module)
    traces = os.listdir() + [thread.name for thread in threading.enumerate()[1:]]
    seen[module] = [name for name in heavy if name in sys.modules], traces
print(json.dumps(seen))
"""


@cache
def _modules() -> tuple[str, ...]:
    """Return every module of the package, without the package's own name."""
    paths = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "bc_tasks").rglob("*.py")]
    names = (".".join(path.with_suffix("").parts[1:]).removesuffix("__init__").removesuffix(".") for path in paths)
    return tuple(sorted(names))


def _matching(patterns: tuple[str, ...]) -> list[str]:
    return [name for name in _modules() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _full(name: str) -> str:
    return f"bc_tasks.{name}".rstrip(".")


def test_every_module_is_on_the_map_once() -> None:
    chained = Counter(name for rows in CHAINS.values() for patterns, _ in rows for name in _matching(patterns))
    layered = {name for layer in LAYERS for family in layer for name in _matching(family)}
    assert [name for name in _modules() if chained[name] != 1] == [], "place these once in CHAINS"
    assert [name for name in _modules() if name not in layered] == [], "place these in LAYERS"


def test_nothing_is_on_the_map_that_is_not_there() -> None:
    patterns = [pattern for rows in CHAINS.values() for row, _ in rows for pattern in row]
    assert [pattern for pattern in patterns if not _matching((pattern,))] == []


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_a_module_brings_no_library_that_it_may_not_use_and_importing_does_nothing(chain: str, tmp_path: Path) -> None:
    allowed: set[str] = set()
    wanted: dict[str, set[str]] = {}
    for patterns, libraries in CHAINS[chain]:
        allowed |= libraries
        wanted |= {_full(name): set(allowed) for name in _matching(patterns)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ONE_BY_ONE, json.dumps([HEAVY, list(wanted)])],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "AIRFLOW_HOME": str(tmp_path / ".." / "airflow")},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    too_much = {name: sorted(set(brought) - wanted[name]) for name, (brought, _) in seen.items()}
    assert {name: libraries for name, libraries in too_much.items() if libraries} == {}
    if chain != "Airflow":  # which sets itself up when it is imported
        assert {name: traces for name, (_, traces) in seen.items() if traces} == {}


def _imports(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, inside of functions too, but not for types alone."""
    path = REPOSITORY.joinpath("bc_tasks", *filter(None, name.split(".")))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    known = set(_modules())
    pending: list[ast.AST] = [ast.parse(source.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bc_tasks":
            parent = (node.module or "").removeprefix("bc_tasks").removeprefix(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".removeprefix(".")
                yield child if child in known else parent


def _place(name: str) -> tuple[int, int]:
    """Return the lowest layer of a module, and its family there."""
    return next(
        (depth, number)
        for depth, layer in enumerate(LAYERS)
        for number, family in enumerate(layer)
        if name in _matching(family)
    )


@pytest.mark.parametrize("name", _modules(), ids=_full)
def test_imports_run_one_way_and_siblings_do_not_import_each_other(name: str) -> None:
    depth, family = _place(name)
    wrong = {
        imported
        for imported in _imports(name)
        if _place(imported) != (depth, family) and _place(imported)[0] >= depth and (name, imported) not in EXCEPTIONS
    }
    assert wrong == set()


def test_every_exception_is_still_needed() -> None:
    assert [pair for pair in EXCEPTIONS if pair[1] not in _imports(pair[0])] == []

"""Lets Great Expectations look at a candidate, and says what it saw: outcomes, bad rows, Data Docs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from bc_tasks import manifest
from bc_tasks.config import ValidationConfig
from bc_tasks.expectations import page, scopes
from bc_tasks.expectations.scopes import CHANGE, IMAGE, MANIFEST, NIGHT, NUM_NAMED, PATIENT, Scope
from bc_tasks.expectations.table import EXPECTATIONS, Expectation, Facts
from bc_tasks.records import ExpectationOutcome, Leak


@dataclass(frozen=True)
class Findings:
    """What was seen; `bad_rows` says of each image to set aside, by its key, what is wrong with it."""

    outcomes: tuple[ExpectationOutcome, ...]
    bad_rows: Mapping[str, str]


@dataclass(frozen=True)
class _Checked:
    """An expectation, the outcome, the rows that break it, and Great Expectations' own result where it looked."""

    expectation: Expectation
    outcome: ExpectationOutcome
    bad: pd.DataFrame
    result: Any


def check(
    candidate: pd.DataFrame,
    *,
    config: ValidationConfig,
    previous: pd.DataFrame,
    holdout_patient_ids: frozenset[str],
    holdout_source_stems: frozenset[str],
    docs_folder: Path,
    title: str,
    leaks: Sequence[Leak] = (),
) -> Findings:
    """Check a candidate's usable rows, and write Data Docs to `index.html` in a folder that is there.

    `previous` is the manifest of the snapshot before, without rows where the candidate is the first; `leaks`, which
    ingest has set aside tonight, are shown.
    Images are looked at one by one; the whole is then judged without the bad ones. But a patient who leaks is never a
    matter of a few bad images: patients are judged with all of them. Where the manifest itself is malformed, nothing
    else is looked at.
    """
    facts = Facts(config, manifest.usable(previous), holdout_patient_ids, holdout_source_stems)
    context = _context()
    checked = _check(context, MANIFEST, candidate, facts)
    bad_rows: dict[str, str] = {}
    if all(one.outcome.passed for one in checked):
        images = manifest.usable(candidate)
        checked += _check(context, PATIENT, scopes.patients(images), facts)
        of_images = _check(context, IMAGE, images, facts)
        checked += of_images
        bad_rows = _bad_rows(of_images)
        rest = images[~images["key"].isin(bad_rows)].reset_index(drop=True)
        for scope, frame in scopes.frames(rest, facts.previous).items():
            checked += _check(context, scope, frame, facts)
        checked += _check(context, NIGHT, scopes.night(candidate, previous, bad_rows), facts)
    _write_docs(docs_folder, title, checked, leaks)
    return Findings(tuple(one.outcome for one in checked), bad_rows)


def _context() -> Any:
    """Return a context of Great Expectations that lives in memory, calls nobody and draws no progress bars."""
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def _check(context: Any, scope: Scope, frame: pd.DataFrame | str, facts: Facts) -> list[_Checked]:
    """Let Great Expectations look at a frame; a string says why there is nothing to look at."""
    table = [entry for entry in EXPECTATIONS if entry.scope == scope]
    if isinstance(frame, str):
        nothing = pd.DataFrame()
        return [
            _Checked(entry, _outcome(entry, facts, True, f"not checked: {frame}"), nothing, None) for entry in table
        ]
    suite = context.suites.add(gx.ExpectationSuite(scope.title, [_built(entry, facts) for entry in table]))
    asset = context.data_sources.pandas_default.add_dataframe_asset(scope.title)
    batch = asset.add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=scope.title, data=batch, suite=suite))
    report = definition.run(
        batch_parameters={"dataframe": frame},
        # Where the bad rows are, without their values: a bad batch has thousands, and they may be of patients.
        result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True},
    )
    results = {result.expectation_config.meta["name"]: result for result in report.results}
    return [_judge(entry, results[entry.name], frame, facts) for entry in table]


def _built(entry: Expectation, facts: Facts) -> gxe.Expectation:
    built = entry.build(facts)
    built.meta = {"name": entry.name, "why": entry.why}
    # Data Docs show the description and not `notes`, so the why is its second line.
    built.description = f"{entry.wanted_of(facts)}\n{entry.why}"
    built.severity = "warning" if entry.scope.severity == "row" else "critical"
    return built


def _judge(entry: Expectation, result: Any, frame: pd.DataFrame, facts: Facts) -> _Checked:
    bad = frame.loc[result.result.get("unexpected_index_list", [])]
    names = scopes.names(entry.scope, bad) if len(bad) else ()
    seen = _seen(entry.scope, result, names, facts)
    outcome = _outcome(entry, facts, result.success, seen, len(bad), names)
    if not result.result:  # nobody knows which images are bad, so none can be set aside
        outcome = outcome.model_copy(update={"severity": "table"})
    return _Checked(entry, outcome, bad, result)


def _outcome(
    entry: Expectation, facts: Facts, passed: bool, seen: str, num_bad: int = 0, names: tuple[str, ...] = ()
) -> ExpectationOutcome:
    return ExpectationOutcome(
        name=entry.name,
        passed=passed,
        severity=entry.scope.severity,
        seen=seen,
        wanted=entry.wanted_of(facts),
        why=entry.why,
        num_unexpected=num_bad,
        image_ids=names if entry.scope == IMAGE else (),
    )


def _seen(scope: Scope, result: Any, names: tuple[str, ...], facts: Facts) -> str:
    what = result.result
    if "element_count" in what:
        total, num_bad = what["element_count"], what["unexpected_count"]
        named = f": {', '.join(names)}" if names and scope != IMAGE else ""
        return f"{f'not so in {num_bad:,} of' if num_bad else 'so in all'} {total:,} {scope.things}{named}"
    if "observed_value" not in what:
        return f"could not be looked at: {_problem(result.exception_info)}"
    observed = what["observed_value"]
    if isinstance(observed, list):
        return _columns_seen(observed)
    if isinstance(observed, int):
        return f"{observed:,} images" + (f", {len(facts.previous):,} before" if scope == CHANGE else "")
    now = "no image" if observed is None else f"{observed:.1%} cancer"
    return now + (f", {facts.cancer_share_before:.1%} before" if scope == CHANGE else "")


def _columns_seen(columns: list[str]) -> str:
    if sorted(columns) == sorted(manifest.COLUMN_NAMES):
        return f"these {len(columns)}" if tuple(columns) == manifest.COLUMN_NAMES else "these, in another order"
    differ = [f"without {name}" for name in manifest.COLUMN_NAMES if name not in columns]
    differ += [f"with {name}" for name in columns if name not in manifest.COLUMN_NAMES]
    return ", ".join(differ[:NUM_NAMED])


def _problem(exception_info: Mapping[str, Any]) -> str:
    """Return the message of the first exception; it lies flat, or under the metric that raised it."""
    info = exception_info if "exception_message" in exception_info else next(iter(exception_info.values()))
    return str(info["exception_message"])


def _bad_rows(of_images: list[_Checked]) -> dict[str, str]:
    """Return for each bad image's key all that is wrong with it."""
    details: dict[str, list[str]] = defaultdict(list)
    for one in of_images:
        column = one.result.expectation_config.kwargs["column"]
        for key, value in zip(one.bad["key"], one.bad[column], strict=True):
            details[key].append(f"{column} is {'unknown' if pd.isna(value) else value}; wanted: {one.outcome.wanted}")
    return {key: " | ".join(texts) for key, texts in details.items()}


def _write_docs(folder: Path, title: str, checked: list[_Checked], leaks: Sequence[Leak]) -> None:
    by_scope: dict[Scope, list[page.Checked]] = defaultdict(list)
    for one in checked:
        by_scope[one.expectation.scope].append((one.outcome, one.result))
    page.write(folder / "index.html", title, by_scope, leaks)

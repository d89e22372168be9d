"""Computes a verdict again from its own record, offline; the same bytes must come out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from bc_tasks import cases, gates
from bc_tasks.errors import DataError
from bc_tasks.records import Evaluation, Look, MadeWith, ModelScores, Run, Verdict


@dataclass(frozen=True)
class Difference:
    """Where a record and what was computed again part first."""

    path: str
    recorded: str
    computed: str


@dataclass(frozen=True)
class Replay:
    """The verdict as it was recorded, the versions it was made with, and where another came out, if one did."""

    verdict: Verdict
    difference: Difference | None


def replay(recorded: bytes) -> Replay:
    """Compute a verdict anew from the case, policy and look in its own record.

    Raises:
        DataError: these bytes are no verdict.
    """
    try:
        verdict = Verdict.model_validate_json(recorded)
    except ValidationError as error:
        raise DataError(f"this is no verdict that the present code can read: {error}") from error
    again = gates.decide(verdict.case, verdict.policy, verdict.look, verdict.made_with)
    computed = again.model_dump_json(indent=1).encode()
    return Replay(verdict, first_difference(recorded, computed) if recorded != computed else None)


def check_records(verdict: Verdict, run: Run, evaluation: Evaluation) -> Difference | None:
    """Say where a verdict is not on the policy and the scores of its run's other records; None: it is."""
    case = verdict.case
    again = cases.build(evaluation, None, subgroups=run.config.gate.subgroups, seed=run.config.training.seed)
    recorded = {"policy": verdict.policy, "case": case.model_copy(update={"first_champion": None})}
    computed = {"policy": run.config.gate, "case": again}
    return _first_of(recorded, computed)


def check_ledger(verdict: Verdict, looks: Sequence[Look], first_champion: ModelScores | None) -> Difference | None:
    """Say where a verdict's look and first champion are not those of the holdout's ledger; None: they are."""
    case = verdict.case
    is_first = (
        first_champion is None or case.champion is None or case.champion.weights_sha256 == first_champion.weights_sha256
    )
    entry = next((look for look in looks if look.number == verdict.look.number), None)
    recorded = {"look": verdict.look, "first_champion": case.first_champion}
    theirs = None if is_first or first_champion is None else cases.part(first_champion, case.challenger.images_sha256)
    return _first_of(recorded, {"look": entry, "first_champion": theirs})


def _first_of(recorded: Mapping[str, BaseModel | None], computed: Mapping[str, BaseModel | None]) -> Difference | None:
    then, now = (
        json.dumps({name: part and json.loads(part.model_dump_json()) for name, part in parts.items()}).encode()
        for parts in (recorded, computed)
    )
    return first_difference(then, now)


def versions_differing(then: MadeWith, now: MadeWith) -> list[str]:
    """Name the versions that have changed since a verdict was made: where another comes out, look here first."""
    return [
        f"{name}: {getattr(then, name)} then, {getattr(now, name)} now"
        for name in MadeWith.model_fields
        if getattr(then, name) != getattr(now, name)
    ]


def first_difference(recorded: bytes, computed: bytes) -> Difference | None:
    """Return where two JSON documents part first; None: they hold the same."""
    if recorded == computed:
        return None
    found = next(_differences("", json.loads(recorded), json.loads(computed)), None)
    return found or Difference("(layout)", "other white space or order", "the order and layout of this code")


def _differences(path: str, recorded: Any, computed: Any) -> Iterator[Difference]:
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in [*recorded, *(key for key in computed if key not in recorded)]:
            inner = f"{path}.{key}".removeprefix(".")
            yield from _differences(inner, recorded.get(key, ABSENT), computed.get(key, ABSENT))
    elif isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        for number, (ours, theirs) in enumerate(zip(recorded, computed, strict=True)):
            yield from _differences(f"{path}[{number}]", ours, theirs)
    elif json.dumps(recorded, default=str) != json.dumps(computed, default=str):
        yield Difference(path, _shown(recorded), _shown(computed))


ABSENT = object()


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."

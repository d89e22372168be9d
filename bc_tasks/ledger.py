"""The ledger of a holdout: each look at it, in order, and how much of the error budget it spends.

One object a look, under the holdout's fingerprint; each is written once, by a conditional write, so that two runs
can't both spend the same. A run looks once at its models, however often it is tried. Only another holdout begins anew:
a budget that is raised later gives nothing more. A look in the middle can't be taken out unseen; the last one can,
unless the bucket keeps versions, but the verdict that names it then fails its replay.

Source: linear alpha spending, Lan & DeMets, Biometrika 70 (1983) 659-663; that a holdout wears out, Dwork et al.,
Science 349 (2015) 636-638.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from bc_tasks import runs
from bc_tasks.errors import AlreadyExists, DataError, InfrastructureError
from bc_tasks.gate_config import GateConfig
from bc_tasks.records import Evaluation, Look, ModelScores, Record
from bc_tasks.storage import Storage, join

NOTHING = 1e-9
"""Of error: what adding up leaves of a spent budget."""

MAX_TRIES = 20
"""Other runs that may take a number before us."""


class FirstChampion(Record):
    """The first champion that a holdout measured, with its scores, so that small losses can't add up unseen."""

    step = "first-champion"

    scores: ModelScores


def folder_uri(data_uri: str, holdout_fingerprint: str) -> str:
    """Return where a holdout's ledger lives."""
    return join(data_uri, "ledger", holdout_fingerprint[:16])


def read(storage: Storage, data_uri: str, holdout_fingerprint: str) -> tuple[Look, ...]:
    """Return every look at a holdout, the first one first.

    Raises:
        DataError: a look was taken out, moved or changed so that the sums don't hold.
    """
    folder = folder_uri(data_uri, holdout_fingerprint)
    names = sorted(item.uri.rsplit("/", 1)[1] for item in storage.list(f"{folder}/"))
    looks = tuple(runs.read(storage, folder, Look, name) for name in names if name != FirstChampion.usual_name())
    spent = 0.0
    for number, look in enumerate(looks, start=1):
        spent += look.error
        if (look.number, look.spent, look.holdout_fingerprint) != (number, spent, holdout_fingerprint):
            raise DataError(
                f"the ledger under {folder} was changed: its look {number} says number {look.number}, "
                f"{look.spent:.6f} spent, of holdout {look.holdout_fingerprint[:12]}; the looks before it make "
                f"{spent:.6f} of holdout {holdout_fingerprint[:12]}. Restore it from the bucket's versions"
            )
    return looks


def allowance(looks: Sequence[Look], policy: GateConfig) -> float:
    """Return the error that one more comparison may spend: an equal share of the budget, while any is left."""
    left = _budget(looks, policy) - (looks[-1].spent if looks else 0.0)
    return min(policy.total_error / policy.expected_looks, left) if left > NOTHING else 0.0


def _budget(looks: Sequence[Look], policy: GateConfig) -> float:
    return min(policy.total_error, *(entry.total_error for entry in looks), 1.0)


def look(
    storage: Storage, data_uri: str, evaluation: Evaluation, policy: GateConfig, *, run_uri: str, now: datetime
) -> Look:
    """Enter this run's look at these two models, or return the one it has entered before.

    Without a champion's scores it spends nothing.

    Raises:
        DataError: the ledger was changed.
        InfrastructureError: other runs took number after number; a retry may help.
    """
    fingerprint, champion = evaluation.challenger.holdout_fingerprint, evaluation.champion
    who = (run_uri, evaluation.challenger.weights_sha256, champion.weights_sha256 if champion else None)
    for _ in range(MAX_TRIES):
        looks = read(storage, data_uri, fingerprint)
        if entered := next((entry for entry in looks if _of(entry) == who), None):
            return entered
        error = allowance(looks, policy) if champion else 0.0
        entry = Look(
            number=len(looks) + 1,
            holdout_fingerprint=fingerprint,
            run_uri=run_uri,
            looked_at=now,
            challenger_sha256=who[1],
            champion_sha256=who[2],
            champion_version=evaluation.champion_version,
            error=error,
            spent=(looks[-1].spent if looks else 0.0) + error,
            total_error=policy.total_error,
            expected_looks=policy.expected_looks,
        )
        try:
            runs.write(
                storage,
                folder_uri(data_uri, fingerprint),
                entry,
                file_name=f"{entry.number:06d}.json",
                if_absent=True,
            )
        except AlreadyExists:
            continue
        return entry
    raise InfrastructureError(f"{MAX_TRIES} other runs looked at holdout {fingerprint[:12]} at once; try again")


def _of(look: Look) -> tuple[str, str, str | None]:
    return look.run_uri, look.challenger_sha256, look.champion_sha256


def first_champion(storage: Storage, data_uri: str, champion: ModelScores | None) -> ModelScores | None:
    """Return the first champion that this champion's holdout measured, remembering this one if it is the first.

    One whose scores are no numbers is not remembered: nothing could ever be compared with it.
    """
    if champion is None:
        return None
    fingerprint = champion.holdout_fingerprint
    if known := first_champion_of(storage, data_uri, fingerprint):
        return known
    if not all(math.isfinite(image.probability) for image in champion.scores):
        return None
    with suppress(AlreadyExists):  # another run was first
        runs.write(storage, folder_uri(data_uri, fingerprint), FirstChampion(scores=champion), if_absent=True)
    return first_champion_of(storage, data_uri, fingerprint)


def first_champion_of(storage: Storage, data_uri: str, holdout_fingerprint: str) -> ModelScores | None:
    """Return the first champion that a holdout measured, or None if none was."""
    folder = folder_uri(data_uri, holdout_fingerprint)
    if not runs.exists(storage, folder, FirstChampion.usual_name()):
        return None
    return runs.read(storage, folder, FirstChampion).scores


def sentence(looks: Sequence[Look], policy: GateConfig) -> str:
    """Say how often a holdout was looked at, what that spent, and what is left."""
    spent = looks[-1].spent if looks else 0.0
    budget, share = _budget(looks, policy), policy.total_error / policy.expected_looks
    left = math.ceil((budget - spent) / share - 1e-6)
    counted = f"{len(looks)} looks at this holdout have spent {spent:.4f} of {budget:.4f}"
    if left > 0:
        return f"{counted}; that leaves {left} comparisons that can be confirmed."
    return (
        f"{counted}: it is worn out, and no gain can be confirmed on it any more. Make a new holdout of new patients."
    )

"""ingest: prepares tonight's candidate snapshot out of the inbox; validation commits it."""

from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import Executor
from datetime import datetime
from typing import Any

import pandas as pd

from bc_tasks import (
    delta,
    fingerprint,
    holdout,
    identity,
    inbox,
    intake,
    manifest,
    runs,
    snapshots,
    splits,
    withdrawals,
    withholding,
)
from bc_tasks.config import RunConfig
from bc_tasks.delta import News
from bc_tasks.errors import ConfigError, HoldoutChanged
from bc_tasks.holdout import Holdout
from bc_tasks.inbox import Inbox
from bc_tasks.leaks import copy_search, leak_report, leakage
from bc_tasks.leaks.leakage import Guarded
from bc_tasks.mammogram import DISGUISED_LEAKS, QuarantineReason, Split
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.records import Leak, Run, Snapshot
from bc_tasks.storage import Storage, join
from bc_tasks.withholding import Withdrawn

LEARNT = (
    "{} images that earlier snapshots used are leaks: versions trained on them are measured on what they have learnt"
)


def run(run_uri: str, *, storage: Storage, now: datetime, executor: Executor) -> Snapshot:
    """Read what is new in the inbox and write the candidate's manifest, its pixel shards and, last, the record.

    What would teach a model of the holdout, or stands on both sides of training and tuning, is set aside (`leakage.py`)
    and told in `leaks.json`.

    `executor` decodes images. A crash leaves at most shards that nobody names; done again, the step
    names the same ones.

    Raises:
        ConfigError: there is no holdout, or pixels are to be prepared otherwise than before.
        HoldoutChanged: the holdout isn't the one that the snapshots were made against.
    """
    if runs.exists(storage, run_uri, f"{Snapshot.step}.json"):
        return runs.read(storage, run_uri, Snapshot)
    config = runs.read(storage, run_uri, Run).config
    fixed = holdout.load(storage, config.data_uri, config.holdout.fingerprint)
    base = snapshots.latest(storage, config.data_uri)
    _refuse_mixtures(config, fixed, base)
    before = snapshots.read_manifest(storage, base) if base else manifest.empty()
    seen = inbox.read(storage, config.data_uri, config.ingest, now)
    withdrawn = withdrawals.known(storage, config.data_uri)
    rows = _read_what_is_new(storage, config, seen, before, withdrawn, executor)
    # Pictures of withdrawn patients are sought, too; and what is held back was compared with nothing meanwhile.
    shown = pd.concat([fixed.manifest, withdrawals.stored_pictures(storage, config.data_uri)], ignore_index=True)
    compared = before[~withholding.is_held_back(before)]
    noted = copy_search.note_copies(storage, config.data_uri, rows, compared, shown, executor)
    candidate, guarded = _guarded(withholding.hold_back(noted, withdrawn), config, fixed, before)
    manifest_uri = join(run_uri, "candidate.parquet")
    storage.write(manifest_uri, manifest.to_parquet(candidate))
    news = delta.news(before, candidate)
    learnt = _learnt(before, candidate)
    tonights = [
        leak.model_copy(update={"was_learnt": key in learnt and leak.reason != QuarantineReason.SPLIT_NEAR_COPY})
        for key, leak in guarded.leaks.items()
        if key in news.new | news.revised
    ]
    runs.write(storage, run_uri, leak_report.picture(storage, config.data_uri, tonights, candidate, fixed.manifest))
    snapshot = Snapshot(
        manifest_uri=manifest_uri,
        fingerprint=fingerprint.of_manifest(candidate),
        number=None,
        base_number=base.number if base else None,
        base_is_unfinished=base is not None and not snapshots.is_finished(storage, base),
        preprocessing_sha256=fixed.preprocessing_sha256,
        holdout_fingerprint=fixed.fingerprint,
        **_counted(news, candidate),
        counts=snapshots.describe(candidate),
        waiting_batches=seen.waiting_batches,
        notes=(*seen.notes, *_notes_on(guarded.aliases, tonights), *withholding.notes_on(candidate, withdrawn)),
        is_routine=base is not None and _is_routine(before, candidate, news),
    )
    runs.write(storage, run_uri, snapshot)
    return snapshot


def _refuse_mixtures(config: RunConfig, fixed: Holdout, base: Snapshot | None) -> None:
    digest = preprocessing_sha256(config.ingest.pixels)
    prepared = {"the holdout": fixed.preprocessing_sha256}
    if base is not None:
        prepared["the last snapshot"] = base.preprocessing_sha256
    for what, theirs in prepared.items():
        if theirs != digest:
            raise ConfigError(
                f"ingest.pixels of the configuration is {config.ingest.pixels!r}, but {what} was prepared otherwise "
                f"(preprocessing {theirs[:12]}, not {digest[:12]}). Pixels prepared in two ways can't be mixed: "
                "set ingest.pixels back, or start a new data_uri with a new holdout"
            )
    if base is not None and base.holdout_fingerprint != fixed.fingerprint:
        raise HoldoutChanged(
            f"snapshot {base.number} was made against holdout {base.holdout_fingerprint[:12]}, but now there is "
            f"{fixed.fingerprint[:12]}: patients may have moved between training and holdout. Restore the holdout, "
            "or start a new data_uri"
        )


def _read_what_is_new(
    storage: Storage,
    config: RunConfig,
    seen: Inbox,
    before: pd.DataFrame,
    withdrawn: Withdrawn,
    executor: Executor,
) -> pd.DataFrame:
    """Return tonight's rows, with all that people, the files' bytes and their tags say of them."""
    changes = delta.compare(seen.rows, seen.waiting_batches, before)
    known = identity.complete(changes.known)
    to_read, unread = withholding.divide(changes.to_read, known, before, withdrawn)
    return intake.read_allowed(
        *(storage, config.data_uri, to_read, seen.objects, config.ingest, executor),
        withdrawn=withdrawn,
        known=pd.concat([known, unread], ignore_index=True),
    )


def _guarded(
    rows: pd.DataFrame, config: RunConfig, fixed: Holdout, before: pd.DataFrame
) -> tuple[pd.DataFrame, Guarded]:
    """Set aside what can't be learnt from beside the others, and give the rest its splits."""
    of_holdout = leakage.from_holdout(rows, fixed.manifest)
    # First of all: a copy of a holdout's picture is a leak, and no mere copy.
    separated = identity.separate(leakage.set_aside(rows, of_holdout.leaks), before)
    split = splits.assign(separated["patient_id"], config.splits, fixed.patient_ids | of_holdout.aliases)
    divided = separated.assign(split=split)
    across = leakage.between_splits(divided, before)
    candidate = manifest.conform(leakage.set_aside(divided, across))
    return candidate, Guarded({**of_holdout.leaks, **across}, of_holdout.aliases)


def _learnt(before: pd.DataFrame, candidate: pd.DataFrame) -> frozenset[str]:
    """Return the keys of images whose pictures were in training or tuning before."""
    used = manifest.usable(before)
    learnt_from = used.loc[used["split"].isin([Split.TRAINING.value, Split.TUNING.value]), "pixel_sha256"]
    return frozenset(candidate.loc[candidate["pixel_sha256"].isin(set(learnt_from.dropna())), "key"])


def _notes_on(aliases: Set[str], tonights: Sequence[Leak]) -> list[str]:
    also = f"{len(aliases)} patients are in the holdout under another name, and are not learnt from: see the manifest"
    num_learnt = sum(leak.was_learnt for leak in tonights)
    return [*([also] if aliases else []), *([LEARNT.format(num_learnt)] if num_learnt else [])]


def _is_routine(before: pd.DataFrame, candidate: pd.DataFrame, news: News) -> bool:
    """Say whether the same images are used as before, and all that came is what comes every day, and is no fault.

    What validation has set aside counts as used: it judges that anew, whenever there is news.
    """
    failed = (before["quarantine_reason"] == QuarantineReason.FAILED_EXPECTATION).fillna(False)
    used = before.assign(quarantine_reason=before["quarantine_reason"].mask(failed))
    came = candidate[candidate["key"].isin(news.new | news.revised)].set_index("key")["quarantine_reason"].fillna("")
    then = before.drop_duplicates("key").set_index("key")["quarantine_reason"].reindex(came.index).fillna("")
    is_usual = came.isin({QuarantineReason.HOLDOUT_PATIENT, QuarantineReason.DUPLICATE_CONTENT})
    is_known_leak = came.isin(DISGUISED_LEAKS) & (came == then)
    is_same = fingerprint.of_manifest(used) == fingerprint.of_manifest(candidate)
    return is_same and bool((is_usual | is_known_leak).all())


def _counted(news: News, candidate: pd.DataFrame) -> dict[str, Any]:
    """Return how a candidate differs from the manifest before, as fields of the record."""
    reasons = candidate.loc[candidate["key"].isin(news.new | news.revised), "quarantine_reason"].dropna()
    return {
        "num_new": len(news.new),
        "num_revised": len(news.revised),
        "num_withdrawn": len(news.withdrawn),
        "quarantined_now": dict(sorted(Counter(reasons).items())),
    }

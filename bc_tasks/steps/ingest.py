"""ingest: prepares tonight's candidate snapshot out of the inbox; validation commits it."""

from collections import Counter
from concurrent.futures import Executor
from datetime import datetime
from typing import Any

import pandas as pd

from bc_tasks import delta, fingerprint, holdout, identity, inbox, intake, manifest, runs, snapshots, splits
from bc_tasks.config import RunConfig
from bc_tasks.errors import ConfigError, HoldoutChanged
from bc_tasks.holdout import Holdout
from bc_tasks.inbox import Inbox
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.records import Run, Snapshot
from bc_tasks.storage import Storage, join


def run(run_uri: str, *, storage: Storage, now: datetime, executor: Executor) -> Snapshot:
    """Read what is new in the inbox and write the candidate's manifest, its pixel shards and, last, the record.

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
    rows = _read_what_is_new(storage, config, seen, before, executor)
    aliases = _aliases(rows, fixed)
    split = splits.assign(rows["patient_id"], config.splits, fixed.patient_ids | aliases)
    candidate = manifest.conform(identity.separate(rows, before).assign(split=split))
    manifest_uri = join(run_uri, "candidate.parquet")
    storage.write(manifest_uri, manifest.to_parquet(candidate))
    snapshot = Snapshot(
        manifest_uri=manifest_uri,
        fingerprint=fingerprint.of_manifest(candidate),
        number=None,
        base_number=base.number if base else None,
        base_is_unfinished=base is not None and not snapshots.is_finished(storage, base),
        preprocessing_sha256=fixed.preprocessing_sha256,
        holdout_fingerprint=fixed.fingerprint,
        **_news(before, candidate),
        counts=snapshots.describe(candidate),
        waiting_batches=seen.waiting_batches,
        notes=(*seen.notes, *_notes_on(aliases)),
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
    storage: Storage, config: RunConfig, seen: Inbox, before: pd.DataFrame, executor: Executor
) -> pd.DataFrame:
    """Return tonight's rows, with all that people, the files' bytes and their tags say of them."""
    changes = delta.compare(seen.rows, seen.waiting_batches, before)
    read = intake.read_images(storage, config.data_uri, changes.to_read, seen.objects, config.ingest, executor)
    return identity.complete(pd.concat([changes.known, read], ignore_index=True))


def _aliases(rows: pd.DataFrame, fixed: Holdout) -> frozenset[str]:
    """Return the patients of whom the holdout has a picture, under another name."""
    return frozenset(rows.loc[rows["pixel_sha256"].isin(fixed.pixel_digests), "patient_id"]) - fixed.patient_ids


def _notes_on(aliases: frozenset[str]) -> list[str]:
    if not aliases:
        return []
    names = sorted(aliases)[:10]
    return [f"{len(aliases)} patients are in the holdout under another name, and are never learnt from: {names}"]


def _news(before: pd.DataFrame, candidate: pd.DataFrame) -> dict[str, Any]:
    """Return how a candidate differs from the manifest before, as fields of the record."""
    news = delta.news(before, candidate)
    reasons = candidate.loc[candidate["key"].isin(news.new | news.revised), "quarantine_reason"].dropna()
    return {
        "num_new": len(news.new),
        "num_revised": len(news.revised),
        "num_withdrawn": len(news.withdrawn),
        "quarantined_now": dict(sorted(Counter(reasons).items())),
    }

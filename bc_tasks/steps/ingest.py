"""ingest: prepares tonight's candidate snapshot out of the inbox; validation commits it."""

from collections import Counter
from concurrent.futures import Executor
from datetime import datetime

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
    changes = delta.compare(seen.rows, seen.waiting_batches, before)
    read = intake.read_images(storage, config.data_uri, changes.to_read, seen.objects, config.ingest, executor)
    rows = identity.complete(pd.concat([changes.known, read], ignore_index=True))
    candidate = _split(identity.separate(rows, before), config, fixed)
    manifest_uri = join(run_uri, "candidate.parquet")
    storage.write(manifest_uri, manifest.to_parquet(candidate))
    unfinished = base is not None and not snapshots.is_finished(storage, base)
    snapshot = _describe(candidate, before, base, unfinished, manifest_uri, seen, fixed)
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


def _split(rows: pd.DataFrame, config: RunConfig, fixed: Holdout) -> pd.DataFrame:
    """Give each row its split; who shares a picture with the holdout, under whatever name, is kept out like it."""
    sharing = rows.loc[rows["pixel_sha256"].isin(fixed.pixel_digests), "patient_id"]
    kept_out = fixed.patient_ids | frozenset(sharing)
    return manifest.conform(rows.assign(split=splits.assign(rows["patient_id"], config.splits, kept_out)))


def _describe(
    candidate: pd.DataFrame,
    before: pd.DataFrame,
    base: Snapshot | None,
    base_is_unfinished: bool,
    manifest_uri: str,
    seen: Inbox,
    fixed: Holdout,
) -> Snapshot:
    news = delta.news(before, candidate)
    tonight = candidate[candidate["key"].isin(news.new | news.revised)]
    return Snapshot(
        manifest_uri=manifest_uri,
        fingerprint=fingerprint.of_manifest(candidate),
        number=None,
        base_number=base.number if base else None,
        base_is_unfinished=base_is_unfinished,
        preprocessing_sha256=fixed.preprocessing_sha256,
        holdout_fingerprint=fixed.fingerprint,
        num_new=len(news.new),
        num_revised=len(news.revised),
        num_withdrawn=len(news.withdrawn),
        counts=snapshots.describe(candidate),
        quarantined_now=dict(sorted(Counter(tonight["quarantine_reason"].dropna()).items())),
        waiting_batches=seen.waiting_batches,
        notes=seen.notes,
    )

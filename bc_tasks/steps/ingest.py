"""ingest: prepares tonight's candidate snapshot out of the inbox; validation commits it."""

from collections import Counter
from concurrent.futures import Executor
from datetime import datetime

import pandas as pd

from bc_tasks import delta, fingerprint, holdout, inbox, intake, manifest, runs, snapshots, splits
from bc_tasks.config import RunConfig
from bc_tasks.errors import ConfigError, HoldoutChanged
from bc_tasks.holdout import Holdout
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
    digest = preprocessing_sha256(config.ingest.pixels)
    _refuse_mixtures(config, digest, fixed, base)
    base_manifest = snapshots.read_manifest(storage, base) if base else manifest.empty()
    seen = inbox.read(storage, config.data_uri, config.ingest, now)
    changes = delta.compare(seen.rows, seen.waiting_batches, base_manifest)
    read = intake.read_images(storage, config.data_uri, changes.to_read, seen.objects, config.ingest, executor)
    rows = pd.concat([changes.known, read], ignore_index=True)
    rows = delta.separate(rows, earlier_keys=frozenset(base_manifest["key"]) - changes.revised_keys)
    rows["split"] = splits.assign(rows["patient_id"], config.splits, fixed.patient_ids)
    candidate = manifest.conform(rows)
    manifest_uri = join(run_uri, "candidate.parquet")
    storage.write(manifest_uri, manifest.to_parquet(candidate))
    tonight = candidate[candidate["key"].isin(changes.new_keys | changes.revised_keys)]
    snapshot = Snapshot(
        manifest_uri=manifest_uri,
        fingerprint=fingerprint.of_manifest(candidate),
        number=None,
        base_number=base.number if base else None,
        preprocessing_sha256=digest,
        holdout_fingerprint=fixed.fingerprint,
        num_new=len(changes.new_keys),
        num_revised=len(changes.revised_keys),
        num_withdrawn=len(changes.withdrawn_keys),
        counts=snapshots.describe(candidate),
        quarantined_now=dict(sorted(Counter(tonight["quarantine_reason"].dropna()).items())),
        waiting_batches=seen.waiting_batches,
        notes=seen.notes,
    )
    runs.write(storage, run_uri, snapshot)
    return snapshot


def _refuse_mixtures(config: RunConfig, digest: str, fixed: Holdout, base: Snapshot | None) -> None:
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

"""Committed snapshots: numbered, immutable, found by listing; the commit is one conditional write."""

import json

import pandas as pd

from bc_tasks import fingerprint, manifest, runs
from bc_tasks.errors import AlreadyExists, DataError, InfrastructureError
from bc_tasks.records import Counts, Snapshot
from bc_tasks.storage import Storage, join

MARK = "snapshot.json"
FINISHED = "finished.json"


def folder_uri(data_uri: str, number: int) -> str:
    """Return where a committed snapshot lives."""
    return join(data_uri, "snapshots", f"{number:06d}")


def latest(storage: Storage, data_uri: str) -> Snapshot | None:
    """Return the last committed snapshot, or None where there is none yet."""
    folders = [
        item.uri.removesuffix(f"/{MARK}")
        for item in storage.list(join(data_uri, "snapshots"))
        if item.uri.endswith(f"/{MARK}")
    ]
    return runs.read(storage, max(folders), Snapshot, MARK) if folders else None


def by_number(storage: Storage, data_uri: str, number: int) -> Snapshot:
    """Return a committed snapshot by its number."""
    return runs.read(storage, folder_uri(data_uri, number), Snapshot, MARK)


def read_manifest(storage: Storage, snapshot: Snapshot) -> pd.DataFrame:
    """Read a snapshot's manifest; a committed one must still have its fingerprint.

    Raises:
        DataError: the manifest was changed after it was written.
    """
    frame = manifest.from_parquet(storage.read(snapshot.manifest_uri))
    seen = fingerprint.of_manifest(frame)
    if seen != snapshot.fingerprint:
        raise DataError(
            f"{snapshot.manifest_uri} was changed after it was written: its fingerprint is {seen[:12]}, "
            f"the record says {snapshot.fingerprint[:12]}; restore it from the bucket's versions or a backup"
        )
    return frame


def describe(frame: pd.DataFrame) -> Counts:
    """Count a manifest's usable images by what is known of them; unknown values count as `unknown`."""
    rows = manifest.usable(frame)

    def by(column: str) -> dict[str, int]:
        counts = rows[column].astype("string").fillna("unknown").value_counts().sort_index()
        return {str(value): int(count) for value, count in counts.items()}

    return Counts(
        num_images=len(rows),
        num_patients=int(rows["patient_id"].nunique()),
        num_quarantined=len(frame) - len(rows),
        by_label=by("label"),
        by_split=by("split"),
        by_view=by("view"),
        by_site=by("site_id"),
    )


def commit(storage: Storage, data_uri: str, candidate: Snapshot, frame: pd.DataFrame) -> Snapshot:
    """Publish a validated manifest as the next snapshot; without news, or when tried again, return the last one.

    The manifest is written first and `snapshot.json` last, only if nobody else took the number.

    Raises:
        InfrastructureError: another run committed the same number meanwhile; a retry sees its snapshot.
        DataError: the candidate was compared with another snapshot than the last.
    """
    content = fingerprint.of_manifest(frame)
    last = latest(storage, data_uri)
    if last is not None and (
        not candidate.has_changes or (last.base_number, last.fingerprint) == (candidate.base_number, content)
    ):
        return last
    last_number = last.number if last else None
    if last_number != candidate.base_number:
        raise DataError(
            f"this run was prepared against snapshot {candidate.base_number}, but another run has committed "
            f"{last_number} meanwhile; nothing is lost: start a new run"
        )
    number = (last_number or 0) + 1
    folder = folder_uri(data_uri, number)
    committed = candidate.model_copy(
        update={
            "number": number,
            "fingerprint": content,
            "counts": describe(frame),
            "manifest_uri": join(folder, f"manifest-{content[:16]}.parquet"),
        }
    )
    storage.write(committed.manifest_uri, manifest.to_parquet(frame))
    try:
        runs.write(storage, folder, committed, file_name=MARK, if_absent=True)
    except AlreadyExists as error:
        raise InfrastructureError(f"another run committed {folder} at the same time; try this step again") from error
    return committed


def finish(storage: Storage, snapshot: Snapshot, run_uri: str) -> None:
    """Mark that a night has carried out its verdict on this committed snapshot; until then it stays news."""
    data = json.dumps({"run_uri": run_uri}).encode()
    storage.write(_finished_uri(snapshot), data, content_type="application/json")


def is_finished(storage: Storage, snapshot: Snapshot) -> bool:
    """Say whether a night has carried out its verdict on this committed snapshot."""
    return storage.find(_finished_uri(snapshot)) is not None


def _finished_uri(snapshot: Snapshot) -> str:
    return join(snapshot.manifest_uri.rpartition("/")[0], FINISHED)

"""Reads what storage has of a version's night, however much of it is gone or changed."""

import hashlib
import io
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from bc_tasks import holdout, manifest, runs, shards, snapshots
from bc_tasks.errors import DataError, ObjectNotFound, RecordMissing
from bc_tasks.holdout import HoldoutMark
from bc_tasks.proof.lineage_checks import Found
from bc_tasks.proof.witnesses import Link, fact
from bc_tasks.records import (
    Evaluation,
    Override,
    Record,
    RegisteredModel,
    Run,
    Snapshot,
    TrainedModel,
    ValidationReport,
    Verdict,
    trained_file_name,
)
from bc_tasks.storage import Storage, join

T = TypeVar("T")
R = TypeVar("R", bound=Record)

OVERRIDE = Override.usual_name()


@dataclass(frozen=True)
class _Reader:
    """Reads what may be gone: what can't be read becomes a broken link, and the rest is read all the same."""

    storage: Storage
    run_uri: str
    broken: list[Link] = field(default_factory=list)

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, or None where it is gone or no good."""
        try:
            return read()
        except (DataError, ObjectNotFound, RecordMissing) as error:
            self.broken.append(fact(what, False, str(error)))
            return None

    def record(self, kind: type[R], name: str | None = None) -> R | None:
        """Return a record of the run."""
        name = name or kind.usual_name()
        return self.attempt(f"record {name}", lambda: runs.read(self.storage, self.run_uri, kind, name))


def read(storage: Storage, run_uri: str) -> tuple[Found, tuple[Link, ...]]:
    """Return what there is of a run and of what it was made of, and a broken link for each thing that there is not."""
    reader = _Reader(storage, run_uri)
    run, report, evaluation = reader.record(Run), reader.record(ValidationReport), reader.record(Evaluation)
    trained = reader.record(TrainedModel, trained_file_name(evaluation.challenger_backbone)) if evaluation else None
    mark, fixed = _read_holdout(reader, run.config.data_uri) if run else (None, None)
    committed, bases = _read_snapshots(reader, run.config.data_uri, report) if run and report else (None, ())
    verdict_uri, is_overridden = join(run_uri, Verdict.usual_name()), runs.exists(storage, run_uri, OVERRIDE)
    found = Found(
        run=run,
        report=report,
        committed=committed,
        bases=bases,
        manifest=_read_manifest(reader, "snapshot's manifest", committed.manifest_uri) if committed else None,
        holdout_mark=mark,
        holdout=fixed,
        trained=trained,
        weights_sha256=_weights_digest(reader, trained) if trained else None,
        evaluation=evaluation,
        verdict=reader.record(Verdict),
        verdict_bytes=storage.read(verdict_uri) if storage.find(verdict_uri) else None,
        override=reader.record(Override) if is_overridden else None,
        registered=reader.record(RegisteredModel),
    )
    return found, tuple(reader.broken)


def _read_holdout(reader: _Reader, data_uri: str) -> tuple[HoldoutMark | None, pd.DataFrame | None]:
    folder = holdout.folder_uri(data_uri)
    mark = reader.attempt("holdout's mark", lambda: runs.read(reader.storage, folder, HoldoutMark))
    if mark is None:
        return None, None
    return mark, _read_manifest(reader, "holdout's manifest", join(folder, mark.manifest_name))


def _read_snapshots(
    reader: _Reader, data_uri: str, report: ValidationReport
) -> tuple[Snapshot | None, tuple[Snapshot, ...]]:
    """Return the committed snapshot, and those that it was built on and that are there, back to the first."""
    number, bases = report.snapshot.number or 0, []
    what = f"record of snapshot {number}"
    committed = reader.attempt(what, lambda: snapshots.by_number(reader.storage, data_uri, number))
    for base_number in range(report.snapshot.base_number or 0, 0, -1):
        with suppress(DataError, RecordMissing):  # the check of base snapshots names those that are lost
            bases.append(snapshots.by_number(reader.storage, data_uri, base_number))
    return committed, tuple(bases)


def _read_manifest(reader: _Reader, what: str, uri: str) -> pd.DataFrame | None:
    return reader.attempt(what, lambda: manifest.from_parquet(reader.storage.read(uri)))


def _weights_digest(reader: _Reader, trained: TrainedModel) -> str | None:
    def read_digest() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights"
            reader.storage.download(trained.weights_uri, path)
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    return reader.attempt("weights in the run's folder", read_digest)


def check_pixels(storage: Storage, found: Found) -> tuple[Link, ...]:
    """Compare the stored pixels of all images with the manifests' digests; it reads every shard once."""
    frames = [manifest.usable(frame) for frame in (found.manifest, found.holdout) if frame is not None]
    if found.run is None or not frames:
        return ()
    rows = pd.concat(frames, ignore_index=True).drop_duplicates(["shard_key", "shard_row", "pixel_sha256"])
    data_uri, other = found.run.config.data_uri, []
    for shard_key, of_shard in rows.groupby("shard_key", dropna=False):
        seen = _pixel_digests(storage, join(data_uri, str(shard_key)))
        same = of_shard["shard_row"].map(seen) == of_shard["pixel_sha256"]
        other += list(of_shard.loc[~same.fillna(False), "image_id"])
    changed = f"{len(other)} of {len(rows)} are gone or changed: {other[:10]}"
    sentence = changed if other else f"all {len(rows)} are there"
    return (fact("stored pixels", not other, sentence),)


def _pixel_digests(storage: Storage, uri: str) -> dict[int, str]:
    try:
        images = np.load(io.BytesIO(storage.read(uri)), allow_pickle=False)
    except (ObjectNotFound, ValueError, EOFError):  # gone, or no shard any more
        return {}
    return {row: shards.pixel_sha256(image) for row, image in enumerate(images)}

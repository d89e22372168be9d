"""Where a patient's images went: into which snapshots, and into the learning and measuring of which models.

Each committed manifest is fetched once, and of it only the columns that are needed are decoded; of each run the small
records are read. So the time grows with the snapshots times their size, and with the runs.
"""

from collections.abc import Iterable

import pandas as pd
from pydantic import ValidationError

from bc_tasks import holdout, manifest, runs, withdrawals
from bc_tasks.errors import DataError, RecordMissing
from bc_tasks.holdout import HoldoutMark
from bc_tasks.proof import model_uses
from bc_tasks.proof.model_uses import InModel, read_each
from bc_tasks.records import Part, Snapshot
from bc_tasks.snapshots import MARK
from bc_tasks.storage import Storage, join
from bc_tasks.withdrawals import Withdrawal
from bc_tasks.withholding import REASON

COLUMNS = ("split", "quarantine_reason", "pixel_sha256", "shard_key")


class InSnapshot(Part):
    """What a committed snapshot, or the holdout (without a number), has of the patient."""

    number: int | None
    fingerprint: str
    split: str
    num_images: int
    num_quarantined: int
    num_held_back: int
    pixel_sha256: tuple[str, ...]
    shard_keys: tuple[str, ...]


class Uses(Part):
    """All that this data root knows of a patient."""

    patient_id: str
    snapshots: tuple[InSnapshot, ...]
    holdout: InSnapshot | None
    models: tuple[InModel, ...]
    withdrawal: Withdrawal | None

    @property
    def is_known(self) -> bool:
        """Whether the patient is in any snapshot or in the holdout."""
        return bool(self.snapshots) or self.holdout is not None

    @property
    def pixel_digests(self) -> frozenset[str]:
        """The patient's pictures in all snapshots and the holdout."""
        return frozenset(digest for one in self._places for digest in one.pixel_sha256)

    @property
    def shard_keys(self) -> frozenset[str]:
        """Where these pictures lie, below the data root."""
        return frozenset(key for one in self._places for key in one.shard_keys)

    @property
    def versions(self) -> tuple[str, ...]:
        """Registered versions that saw the patient, in whatever way."""
        return tuple(sorted({model.version for model in self.models if model.version}, key=int))

    @property
    def _places(self) -> Iterable[InSnapshot]:
        return (*self.snapshots, *filter(None, [self.holdout]))


def find(storage: Storage, data_uri: str, patient_id: str) -> Uses:
    """Look a patient up in all committed snapshots, the holdout, the runs and the withdrawals.

    Raises:
        DataError: a manifest or a record can't be read.
    """
    held = _in_snapshots(storage, data_uri, patient_id)
    fixed = _in_holdout(storage, data_uri, patient_id)
    records = model_uses.read_records(storage, data_uri)
    models = model_uses.that_learned({one.fingerprint: one.split for one in held if one.num_images}, records)
    return Uses(
        patient_id=patient_id,
        snapshots=held,
        holdout=fixed,
        models=(
            *models,
            *model_uses.that_started_from(models, records),
            *(model_uses.measured(records) if fixed else ()),
        ),
        withdrawal=withdrawals.find(storage, data_uri, patient_id),
    )


def _in_snapshots(storage: Storage, data_uri: str, patient_id: str) -> tuple[InSnapshot, ...]:
    listed = storage.list(join(data_uri, "snapshots"))
    by_uri = {item.uri: item for item in listed}
    marks = read_each(storage, [item for item in listed if item.uri.endswith(f"/{MARK}")])
    committed = [_parse(uri, data) for uri, data in marks]
    if lost := [snapshot.manifest_uri for snapshot in committed if snapshot.manifest_uri not in by_uri]:
        raise DataError(f"{len(lost)} manifests of committed snapshots are gone: {lost[:10]}; restore them")
    manifests = read_each(storage, [by_uri[snapshot.manifest_uri] for snapshot in committed])
    rows = {uri: manifest.of_patient(data, patient_id, COLUMNS) for uri, data in manifests}
    found = ((one, rows[one.manifest_uri]) for one in committed)
    return tuple(_place(one.number, one.fingerprint, theirs) for one, theirs in found if len(theirs))


def _parse(uri: str, data: bytes) -> Snapshot:
    try:
        return Snapshot.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{uri} is no Snapshot record: {error}") from error


def _in_holdout(storage: Storage, data_uri: str, patient_id: str) -> InSnapshot | None:
    folder = holdout.folder_uri(data_uri)
    try:
        mark = runs.read(storage, folder, HoldoutMark)
    except RecordMissing:
        return None
    rows = manifest.of_patient(storage.read(join(folder, mark.manifest_name)), patient_id, COLUMNS)
    return _place(None, mark.fingerprint, rows) if len(rows) else None


def _place(number: int | None, fingerprint: str, rows: pd.DataFrame) -> InSnapshot:
    used, held_back = rows["quarantine_reason"].isna(), (rows["quarantine_reason"] == REASON).fillna(False)
    return InSnapshot(
        number=number,
        fingerprint=fingerprint,
        split=str((rows[used] if used.any() else rows)["split"].iloc[0]),
        num_images=int(used.sum()),
        num_quarantined=int((~used & ~held_back).sum()),
        num_held_back=int(held_back.sum()),
        pixel_sha256=tuple(sorted(rows["pixel_sha256"].dropna().unique())),
        shard_keys=tuple(sorted(rows["shard_key"].dropna().unique())),
    )

"""Where a patient's images went: into which snapshots, and into the learning and measuring of which models.

They are sought by the patient's id first, and then by their pictures, which may have stood under another name. So each
committed manifest is fetched twice, and of it only the columns that are needed are decoded; of each run the small
records are read. The time grows with the snapshots times their size, and with the runs.
"""

import json
from collections.abc import Collection, Iterable, Mapping

import pandas as pd
from pydantic import ValidationError

from bc_tasks import holdout, manifest, runs, ties, withdrawals
from bc_tasks.errors import DataError, RecordMissing
from bc_tasks.holdout import HoldoutMark
from bc_tasks.proof import model_uses
from bc_tasks.proof.model_uses import InModel, read_each
from bc_tasks.records import Part, Snapshot
from bc_tasks.snapshots import MARK
from bc_tasks.storage import Storage, StoredObject, join
from bc_tasks.withdrawals import Picture, Withdrawal
from bc_tasks.withholding import REASON

COLUMNS = (
    *("patient_id", "split", "quarantine_reason", "pixel_sha256", "shard_key", "shard_row"),
    *("grey_std", "near_copies", "tag_patient_id"),
)


class InSnapshot(Part):
    """What a committed snapshot, or the holdout (without a number), has of the patient."""

    number: int | None
    fingerprint: str
    name: str
    split: str
    num_images: int
    num_quarantined: int
    num_held_back: int
    pixel_sha256: tuple[str, ...]
    shard_keys: tuple[str, ...]


class Uses(Part):
    """All that this data root knows of a patient; `under_other_names` has their pictures that stood under these.

    Pictures that the last snapshot gives to somebody else are theirs no more, `num_of_others` of them: they are not in
    `pictures`, and are sought under no other name.
    """

    patient_id: str
    snapshots: tuple[InSnapshot, ...]
    holdout: InSnapshot | None
    under_other_names: tuple[InSnapshot, ...]
    pictures: tuple[Picture, ...]
    num_of_others: int
    tag_patient_ids: tuple[str, ...]
    models: tuple[InModel, ...]
    withdrawal: Withdrawal | None

    @property
    def is_known(self) -> bool:
        """Whether the patient is in any snapshot or in the holdout."""
        return bool(self.snapshots) or self.holdout is not None

    @property
    def shard_keys(self) -> frozenset[str]:
        """Where their pictures lie, below the data root."""
        return frozenset(key for one in self.places for key in one.shard_keys)

    @property
    def used_in(self) -> tuple[int, ...]:
        """The numbers of the snapshots that use their images, under whatever name."""
        return tuple(sorted({one.number for one in self.places if one.number and one.num_images}))

    @property
    def versions(self) -> tuple[str, ...]:
        """Registered versions that saw the patient, in whatever way."""
        return tuple(sorted({model.version for model in self.models if model.version}, key=int))

    @property
    def places(self) -> Iterable[InSnapshot]:
        """All snapshots, and the holdout, that have something of them."""
        return (*self.snapshots, *filter(None, [self.holdout]), *self.under_other_names)


Manifests = Mapping[tuple[int | None, str], StoredObject]
"""The committed manifests, by the snapshot's number and fingerprint, the latest last; the holdout's has no number."""

Rows = Mapping[tuple[int | None, str], pd.DataFrame]


def find(storage: Storage, data_uri: str, patient_id: str) -> Uses:
    """Look a patient up in all committed snapshots, the holdout, the runs and the withdrawals.

    Raises:
        DataError: a manifest or a record can't be read.
    """
    manifests = _manifests(storage, data_uri)
    mine = _rows(storage, manifests, "patient_id", [patient_id])
    telling = pd.concat([rows[ties.is_telling(rows)] for rows in mine.values()]) if mine else pd.DataFrame()
    digests = frozenset(telling["pixel_sha256"]) if mine else frozenset[str]()
    shown = _rows(storage, manifests, "pixel_sha256", digests)
    of_others = _of_others(manifests, shown, patient_id)
    own = telling[~telling["pixel_sha256"].isin(of_others)] if mine else telling
    held = tuple(_place(*key, rows) for key, rows in mine.items() if key[0] is not None)
    fixed = next((_place(*key, rows) for key, rows in mine.items() if key[0] is None), None)
    elsewhere = tuple(_elsewhere(shown, digests - of_others, patient_id))
    return Uses(
        patient_id=patient_id,
        snapshots=held,
        holdout=fixed,
        under_other_names=elsewhere,
        pictures=_pictures(own) if mine else (),
        num_of_others=len(of_others),
        tag_patient_ids=tuple(sorted(set(own["tag_patient_id"].dropna()))) if mine else (),
        models=_models(storage, data_uri, (*held, *filter(None, [fixed]), *elsewhere)),
        withdrawal=withdrawals.find(storage, data_uri, patient_id),
    )


def _manifests(storage: Storage, data_uri: str) -> Manifests:
    listed = storage.list(join(data_uri, "snapshots"))
    by_uri = {item.uri: item for item in listed}
    marks = read_each(storage, [item for item in listed if item.uri.endswith(f"/{MARK}")])
    committed = sorted((_parse(uri, data) for uri, data in marks), key=lambda one: one.number or 0)
    if lost := [snapshot.manifest_uri for snapshot in committed if snapshot.manifest_uri not in by_uri]:
        raise DataError(f"{len(lost)} manifests of committed snapshots are gone: {lost[:10]}; restore them")
    return _of_holdout(storage, data_uri) | {
        (one.number, one.fingerprint): by_uri[one.manifest_uri] for one in committed
    }


def _parse(uri: str, data: bytes) -> Snapshot:
    try:
        return Snapshot.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{uri} is no Snapshot record: {error}") from error


def _of_holdout(storage: Storage, data_uri: str) -> dict[tuple[int | None, str], StoredObject]:
    folder = holdout.folder_uri(data_uri)
    try:
        mark = runs.read(storage, folder, HoldoutMark)
    except RecordMissing:
        return {}
    uri = join(folder, mark.manifest_name)
    if (found := storage.find(uri)) is None:
        raise DataError(f"the holdout's manifest {uri} is gone; restore it")
    return {(None, mark.fingerprint): found}


def _rows(storage: Storage, manifests: Manifests, column: str, values: Collection[str]) -> Rows:
    """Return the rows that have one of these values, of each manifest where there are any."""
    if not values:
        return {}
    key_of = {item.uri: key for key, item in manifests.items()}
    found = {
        key_of[uri]: manifest.with_values(data, column, values, COLUMNS)
        for uri, data in read_each(storage, list(manifests.values()))
    }
    return {key: found[key] for key in manifests if len(found[key])}


def _of_others(manifests: Manifests, shown: Rows, patient_id: str) -> frozenset[str]:
    """Return which of these the last snapshot or the holdout gives to other patients, and neither to this one."""
    last = [rows for key, rows in shown.items() if key[0] is None or key == list(manifests)[-1]]
    if not last:
        return frozenset()
    rows = pd.concat(last)
    rows = rows[rows["quarantine_reason"].fillna("") != REASON]
    is_mine = rows["patient_id"] == patient_id
    return frozenset(rows.loc[~is_mine, "pixel_sha256"]) - frozenset(rows.loc[is_mine, "pixel_sha256"])


def _elsewhere(shown: Rows, digests: Collection[str], patient_id: str) -> Iterable[InSnapshot]:
    for key, rows in shown.items():
        theirs = rows[rows["pixel_sha256"].isin(digests) & (rows["patient_id"] != patient_id) & ties.is_telling(rows)]
        for _, of_name in theirs.groupby("patient_id"):
            yield _place(*key, of_name)


def _models(storage: Storage, data_uri: str, places: Collection[InSnapshot]) -> tuple[InModel, ...]:
    records = model_uses.read_records(storage, data_uri)
    used = [one for one in places if one.num_images]
    # One at a time: under two names, a snapshot may train on the one and tune on the other.
    learned = (model_uses.that_learned({one.fingerprint: one.split}, records) for one in used if one.number)
    models = tuple(dict.fromkeys(model for of_place in learned for model in of_place))
    measured = model_uses.measured(records) if any(one.number is None for one in used) else ()
    return (*models, *model_uses.that_started_from(models, records), *measured)


def _pictures(rows: pd.DataFrame) -> tuple[Picture, ...]:
    """Return each picture once, with where it lies and all near copies that were noted of it."""
    return tuple(
        Picture(
            pixel_sha256=str(digest),
            shard_key=stored["shard_key"].iloc[-1] if len(stored := same[same["shard_key"].notna()]) else None,
            shard_row=int(stored["shard_row"].iloc[-1]) if len(stored) else None,
            near_copies=tuple(sorted({copy for text in same["near_copies"].dropna() for copy in json.loads(text)})),
        )
        for digest, same in rows.groupby("pixel_sha256")
    )


def _place(number: int | None, fingerprint: str, rows: pd.DataFrame) -> InSnapshot:
    used, held_back = rows["quarantine_reason"].isna(), (rows["quarantine_reason"] == REASON).fillna(False)
    return InSnapshot(
        number=number,
        fingerprint=fingerprint,
        name=str(rows["patient_id"].iloc[0]),
        split=str((rows[used] if used.any() else rows)["split"].iloc[0]),
        num_images=int(used.sum()),
        num_quarantined=int((~used & ~held_back).sum()),
        num_held_back=int(held_back.sum()),
        pixel_sha256=tuple(sorted(rows["pixel_sha256"].dropna().unique())),
        shard_keys=tuple(sorted(rows["shard_key"].dropna().unique())),
    )

"""Withdrawals: patients of whom nothing may be learnt any more, each a record that stays for good."""

import hashlib
from datetime import datetime

import pandas as pd
from pydantic import Field

from bc_tasks import manifest, runs
from bc_tasks.errors import AlreadyExists, RecordMissing
from bc_tasks.records import Part, Record
from bc_tasks.storage import Storage, join
from bc_tasks.withholding import Withdrawn

MAX_REASON = 500  # characters


class Picture(Part):
    """A picture of a patient: where its pixels lie, if they are stored, and the digests of its near copies."""

    pixel_sha256: str
    shard_key: str | None
    shard_row: int | None
    near_copies: tuple[str, ...] = ()


class Withdrawal(Record):
    """That a patient was withdrawn: by whom, when and why; there is no record that undoes it."""

    step = "withdrawal"

    patient_id: str
    reason: str = Field(min_length=1, max_length=MAX_REASON, description="without any name or other personal data")
    withdrawn_at: datetime
    withdrawn_by: str
    pixel_sha256: tuple[str, ...] = Field(
        description="their pictures in the snapshots up to then, by which they are known under another name too"
    )
    pictures: tuple[Picture, ...] = Field((), description="the same, with what it takes to find near copies of them")
    tag_patient_ids: tuple[str, ...] = Field((), description="what the tags of their files call them")

    @property
    def file_name(self) -> str:
        """One object a patient; a digest, because an id may hold what an object's name may not."""
        return _file_name(self.patient_id)


def folder_uri(data_uri: str) -> str:
    """Return where the withdrawals lie; whoever starts a new data root takes them along."""
    return join(data_uri, "withdrawals")


def find(storage: Storage, data_uri: str, patient_id: str) -> Withdrawal | None:
    """Return a patient's withdrawal, if there is one."""
    try:
        return runs.read(storage, folder_uri(data_uri), Withdrawal, _file_name(patient_id))
    except RecordMissing:
        return None


def write(storage: Storage, data_uri: str, withdrawal: Withdrawal) -> Withdrawal:
    """Record a withdrawal, unless the patient has one; return the one that stands."""
    try:
        runs.write(storage, folder_uri(data_uri), withdrawal, if_absent=True)
    except AlreadyExists:
        return runs.read(storage, folder_uri(data_uri), Withdrawal, withdrawal.file_name)
    return withdrawal


def read_all(storage: Storage, data_uri: str) -> tuple[Withdrawal, ...]:
    """Return all withdrawals, the earliest first.

    Raises:
        DataError: one of them can't be read: then nobody knows whose images may be used.
    """
    folder = folder_uri(data_uri)
    names = [item.uri.rpartition("/")[2] for item in storage.list(folder)]
    found = storage.pool.map(lambda name: runs.read(storage, folder, Withdrawal, name), names)
    return tuple(sorted(found, key=lambda one: (one.withdrawn_at, one.patient_id)))


def known(storage: Storage, data_uri: str) -> Withdrawn:
    """Return by what withdrawn patients' images are known."""
    them = read_all(storage, data_uri)
    return Withdrawn(
        patient_ids=frozenset(one.patient_id for one in them),
        pixel_digests=frozenset(digest for one in them for digest in one.pixel_sha256),
        near_copies=frozenset(copy for one in them for picture in one.pictures for copy in picture.near_copies),
        tags=frozenset((one.patient_id, tag) for one in them for tag in one.tag_patient_ids),
    )


def stored_pictures(storage: Storage, data_uri: str) -> pd.DataFrame:
    """Return rows of withdrawn patients' pictures that are stored here, to seek near copies of them.

    In a data root to which only the withdrawals were taken along there are none.
    """
    pictures = [picture for one in read_all(storage, data_uri) for picture in one.pictures]
    shard_keys = {picture.shard_key for picture in pictures if picture.shard_key}
    there = {key for key in shard_keys if storage.find(join(data_uri, key)) is not None}
    rows = [picture.model_dump(exclude={"near_copies"}) for picture in pictures if picture.shard_key in there]
    return manifest.conform(pd.DataFrame(rows))


def _file_name(patient_id: str) -> str:
    return f"{hashlib.sha256(patient_id.encode()).hexdigest()[:32]}.json"

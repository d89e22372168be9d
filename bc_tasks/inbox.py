"""The inbox: batches of labelled images, in class folders or beside a labels file, as rows of a manifest.

Nothing is downloaded here but the labels files. A row that can't be used already has its quarantine reason.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import pandas as pd

from bc_tasks import labels_file
from bc_tasks.config import IngestConfig
from bc_tasks.errors import DataError, InfrastructureError, ObjectNotFound
from bc_tasks.labels_file import LabelsFile
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.storage import Storage, StoredObject

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom", "")
EXPORT_FOLDERS = ("train", "valid", "test")  # Roboflow's own split, which ignores patients: not used
ROBOFLOW_NAME = re.compile(r"^(?P<stem>.+)\.rf\.[0-9A-Za-z]+$")
PATIENT_AND_IMAGE = re.compile(r"^(?P<image_id>(?P<patient_id>[^_]+)_[^_]+)_(?:png|jpg|jpeg|dcm)$")
ROW_COLUMNS = (
    *("key", "batch", "etag", "version_id", "num_bytes", "image_id", "patient_id", "source_stem", "label", "view"),
    *("laterality", "site_id", "machine_id", "age", "density", "quarantine_reason", "quarantine_detail"),
)

Row = dict[str, object]
Objects = Mapping[str, StoredObject]
Fault = tuple[QuarantineReason, str]


@dataclass(frozen=True)
class Inbox:
    """What lies in the inbox: rows for the settled batches' images, all objects by key, batches that wait."""

    rows: pd.DataFrame
    objects: Objects
    waiting_batches: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Batch:
    """A settled batch: its files by path within it, and the part of an object's key before that path."""

    name: str
    key_prefix: str
    files: Objects

    def row(self, path: str, facts: Row, fault: Fault | None) -> Row:
        """Return the row of an image, whether or not there is an object of it."""
        return _row(self.name, self.key_prefix + path, self.files.get(path), facts, fault)


_Rows = tuple[list[Row], list[str]]  # with notes


def read(storage: Storage, data_uri: str, config: IngestConfig, now: datetime) -> Inbox:
    """List the inbox and read its labels files.

    A batch waits for a later night while its marker is missing or its youngest object is younger than
    `settle_minutes`.

    Raises:
        InfrastructureError: somebody changed a labels file while it was read; trying again can help.
    """
    root = data_uri + "/"
    objects = storage.list(root + config.inbox_prefix)
    batches, rows = _group(objects, root, config.inbox_prefix)
    waiting = tuple(sorted(name for name, files in batches.items() if not _settled(files, config, now)))
    notes: list[str] = []
    for name in sorted(batches.keys() - set(waiting)):
        files = {path: item for path, item in batches[name].items() if path != config.complete_marker}
        batch_rows, batch_notes = _read_batch(storage, _Batch(name, f"{config.inbox_prefix}{name}/", files))
        rows += batch_rows
        notes += [f"batch {name}: {note}" for note in batch_notes]
    by_key = {item.uri.removeprefix(root): item for item in objects}
    return Inbox(pd.DataFrame(rows, columns=list(ROW_COLUMNS)), by_key, waiting, tuple(notes))


def _group(
    objects: Iterable[StoredObject], root: str, prefix: str
) -> tuple[dict[str, dict[str, StoredObject]], list[Row]]:
    """Return for each batch its objects by path within it, and rows for objects outside of any batch."""
    batches: dict[str, dict[str, StoredObject]] = defaultdict(dict)
    stray = []
    for item in objects:
        path = item.uri.removeprefix(root + prefix)
        name, _, path_in_batch = path.partition("/")
        if name and path_in_batch:
            batches[name][path_in_batch] = item
        else:
            fault = QuarantineReason.NOT_IN_A_BATCH, "put it into a folder of the inbox"
            stray.append(_row("", prefix + path, item, {}, fault))
    return batches, stray


def _settled(files: Objects, config: IngestConfig, now: datetime) -> bool:
    marked = not config.complete_marker or config.complete_marker in files
    youngest = max(item.modified_at for item in files.values())
    return marked and now - youngest >= timedelta(minutes=config.settle_minutes)


def _read_batch(storage: Storage, batch: _Batch) -> _Rows:
    labels = [path for path in labels_file.FILE_NAMES if path in batch.files]
    images = [path for path in batch.files if path not in labels]
    if not labels:
        return _from_folders(batch, images)
    try:
        if len(labels) > 1:
            raise DataError(f"there are {' and '.join(labels)}; leave one of them")
        parsed = labels_file.parse(_read_unchanged(storage, batch.files[labels[0]]), labels[0])
    except DataError as error:
        fault = QuarantineReason.BAD_LABELS_FILE, str(error)
        return [batch.row(path, {}, fault) for path in images if _is_image(path)], [str(error)]
    return _from_labels(batch, images, parsed)


def _read_unchanged(storage: Storage, item: StoredObject) -> bytes:
    try:
        return storage.read(item.uri, etag=item.etag)
    except ObjectNotFound as error:
        raise InfrastructureError(f"{item.uri} was removed since it was listed; list again") from error


def _is_image(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")


def _from_folders(batch: _Batch, images: list[str]) -> _Rows:
    rows, unused = [], []
    for path in images:
        folders = list(PurePosixPath(path).parts[:-1])
        if folders and folders[0] in EXPORT_FOLDERS:
            folders = folders[1:]
        if _is_image(path) or (folders and not path.rpartition("/")[2].startswith(".")):
            rows.append(batch.row(path, *_label_of_folder(folders)))
        else:
            unused.append(path)
    return rows, _notes_on(unused) if rows else ["it holds no images", *_notes_on(unused)]


def _notes_on(unused: list[str]) -> list[str]:
    return [f"{len(unused)} files are no images and not used: {unused[:10]}"] if unused else []


def _label_of_folder(folders: list[str]) -> tuple[Row, Fault | None]:
    if not folders:
        return {}, (QuarantineReason.NO_LABEL, "it lies in no class folder, and the batch has no labels file")
    if folders not in (["0"], ["1"]):
        return {}, (QuarantineReason.BAD_LABEL, f"folder {'/'.join(folders)[:60]!r} is neither 0 nor 1")
    return {"label": int(folders[0])}, None


def _from_labels(batch: _Batch, images: list[str], labels: LabelsFile) -> _Rows:
    known = labels.rows.astype(object).where(labels.rows.notna(), None)
    columns = [str(column) for column in known]
    rows = [_labelled(batch, dict(zip(columns, row, strict=True))) for row in known.itertuples(index=False, name=None)]
    rest = sorted(set(images) - set(labels.rows["path"]))
    fault = QuarantineReason.NO_LABEL, "the labels file has no row for it"
    rows += [batch.row(path, {}, fault) for path in rest if _is_image(path)]
    return rows, [*labels.notes, *_notes_on([path for path in rest if not _is_image(path)])]


def _labelled(batch: _Batch, known: Row) -> Row:
    path = str(known["path"])
    facts = {column: known[column] for column in ("label", *labels_file.OPTIONAL) if known[column] is not None}
    fault: Fault | None = None
    if known["quarantine_reason"] is not None:
        fault = QuarantineReason(str(known["quarantine_reason"])), str(known["quarantine_detail"])
    elif path not in batch.files:
        fault = QuarantineReason.MISSING_IMAGE, "it has a label, but the batch has no object of that path"
    # A path that leads out of the batch must not stand for an object of another one.
    return batch.row(path if labels_file.is_inside(path) else f"labels#{path}", facts, fault)


def _row(batch: str, key: str, item: StoredObject | None, facts: Row, fault: Fault | None) -> Row:
    stored = {"etag": item.etag, "version_id": item.version_id, "num_bytes": item.num_bytes} if item else {}
    quarantine = {"quarantine_reason": fault[0].value, "quarantine_detail": fault[1]} if fault else {}
    return {"key": key, "batch": batch, **names_in(key), **stored, **facts, **quarantine}


def names_in(key: str) -> dict[str, str]:
    """Return the source stem of a file name and, where the name tells, the ids of the patient and the image.

    `7_12_png.rf.0a1b.jpg` is image `7_12` of patient `7`, from the source `7_12_png`.
    """
    name = PurePosixPath(key).name
    suffix = PurePosixPath(name).suffix
    base = name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
    exported = ROBOFLOW_NAME.match(base)
    stem = exported["stem"] if exported else base
    ids = PATIENT_AND_IMAGE.match(stem)
    return {"source_stem": stem, **(ids.groupdict() if ids else {})}

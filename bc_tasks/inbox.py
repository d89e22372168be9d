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
from bc_tasks.errors import DataError
from bc_tasks.mammogram import QuarantineReason
from bc_tasks.storage import Storage, StoredObject

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom", "")
EXPORT_FOLDERS = ("train", "valid", "test")  # Roboflow's own split, which ignores patients: not used
ROBOFLOW_NAME = re.compile(r"^(?P<stem>.+)\.rf\.[0-9A-Za-z]+$")
PATIENT_AND_IMAGE = re.compile(r"^(?P<patient>[^_]+)_(?P<image>[^_]+)_(?:png|jpg|jpeg|dcm)$")
ROW_COLUMNS = (
    *("key", "batch", "etag", "version_id", "num_bytes", "image_id", "patient_id", "source_stem", "label", "view"),
    *("laterality", "site_id", "machine_id", "age", "density", "quarantine_reason", "quarantine_detail"),
)


@dataclass(frozen=True)
class Inbox:
    """What lies in the inbox: rows for the settled batches' images, all objects by key, batches that wait."""

    rows: pd.DataFrame
    objects: Mapping[str, StoredObject]
    waiting_batches: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Batch:
    name: str
    rows: list[dict[str, object]]
    notes: list[str]


def read(storage: Storage, data_uri: str, config: IngestConfig, now: datetime) -> Inbox:
    """List the inbox and read its labels files.

    A batch waits for a later night while its marker is missing or its youngest object is younger than
    `settle_minutes`.
    """
    root = data_uri + "/"
    objects = storage.list(root + config.inbox_prefix)
    by_batch, stray = _group(objects, root, config.inbox_prefix)
    waiting = tuple(sorted(name for name, items in by_batch.items() if not _settled(items, config, now)))
    batches = [
        _read_batch(storage, name, items, config) for name, items in sorted(by_batch.items()) if name not in waiting
    ]
    rows = [row for batch in batches for row in batch.rows] + stray
    notes = [note for batch in batches for note in batch.notes]
    by_key = {item.uri.removeprefix(root): item for item in objects}
    return Inbox(pd.DataFrame(rows, columns=list(ROW_COLUMNS)), by_key, waiting, tuple(notes))


def _group(
    objects: Iterable[StoredObject], root: str, prefix: str
) -> tuple[dict[str, dict[str, StoredObject]], list[dict[str, object]]]:
    """Return for each batch its objects by path within it, and rows for images outside of any batch."""
    batches: dict[str, dict[str, StoredObject]] = defaultdict(dict)
    stray = []
    for item in objects:
        name, slash, path = item.uri.removeprefix(root + prefix).partition("/")
        if slash and path:
            batches[name][path] = item
        elif name and not slash:
            reason = QuarantineReason.NOT_IN_A_BATCH, "put it into a folder of the inbox"
            stray.append(_row("", prefix + name, item, {}, reason))
    return batches, stray


def _settled(items: Mapping[str, StoredObject], config: IngestConfig, now: datetime) -> bool:
    marked = not config.complete_marker or config.complete_marker in items
    youngest = max(item.modified_at for item in items.values())
    return marked and now - youngest >= timedelta(minutes=config.settle_minutes)


def _read_batch(storage: Storage, name: str, items: Mapping[str, StoredObject], config: IngestConfig) -> _Batch:
    key_prefix = f"{config.inbox_prefix}{name}/"
    files = {path: item for path, item in items.items() if path != config.complete_marker and not path.endswith("/")}
    labels = [path for path in files if path in labels_file.FILE_NAMES]
    images = {path: item for path, item in files.items() if path not in labels}
    if not images:
        return _Batch(name, [], [f"batch {name} holds no images"])
    if not labels:
        return _from_folders(name, key_prefix, images)
    try:
        if len(labels) > 1:
            raise DataError(f"there are {' and '.join(labels)}; leave one of them")
        parsed = labels_file.parse(storage.read(files[labels[0]].uri), labels[0])
    except DataError as error:
        refused = QuarantineReason.BAD_LABELS_FILE, str(error)
        rows = [_row(name, key_prefix + path, item, {}, refused) for path, item in images.items() if _is_image(path)]
        return _Batch(name, rows, [f"batch {name}: {error}"])
    return _from_labels(name, key_prefix, images, parsed)


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def _from_folders(name: str, key_prefix: str, images: Mapping[str, StoredObject]) -> _Batch:
    rows, ignored = [], []
    for path, item in images.items():
        folders = list(PurePosixPath(path).parts[:-1])
        if folders and folders[0] in EXPORT_FOLDERS:
            folders = folders[1:]
        if not folders and not _is_image(path):
            ignored.append(path)
            continue
        rows.append(_row(name, key_prefix + path, item, *_label_of_folder(folders)))
    notes = [f"batch {name}: files {ignored[:10]} are no images and not used"] if ignored else []
    return _Batch(name, rows, notes)


def _label_of_folder(folders: list[str]) -> tuple[dict[str, object], tuple[QuarantineReason, str] | None]:
    if not folders:
        return {}, (QuarantineReason.NO_LABEL, "it lies in no class folder, and the batch has no labels file")
    if folders[0] not in ("0", "1") or len(folders) > 1:
        return {}, (QuarantineReason.BAD_LABEL, f"folder {'/'.join(folders)[:60]!r} is neither 0 nor 1")
    return {"label": int(folders[0])}, None


def _from_labels(
    name: str, key_prefix: str, images: Mapping[str, StoredObject], labels: labels_file.LabelsFile
) -> _Batch:
    rows = []
    for known in labels.rows.to_dict("records"):
        item = images.get(known["path"]) if pd.notna(known["path"]) else None
        reason = (known["quarantine_reason"], known["quarantine_detail"])
        if pd.isna(reason[0]):
            reason = (QuarantineReason.MISSING_IMAGE, "it has a label, but no object") if item is None else (None, None)
        key = key_prefix + (known["path"] if item else f"labels#{known['path']}")
        facts = {column: known[column] for column in ("label", *labels_file.OPTIONAL) if pd.notna(known[column])}
        rows.append(_row(name, key, item, facts, None if reason[0] is None else reason))
    labelled = set(labels.rows["path"].dropna())
    unlabelled = QuarantineReason.NO_LABEL, "the labels file has no row for it"
    rows += [
        _row(name, key_prefix + path, item, {}, unlabelled)
        for path, item in images.items()
        if path not in labelled and _is_image(path)
    ]
    return _Batch(name, rows, [f"batch {name}: {note}" for note in labels.notes])


def _row(
    batch: str,
    key: str,
    item: StoredObject | None,
    facts: dict[str, object],
    reason: tuple[object, object] | None,
) -> dict[str, object]:
    stem, patient_id, image_id = names_in(key)
    stored: dict[str, object] = (
        {"etag": item.etag, "version_id": item.version_id, "num_bytes": item.num_bytes} if item else {}
    )
    quarantine = {"quarantine_reason": reason[0], "quarantine_detail": reason[1]} if reason else {}
    named: dict[str, object] = {
        "key": key,
        "batch": batch,
        "source_stem": stem,
        "patient_id": patient_id,
        "image_id": image_id,
    }
    return named | stored | facts | quarantine


def names_in(key: str) -> tuple[str, str | None, str | None]:
    """Return the source stem of a file name and, where the name tells, the patient and the image.

    `7_12_png.rf.0a1b.jpg` is image 12 of patient 7, from the source `7_12_png`.
    """
    name = PurePosixPath(key).name
    suffix = PurePosixPath(name).suffix
    base = name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES and suffix else name
    exported = ROBOFLOW_NAME.match(base)
    stem = exported["stem"] if exported else base
    ids = PATIENT_AND_IMAGE.match(stem)
    return (stem, ids["patient"], ids["image"]) if ids else (stem, None, None)

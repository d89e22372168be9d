"""What the demo puts into the inbox: a folder of labelled images, dealt out by patient to its nights."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from bc_tasks import inbox, labels_file
from bc_tasks.config import IngestConfig
from bc_tasks.errors import ConfigError
from bc_tasks.holdout import choose_patients
from bc_tasks.storage import Storage, join

LABEL_COLUMNS = (*labels_file.REQUIRED, *labels_file.OPTIONAL)
MIN_PATIENTS = 20
HOLDOUT_SHARE = 0.3
SPOILED_SHARE = 0.05
SEED = 17
NUM_UPLOADS = 8


@dataclass(frozen=True)
class Deal:
    """The demo's images as inbox rows, dealt out by patient; `uri` says where each image is."""

    holdout: pd.DataFrame
    first_night: pd.DataFrame
    second_night: pd.DataFrame
    spoiled_night: pd.DataFrame


def deal(storage: Storage, folder: Path, scratch: Path, first_share: float) -> Deal:
    """Read a folder in one of the inbox's two layouts and deal its patients out, by label and site alike.

    `first_share` (0 to 1) of the patients that are not in the holdout come on the first night.

    Raises:
        ConfigError: the folder isn't there, or holds too few usable images.
    """
    rows = _read(storage, folder, scratch)
    holdout, rest = _draw(rows, HOLDOUT_SHARE)
    spoiled, rest = _draw(rest, SPOILED_SHARE)
    first, second = _draw(rest, first_share)
    return Deal(holdout, first, second, spoiled)


def _draw(rows: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    drawn = rows["patient_id"].isin(choose_patients(rows, share, SEED))
    return rows[drawn], rows[~drawn]


def _read(storage: Storage, folder: Path, scratch: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one with labels.csv, or with the class folders 0 and 1")
    shutil.copytree(folder, scratch / "inbox" / "all")
    config = IngestConfig(settle_minutes=0)
    seen = inbox.read(storage, f"file://{scratch.resolve()}", config, datetime.now(UTC))
    rows = seen.rows[seen.rows["quarantine_reason"].isna()].copy()
    rows["patient_id"] = rows["patient_id"].fillna(rows["source_stem"])
    rows["uri"] = [seen.objects[key].uri for key in rows["key"]]
    num_patients = rows["patient_id"].nunique()
    if num_patients < MIN_PATIENTS or set(rows["label"]) != {0, 1}:
        raise ConfigError(
            f"{folder} has {len(rows)} usable images of {num_patients} patients; the demo needs both labels and at "
            f"least {MIN_PATIENTS} patients: labels.csv beside the images, or class folders 0 and 1"
        )
    return rows


def deliver(storage: Storage, rows: pd.DataFrame, batch_uri: str) -> None:
    """Put images into the inbox as a hospital would: the images, then labels.csv."""

    def copy(uri: str, key: str) -> None:
        storage.write(join(batch_uri, _path(key)), storage.read(uri))

    with ThreadPoolExecutor(NUM_UPLOADS) as pool:
        list(pool.map(copy, rows["uri"], rows["key"]))
    _write_labels(storage, rows, batch_uri)


def deliver_spoiled(storage: Storage, rows: pd.DataFrame, batch_uri: str) -> None:
    """Put a broken export into the inbox: every second image is cut off, every third label is 2."""
    spoiled = rows.copy()
    for position, (uri, key) in enumerate(zip(rows["uri"], rows["key"], strict=True)):
        data = storage.read(uri)
        storage.write(join(batch_uri, _path(key)), data[: len(data) // 3] if position % 2 else data)
    spoiled.loc[spoiled.index[::3], "label"] = 2
    _write_labels(storage, spoiled, batch_uri)


def _path(key: str) -> str:
    return "images/" + key.rsplit("/", 1)[1]


def _write_labels(storage: Storage, rows: pd.DataFrame, batch_uri: str) -> None:
    table = rows.assign(path=[_path(key) for key in rows["key"]])[list(LABEL_COLUMNS)]
    storage.write(join(batch_uri, "labels.csv"), table.to_csv(index=False).encode(), content_type="text/csv")

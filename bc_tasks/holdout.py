"""The holdout: a fixed set of patients, made once, that every model is measured on and none learns from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from bc_tasks import fingerprint, manifest, runs
from bc_tasks.errors import AlreadyExists, ConfigError, DataError, HoldoutChanged, ObjectNotFound, RecordMissing
from bc_tasks.mammogram import Split
from bc_tasks.records import Record, Sha256
from bc_tasks.storage import Storage, join


class HoldoutMark(Record):
    """What `holdout.json` says; written last, it fixes the holdout."""

    step = "holdout"

    fingerprint: Sha256
    preprocessing_sha256: Sha256
    created_at: datetime
    num_images: int
    num_patients: int

    @property
    def manifest_name(self) -> str:
        """Named by its content, so that of two who make a holdout at once neither overwrites the other's."""
        return f"manifest-{self.fingerprint[:16]}.parquet"


@dataclass(frozen=True)
class Holdout:
    """The holdout as it was fixed; its manifest's rows are the images that models are scored on."""

    fingerprint: str
    preprocessing_sha256: str
    manifest: pd.DataFrame

    @property
    def patient_ids(self) -> frozenset[str]:
        """Patients that must never be trained or tuned on."""
        return frozenset(self.manifest["patient_id"])

    @property
    def source_stems(self) -> frozenset[str]:
        """Source images that must never be trained or tuned on, whatever patient they claim to be of."""
        return frozenset(self.manifest["source_stem"])

    @property
    def pixel_digests(self) -> frozenset[str]:
        """Pictures that must never be trained or tuned on, whatever file and patient they claim to be of."""
        return frozenset(self.manifest["pixel_sha256"])

    def holds(self, rows: pd.DataFrame) -> "pd.Series[bool]":
        """Say which of a manifest's rows are its images, or show its patients or pictures under whatever name."""
        return (
            rows["image_id"].isin(set(self.manifest["image_id"]))
            | rows["patient_id"].isin(self.patient_ids)
            | rows["source_stem"].isin(self.source_stems)
            | rows["pixel_sha256"].isin(self.pixel_digests)
        )


def folder_uri(data_uri: str) -> str:
    """Return where the holdout lives."""
    return join(data_uri, "holdout")


def load(storage: Storage, data_uri: str, pinned: str = "") -> Holdout:
    """Read the holdout and check that it is the one that was fixed; `pinned` is the configuration's fingerprint.

    Raises:
        ConfigError: there is none yet.
        HoldoutChanged: its images, or its fingerprint, are not those that were fixed.
    """
    folder = folder_uri(data_uri)
    try:
        mark = runs.read(storage, folder, HoldoutMark)
    except RecordMissing as error:
        raise ConfigError(f"no holdout is fixed under {folder}; make one once: bc holdout create --help") from error
    except DataError as error:
        raise _changed(folder, f"its mark can't be read: {error}") from error
    if pinned not in ("", mark.fingerprint):
        raise _changed(folder, f"its fingerprint is {mark.fingerprint[:12]}, the configuration pins {pinned[:12]}")
    try:
        frame = manifest.from_parquet(storage.read(join(folder, mark.manifest_name)))
    except (ObjectNotFound, DataError) as error:
        raise _changed(folder, f"its manifest {mark.manifest_name} can't be read: {error}") from error
    seen = fingerprint.of_manifest(frame)
    if seen != mark.fingerprint:
        raise _changed(folder, f"its images have fingerprint {seen[:12]}, its mark says {mark.fingerprint[:12]}")
    return Holdout(seen, mark.preprocessing_sha256, frame)


def _changed(folder: str, what: str) -> HoldoutChanged:
    return HoldoutChanged(
        f"the holdout under {folder} isn't the one that was fixed: {what}. Models measured on two holdouts can't be "
        "compared: restore it from the bucket's versions or a backup; if the change is meant, start a new data_uri"
    )


def refuse_second(storage: Storage, data_uri: str) -> None:
    """Refuse to make a holdout where one is fixed.

    Raises:
        ConfigError: there is one.
    """
    folder = folder_uri(data_uri)
    if runs.exists(storage, folder, f"{HoldoutMark.step}.json"):
        raise ConfigError(
            f"a holdout is fixed under {folder}; it is never made anew. Another one needs another data_uri"
        )


def save(storage: Storage, data_uri: str, frame: pd.DataFrame, preprocessing_sha256: str, now: datetime) -> Holdout:
    """Fix the holdout for good; `holdout.json` is written last, and only if there is none.

    Raises:
        ConfigError: a holdout is fixed already.
        DataError: its images don't have both labels.
    """
    refuse_second(storage, data_uri)
    rows = manifest.usable(manifest.conform(frame.assign(split=Split.HOLDOUT.value)))
    if set(rows["label"]) != {0, 1}:
        raise DataError(
            f"a holdout needs images of both labels; these {len(rows)} have {sorted(set(rows['label']))}: "
            "name other patients, or draw a larger share"
        )
    folder = folder_uri(data_uri)
    mark = HoldoutMark(
        fingerprint=fingerprint.of_manifest(rows),
        preprocessing_sha256=preprocessing_sha256,
        created_at=now,
        num_images=len(rows),
        num_patients=int(rows["patient_id"].nunique()),
    )
    storage.write(join(folder, mark.manifest_name), manifest.to_parquet(rows))
    try:
        runs.write(storage, folder, mark, if_absent=True)
    except AlreadyExists as error:
        raise ConfigError(f"somebody else fixed a holdout under {folder} at the same time; look at it") from error
    return load(storage, data_uri)


def choose_patients(frame: pd.DataFrame, share: float, seed: int) -> frozenset[str]:
    """Draw a share (0 to 1) of the patients of a manifest, stratified by label and, where known, site.

    A patient counts as cancer when any image does. In all it is the share, rounded, and of each stratum too, to within
    one patient.
    """
    patients = frame.groupby("patient_id", sort=True).agg(label=("label", "max"), site_id=("site_id", "first"))
    strata = patients.fillna({"site_id": ""}).reset_index().groupby(["label", "site_id"], sort=True)["patient_id"]
    generator = np.random.default_rng(seed)
    chosen: set[str] = set()
    num_seen = 0
    for _, ids in strata:
        num_seen += len(ids)
        shuffled = generator.permutation(ids.to_numpy(dtype=object))
        chosen.update(shuffled[: _round(share * num_seen) - len(chosen)])
    return frozenset(chosen)


def _round(number: float) -> int:
    return int(number + 0.5)


def summary(holdout: Holdout) -> Mapping[str, object]:
    """Return what a person asks first of a holdout."""
    rows = holdout.manifest
    return {
        "fingerprint": holdout.fingerprint,
        "num_images": len(rows),
        "num_patients": len(holdout.patient_ids),
        "num_cancer_images": int((rows["label"] == 1).sum()),
        "by_site": rows["site_id"].fillna("unknown").value_counts().sort_index().to_dict(),
    }

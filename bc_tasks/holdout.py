"""The holdout: a fixed set of patients, made once, that every model is measured on and none learns from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from bc_tasks import fingerprint, manifest
from bc_tasks.errors import AlreadyExists, ConfigError, DataError, HoldoutChanged, ObjectNotFound
from bc_tasks.mammogram import Split
from bc_tasks.storage import Storage, join

MARK = "holdout.json"
MANIFEST = "manifest.parquet"


@dataclass(frozen=True)
class Holdout:
    """The holdout as it was fixed; its manifest's rows are the images that models are scored on."""

    fingerprint: str
    preprocessing_sha256: str
    manifest: pd.DataFrame

    @property
    def patient_ids(self) -> frozenset[str]:
        """Patients that must never be trained or tuned on."""
        return frozenset(self.manifest["patient_id"].dropna())

    @property
    def source_stems(self) -> frozenset[str]:
        """Source images that must never be trained or tuned on, whatever patient they claim to be of."""
        return frozenset(self.manifest["source_stem"].dropna())


def load(storage: Storage, data_uri: str, pinned: str = "") -> Holdout:
    """Read the holdout and check that it is the one that was fixed; `pinned` is the configuration's fingerprint.

    Raises:
        ConfigError: there is none yet.
        HoldoutChanged: its images, or its fingerprint, are not those that were fixed.
    """
    folder = join(data_uri, "holdout")
    try:
        mark = json.loads(storage.read(join(folder, MARK)))
        frame = manifest.from_parquet(storage.read(join(folder, MANIFEST)))
    except ObjectNotFound as error:
        raise ConfigError(f"no holdout is fixed under {folder}; make one once: bc holdout create --help") from error
    seen = fingerprint.of_manifest(frame)
    for name, wanted in (("holdout.json says", mark["fingerprint"]), ("the configuration pins", pinned)):
        if wanted and seen != wanted:
            raise HoldoutChanged(
                f"the holdout under {folder} has fingerprint {seen[:12]}, but {name} {wanted[:12]}: models measured on "
                "the two can't be compared. Restore it from the bucket's versions or a backup; if the change is meant, "
                "start a new data_uri with a new holdout"
            )
    return Holdout(seen, mark["preprocessing_sha256"], frame)


def refuse_second(storage: Storage, data_uri: str) -> None:
    """Refuse to make a holdout where one is fixed.

    Raises:
        ConfigError: there is one.
    """
    folder = join(data_uri, "holdout")
    if storage.find(join(folder, MARK)) is not None:
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
    rows = manifest.usable(manifest.conform(frame)).assign(split=Split.HOLDOUT.value)
    if set(rows["label"]) != {0, 1}:
        raise DataError(f"a holdout needs images of both labels; these {len(rows)} have {sorted(set(rows['label']))}")
    folder = join(data_uri, "holdout")
    mark = {
        "fingerprint": fingerprint.of_manifest(rows),
        "preprocessing_sha256": preprocessing_sha256,
        "created_at": now.isoformat(),
        "num_images": len(rows),
        "num_patients": int(rows["patient_id"].nunique()),
    }
    storage.write(join(folder, MANIFEST), manifest.to_parquet(rows))
    data = json.dumps(mark, indent=1).encode()
    try:
        storage.write(join(folder, MARK), data, content_type="application/json", if_absent=True)
    except AlreadyExists as error:
        raise ConfigError(f"somebody else fixed a holdout under {folder} at the same time; look at it") from error
    return load(storage, data_uri)


def choose_patients(frame: pd.DataFrame, share: float, seed: int) -> frozenset[str]:
    """Draw a share (0 to 1) of the patients of a manifest, stratified by label and, where known, site.

    A patient counts as cancer when any image does. Each stratum gives its share, rounded, and none gives all.
    """
    patients = frame.groupby("patient_id", sort=True).agg(label=("label", "max"), site_id=("site_id", "first"))
    strata = (
        patients.fillna({"site_id": "unknown"}).reset_index().groupby(["label", "site_id"], sort=True)["patient_id"]
    )
    generator = np.random.default_rng(seed)
    chosen: set[str] = set()
    for _, ids in strata:
        count = min(round(share * len(ids)), len(ids) - 1)
        chosen.update(generator.permutation(ids.to_numpy(dtype=object))[:count])
    return frozenset(chosen)


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

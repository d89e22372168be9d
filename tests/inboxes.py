"""An inbox of small synthetic images, a holdout beside it, and nights that ingest it."""

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from bc_tasks import holdout, runs, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.config_file import build_config
from bc_tasks.errors import BcError
from bc_tasks.holdout import Holdout
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.records import Snapshot
from bc_tasks.shards import pack
from bc_tasks.steps import ingest, start
from bc_tasks.storage import Storage, StoredObject, join, open_storage

NOW = datetime.now(UTC) + timedelta(hours=1)
"""Later than all that the tests upload, so that every batch has settled."""


MADE_UP_SHARD = "made-up/0.npy"
"""The pixels of a made-up holdout, which nobody copies."""


@cache
def local_storage() -> Storage:
    """Return storage for `file://` data roots: one for all tests, because a client takes long to make."""
    return open_storage()


def picture(seed: int, *, file_format: str = "JPEG", size_px: int = 80) -> bytes:
    """Return an image of bright spots on black, as no other seed gives it, nor anything like it."""
    y, x = np.mgrid[:size_px, :size_px] / size_px
    spots = np.random.default_rng(seed).uniform((0.1, 0.1, 0.02, 40), (0.9, 0.9, 0.12, 120), (40, 4))
    grey = sum(value * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * r**2)) for a, b, r, value in spots)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(grey - 20, 0, 255).astype(np.uint8)).save(buffer, file_format, quality=95)
    return buffer.getvalue()


def dicom(seed: int, **tags: str) -> bytes:
    """Return the image of a seed as a DICOM file with these tags."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(seed, file_format="PNG"))))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalMammographyXRayImageStorageForPresentation, f"1.2.{seed}"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


class Watched(Storage):
    """A storage that counts the images that are read through it."""

    num_read: ClassVar[int] = 0

    def read_many(self, objects: Iterable[StoredObject]) -> Iterator[tuple[StoredObject, bytes | BcError]]:
        """Count, and read."""
        for outcome in super().read_many(objects):
            Watched.num_read += "/inbox/" in outcome[0].uri
            yield outcome


@dataclass(frozen=True)
class Hospital:
    """A data root: what is put into its inbox, and its nights."""

    storage: Storage
    data_uri: str
    settings: Mapping[str, Any]

    @property
    def config(self) -> RunConfig:
        """A night's configuration: small pixels, small shards, and no waiting for a batch to settle."""
        small = {"ingest.settle_minutes": 0, "ingest.shard_images": 4, "ingest.pixels.size_px": 64}
        tree = {"data_uri": self.data_uri, "training": {"image_size_px": 64}}
        return build_config(tree, {**small, **self.settings}, source="a test")

    def put(self, batch: str, files: Mapping[str, bytes | str]) -> None:
        """Upload files, by path within the batch."""
        for path, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            self.storage.write(f"{self.data_uri}/inbox/{batch}/{path}", content)

    def remove(self, batch: str, *paths: str) -> None:
        """Delete files of a batch; without paths, all of them."""
        for item in self.storage.list(f"{self.data_uri}/inbox/{batch}"):
            if not paths or item.uri.endswith(paths):
                self.storage.delete(item.uri)

    def fix_holdout(self, patient_id: str = "nobody", **facts: str) -> Holdout:
        """Fix a holdout of two made-up images of one patient; `facts` are of the first."""
        noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64), dtype=np.uint8)
        self.storage.write(join(self.data_uri, MADE_UP_SHARD), pack(list(noise)))
        rows = [_holdout_row(patient_id, 0) | facts, _holdout_row(patient_id, 1)]
        digest = preprocessing_sha256(self.config.ingest.pixels)
        return holdout.save(self.storage, self.data_uri, pd.DataFrame(rows), digest, NOW)

    def start(self, name: str) -> str:
        """Begin a night and return its URI."""
        return start.run(
            self.config, storage=self.storage, run_name=name, started_at=NOW, trigger="test", code_version="0"
        ).run_uri

    def ingest(self, name: str, *, now: datetime = NOW) -> Snapshot:
        """Begin a night and ingest."""
        with ThreadPoolExecutor(1) as executor:
            return ingest.run(self.start(name), storage=self.storage, now=now, executor=executor)

    def num_read(self, name: str) -> int:
        """Begin a night and ingest; return how many images were downloaded for it."""
        watched = Watched(self.storage.s3, self.storage.files, self.storage.pool, self.storage.num_threads)
        before = Watched.num_read
        replace(self, storage=watched).ingest(name)
        return Watched.num_read - before

    def night(self, name: str, *, now: datetime = NOW) -> Snapshot:
        """Run a whole night: ingest, commit what was ingested, and finish, as if a verdict had been carried out."""
        committed = self.broken_off_night(name, now=now)
        snapshots.finish(self.storage, committed, join(self.data_uri, "runs", name))
        return committed

    def broken_off_night(self, name: str, *, now: datetime = NOW) -> Snapshot:
        """Begin a night, ingest, and commit what was ingested, as validation would."""
        candidate = self.ingest(name, now=now)
        return snapshots.commit(self.storage, self.data_uri, candidate, self.rows(candidate))

    def rows(self, snapshot: Snapshot) -> pd.DataFrame:
        """Return a snapshot's manifest."""
        return snapshots.read_manifest(self.storage, snapshot)

    def reasons(self, snapshot: Snapshot) -> dict[str, str | None]:
        """Return each image's quarantine reason, by its path below the inbox."""
        rows = self.rows(snapshot)
        keys = rows["key"].str.removeprefix("inbox/")
        return {
            key: None if pd.isna(reason) else reason
            for key, reason in zip(keys, rows["quarantine_reason"], strict=True)
        }

    def listing(self, folder: str) -> list[str]:
        """Return what is stored below a folder of the data root."""
        return [item.uri.removeprefix(self.data_uri + "/") for item in self.storage.list(join(self.data_uri, folder))]


def _holdout_row(patient_id: str, label: int) -> dict[str, object]:
    name = f"{patient_id}-{label}"
    return {
        "key": f"inbox/holdout/{name}.jpg",
        "sha256": f"file {name}",
        "pixel_sha256": f"pixels {name}",
        "image_id": name,
        "patient_id": patient_id,
        "source_stem": name,
        "label": label,
        "shard_key": MADE_UP_SHARD,
        "shard_row": label,
    }


def labels_csv(rows: Mapping[str, int | str], **columns: str) -> str:
    """Return a labels.csv of labels by path, with the same further values in each row."""
    header = ",".join(["path", "label", *columns])
    return (
        "\n".join([header, *(",".join([path, str(label), *columns.values()]) for path, label in rows.items())]) + "\n"
    )


def read_record(hospital: Hospital, name: str) -> Snapshot:
    """Return the snapshot record of a night."""
    return runs.read(hospital.storage, join(hospital.data_uri, "runs", name), Snapshot)

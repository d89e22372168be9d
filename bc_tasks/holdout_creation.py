"""Makes the holdout, once, out of what lies in the inbox."""

from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from bc_tasks import delta, holdout, identity, inbox, intake, manifest, withdrawals, withholding
from bc_tasks.config import RunConfig, ValidationConfig
from bc_tasks.errors import ConfigError, DataError
from bc_tasks.holdout import Holdout
from bc_tasks.mammogram import Split
from bc_tasks.pixels import preprocessing_sha256
from bc_tasks.storage import Storage


@dataclass(frozen=True)
class Choice:
    """Which patients to fix: those named; else a share (0 to 1) drawn with a seed, out of one batch or all."""

    patient_ids: frozenset[str] | None = None
    batch: str | None = None
    share: float = 0.2
    seed: int = 17


def create(storage: Storage, config: RunConfig, choice: Choice, *, now: datetime, executor: Executor) -> Holdout:
    """Read the inbox, choose patients, and fix all their sound images as the holdout.

    Raises:
        ConfigError: a holdout is fixed already, or the choice names what isn't there.
        DataError: no sound image, or only one label, is left.
    """
    holdout.refuse_second(storage, config.data_uri)
    seen = inbox.read(storage, config.data_uri, config.ingest, now)
    rows = seen.rows[seen.rows["batch"] == choice.batch] if choice.batch else seen.rows
    if rows.empty:
        raise ConfigError(f"batch {choice.batch or '(any)'} is not in the inbox; waiting: {list(seen.waiting_batches)}")
    to_read = delta.compare(rows, (), manifest.empty()).to_read
    withdrawn = withdrawals.known(storage, config.data_uri)
    to_read, _ = withholding.divide(to_read, manifest.empty(), manifest.empty(), withdrawn)
    allowed = intake.read_allowed(
        *(storage, config.data_uri, to_read, seen.objects, config.ingest, executor),
        withdrawn=withdrawn,
        known=manifest.empty(),
    )
    usable = manifest.usable(identity.separate(allowed, manifest.empty()))
    if usable.empty:
        raise DataError("no image of the inbox can be used; see their reasons with a night's run")
    images = _sound(usable.assign(split=Split.HOLDOUT.value), config.validation)
    chosen = _patients(images, choice)
    fixed = images[images["patient_id"].isin(chosen)]
    return holdout.save(storage, config.data_uri, fixed, preprocessing_sha256(config.ingest.pixels), now)


def _sound(images: pd.DataFrame, config: ValidationConfig) -> pd.DataFrame:
    """Return the images that a night's validation would not set aside: a black one measures nothing."""
    from bc_tasks.expectations import check  # Great Expectations takes seconds to import

    with TemporaryDirectory() as docs:
        findings = check(
            manifest.conform(images),
            config=config,
            previous=manifest.empty(),
            holdout_patient_ids=frozenset(),
            holdout_source_stems=frozenset(),
            docs_folder=Path(docs),
            title="holdout",
        )
    return images[~images["key"].isin(findings.bad_rows)]


def _patients(images: pd.DataFrame, choice: Choice) -> frozenset[str]:
    if choice.patient_ids is None:
        return holdout.choose_patients(images, choice.share, choice.seed)
    missing = sorted(choice.patient_ids - set(images["patient_id"]))
    if missing:
        raise ConfigError(f"{len(missing)} of the named patients have no usable image in the inbox: {missing[:10]}")
    return choice.patient_ids

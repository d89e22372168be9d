"""Splits by patient: a salted hash decides, so a patient never moves and never straddles."""

import hashlib
from collections.abc import Set

import pandas as pd

from bc_tasks.config import SplitsConfig
from bc_tasks.mammogram import Split


def split_of(patient_id: str, config: SplitsConfig) -> Split:
    """Return the split of a patient who is not in the holdout."""
    digest = hashlib.sha256(f"{config.salt}\0{patient_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return Split.TUNING if position < config.tuning_share else Split.TRAINING


def assign(patient_ids: "pd.Series[str]", config: SplitsConfig, holdout_patient_ids: Set[str]) -> "pd.Series[str]":
    """Return the split of each row's patient; a patient of the holdout is never trained or tuned on."""
    by_patient = {
        patient_id: Split.HOLDOUT if patient_id in holdout_patient_ids else split_of(patient_id, config)
        for patient_id in patient_ids.dropna().unique()
    }
    return patient_ids.map(by_patient).astype("string")

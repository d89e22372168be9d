"""Resamples of patients, drawn in one place: the same seed gives the same ones on any machine.

Images of one patient are alike, so patients are drawn, and all images of one go with her. A resample is a row of
counts; each is drawn once and kept for the next question about as many patients.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

CHUNK_CELLS = 500_000  # of a resample times what it weighs: small enough for a processor's cache


@lru_cache(maxsize=2)
def draw_patients(num_patients: int, num_resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """Return how often each of P patients is in each of B resamples of P, with replacement (B, P); read-only.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 6; of clusters: Field & Welsh,
    J. R. Stat. Soc. B 69 (2007) 369-390.
    """
    generator = np.random.default_rng(seed)
    times = np.empty((num_resamples, num_patients), np.uint16)
    for rows in chunks(num_resamples, num_patients):
        drawn = generator.integers(num_patients, size=(rows.stop - rows.start, num_patients))
        drawn += np.arange(len(drawn))[:, None] * num_patients
        times[rows] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    times.setflags(write=False)
    return times


@lru_cache(maxsize=2)
def draw_halves(num_patients: int, num_resamples: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return whether each of P patients is in each of B random halves (B, P), 0 or 1 by a fair coin each; read-only.

    Source: Hartigan, J. Am. Stat. Assoc. 64 (1969) 1303-1317.
    """
    num_bytes = -(-num_patients // 8)
    bits = np.frombuffer(np.random.default_rng(seed).bytes(num_resamples * num_bytes), np.uint8)
    inside = np.unpackbits(bits.reshape(num_resamples, num_bytes), axis=1, count=num_patients)
    inside.setflags(write=False)
    return inside


def chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Yield the rows of a table in pieces of about `CHUNK_CELLS` cells."""
    num_at_once = max(1, CHUNK_CELLS // num_columns)
    for start in range(0, num_rows, num_at_once):
        yield slice(start, min(start + num_at_once, num_rows))

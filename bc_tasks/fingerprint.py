"""Content fingerprints: equal content gives an equal digest, in whatever order it comes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bc_tasks import manifest


def of_manifest(frame: pd.DataFrame) -> str:
    """Return the digest of what a manifest's usable rows say, whatever their order.

    Where the bytes are stored (keys, ETags, shards) does not count: a copied bucket is the same data.
    """
    rows = manifest.usable(frame)[list(manifest.FINGERPRINT_COLUMNS)].astype("string")
    texts = rows.astype(object).where(rows.notna(), None)
    lines = sorted(json.dumps(row) for row in texts.itertuples(index=False, name=None))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def of_mapping(values: Mapping[str, Any]) -> str:
    """Return the digest of a JSON-like mapping, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

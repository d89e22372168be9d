"""Where a registered version came from: all the way back to the images, each link checked and not only told."""

from datetime import datetime
from typing import TYPE_CHECKING

from bc_tasks import manifest, snapshots, withdrawals
from bc_tasks.errors import DataError
from bc_tasks.holdout import HoldoutMark
from bc_tasks.proof import lineage_checks, lineage_reading
from bc_tasks.proof.lineage_checks import Found, Image
from bc_tasks.proof.witnesses import Link, digest
from bc_tasks.records import Interval, Override, Part, RuleOutcome, Run, Sha256, Snapshot, TrainedModel, Verdict
from bc_tasks.storage import Storage

if TYPE_CHECKING:
    from bc_tasks.tracking import Tracking


class VerdictFacts(Part):
    """What the gate said, without the scores that it looked at."""

    passed: bool
    kind: str
    grade: str | None
    summary: str
    rules: tuple[RuleOutcome, ...]
    sha256: Sha256


class Lineage(Part):
    """Where a registered version came from, and whether every link of that was found to hold."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created_at: datetime
    model_uri: str
    mlflow_run_id: str
    version_url: str
    run: Run | None
    snapshot: Snapshot | None
    base_snapshots: dict[int, Sha256]
    holdout: HoldoutMark | None
    holdout_by_label: dict[str, int]
    trained: TrainedModel | None
    metrics: dict[str, Interval]
    verdict: VerdictFacts | None
    override: Override | None
    num_withdrawn_since: int
    links: tuple[Link, ...]
    images: tuple[Image, ...]

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that don't hold."""
        return tuple(link for link in self.links if not link.holds)

    @property
    def sentence(self) -> str:
        """What to read first."""
        if not self.broken:
            return f"Version {self.version} holds: each of its {len(self.links)} links was checked."
        names = "; ".join(f"{link.what}: {link.sentence}" for link in self.broken)
        return (
            f"Version {self.version} does NOT hold: {len(self.broken)} of {len(self.links)} links are broken. {names}"
        )


def trace(storage: Storage, tracking: "Tracking", version: str, *, pixels: bool = False) -> Lineage:
    """Look a version up, by its number or an alias, and check every link back to the images; `pixels`: to their pixels.

    Raises:
        ConfigError: there is no such alias.
        ObjectNotFound: there is no such version.
        DataError: the version names no run: it was not registered by this system.
    """
    entry = tracking.look_up(version, Verdict.usual_name())
    if "bc.run_uri" not in entry.tags:
        raise DataError(f"{entry.model_uri} has no tag bc.run_uri: it was not registered by this system")
    found, unread = lineage_reading.read(storage, entry.tags["bc.run_uri"])
    return Lineage(
        name=entry.name,
        version=entry.version,
        aliases=entry.aliases,
        created_at=entry.created_at,
        model_uri=entry.model_uri,
        mlflow_run_id=entry.mlflow_run_id,
        version_url=tracking.version_url(entry.version),
        run=found.run,
        snapshot=found.snapshot,
        base_snapshots={base.number or 0: base.fingerprint for base in found.bases},
        holdout=found.holdout_mark,
        holdout_by_label={} if found.holdout is None else snapshots.describe(found.holdout).by_label,
        trained=found.trained,
        metrics=found.evaluation.challenger.metrics if found.evaluation else {},
        verdict=_facts(found),
        override=found.override,
        num_withdrawn_since=_num_withdrawn(storage, found),
        links=(
            *unread,
            *lineage_checks.check(found, entry),
            *(lineage_reading.check_pixels(storage, found) if pixels else ()),
        ),
        images=tuple(lineage_checks.images(found.manifest, found.holdout)),
    )


def _facts(found: Found) -> VerdictFacts | None:
    verdict, data = found.verdict, found.verdict_bytes
    if verdict is None or data is None:
        return None
    return VerdictFacts(
        passed=verdict.passed,
        kind=verdict.kind,
        grade=verdict.grade,
        summary=verdict.summary,
        rules=verdict.rules,
        sha256=digest(data),
    )


def _num_withdrawn(storage: Storage, found: Found) -> int:
    """Return how many patients that the version learnt from or was measured on were withdrawn later."""
    if found.run is None:
        return 0
    withdrawn = withdrawals.known(storage, found.run.config.data_uri).patient_ids
    frames = [frame for frame in (found.manifest, found.holdout) if frame is not None]
    seen = {patient for frame in frames for patient in manifest.usable(frame)["patient_id"]}
    return len(withdrawn & seen)

"""The validation step on real folders: what is set aside, what is committed, and what stops the night."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from manifests import make_manifest

from bc_tasks import fingerprint, holdout, manifest, runs, snapshots
from bc_tasks.config import RunConfig
from bc_tasks.errors import ValidationFailed
from bc_tasks.records import FAILED_VALIDATION, Leak, Leaks, Run, Snapshot, ValidationReport
from bc_tasks.steps import validate
from bc_tasks.storage import Storage, join, open_storage

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
PIXELS_SHA256 = "a" * 64


@dataclass(frozen=True)
class Nights:
    """A data set on disk with a holdout; `prepare` leaves a night as ingest would."""

    storage: Storage
    data_uri: str
    holdout_fingerprint: str

    def prepare(
        self,
        name: str,
        frame: pd.DataFrame,
        validation: Mapping[str, Any] | None = None,
        leaks: tuple[Leak, ...] = (),
    ) -> str:
        run_uri = join(self.data_uri, "runs", name)
        config = RunConfig.model_validate({"data_uri": self.data_uri, "validation": validation or {}})
        base = snapshots.latest(self.storage, self.data_uri)
        manifest_uri = join(run_uri, "candidate.parquet")
        self.storage.write(manifest_uri, manifest.to_parquet(frame))
        candidate = Snapshot(
            manifest_uri=manifest_uri,
            fingerprint=fingerprint.of_manifest(frame),
            number=None,
            base_number=base.number if base else None,
            base_is_unfinished=False,
            preprocessing_sha256=PIXELS_SHA256,
            holdout_fingerprint=self.holdout_fingerprint,
            num_new=len(frame) - (base.counts.num_images if base else 0),
            num_revised=0,
            num_withdrawn=0,
            counts=snapshots.describe(frame),
            quarantined_now={},
            waiting_batches=(),
            notes=(),
        )
        run = Run(run_uri=run_uri, started_at=NOW, trigger="a test", code_version="test", config=config)
        runs.write(self.storage, run_uri, run)
        runs.write(self.storage, run_uri, Leaks(leaks=leaks))
        runs.write(self.storage, run_uri, candidate)
        return run_uri

    def validate(self, name: str, frame: pd.DataFrame, **validation: Any) -> ValidationReport:
        return validate.run(self.prepare(name, frame, validation), storage=self.storage)

    def committed(self) -> pd.DataFrame:
        """Return the last committed manifest, by key."""
        last = snapshots.latest(self.storage, self.data_uri)
        assert last is not None
        return snapshots.read_manifest(self.storage, last).set_index("key", drop=False)


@pytest.fixture
def nights(file_data_uri: str) -> Nights:
    storage = open_storage()
    fixed = holdout.save(storage, file_data_uri, make_manifest(30, first=90_000), PIXELS_SHA256, NOW)
    return Nights(storage, file_data_uri, fixed.fingerprint)


def spoilt(frame: pd.DataFrame, num_images: int) -> pd.DataFrame:
    """Return the manifest with its first images constant."""
    return frame.assign(grey_std=[0.0 if number < num_images else 40.0 for number in range(len(frame))])


def test_sound_data_is_committed_as_the_next_snapshot(nights: Nights) -> None:
    report = nights.validate("first", make_manifest(300))
    assert report == runs.read(nights.storage, join(nights.data_uri, "runs", "first"), ValidationReport)
    assert report.snapshot == snapshots.latest(nights.storage, nights.data_uri)
    assert (report.snapshot.number, report.bad_share, report.num_quarantined) == (1, 0.0, 0)
    assert report.snapshot.counts.num_images == 300
    assert b"The data of run first" in nights.storage.read(report.data_docs_uri)


def test_few_bad_images_are_quarantined_and_the_night_goes_on(nights: Nights) -> None:
    frame = spoilt(make_manifest(300), 15)
    report = nights.validate("first", frame)
    assert (report.bad_share, report.num_quarantined) == (0.05, 15)  # the limit itself is allowed
    assert report.snapshot.quarantined_now == {"failed_expectation": 15}
    assert (report.snapshot.counts.num_images, report.snapshot.counts.num_quarantined) == (285, 15)
    rows = nights.committed()
    assert len(rows) == 300
    for key in frame["key"].head(15):
        assert rows.loc[key, "quarantine_reason"] == "failed_expectation"
        assert rows.loc[key, "quarantine_detail"].startswith("grey_std is 0.0; wanted: grey values have")


def test_many_bad_images_stop_the_night_before_anything_is_committed(nights: Nights) -> None:
    frame = spoilt(make_manifest(300), 16)
    frame.loc[16, ["quarantine_reason", "quarantine_detail"]] = ["truncated", "it ends after 3 bytes"]
    run_uri = nights.prepare("spoilt", frame)
    with pytest.raises(ValidationFailed) as caught:
        validate.run(run_uri, storage=nights.storage)
    message = str(caught.value)
    assert (
        "- not_constant: wanted grey values have a standard deviation of at least 2; seen: not so in 16 of" in message
    )
    assert "are sound, but for 5.0% of them; seen: not so in 17 of 300 images: inbox/2026-11-23/0/p0_1.jpg, " in message
    assert "Bad images: failed_expectation (16), truncated (1); by batch: 2026-11-23 (17)." in message
    assert message.count("inbox/2026-11-23/") == 10
    assert f"{run_uri}/data-docs/index.html" in message
    assert f"{nights.data_uri}/inbox/" in message
    assert snapshots.latest(nights.storage, nights.data_uri) is None
    assert not runs.exists(nights.storage, run_uri, "validate.json")
    assert b"The night stops" in nights.storage.read(f"{run_uri}/data-docs/index.html")
    report = runs.read(nights.storage, run_uri, ValidationReport, FAILED_VALIDATION)
    assert (report.snapshot.number, report.num_quarantined) == (None, 16)
    assert report.bad_share == pytest.approx(17 / 300)


@pytest.mark.parametrize(
    ("frame", "broken"),
    [
        (manifest.empty(), "num_images: wanted at least 100 usable images; seen: 0 images"),
        (
            make_manifest(300).assign(label=1),
            "no_cancer_in_splits: wanted both training and tuning have images without",
        ),
        (make_manifest(300, first=89_900), "patient_not_in_holdout: wanted no patient of the holdout is trained"),
    ],
    ids=["empty", "one class only", "overlaps the holdout"],
)
def test_what_is_wrong_with_the_whole_stops_the_night(frame: pd.DataFrame, broken: str, nights: Nights) -> None:
    run_uri = nights.prepare("spoilt", frame)
    with pytest.raises(ValidationFailed, match=f"- {broken}"):
        validate.run(run_uri, storage=nights.storage)
    assert snapshots.latest(nights.storage, nights.data_uri) is None
    assert nights.storage.find(f"{run_uri}/data-docs/index.html") is not None


def test_only_tonights_images_count_into_the_bad_share(nights: Nights) -> None:
    old = spoilt(make_manifest(300), 12)
    nights.validate("first", old)
    batch = make_manifest(40, first=300, batch="2026-11-24")
    both = manifest.conform(pd.concat([old, spoilt(batch, 2)]))
    report = nights.validate("second", both)
    assert report.bad_share == 2 / 40
    assert (report.snapshot.number, report.num_quarantined) == (2, 14)
    assert report.snapshot.quarantined_now == {"failed_expectation": 2}
    another = make_manifest(40, first=340, batch="2026-11-25")
    with pytest.raises(ValidationFailed, match=r"Bad images: failed_expectation \(3\); by batch: 2026-11-25"):
        nights.validate("third", manifest.conform(pd.concat([both, spoilt(another, 3)])))


def test_a_revised_image_is_one_of_tonights(nights: Nights) -> None:
    first = make_manifest(300)
    nights.validate("first", first)
    revised = first.copy()
    revised.loc[:9, "site_id"] = "north"
    revised.loc[:1, "age"] = 2026.0
    with pytest.raises(ValidationFailed, match="age_plausible"):
        nights.validate("second", revised)


def test_a_step_that_is_tried_again_commits_once(nights: Nights) -> None:
    report = nights.validate("first", spoilt(make_manifest(300), 3))
    run_uri = join(nights.data_uri, "runs", "first")
    assert validate.run(run_uri, storage=nights.storage) == report
    nights.storage.delete(join(run_uri, "validate.json"))  # as if it had crashed after the commit
    assert validate.run(run_uri, storage=nights.storage) == report
    marks = [
        item.uri for item in nights.storage.list(join(nights.data_uri, "snapshots")) if "snapshot.json" in item.uri
    ]
    assert len(marks) == 1


def test_a_night_without_news_keeps_the_snapshot(nights: Nights) -> None:
    first = nights.validate("first", make_manifest(300))
    second = nights.validate("second", make_manifest(300))
    assert second.snapshot == first.snapshot
    assert second.bad_share == 0.0


def test_a_run_that_an_older_version_has_ingested_tells_of_no_leaks(nights: Nights) -> None:
    run_uri = nights.prepare("older", make_manifest(300))
    nights.storage.delete(join(run_uri, Leaks.usual_name()))
    assert validate.run(run_uri, storage=nights.storage).snapshot.number == 1


def test_leaks_that_were_let_pass_do_not_stop_a_later_night_that_corrects_their_labels(nights: Nights) -> None:
    frame = make_manifest(300)
    frame.loc[frame.index[:30], "quarantine_reason"] = "holdout_near_copy"
    assert nights.validate("first", frame, max_leak_share=0.5).leak_share == 0.1
    frame.loc[frame.index[:30], "label"] = 1 - frame["label"]
    assert nights.validate("second", frame).leak_share == 0

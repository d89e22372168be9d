"""Snapshots are numbered, immutable and committed by one conditional write."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from inboxes import local_storage
from manifests import make_manifest

from bc_tasks import fingerprint, manifest, snapshots
from bc_tasks.errors import BcError, DataError, InfrastructureError
from bc_tasks.records import Snapshot
from bc_tasks.storage import Storage, join

DIGEST = "a" * 64


def _candidate(frame: pd.DataFrame, base: Snapshot | None = None, *, num_new: int = 1) -> Snapshot:
    return Snapshot(
        manifest_uri="file:///nowhere",
        fingerprint=fingerprint.of_manifest(frame),
        number=None,
        base_number=base.number if base else None,
        base_is_unfinished=False,
        preprocessing_sha256=DIGEST,
        holdout_fingerprint=DIGEST,
        num_new=num_new,
        num_revised=0,
        num_withdrawn=0,
        counts=snapshots.describe(frame),
        quarantined_now={},
        waiting_batches=(),
        notes=(),
    )


def _commit(storage: Storage, uri: str, frame: pd.DataFrame, base: Snapshot | None = None) -> Snapshot:
    return snapshots.commit(storage, uri, _candidate(frame, base), frame)


def test_before_the_first_night_there_is_none(file_data_uri: str) -> None:
    assert snapshots.latest(local_storage(), file_data_uri) is None


def test_snapshots_are_numbered_from_one_and_found_by_number_and_as_the_last(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    second = _commit(storage, file_data_uri, make_manifest(9), first)
    assert (first.number, second.number, second.base_number) == (1, 2, 1)
    assert snapshots.latest(storage, file_data_uri) == second
    assert snapshots.by_number(storage, file_data_uri, 1) == first
    pd.testing.assert_frame_equal(snapshots.read_manifest(storage, first), make_manifest(6))


def test_a_commit_tried_again_is_the_same_commit(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    assert _commit(storage, file_data_uri, make_manifest(6)) == first
    assert len(storage.list(join(file_data_uri, "snapshots"))) == 2


def test_the_same_data_moved_elsewhere_is_committed_anew(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    moved = make_manifest(6).assign(key=lambda rows: rows["key"].str.replace("2026-11-23", "moved"))
    second = _commit(storage, file_data_uri, moved, first)
    assert (second.number, second.fingerprint) == (2, first.fingerprint)
    assert snapshots.read_manifest(storage, second)["key"].str.contains("moved").all()


def test_a_night_without_news_trains_on_the_last_snapshot(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    candidate = _candidate(make_manifest(6), first, num_new=0)
    assert snapshots.commit(storage, file_data_uri, candidate, make_manifest(6)) == first


def test_a_run_that_was_overtaken_does_not_undo_the_one_that_was_faster(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    second = _commit(storage, file_data_uri, make_manifest(9), first)
    with pytest.raises(DataError, match=r"prepared against snapshot 1, but another run has committed 2 meanwhile"):
        _commit(storage, file_data_uri, make_manifest(7), first)
    assert snapshots.latest(storage, file_data_uri) == second


def test_a_first_run_that_was_overtaken_is_refused_too(file_data_uri: str) -> None:
    storage = local_storage()
    _commit(storage, file_data_uri, make_manifest(6))
    with pytest.raises(DataError, match="start a new run"):
        _commit(storage, file_data_uri, make_manifest(7))


def test_of_those_who_commit_at_once_exactly_one_wins_and_the_others_may_try_again(
    storage: Storage, data_uri: str
) -> None:
    first = _commit(storage, data_uri, make_manifest(6))
    barrier = threading.Barrier(4)

    def commit(num_images: int) -> Snapshot | BcError:
        frame = make_manifest(num_images)
        candidate = _candidate(frame, first)
        barrier.wait()
        try:
            return snapshots.commit(storage, data_uri, candidate, frame)
        except BcError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(commit, (7, 8, 9, 10)))
    winners = [outcome for outcome in outcomes if isinstance(outcome, Snapshot)]
    assert len(winners) == 1
    assert snapshots.latest(storage, data_uri) == winners[0]
    assert len(snapshots.read_manifest(storage, winners[0])) == winners[0].counts.num_images
    # A loser saw the winner's mark either too late to begin, or at the conditional write.
    assert all(isinstance(outcome, (InfrastructureError, DataError)) for outcome in outcomes if outcome not in winners)


def test_a_commit_that_loses_the_conditional_write_may_be_tried_again(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    folder = snapshots.folder_uri(file_data_uri, 2)

    class Overtaken(Storage):
        """A storage in which somebody else commits just before each conditional write."""

        def write(self, uri: str, data: bytes, *, content_type: str | None = None, if_absent: bool = False):  # type: ignore[no-untyped-def]  # as above
            if if_absent:
                storage.write(uri, b"somebody else's")
            return super().write(uri, data, content_type=content_type, if_absent=if_absent)

    overtaken = Overtaken(storage.s3, storage.files, storage.pool, storage.num_threads)
    with pytest.raises(InfrastructureError, match="another run committed"):
        _commit(overtaken, file_data_uri, make_manifest(9), first)
    assert storage.read(join(folder, snapshots.MARK)) == b"somebody else's"


def test_an_unfinished_commit_is_no_snapshot(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    storage.write(join(snapshots.folder_uri(file_data_uri, 2), "manifest-0.parquet"), b"a crash came here")
    assert snapshots.latest(storage, file_data_uri) == first
    assert _commit(storage, file_data_uri, make_manifest(9), first).number == 2


def test_an_edited_manifest_is_refused(file_data_uri: str) -> None:
    storage = local_storage()
    first = _commit(storage, file_data_uri, make_manifest(6))
    edited = make_manifest(6)
    edited.loc[0, "label"] = 1 - edited.loc[0, "label"]
    storage.write(first.manifest_uri, manifest.to_parquet(edited))
    with pytest.raises(DataError, match=r"was changed after it was written.*backup"):
        snapshots.read_manifest(storage, first)


def test_an_edited_mark_is_refused_by_name(file_data_uri: str) -> None:
    storage = local_storage()
    _commit(storage, file_data_uri, make_manifest(6))
    storage.write(join(snapshots.folder_uri(file_data_uri, 1), snapshots.MARK), b"{}")
    with pytest.raises(DataError, match=r"000001/snapshot.json is no Snapshot record"):
        snapshots.latest(storage, file_data_uri)


def test_counts_are_of_usable_images_and_unknown_is_counted_as_such() -> None:
    frame = make_manifest(9)
    frame.loc[0, "quarantine_reason"] = "truncated"
    counts = snapshots.describe(frame)
    assert (counts.num_images, counts.num_quarantined, counts.num_patients) == (8, 1, 3)
    assert counts.by_label == {"0": 5, "1": 3}
    assert counts.by_view == {"CC": 3, "MLO": 2, "unknown": 3}
    assert counts.by_site == {"north": 5, "south": 3}
    assert counts.by_split == {"training": 6, "tuning": 2}


def test_the_counts_of_nothing_are_empty() -> None:
    assert snapshots.describe(manifest.empty()).by_label == {}

"""Where a patient's images went: no snapshot, no model and no way of being used is missed."""

import json
from pathlib import Path

import pytest
from inboxes import local_storage
from manifests import make_manifest
from proof_nights import NOW, Archive
from typer.testing import CliRunner

from bc_tasks import runs, withdrawing, withholding
from bc_tasks.cli import app
from bc_tasks.errors import DataError
from bc_tasks.proof import where_used, where_used_page
from bc_tasks.proof.where_used import Uses
from bc_tasks.records import Verdict, trained_file_name
from bc_tasks.storage import join
from bc_tasks.withholding import Withdrawn

TRAINED, TUNED, HELD_OUT = "p1", "p5", "p30000"


@pytest.fixture
def archive(file_data_uri: str, tmp_path: Path) -> Archive:
    """A data root with a holdout, and no snapshot yet."""
    archive = Archive(local_storage(), file_data_uri, tmp_path / "model.safetensors")
    archive.fix_holdout()
    return archive


def _find(archive: Archive, patient_id: str) -> Uses:
    return where_used.find(archive.storage, archive.data_uri, patient_id)


def _models(uses: Uses) -> list[tuple[str, str, str]]:
    return [(one.run_uri.rsplit("/", 1)[1], one.use, one.outcome) for one in uses.models]


def test_each_snapshot_that_lists_a_patient_is_found_with_how(archive: Archive) -> None:
    archive.commit(make_manifest(3))
    archive.commit(make_manifest(30))
    faulty = make_manifest(31)
    faulty.loc[faulty["image_id"] == "image-3", "quarantine_reason"] = "no_label"
    archive.commit(faulty)
    archive.commit(withholding.hold_back(make_manifest(33), Withdrawn(frozenset({TRAINED}), frozenset())))
    found = [
        (one.number, one.split, one.num_images, one.num_quarantined, one.num_held_back)
        for one in _find(archive, TRAINED).snapshots
    ]
    assert found[:2] == [(2, "training", 3, 0, 0), (3, "training", 2, 1, 0)]
    assert found[2][2:] == (0, 0, 3)
    assert [one.number for one in _find(archive, "p0").snapshots] == [1, 2, 3, 4]


@pytest.mark.parametrize(("patient_id", "use"), [(TRAINED, "learned from them"), (TUNED, "tuned on them")])
def test_the_models_that_saw_a_patient_are_found_registered_or_not(archive: Archive, patient_id: str, use: str) -> None:
    before, with_them = archive.commit(make_manifest(3)), archive.commit(make_manifest(30))
    archive.run("before", before, "m0")
    archive.register(archive.run("registered", with_them, "m1"), "7")
    rejected = archive.run("rejected", with_them, "m2")
    refused = rejected.verdict.model_copy(update={"passed": False})
    runs.write(archive.storage, rejected.run.run_uri, refused)
    broken_off = archive.run("broken-off", with_them, "m3")
    archive.storage.delete(join(broken_off.run.run_uri, Verdict.usual_name()))
    uses = _find(archive, patient_id)
    assert _models(uses) == [
        ("broken-off", use, "no verdict yet"),
        ("registered", use, "version 7"),
        ("rejected", use, "rejected"),
    ]
    assert uses.versions == ("7",)


def test_a_backbone_that_was_not_chosen_is_told_from_the_one_that_was_registered(archive: Archive) -> None:
    night = archive.run("night", archive.commit(make_manifest(30)), "m1")
    archive.register(night, "7")
    spec = night.trained.spec.model_copy(update={"backbone": "resnet50"})
    other = night.trained.model_copy(update={"spec": spec, "mlflow_run_id": "m2"})
    runs.write(archive.storage, night.run.run_uri, other)
    found = {one.backbone: (one.version, one.outcome) for one in _find(archive, TRAINED).models}
    assert found == {
        "efficientnet_lite0": ("7", "version 7"),
        "resnet50": (None, "another backbone was registered"),
    }


def test_what_started_from_a_model_that_saw_a_patient_is_found_too_however_far_down(archive: Archive) -> None:
    archive.register(archive.run("a", archive.commit(make_manifest(30)), "m1"), "1")
    without = make_manifest(30)
    without = archive.commit(without[without["patient_id"] != TRAINED].reset_index(drop=True))
    for name, mlflow_run_id, origin in (("b", "m2", "1"), ("c", "m3", "2"), ("d", "m4", "9")):
        night = archive.run(name, without, mlflow_run_id)
        trained = night.trained.model_copy(update={"started_from": f"champion, version {origin}"})
        runs.write(archive.storage, night.run.run_uri, trained, file_name=trained_file_name(trained.spec.backbone))
        archive.register(night, str("abcd".index(name) + 1))
    assert _models(_find(archive, TRAINED)) == [
        ("a", "learned from them", "version 1"),
        ("b", "started from a model that learned from them", "version 2"),
        ("c", "started from a model that learned from them", "version 3"),
    ]


def test_a_patient_of_the_holdout_was_measured_on_by_every_evaluation(archive: Archive) -> None:
    snapshot = archive.commit(make_manifest(30))
    archive.register(archive.run("a", snapshot, "m1"), "1")
    archive.run("b", snapshot, "m2")
    uses = _find(archive, HELD_OUT)
    assert uses.is_known
    assert uses.snapshots == ()
    assert uses.holdout is not None
    assert uses.holdout.num_images == 3
    assert _models(uses) == [
        ("a", "measured on them", "version 1"),
        ("b", "measured on them", "passed, but not registered yet"),
    ]


def test_nobody_knows_a_stranger(archive: Archive) -> None:
    archive.run("a", archive.commit(make_manifest(30)), "m1")
    uses = _find(archive, "p999")
    assert not uses.is_known
    assert uses.models == ()


def test_a_data_root_without_anything_says_so(file_data_uri: str) -> None:
    assert not where_used.find(local_storage(), file_data_uri, "p1").is_known


def test_a_manifest_that_is_gone_or_no_manifest_is_named_and_not_passed_over(archive: Archive) -> None:
    uri = archive.commit(make_manifest(30)).manifest_uri
    archive.storage.write(uri, b"nothing of the sort")
    with pytest.raises(DataError, match="not a Parquet manifest"):
        _find(archive, TRAINED)
    archive.storage.delete(uri)
    with pytest.raises(DataError, match="1 manifests of committed snapshots are gone"):
        _find(archive, TRAINED)


def test_pictures_that_stood_under_another_name_before_are_found_with_who_learnt_from_them(archive: Archive) -> None:
    frame = make_manifest(30)
    mine = frame["patient_id"] == TRAINED
    renamed = frame.assign(patient_id=frame["patient_id"].mask(mine, "P7"))
    archive.register(archive.run("a", archive.commit(frame), "m1"), "1")
    archive.commit(renamed)
    uses = _find(archive, "P7")
    assert [(one.number, one.name, one.num_images) for one in uses.under_other_names] == [(1, TRAINED, 3)]
    assert uses.used_in == (1, 2)
    assert _models(uses) == [("a", "learned from them", "version 1")]
    assert any(f"under the name {TRAINED} too" in one for one in where_used_page.sentences(uses))
    assert [row[:2] for row in where_used_page.snapshots(uses)[1:]] == [("2", "P7"), ("1", TRAINED)]
    outcome = withdrawing.withdraw(archive.storage, archive.data_uri, "P7", reason="r", by="b", now=NOW)
    assert "1 model saw them, registered: version 1" in outcome.sentences[-1]


def test_pictures_that_the_last_snapshot_gives_to_somebody_else_are_not_theirs(archive: Archive) -> None:
    frame = make_manifest(30)
    archive.commit(frame)
    first = frame.index[frame["patient_id"] == TRAINED][0]
    frame.loc[first, "patient_id"] = "P7"
    archive.commit(frame)
    uses = _find(archive, TRAINED)
    assert uses.num_of_others == 1
    assert frame.loc[first, "pixel_sha256"] not in {picture.pixel_sha256 for picture in uses.pictures}
    assert len(uses.pictures) == 2
    assert uses.under_other_names == ()


def test_a_black_picture_that_many_have_leads_to_nobody(archive: Archive) -> None:
    archive.commit(make_manifest(30).assign(pixel_sha256="0" * 64, grey_std=0.0))
    uses = _find(archive, TRAINED)
    assert (uses.under_other_names, uses.num_of_others, uses.pictures) == ((), 0, ())


def test_the_command_line_says_it_in_sentences_and_tables_and_as_json(archive: Archive, tmp_path: Path) -> None:
    archive.register(archive.run("a", archive.commit(make_manifest(30)), "m1"), "7")
    withdrawing.withdraw(archive.storage, archive.data_uri, TRAINED, reason="request 114", by="privacy desk", now=NOW)
    config = tmp_path / "night.toml"
    config.write_text(f'data_uri = "{archive.data_uri}"\n')
    shown = CliRunner().invoke(app, ["where-used", TRAINED, "--config", str(config)]).output
    assert "1 of 1 snapshots that list them use images of p1; registered versions that saw them: 7." in shown
    assert "by privacy desk: request 114" in shown
    assert "learned from them" in shown
    told = json.loads(CliRunner().invoke(app, ["where-used", TRAINED, "--json", "--config", str(config)]).output)
    assert told["models"][0]["version"] == "7"

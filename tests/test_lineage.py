"""Lineage through a real MLflow server: what holds is said to hold, and each thing that was changed is named."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from inboxes import Hospital, local_storage, picture
from manifests import make_manifest
from proof_nights import BACKBONE, NOW, Archive
from typer.testing import CliRunner

from bc_tasks import holdout, manifest, runs, snapshots, withdrawing
from bc_tasks.cli import app
from bc_tasks.config import RegistryConfig
from bc_tasks.embedded.mlflow_server import EmbeddedMlflow
from bc_tasks.errors import ConfigError, DataError, ObjectNotFound
from bc_tasks.proof import lineage, lineage_reading
from bc_tasks.proof.lineage import Lineage
from bc_tasks.proof.lineage_checks import Found
from bc_tasks.records import Evaluation, Snapshot, TrainedModel, Verdict, trained_file_name
from bc_tasks.steps import register
from bc_tasks.storage import join
from bc_tasks.tracking import Tracking, open_tracking
from bc_tasks.tracking.model_card import Night


@dataclass(frozen=True)
class World:
    """A data root with a night on its second snapshot, which is version 1 of a model that no other world has."""

    archive: Archive
    night: Night
    registry: RegistryConfig


def _make_world(folder: Path) -> World:
    """Make one; MLflow's variables must be set."""
    name = uuid.uuid4().hex
    tracking = open_tracking(RegistryConfig(experiment=name, model_name=name, timeout_seconds=20))
    archive = Archive(local_storage(), f"file://{folder}/data", folder / "model.safetensors")
    archive.fix_holdout()
    archive.commit(make_manifest(30))
    night = _register(archive, tracking, archive.commit(make_manifest(60)))
    return World(archive, night, tracking.config)


def _register(archive: Archive, tracking: Tracking, snapshot: Snapshot) -> Night:
    name = f"night-{snapshot.number}"
    run_uri = join(archive.data_uri, "runs", name)
    with tracking.training_run(run_uri, BACKBONE, params={}, tags={}) as training:
        pass
    night = archive.run(name, snapshot, training.mlflow_run_id, tracking.config)
    register.run(run_uri, storage=archive.storage, tracking=tracking)
    return night


@pytest.fixture(scope="module")
def shared(embedded_mlflow: EmbeddedMlflow, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world for all tests that change nothing in MLflow: to make one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in embedded_mlflow.environment().items():
            patch.setenv(name, value)
        return _make_world(tmp_path_factory.mktemp("lineage"))


@pytest.fixture
def world(shared: World, mlflow_environment: dict[str, str], tmp_path: Path) -> Iterator[World]:  # noqa: ARG001
    """The shared world, whose files are as they were when the test ends."""
    data = Path(shared.archive.data_uri.removeprefix("file://"))
    shutil.copytree(data, tmp_path / "as-it-was")
    yield shared
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "as-it-was", data)


@pytest.fixture
def own_world(mlflow_environment: dict[str, str], tmp_path: Path) -> World:  # noqa: ARG001
    """A world whose versions in MLflow a test may change."""
    return _make_world(tmp_path)


def _trace(world: World, version: str = "1") -> Lineage:
    return lineage.trace(world.archive.storage, open_tracking(world.registry), version)


def _broken(traced: Lineage) -> list[str]:
    return [link.what for link in traced.broken]


def test_an_untouched_version_holds_by_its_number_and_by_its_alias(world: World) -> None:
    traced = _trace(world)
    assert traced.sentence == f"Version 1 holds: each of its {len(traced.links)} links was checked."
    assert traced == _trace(world, "challenger")
    assert traced.aliases == ("challenger",)
    assert traced.run == world.night.run
    assert traced.snapshot == world.night.snapshot
    assert list(traced.base_snapshots) == [1]
    assert {image.split for image in traced.images} == {"training", "tuning", "holdout"}
    assert len(traced.images) == 60 + 120
    weights = next(link for link in traced.links if link.what == "weights")
    assert set(weights.said.values()) == {world.night.trained.weights_sha256}
    assert len(weights.said) == 5


def test_what_is_not_in_the_registry_is_named(world: World) -> None:
    with pytest.raises(ConfigError, match=r"no alias 'champion': its aliases are \['challenger'\]"):
        _trace(world, "champion")
    with pytest.raises(ObjectNotFound, match="look up version '12'"):
        _trace(world, "12")


# What somebody may have changed, below the data root.


def _edit_json(world: World, uri: str, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(world.archive.storage.read(uri))
    change(record)
    world.archive.storage.write(uri, json.dumps(record, indent=1).encode())


def test_a_tampered_weights_file_is_named(world: World) -> None:
    world.archive.storage.write(world.night.trained.weights_uri, b"other weights")
    traced = _trace(world)
    assert _broken(traced) == ["weights"]
    assert "the file in the run's folder says " in traced.sentence
    assert "1 of " in traced.sentence


@pytest.mark.parametrize("column", ["label", "split", "patient_id", "sha256"])
def test_an_edited_manifest_is_named(world: World, column: str) -> None:
    frame = manifest.from_parquet(world.archive.storage.read(world.night.snapshot.manifest_uri))
    values = {"label": 1 - frame["label"][0], "split": "holdout", "patient_id": "p99", "sha256": "0" * 64}
    frame.loc[0, column] = values[column]
    world.archive.storage.write(world.night.snapshot.manifest_uri, manifest.to_parquet(frame))
    traced = _trace(world)
    assert "snapshot" in _broken(traced)
    assert "the manifest itself says " in traced.sentence


def test_an_edited_verdict_is_named(world: World) -> None:
    uri = join(world.night.run.run_uri, Verdict.usual_name())
    _edit_json(world, uri, lambda record: record.update(summary="Passed: with flying colours."))
    assert _broken(_trace(world)) == ["verdict, byte for byte"]
    _edit_json(world, uri, lambda record: record.update(passed=False))
    assert _broken(_trace(world)) == ["verdict, byte for byte", "verdict's word"]


def test_an_edited_holdout_is_named(world: World) -> None:
    mark = runs.read(world.archive.storage, holdout.folder_uri(world.archive.data_uri), holdout.HoldoutMark)
    uri = join(holdout.folder_uri(world.archive.data_uri), mark.manifest_name)
    frame = manifest.from_parquet(world.archive.storage.read(uri))
    world.archive.storage.write(uri, manifest.to_parquet(frame.drop(index=5)))
    assert _broken(_trace(world)) == ["holdout", "images measured on"]


def test_records_that_contradict_each_other_are_named(world: World) -> None:
    trained = join(world.night.run.run_uri, trained_file_name(BACKBONE))
    _edit_json(world, trained, lambda record: record.update(snapshot_fingerprint="0" * 64, num_training_images=1))
    traced = _trace(world)
    assert _broken(traced) == ["snapshot", "images learnt from and tuned on"]
    assert "the training record says 000000000000" in traced.sentence


@pytest.mark.parametrize(
    ("name", "kind"),
    [("train-efficientnet_lite0.json", TrainedModel), ("evaluate.json", Evaluation), ("start.json", None)],
)
def test_a_record_that_is_gone_is_named_and_the_rest_is_told_all_the_same(
    world: World, name: str, kind: type | None
) -> None:
    world.archive.storage.delete(join(world.night.run.run_uri, name))
    traced = _trace(world)
    assert f"record {name}" in _broken(traced)
    assert traced.verdict is not None
    assert (traced.trained is None) == (kind in (TrainedModel, Evaluation))


def test_a_lost_base_snapshot_is_named(world: World) -> None:
    world.archive.storage.delete(join(snapshots.folder_uri(world.archive.data_uri, 1), snapshots.MARK))
    traced = _trace(world)
    assert [link.sentence for link in traced.broken] == ["the records of [1] are gone or can't be read"]


def test_stored_pixels_are_looked_at_where_that_is_asked_for(file_data_uri: str, world: World) -> None:
    hospital = Hospital(local_storage(), file_data_uri, {})
    hospital.fix_holdout()
    hospital.put("a", {f"{number % 2}/P{number}_{number}_png.jpg": picture(number) for number in range(6)})
    snapshot = hospital.night("1")
    run = world.night.run.model_copy(update={"config": hospital.config})
    found = Found(run=run, manifest=hospital.rows(snapshot))
    (link,) = lineage_reading.check_pixels(hospital.storage, found)
    assert (link.holds, link.sentence) == (True, "all 6 are there")

    first, second = (join(file_data_uri, key) for key in hospital.listing("pixels"))
    data = bytearray(hospital.storage.read(first))
    data[-1] ^= 1
    hospital.storage.write(first, bytes(data))
    (link,) = lineage_reading.check_pixels(hospital.storage, found)
    assert link.sentence.startswith("1 of 6 are gone or changed: [")
    hospital.storage.write(second, b"")
    hospital.storage.delete(first)
    (link,) = lineage_reading.check_pixels(hospital.storage, found)
    assert link.sentence.startswith("6 of 6 are gone or changed: [")


def test_pixels_are_a_link_of_the_whole(world: World) -> None:
    traced = lineage.trace(world.archive.storage, open_tracking(world.registry), "1", pixels=True)
    assert _broken(traced) == ["stored pixels"]  # this world has manifests only


# What somebody may have changed in MLflow, or trained in spite of all guards.


def test_a_tampered_file_in_the_registry_is_named(own_world: World, s3_environment: dict[str, str]) -> None:
    assert s3_environment
    client = open_tracking(own_world.registry).client
    model_id = client.get_model_version(own_world.registry.model_name, "1").source.rpartition("/")[2]
    bucket = boto3.client("s3")
    pages = bucket.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
    keys = [item["Key"] for page in pages for item in page["Contents"] if model_id in item["Key"]]
    weights = next(key for key in keys if key.endswith("model.safetensors"))
    bucket.put_object(Bucket="mlflow", Key=weights, Body=b"other weights")
    traced = _trace(own_world)
    assert _broken(traced) == ["weights"]
    assert "the file in the registry says " in traced.sentence
    bucket.delete_object(Bucket="mlflow", Key=weights)
    assert "the file in the registry says nothing" in _trace(own_world).sentence


def test_a_model_that_learnt_from_the_holdout_and_what_was_edited_in_mlflow_are_named(own_world: World) -> None:
    tracking, archive = open_tracking(own_world.registry), own_world.archive
    frame = make_manifest(61)
    frame.loc[60, "patient_id"] = "p30001"
    leaky = _register(archive, tracking, archive.commit(manifest.conform(frame)))
    assert [link.sentence for link in _trace(own_world, "2").broken] == ["learnt from as well: 1 patients"]

    tracking.client.set_model_version_tag(tracking.config.model_name, "2", "bc.code_version", "0.2.0")
    tracking.log_metrics(leaky.trained.mlflow_run_id, {"holdout_recall": 0.999})
    tracking.client.log_text(leaky.trained.mlflow_run_id, "{}", Verdict.usual_name())
    traced = _trace(own_world, "2")
    assert _broken(traced)[:3] == ["code version", "verdict, byte for byte", "figures in MLflow"]
    assert "holdout_recall is 0.999, not " in traced.sentence

    tracking.client.delete_model_version_tag(tracking.config.model_name, "2", "bc.run_uri")
    with pytest.raises(DataError, match=r"has no tag bc\.run_uri"):
        _trace(own_world, "2")


# What people see.


def test_who_was_withdrawn_since_is_counted_and_breaks_no_link(world: World) -> None:
    archive = world.archive
    for patient_id in ("p1", "p30000"):
        withdrawing.withdraw(archive.storage, archive.data_uri, patient_id, reason="a request", by="desk", now=NOW)
    traced = _trace(world)
    assert traced.num_withdrawn_since == 2
    assert traced.broken == ()


def test_the_command_line_says_first_whether_it_holds_and_fails_where_it_does_not(world: World, tmp_path: Path) -> None:
    config, night = tmp_path / "night.toml", world.night
    names = f'experiment = "{world.registry.experiment}"\nmodel_name = "{world.registry.model_name}"'
    config.write_text(f'data_uri = "{world.archive.data_uri}"\n[registry]\n{names}\n')
    here = ["--config", str(config)]
    shown = CliRunner().invoke(app, ["lineage", "1", "--images", *here])
    assert shown.exit_code == 0
    assert shown.output.startswith("Version 1 holds: each of its ")
    for said in (night.run.run_uri, night.trained.weights_sha256, night.snapshot.manifest_uri, "challenger"):
        assert said in shown.output
    assert "image-0\tp0\ttuning\t" in shown.output
    assert "BROKEN" not in shown.output

    world.archive.storage.write(night.trained.weights_uri, b"other weights")
    shown = CliRunner().invoke(app, ["lineage", "challenger", *here])
    assert shown.output.startswith("Version 1 does NOT hold: 1 of ")
    assert "BROKEN weights: " in shown.output
    assert isinstance(shown.exception, DataError)
    told = CliRunner().invoke(app, ["lineage", "1", "--json", *here])
    assert isinstance(told.exception, DataError)
    answer = json.loads(told.stdout)
    assert answer["holds"] is False
    assert "images" not in answer
    assert [link["what"] for link in answer["links"] if not link["holds"]] == ["weights"]

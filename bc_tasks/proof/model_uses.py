"""Which models saw a patient: what the records of all runs say of who learnt from which snapshot."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ValidationError

from bc_tasks.errors import BcError, DataError
from bc_tasks.mammogram import Split
from bc_tasks.records import Evaluation, Part, RegisteredModel, Verdict
from bc_tasks.storage import Storage, StoredObject, join

Use = Literal["learned from them", "tuned on them", "measured on them", "started from a model that learned from them"]


class InModel(Part):
    """A model and the patient: `version` is its number in the registry, None where it was not registered."""

    run_uri: str
    backbone: str | None
    use: Use
    version: str | None
    outcome: str


class _Trained(BaseModel):
    """What is asked of a training's record; whatever else it holds, an older one too, is no matter here."""

    class _Spec(BaseModel):
        backbone: str

    spec: _Spec
    snapshot_fingerprint: str
    mlflow_run_id: str
    started_from: str


Records = Mapping[str, Mapping[str, bytes | None]]
"""Of each run, by its URI: its records by name; of those that are large, only that they are there."""


def read_records(storage: Storage, data_uri: str) -> Records:
    """Read the small records of all runs, and note of the large ones that they are there."""
    root = join(data_uri, "runs") + "/"
    wanted = (Verdict.usual_name(), RegisteredModel.usual_name())
    large = Evaluation.usual_name()
    small: list[StoredObject] = []
    found: dict[str, dict[str, bytes | None]] = {}
    for item in storage.list(root):
        run_name, _, name = item.uri.removeprefix(root).partition("/")
        if name in wanted or (name.startswith("train-") and name.endswith(".json")):
            small.append(item)
        elif name == large:
            found.setdefault(root + run_name, {})[name] = None
    for uri, data in read_each(storage, small):
        run_uri, _, name = uri.rpartition("/")
        found.setdefault(run_uri, {})[name] = data
    return found


def that_learned(splits: Mapping[str, str], records: Records) -> tuple[InModel, ...]:
    """Return the models of snapshots that use the patient; `splits` says where, by the snapshot's fingerprint."""
    uses: dict[str, Use] = {Split.TRAINING: "learned from them", Split.TUNING: "tuned on them"}
    return tuple(
        _model(run_uri, of_run, trained, uses[splits[trained.snapshot_fingerprint]])
        for run_uri, of_run, trained in _trainings(records)
        if splits.get(trained.snapshot_fingerprint) in uses
    )


def that_started_from(models: Iterable[InModel], records: Records) -> tuple[InModel, ...]:
    """Return the models that began with the weights of a version that saw the patient, and theirs in turn."""
    seen = {(model.run_uri, model.backbone) for model in models}
    origins = {f"champion, version {model.version}" for model in models if model.version}
    found: list[InModel] = []
    trainings = list(_trainings(records))
    while new := [
        _model(run_uri, of_run, trained, "started from a model that learned from them")
        for run_uri, of_run, trained in trainings
        if trained.started_from in origins and (run_uri, trained.spec.backbone) not in seen
    ]:
        found += new
        seen |= {(model.run_uri, model.backbone) for model in new}
        origins |= {f"champion, version {model.version}" for model in new if model.version}
    return tuple(found)


def measured(records: Records) -> tuple[InModel, ...]:
    """Return the runs that looked at the holdout: there is one holdout, so each measured on all its patients."""
    return tuple(
        InModel(
            run_uri=run_uri,
            backbone=None,
            use="measured on them",
            version=_registered(of_run)[0],
            outcome=_outcome(of_run, None),
        )
        for run_uri, of_run in records.items()
        if Evaluation.usual_name() in of_run
    )


def _trainings(records: Records) -> Iterable[tuple[str, Mapping[str, bytes | None], _Trained]]:
    for run_uri, of_run in sorted(records.items()):
        for name, data in sorted(of_run.items()):
            if name.startswith("train-") and data is not None:
                try:
                    yield run_uri, of_run, _Trained.model_validate_json(data)
                except ValidationError as error:
                    raise DataError(f"{run_uri}/{name} is no training record: {error}") from error


def _model(run_uri: str, of_run: Mapping[str, bytes | None], trained: _Trained, use: Use) -> InModel:
    version, mlflow_run_id = _registered(of_run)
    return InModel(
        run_uri=run_uri,
        backbone=trained.spec.backbone,
        use=use,
        version=version if mlflow_run_id == trained.mlflow_run_id else None,
        outcome=_outcome(of_run, trained.mlflow_run_id),
    )


def _registered(of_run: Mapping[str, bytes | None]) -> tuple[str | None, str | None]:
    record = json.loads(of_run.get(RegisteredModel.usual_name()) or b"{}")
    return record.get("version"), record.get("mlflow_run_id")


def _outcome(of_run: Mapping[str, bytes | None], mlflow_run_id: str | None) -> str:
    version, registered = _registered(of_run)
    if version is not None:
        return f"version {version}" if mlflow_run_id in (None, registered) else "another backbone was registered"
    verdict = json.loads(of_run.get(Verdict.usual_name()) or b"{}")
    if not verdict:
        return "no verdict yet"
    if not verdict["passed"]:
        return "rejected"
    return "a dry run" if verdict["dry_run"] else "passed, but not registered yet"


def read_each(storage: Storage, objects: list[StoredObject]) -> Iterator[tuple[str, bytes]]:
    """Read objects in parallel, and yield each URI with the content.

    Raises:
        BcError: one of them can't be read.
    """
    for item, data in storage.read_many(objects):
        if isinstance(data, BcError):
            raise data
        yield item.uri, data

"""MLflow: the runs of training, and the registry of models. All that the rest of the package knows of it.

A run, a model or a version is found again by the `bc.run_uri` that it carries, never by what this process
remembers: a step that is tried again goes on where it stopped, and nothing is made twice.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from bc_tasks.config import RegistryConfig
from bc_tasks.errors import BcError, ConfigError
from bc_tasks.records import Evaluation, Override, RegisteredModel, Run, Snapshot, TrainedModel, Verdict
from bc_tasks.tracking import client as mlflow_client
from bc_tasks.tracking import provenance
from bc_tasks.tracking import registration as model_registration
from bc_tasks.tracking import version as model_version
from bc_tasks.tracking.client import BACKBONE, RUN_URI, asking, if_missing, sent_once
from bc_tasks.tracking.model_card import Night
from bc_tasks.tracking.provenance import Entry
from bc_tasks.tracking.version import RegisteredVersion

__all__ = ["Entry", "RegisteredVersion", "Tracking", "TrainingRun", "open_tracking"]


@dataclass(frozen=True)
class TrainingRun:
    """The MLflow run of one backbone's training, while it goes on."""

    mlflow_run_id: str
    tracking: "Tracking"

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the figures of an epoch; they can be watched at once."""
        self.tracking.log_metrics(self.mlflow_run_id, metrics, step)


def open_tracking(config: RegistryConfig) -> "Tracking":
    """Prepare to speak to the server that MLFLOW_TRACKING_URI names; nothing is sent yet.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI is not set, or is no server's address.
    """
    uri = mlflow_client.address()
    return Tracking(client=mlflow_client.connect(uri, config.timeout_seconds), uri=uri, config=config)


@dataclass(frozen=True)
class Tracking:
    """One MLflow server, as this system uses it; made by `open_tracking`.

    Every method raises ConfigError where the address, the credentials or their permissions are wrong,
    InfrastructureError where the server doesn't answer in time, and another BcError where it refuses.
    """

    client: Any
    uri: str
    config: RegistryConfig

    @contextmanager
    def training_run(
        self, run_uri: str, backbone: str, *, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Iterator[TrainingRun]:
        """Open the MLflow run of this training, or go on with it; it ends as FINISHED or FAILED.

        A parameter keeps the value that it got first.
        """
        with asking("open the MLflow run of the training", self.uri):
            found = self._find_training_run(run_uri, backbone) or self._create_training_run(run_uri, backbone)
            missing = [Param(name, str(value)) for name, value in params.items() if name not in found.data.params]
            self.client.log_batch(found.info.run_id, params=missing, tags=_run_tags(tags))
            self.client.update_run(found.info.run_id, status="RUNNING")
        try:
            yield TrainingRun(found.info.run_id, self)
        except BaseException:
            with suppress(BcError):  # what went wrong in the training matters more
                self._end(found.info.run_id, "FAILED")
            raise
        self._end(found.info.run_id, "FINISHED")

    def _find_training_run(self, run_uri: str, backbone: str) -> Any:
        wanted = f"tags.`{RUN_URI}` = '{run_uri}' and tags.`{BACKBONE}` = '{backbone}'"
        order = ["attributes.start_time ASC"]
        return next(iter(self.client.search_runs([self._experiment_id], wanted, max_results=1, order_by=order)), None)

    def _create_training_run(self, run_uri: str, backbone: str) -> Any:
        name = f"{run_uri.rsplit('/', 1)[1]} {backbone}"
        with sent_once():
            return self.client.create_run(
                self._experiment_id, run_name=name, tags={RUN_URI: run_uri, BACKBONE: backbone}
            )

    def _end(self, mlflow_run_id: str, status: str) -> None:
        with asking(f"end the MLflow run as {status}", self.uri):
            self.client.set_terminated(mlflow_run_id, status)

    @cached_property
    def _experiment_id(self) -> str:
        name = self.config.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            with if_missing():
                self.client.create_experiment(name)
            found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise ConfigError(f"the MLflow experiment {name!r} was deleted: restore it, or set registry.experiment")
        return str(found.experiment_id)

    def log_metrics(self, mlflow_run_id: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures to a run."""
        now = int(time.time() * 1000)
        values = [Metric(name, value, now, step or 0) for name, value in metrics.items()]
        with asking("log metrics", self.uri):
            self.client.log_batch(mlflow_run_id, metrics=values)

    def set_tags(self, mlflow_run_id: str, tags: Mapping[str, str]) -> None:
        """Tag a run."""
        with asking("tag the MLflow run", self.uri):
            self.client.log_batch(mlflow_run_id, tags=_run_tags(tags))

    def run_url(self, mlflow_run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self.uri}/#/runs/{mlflow_run_id}"

    def version_url(self, version: str) -> str:
        """Return the address of a version's page."""
        return f"{self.uri}/#/models/{self.config.model_name}/versions/{version}"

    def champion(self) -> RegisteredVersion | None:
        """Return the version that a person promoted; None where nobody has promoted one yet.

        Raises:
            DataError: there is a champion, but it is none of ours, or its specification can't be read.
            ObjectNotFound: there is a champion, but its specification is gone.
        """
        with asking("look up the champion", self.uri):
            version = self._aliases().get(self.config.champion_alias)
            return model_version.read(self.client, self.config.model_name, version) if version else None

    def look_up(self, version: str, verdict_name: str) -> Entry:
        """Return all that MLflow says and keeps of a version, named by its number or an alias.

        Raises:
            ConfigError: there is no such alias.
            ObjectNotFound: there is no such version.
        """
        with asking(f"look up version {version!r}", self.uri):
            number = version if version.isdecimal() else self._aliases().get(version)
            if number is None:
                raise ConfigError(
                    f"{self.config.model_name} has no alias {version!r}: its aliases are {sorted(self._aliases())}"
                )
            return provenance.read(self.client, self.config.model_name, number, verdict_name)

    def versions(self) -> tuple[str, ...]:
        """Return the numbers of the model's versions, the oldest first."""
        with asking("list the versions", self.uri):
            found = self.client.search_model_versions(f"name = '{self.config.model_name}'")
        return tuple(str(number) for number in sorted(int(version.version) for version in found))

    def _aliases(self) -> dict[str, str]:
        # Asked by name: a search leaves out what this user may not see, and a hidden champion must not look like none.
        try:
            aliases = self.client.get_registered_model(self.config.model_name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: str(version) for alias, version in aliases.items()}

    def download_weights(self, version: RegisteredVersion, folder: Path) -> Path:
        """Download a version's weights into `folder`, and check that they are those that were registered.

        Raises:
            DataError: they are not.
            ObjectNotFound: they are gone.
        """
        with asking(f"download the weights of {version.model_uri}", self.uri):
            return model_version.download_weights(version, folder)

    def register(
        self,
        *,
        run: Run,
        trained: TrainedModel,
        evaluation: Evaluation,
        verdict: Verdict,
        override: Override | None = None,
        snapshot: Snapshot,
        weights: Path,
    ) -> RegisteredModel:
        """Make the one version that this run may have, and point the challenger's alias at it.

        The champion's alias is a person's to give. An older run that is registered again does not take the
        challenger's alias from a newer one.

        Raises:
            DataError: the run was registered before, with other weights.
        """
        night = Night(run, trained, evaluation, verdict, snapshot, override)
        with asking(f"register the model of {run.run_uri}", self.uri):
            there = model_registration.find(self.client, self.config.model_name, night)
            version = there or model_registration.create(self.client, self.config, self._experiment_id, night, weights)
            self._point_challenger_at(version)
            found = self.client.get_model_version(self.config.model_name, version)
        return RegisteredModel(
            name=found.name,
            version=version,
            aliases=tuple(found.aliases),
            mlflow_run_id=found.run_id,
            model_uri=model_version.uri(self.config.model_name, version),
            was_there_already=there is not None,
        )

    def _point_challenger_at(self, version: str) -> None:
        current = self._aliases().get(self.config.challenger_alias)
        if current is None or int(current) < int(version):
            self.client.set_registered_model_alias(self.config.model_name, self.config.challenger_alias, version)


def _run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in tags.items()]

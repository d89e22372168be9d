"""A night whose training and evaluation are pods, through a real Airflow, with what befalls pods and workers at night.

The cluster is the fake one, whose pods really run; `make test-cluster` runs the same night on a real one.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from fake_kubernetes import ROLE, FakeKubernetes, Image, Node, Rules
from nights_in_pods import BACKBONE, NUM_EPOCHS, deliver, write_config

from bc_tasks import runs
from bc_tasks.config import RunConfig
from bc_tasks.embedded import demo, stack
from bc_tasks.embedded.airflow_api import AirflowApi
from bc_tasks.embedded.stack import Stack
from bc_tasks.records import RegisteredModel, Run, TrainedModel, trained_file_name
from bc_tasks.storage import Storage, join, open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

IMAGE, DATA_IMAGE = "registry.hospital.example/trainer:1.0", "registry.hospital.example/airflow:1.0"


@dataclass
class Killer:
    """Kills the worker that has just asked for the evaluation's pod, before it gets its answer."""

    cluster: FakeKubernetes
    killed: list[int] = field(default_factory=list)

    def __call__(self, pod: dict[str, Any]) -> None:
        if pod["spec"]["containers"][0]["name"] == "evaluate" and not self.killed:
            self.cluster.pause()  # or the pod may be done before its next worker looks for it
            (worker,) = [process for process in psutil.process_iter() if self._is_worker(process)]
            worker.kill()
            self.killed.append(worker.pid)

    def let_go_on_when_found(self) -> None:
        """Wait until another worker, or its trigger, asks for the pod by its name, and let it start."""
        self.cluster.wait_for(lambda: self._names() & {request.name for request in self.cluster.requests}, seconds=600)
        self.cluster.resume()

    def _names(self) -> set[str]:
        labelled = self.cluster.pods("app.kubernetes.io/component=evaluate")
        return {pod["metadata"]["name"] for pod in labelled}

    def _is_worker(self, process: psutil.Process) -> bool:
        port = int(self.cluster.url.rsplit(":", 1)[1])
        try:
            if "triggerer" in " ".join(process.cmdline()) or process.pid == psutil.Process().pid:
                return False
            return any(connection.raddr and connection.raddr.port == port for connection in process.net_connections())
        except psutil.Error:
            return False


@dataclass(frozen=True)
class Night:
    """The servers, still running, and what was seen of the night."""

    servers: Stack
    storage: Storage
    config: RunConfig
    cluster: FakeKubernetes
    killer: Killer
    api: AirflowApi
    run_id: str
    second_run_id: str
    second_state_meanwhile: str

    @property
    def run_uri(self) -> str:
        """The night's folder."""
        return join(self.config.data_uri, "runs", runs.to_run_name(self.run_id))

    def pods(self, step: str) -> list[dict[str, Any]]:
        """Return the pods that were created for a step."""
        created = self.cluster.created_pods()
        return [pod for pod in created if pod["metadata"]["labels"]["app.kubernetes.io/component"] == step]

    def log(self, task_id: str, try_number: int) -> str:
        """Return the log of an attempt."""
        map_index = 0 if task_id == "train" else -1
        return self.api.log(demo.DAG_ID, self.run_id, task_id, map_index=map_index, try_number=try_number)


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeKubernetes]:
    """Two nodes with a GPU each, and the images, both of which run this checkout's `bc`."""
    nodes = [Node("gpu-1", gpus=1), Node("gpu-2", gpus=1)]
    image = Image(programs={"bc": [sys.executable, "-m", "bc_tasks.cli"]})
    allowed = ROLE - {("watch", "pods")}  # the rights in include/kubernetes/base
    rules = Rules(enforces_restricted=True)
    with FakeKubernetes(nodes=nodes, images={IMAGE: image, DATA_IMAGE: image}, allowed=allowed, rules=rules) as fake:
        yield fake


@pytest.fixture(scope="module")
def night(cluster: FakeKubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Two nights are triggered at once; the first one's training is evicted, and a worker of its evaluation killed."""
    state = tmp_path_factory.mktemp("state")
    config = write_config(
        state / "night.toml",
        data_uri="s3://images",
        image=IMAGE,
        data_image=DATA_IMAGE,
        gpus=1,
        weights="default",
        model_name="breast-tumour",
    )
    killer = Killer(cluster)
    cluster.on_pod_created(killer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig(state / "kubeconfig")))
        with stack.running(state, config_path=state / "night.toml", say=print) as servers:
            _let_pods_in(cluster, servers)
            storage = open_storage(config.storage, servers.s3.environment())
            deliver(storage, config, state)
            api = servers.airflow.api()
            api.wait_for_dag(demo.DAG_ID)
            api.unpause(demo.DAG_ID)
            run_id, second = api.trigger(demo.DAG_ID), api.trigger(demo.DAG_ID)
            uri = join(config.data_uri, "runs", runs.to_run_name(run_id), "checkpoints", BACKBONE, "checkpoint.json")
            cluster.wait_for(lambda: storage.find(uri), seconds=300)
            (training,) = cluster.pods("app.kubernetes.io/component=train")
            cluster.evict(training["metadata"]["name"], "The node was low on resource: memory.")
            meanwhile = api.run(demo.DAG_ID, second).state
            killer.let_go_on_when_found()
            api.wait_for_run(demo.DAG_ID, run_id, within_seconds=600)
            api.wait_for_run(demo.DAG_ID, second, within_seconds=240)
            yield Night(servers, storage, config, cluster, killer, api, run_id, second, meanwhile)


def _let_pods_in(cluster: FakeKubernetes, servers: Stack) -> None:
    """Give the cluster the secrets and addresses that its manifests leave to the site."""
    s3, mlflow = servers.s3.environment(), servers.mlflow.environment()
    cluster.add_secret("s3-credentials", {name: value for name, value in s3.items() if "KEY" in name})
    cluster.add_secret("mlflow-credentials", {})
    cluster.add_config_map("endpoints", {name: value for name, value in (s3 | mlflow).items() if "KEY" not in name})


def test_the_night_ends_well_whatever_befell_its_pods(night: Night) -> None:
    run = night.api.run(demo.DAG_ID, night.run_id)
    assert run.state == "success", run.note
    assert run.note is not None
    assert "Registered as version 1." in run.note
    assert runs.read(night.storage, night.run_uri, RegisteredModel).version == "1"


def test_the_steps_that_the_configuration_names_were_pods_of_their_images(night: Night) -> None:
    images = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["spec"]["containers"][0]["image"]
        for pod in night.cluster.created_pods()
    }
    assert images == {"ingest": DATA_IMAGE, "validate": DATA_IMAGE, "train": IMAGE, "evaluate": IMAGE}
    assert runs.read(night.storage, night.run_uri, Run).config.execution.pods.image == IMAGE, "for the auditor"


def test_an_evicted_training_goes_on_from_its_checkpoint_on_the_other_node(night: Night) -> None:
    first, second = night.pods("train")
    nodes = {
        pod["spec"]["nodeName"]
        for pod in [*night.cluster.pods(), *night.cluster.deleted_pods()]
        if pod["metadata"]["name"] in (first["metadata"]["name"], second["metadata"]["name"])
    }
    assert nodes == {"gpu-1", "gpu-2"}
    assert "Evicted: The node was low on resource: memory" in night.log("train", 1)
    stopped = re.search(r"stopped after step \d+ of \d+ of epoch (\d)", night.log("train", 1))
    assert stopped is not None
    epochs = [int(epoch) for epoch in re.findall(rf"epoch (\d)/{NUM_EPOCHS}", night.log("train", 2))]
    assert epochs == list(range(int(stopped[1]), NUM_EPOCHS + 1)), "each epoch is finished once"
    assert runs.read(night.storage, night.run_uri, TrainedModel, trained_file_name(BACKBONE)).num_epochs == NUM_EPOCHS


def test_a_worker_that_died_was_replaced_and_its_pod_was_not(night: Night) -> None:
    assert len(night.killer.killed) == 1
    assert len(night.pods("evaluate")) == 1
    assert "Found matching pod" in night.log("evaluate", 2)


def test_a_second_trigger_waits_for_the_first_and_then_finds_nothing_new(night: Night) -> None:
    assert night.second_state_meanwhile == "queued"
    states = night.api.task_states(demo.DAG_ID, night.second_run_id)
    assert states["anything_new"] == "success"
    assert states["train"] == states["evaluate"] == "skipped"


def test_only_the_pod_that_failed_is_left_to_be_looked_at(night: Night) -> None:
    (left,) = night.cluster.pods()
    assert (left["status"]["phase"], left["status"]["reason"]) == ("Failed", "Evicted")
    assert left["metadata"]["labels"]["app.kubernetes.io/component"] == "train"


def test_no_credential_is_in_a_pod_or_a_log(night: Night) -> None:
    secret = night.servers.s3.environment()["AWS_SECRET_ACCESS_KEY"]
    logs = [night.log("train", 1), night.log("train", 2), night.log("evaluate", 1), night.log("evaluate", 2)]
    assert secret not in str([night.cluster.created_pods(), logs])

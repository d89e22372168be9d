"""A night whose training and evaluation are pods of a real cluster, with a pod deleted on the way. `make test-cluster`

Airflow runs here; the pods run where KUBECONFIG points, with what the manifests of `include/kubernetes` put there:
the namespace, the service account `trainer`, the quota, the policies, the secrets `s3-credentials` and
`mlflow-credentials` and the config map `endpoints`. S3 and MLflow must be reached from here too, by the usual variables
(AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, ..., MLFLOW_TRACKING_URI, ...); for servers inside of the cluster, by
`kubectl port-forward`. What the test stores, it stores below a prefix of its own in the bucket `mammograms`.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kubernetes.client import CoreV1Api
from kubernetes.config import new_client_from_config
from nights_in_pods import BACKBONE, NUM_EPOCHS, deliver, write_config

from bc_tasks import runs
from bc_tasks.config import RunConfig
from bc_tasks.embedded import airflow
from bc_tasks.embedded.airflow_api import AirflowApi
from bc_tasks.embedded.demo import DAG_ID
from bc_tasks.records import RegisteredModel, TrainedModel, trained_file_name
from bc_tasks.storage import Storage, join, open_storage

HERE = dict(os.environ)  # before a fixture takes everything of a cloud away
NEEDED = ("KUBECONFIG", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_URI")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not HERE.get("BC_TEST_CLUSTER"), reason="`make test-cluster` runs this on the cluster of KUBECONFIG"
    ),
]
DATA_URI = HERE.get("BC_TEST_DATA_URI") or f"s3://mammograms/cluster-test-{secrets.token_hex(4)}"
IMAGE = HERE.get("BC_TEST_IMAGE") or "localhost/bc-trainer:0.1.0"
PROJECT = "app.kubernetes.io/part-of=breast-tumour-retraining"


@dataclass(frozen=True)
class Night:
    """What was seen of the night."""

    api: AirflowApi
    config: RunConfig
    storage: Storage
    run_id: str
    deleted_pod: str

    @property
    def run_uri(self) -> str:
        """The night's folder."""
        return join(self.config.data_uri, "runs", runs.to_run_name(self.run_id))

    def log(self, task_id: str, try_number: int) -> str:
        """Return the log of an attempt."""
        map_index = 0 if task_id == "train" else -1
        return self.api.log(DAG_ID, self.run_id, task_id, map_index=map_index, try_number=try_number)


@pytest.fixture(scope="module")
def cluster() -> CoreV1Api:
    """The cluster of KUBECONFIG."""
    assert not [name for name in NEEDED if not HERE.get(name)], f"set all of {NEEDED}: see the top of this file"
    return CoreV1Api(new_client_from_config(HERE["KUBECONFIG"]))


@pytest.fixture(scope="module")
def night(cluster: CoreV1Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """One night; when its training has stored a first checkpoint, its pod is deleted, as a drained node's would be."""
    state = tmp_path_factory.mktemp("cluster")
    config = write_config(
        state / "night.toml", data_uri=DATA_URI, image=IMAGE, gpus=0, weights="none", model_name="cluster-test"
    )
    environment = {name: value for name, value in HERE.items() if name.startswith(("AWS_", "MLFLOW_", "KUBECONFIG"))}
    storage = open_storage(config.storage, environment)
    deliver(storage, config, state)
    started = airflow.start(state / "airflow", config_path=state / "night.toml", environment=environment)
    try:
        api = started.api()
        api.wait_for_dag(DAG_ID)
        api.unpause(DAG_ID)
        run_id = api.trigger(DAG_ID)
        pod = _delete_the_training(cluster, storage, config, run_id)
        api.wait_for_run(DAG_ID, run_id, within_seconds=1800)
        yield Night(api, config, storage, run_id, pod)
    finally:
        started.stop()


def _delete_the_training(cluster: CoreV1Api, storage: Storage, config: RunConfig, run_id: str) -> str:
    """Wait for the first checkpoint, then delete the pod that has written it."""
    mark = join(config.data_uri, "runs", runs.to_run_name(run_id), "checkpoints", BACKBONE, "checkpoint.json")
    deadline = time.monotonic() + 1200
    while storage.find(mark) is None:
        assert time.monotonic() < deadline, f"no checkpoint at {mark}; pods: {_phases(cluster, config)}"
        time.sleep(0.5)
    running = [name for name, phase in _phases(cluster, config).items() if phase == "Running"]
    assert len(running) == 1, f"the training of this night, and nothing else: {running}"
    cluster.delete_namespaced_pod(running[0], config.execution.pods.namespace)
    return running[0]


def _phases(cluster: CoreV1Api, config: RunConfig) -> dict[str, str]:
    pods = cluster.list_namespaced_pod(config.execution.pods.namespace, label_selector=f"{PROJECT},dag_id={DAG_ID}")
    return {pod.metadata.name: pod.status.phase for pod in pods.items}


def test_the_night_ends_well_although_a_pod_was_deleted(night: Night) -> None:
    run = night.api.run(DAG_ID, night.run_id)
    assert run.state == "success", run.note
    assert runs.read(night.storage, night.run_uri, RegisteredModel).name == "cluster-test"


def test_training_went_on_from_its_checkpoint_in_another_pod(night: Night) -> None:
    seen = night.log("train", 1)
    assert "vanished and left no record" in seen or "it was interrupted" in seen, "whichever Airflow saw first"
    epochs = [int(epoch) for epoch in re.findall(rf"epoch (\d)/{NUM_EPOCHS}", night.log("train", 2))]
    assert epochs, "the second pod trained"
    assert epochs[0] > 1, "what the first pod had done was not done again"
    assert epochs[-1] == NUM_EPOCHS
    record = runs.read(night.storage, night.run_uri, TrainedModel, trained_file_name(BACKBONE))
    assert record.num_epochs == NUM_EPOCHS


def test_the_pods_that_succeeded_are_gone(night: Night, cluster: CoreV1Api) -> None:
    assert night.deleted_pod not in _phases(cluster, night.config)
    assert "Succeeded" not in _phases(cluster, night.config).values()

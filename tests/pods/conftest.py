"""Steps in the pods of a fake cluster; the pods' processes are real, and run `bc.py` beside this file."""

import json
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from attempts import Task
from fake_kubernetes import FakeKubernetes, Image, Node, Rules

from bc_tasks.config_file import build_config
from bc_tasks.errors import BcError
from bc_tasks.orchestration.launcher import Launcher
from bc_tasks.orchestration.pod_operator import PodStepOperator

IMAGE = "registry.hospital.example/trainer:1.0"
TRAINER = Image(programs={"bc": [sys.executable, str(Path(__file__).parent / "bc.py")]})
SIZE = {"gpus_per_pod": 0, "cpu": "100m", "memory": "1Gi", "shared_memory": "64Mi"}
PODS = {
    "image": IMAGE,
    "poll_interval_seconds": 0.2,
    "log_interval_seconds": 1,
    "grace_seconds": 5,
    "schedule_timeout_minutes": 0.05,
    "startup_timeout_minutes": 0.05,
    "evaluate": SIZE,
}
CONFIG = {"data_uri": "file:///nowhere", "execution": {"launcher": "kubernetes", "pods": PODS}}


@dataclass
class Step:
    """The evaluation of a run, and the cluster that it runs in."""

    cluster: FakeKubernetes
    folder: Path
    task: Task
    log: Callable[[], str]
    thread: threading.Thread | None = None

    def run(self) -> list[BcError | None]:
        """Run it to its end; return how each attempt went, None for success."""
        return self.task.run()

    def begin(self) -> None:
        """Let it run while the test goes on."""
        self.thread = threading.Thread(target=self.task.run)
        self.thread.start()

    def outcomes(self) -> list[BcError | None]:
        """Wait for what was begun."""
        assert self.thread is not None
        self.thread.join(120)
        assert not self.thread.is_alive()
        return self.task.outcomes

    def running_pod(self) -> str:
        """Return the name of the only pod, once its program runs."""
        self.cluster.wait_for((self.folder / "attempt-1").exists)
        (pod,) = self.cluster.pods()
        return str(pod["metadata"]["name"])

    def go_on(self) -> None:
        """Let a script that waits go on."""
        (self.folder / "go-on").touch()


Make = Callable[..., Step]


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    """A cluster of two nodes without a GPU that lets in nothing but restricted pods, with what ours refer to."""
    nodes = [Node("cpu-1", gpus=0), Node("cpu-2", gpus=0)]
    rules = Rules(enforces_restricted=True)
    with FakeKubernetes(nodes=nodes, images={IMAGE: TRAINER}, rules=rules, enforces_memory=True) as fake:
        fake.add_secret("s3-credentials", {"AWS_SECRET_ACCESS_KEY": "a secret of the cluster"})
        fake.add_secret("mlflow-credentials", {"MLFLOW_TRACKING_PASSWORD": "another"})
        fake.add_config_map("endpoints", {"MLFLOW_TRACKING_URI": "http://mlflow.hospital.example"})
        yield fake


@pytest.fixture
def make(
    cluster: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Make:
    """Makes a step out of what its program shall do and what is different in the configuration."""
    extra = {"kube_config_path": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))

    seen: list[str] = []

    def log() -> str:
        seen.append(capfd.readouterr().out)
        return "".join(seen)

    def make(script: str, **changes: Any) -> Step:
        config = build_config(CONFIG, {name.replace("__", "."): value for name, value in changes.items()}, source="")
        (tmp_path / "script.py").write_text(textwrap.dedent(script))

        def operator() -> PodStepOperator:
            made = Launcher(config, config_folder=tmp_path).step("evaluate", f"file://{tmp_path}")
            assert isinstance(made, PodStepOperator)
            return made

        task = Task(operator, run_id="scheduled__2026-11-23T02:00:00+00:00")
        return Step(cluster, tmp_path, task, log)

    return make

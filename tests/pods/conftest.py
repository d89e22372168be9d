"""Steps in the pods of a fake cluster; the pods' processes are real, and run `bc.py` beside this file."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attempts import Task
from fake_kubernetes import ROLE, FakeKubernetes, Node, Rules
from pod_steps import CONFIG, IMAGE, TRAINER, Make, Step

from bc_tasks.config_file import build_config
from bc_tasks.orchestration.launcher import Launcher
from bc_tasks.orchestration.pod_operator import PodStepOperator


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    """A cluster of two nodes without a GPU that lets in nothing but restricted pods, with what ours refer to."""
    nodes = [Node("cpu-1", gpus=0), Node("cpu-2", gpus=0)]
    rules = Rules(enforces_restricted=True)
    images, allowed = {IMAGE: TRAINER}, ROLE - {("watch", "pods")}  # the rights in include/kubernetes/base
    with FakeKubernetes(nodes=nodes, images=images, allowed=allowed, rules=rules, enforces_memory=True) as fake:
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

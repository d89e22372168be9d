"""The pods of a night as the cluster gets to see them: every field, and what a security reviewer asks for.

The golden files are rendered from the shipped configurations; after a change that is meant, write them anew:

    BC_WRITE_GOLDEN=1 python -m pytest tests/dags/test_pods.py
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.sdk.exceptions import TaskDeferred
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from bc_tasks import environment
from bc_tasks.config import RunConfig
from bc_tasks.config_file import load_config
from bc_tasks.orchestration.launcher import Launcher
from bc_tasks.orchestration.operators import StepOperator
from bc_tasks.orchestration.pod_operator import PodStepOperator
from bc_tasks.orchestration.pods import operator_arguments

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = environment.CHECKOUT / "include" / "config"
IN_PODS = sorted(path for path in CONFIGS.glob("*.toml") if load_config(path).execution.launcher == "kubernetes")
SHIPPED = [(path, step) for path in IN_PODS for step in ("train", "evaluate")]
MINIMAL = {"data_uri": "s3://images", "execution": {"launcher": "kubernetes", "pods": {"image": "trainer:1"}}}


def operator(config: RunConfig, step: str, folder: Path = CONFIGS) -> PodStepOperator:
    timeout = Launcher(config, config_folder=folder).timeout(step)
    arguments = operator_arguments(config.execution.pods, step, timeout, config_folder=folder)
    return PodStepOperator(task_id=step, run_uri="s3://images/runs/night", **arguments)


def rendered(config: RunConfig, step: str, **changes: Any) -> Any:
    """Return the pod as it goes over the wire, without the random end of its name."""
    made = operator(config, step, **changes)
    made.cmds, made.arguments, made.name = ["bc"], made.step_arguments(), step
    made.random_name_suffix = False
    context = {"ti": task_instance(step), "run_id": "scheduled__2026-11-23T02:00:00+00:00", "dag": SimpleNamespace()}
    pod = made.build_pod_request_obj(context, dry_run=True)
    return ApiClient().sanitize_for_serialization(pod)


def task_instance(step: str) -> Any:
    return SimpleNamespace(dag_id="nightly_retraining", task_id=step, map_index=-1, try_number=1)


def minimal(**pods: Any) -> RunConfig:
    tree = MINIMAL | {"execution": {"launcher": "kubernetes", "pods": {"image": "trainer:1", **pods}}}
    return RunConfig.model_validate(tree)


@pytest.mark.parametrize(("path", "step"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_a_pod_is_rendered_field_by_field_as_it_was_reviewed(path: Path, step: str) -> None:
    seen = rendered(load_config(path), step)
    golden = GOLDEN / f"{path.stem}-{step}.yaml"
    if os.environ.get("BC_WRITE_GOLDEN"):
        golden.write_text(yaml.safe_dump(seen, sort_keys=True))
    assert seen == yaml.safe_load(golden.read_text())


def test_no_golden_file_is_left_of_a_configuration_that_has_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {f"{path.stem}-{step}" for path, step in SHIPPED}


@pytest.mark.parametrize("step", ["ingest", "validate", "train", "evaluate"])
def test_a_pod_may_do_nothing_that_the_restricted_profile_forbids(step: str) -> None:
    spec = rendered(minimal(data_image="airflow:1"), step)["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert not spec.get("hostNetwork")
    assert {volume["name"] for volume in spec["volumes"]} == {"scratch", "shared-memory"}
    assert "secretKeyRef" not in str(spec), "a secret comes by envFrom, never by value"


def test_a_pod_without_a_gpu_asks_for_none() -> None:
    resources = rendered(minimal(train={"gpus_per_pod": 0}), "train")["spec"]["containers"][0]["resources"]
    assert "nvidia.com/gpu" not in {**resources["requests"], **resources["limits"]}


def test_gpus_are_asked_for_by_the_clusters_name_for_them() -> None:
    config = minimal(gpu_resource="amd.com/gpu", train={"gpus_per_pod": 2})
    resources = rendered(config, "train")["spec"]["containers"][0]["resources"]
    assert resources["requests"]["amd.com/gpu"] == resources["limits"]["amd.com/gpu"] == "2"


def test_a_pod_ends_itself_before_airflow_gives_it_up() -> None:
    made = operator(minimal(), "train")
    deadline = made.full_pod_spec.spec.active_deadline_seconds
    assert deadline == 60 * minimal().schedule.training_timeout_minutes
    assert made.execution_timeout > timedelta(seconds=deadline + made.schedule_timeout_seconds)


def test_a_sites_template_adds_and_does_not_replace(tmp_path: Path) -> None:
    (tmp_path / "pod-template.yaml").write_text(
        yaml.safe_dump(
            {
                "spec": {
                    "containers": [
                        {
                            "name": "base",
                            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.hospital.example:3128"}],
                            "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/site"}],
                        }
                    ],
                    "volumes": [{"name": "ca", "configMap": {"name": "site-ca"}}],
                }
            }
        )
    )
    bare = rendered(minimal(), "train")
    pod = rendered(minimal(template_file="pod-template.yaml"), "train", folder=tmp_path)
    container = pod["spec"]["containers"][0]
    assert len(pod["spec"]["containers"]) == 1
    assert {"name": "HTTPS_PROXY", "value": "http://proxy.hospital.example:3128"} in container["env"]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"ca", "scratch", "shared-memory"}
    for kept in ("image", "command", "args", "resources", "securityContext", "name"):
        assert container[kept] == bare["spec"]["containers"][0][kept]


def test_a_retry_asks_for_another_node_than_the_one_that_failed() -> None:
    made = operator(minimal(), "train")
    made.cmds, made.name = ["bc"], "train"
    made._failed_nodes = ["gpu-1", "gpu-2"]  # as `execute` reads it from Airflow's task state store
    pod = made.build_pod_request_obj(dry_run=True)
    (term,) = pod.spec.affinity.node_affinity.preferred_during_scheduling_ignored_during_execution
    assert term.preference.match_fields == [
        k8s.V1NodeSelectorRequirement(key="metadata.name", operator="NotIn", values=[node])
        for node in ("gpu-1", "gpu-2")
    ]


@pytest.mark.parametrize("in_cluster", [True, False])
def test_the_triggerer_looks_for_the_cluster_where_the_worker_has_found_it(in_cluster: bool) -> None:
    made = operator(minimal(), "train")
    made.__dict__["hook"] = SimpleNamespace(is_in_cluster=in_cluster)  # as after a first request
    theirs = KubernetesPodTrigger("pod", "namespace", datetime.now(UTC), "train", config_dict={"users": []})
    with pytest.raises(TaskDeferred) as deferred:
        made.defer(trigger=theirs, method_name="trigger_reentry")
    _, arguments = deferred.value.trigger.serialize()
    assert arguments["in_cluster"] == (in_cluster or None)
    assert arguments["config_dict"] == (None if in_cluster else {"users": []})


def test_one_line_of_the_configuration_decides_where_the_steps_run() -> None:
    here = RunConfig.model_validate(MINIMAL | {"execution": MINIMAL["execution"] | {"launcher": "subprocess"}})
    launchers = {config.execution.launcher: Launcher(config, config_folder=CONFIGS) for config in (here, minimal())}
    kinds = {
        name: {step: type(launcher.step(step, "s3://images/runs/night")) for step in ("ingest", "evaluate", "gate")}
        for name, launcher in launchers.items()
    }
    assert set(kinds["subprocess"].values()) == {StepOperator}
    assert kinds["kubernetes"] == {"ingest": StepOperator, "evaluate": PodStepOperator, "gate": StepOperator}

"""The real KubernetesPodOperator and its real trigger, which take the fake for a cluster."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from fake_kubernetes import NAMESPACE, ROLE, FakeKubernetes, Node
from fake_kubernetes.samples import IMAGE, python_image

Operator = Callable[..., KubernetesPodOperator]


@pytest.fixture
def operator(kubernetes: FakeKubernetes, tmp_path: Path) -> Operator:
    """What makes an operator that runs a shell script in a pod."""
    return lambda script, **options: operator_of(kubernetes, tmp_path, script, **options)


def operator_of(kubernetes: FakeKubernetes, folder: Path, script: str, **options: Any) -> KubernetesPodOperator:
    defaults: dict[str, Any] = {
        "task_id": "train",
        "name": "train",
        "namespace": NAMESPACE,
        "image": IMAGE,
        "cmds": ["sh", "-c", script],
        "config_file": str(kubernetes.kubeconfig(folder / "kubeconfig")),
        "kubernetes_conn_id": None,
        "in_cluster": False,
        "startup_check_interval_seconds": 0.1,
        "base_container_status_polling_interval": 0.1,
        "poll_interval": 0.1,
        "on_finish_action": "delete_succeeded_pod",
        "termination_grace_period": 1,
        "log_pod_spec_on_failure": False,
    }
    return KubernetesPodOperator(**{**defaults, **options})


@pytest.fixture
def context() -> Any:
    """What Airflow hands a task."""
    ti = SimpleNamespace(
        dag_id="night",
        task_id="train",
        run_id="night",
        map_index=-1,
        try_number=1,
        start_date=None,
        xcom_push=lambda **_: None,
    )
    return {"ti": ti, "run_id": "night", "dag": SimpleNamespace()}


def run_deferred(operator: KubernetesPodOperator, context: Any, *, before_it_ends: Any = None) -> None:
    """Run an operator as worker and triggerer do: until it is deferred, the trigger, then the rest."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)

    async def wait() -> Any:
        if before_it_ends:
            threading.Thread(target=before_it_ends).start()
        return await anext(deferred.value.trigger.run())

    event = asyncio.run(wait())
    operator.trigger_reentry(context, event.payload)


def failure_of(operator: KubernetesPodOperator, context: Any, *, before_it_ends: Any = None) -> str:
    """Run a deferred operator, which must fail, and give all that it says: "a failure" last, its reason before."""
    with pytest.raises(AirflowException) as raised:
        run_deferred(operator, context, before_it_ends=before_it_ends)
    error: BaseException | None = raised.value
    sentences = []
    while error:
        sentences.append(str(error))
        error = error.__context__
    return "\n".join(sentences)


def test_a_pod_that_succeeds_is_done_and_deleted(
    kubernetes: FakeKubernetes, operator: Operator, context: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    operator("echo epoch 1; sleep 0.5; echo epoch 2").execute(context)
    assert not [pod for pod in kubernetes.pods() if "deletionTimestamp" not in pod["metadata"]]
    assert len(kubernetes.created_pods()) == 1
    log = capfd.readouterr().out
    assert "[base] epoch 1" in log
    assert "[base] epoch 2" in log


def test_the_smallest_role_is_no_smaller_than_what_the_operator_does(
    kubernetes: FakeKubernetes, operator: Operator, context: Any
) -> None:
    kubernetes.pause()

    def start_when_watched() -> None:
        kubernetes.wait_for(lambda: "watch" in {request.verb for request in kubernetes.requests})
        kubernetes.resume()

    run_deferred(operator("true", deferrable=True), context, before_it_ends=start_when_watched)
    with pytest.raises(AirflowException):
        operator("exit 1", log_events_on_failure=True).execute(context)
    assert {(verb, resource) for verb, resource, _ in kubernetes.requests} == ROLE - {("watch", "pods")}


def test_a_pod_that_fails_is_kept_and_marked(kubernetes: FakeKubernetes, operator: Operator, context: Any) -> None:
    with pytest.raises(AirflowException, match="returned a failure"):
        operator("exit 65").execute(context)
    (pod,) = kubernetes.pods("dag_id=night,already_checked=True")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 65


@pytest.mark.parametrize(("script", "is_kept"), [("echo done", False), ("exit 75", True)])
def test_a_deferred_task_ends_as_its_pod_does(
    script: str, is_kept: bool, kubernetes: FakeKubernetes, operator: Operator, context: Any
) -> None:
    deferred = operator(script, deferrable=True)
    if is_kept:
        with pytest.raises(AirflowException):
            run_deferred(deferred, context)
    else:
        run_deferred(deferred, context)
    assert len(kubernetes.pods("already_checked=True")) == int(is_kept)


def test_the_trigger_tells_the_log_while_the_pod_runs(
    kubernetes: FakeKubernetes, operator: Operator, context: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The pod ends only when its line has been told."""
    go_on = tmp_path / "go-on"
    script = f"echo epoch 1; while [ ! -e {go_on} ]; do sleep 0.05; done"

    def wait_for_line() -> None:
        kubernetes.wait_for(lambda: "[base] epoch 1" in capfd.readouterr().out)
        go_on.touch()

    run_deferred(operator(script, deferrable=True, logging_interval=1), context, before_it_ends=wait_for_line)
    assert kubernetes.deleted_pods() or kubernetes.pods()[0]["status"]["phase"] == "Succeeded"


def test_capacity_that_comes_later_is_waited_for(tmp_path: Path, context: Any) -> None:
    resources = k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": "1"})
    with FakeKubernetes(nodes=[Node("cpu-node")], images={IMAGE: python_image()}) as kubernetes:
        operator = operator_of(kubernetes, tmp_path, "true", container_resources=resources, deferrable=True)

        def scale_up() -> None:
            kubernetes.wait_for(lambda: "FailedScheduling" in {event["reason"] for event in events()})
            kubernetes.add_node(Node("gpu-node", gpus=1))

        def events() -> list[Any]:
            return [event for pod in kubernetes.pods() for event in kubernetes.events(pod["metadata"]["name"])]

        run_deferred(operator, context, before_it_ends=scale_up)
        assert kubernetes.created_pods()


def test_capacity_that_does_not_come_is_a_time_out(operator: Operator, context: Any) -> None:
    resources = k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": "2"})
    waiting = operator(
        "true", container_resources=resources, deferrable=True, schedule_timeout_seconds=0.5, get_logs=False
    )
    assert "too long to be scheduled" in failure_of(waiting, context)


def test_an_image_that_is_not_there_fails_the_task(operator: Operator, context: Any) -> None:
    missing = operator("true", image="registry.example/typo:1.0", deferrable=True, get_logs=False)
    assert "Image cannot be pulled" in failure_of(missing, context)


def disturb(kubernetes: FakeKubernetes, how: str) -> None:
    """Do something to the pod as soon as it says that it is up."""
    kubernetes.wait_for(lambda: kubernetes.pods() and kubernetes.log(kubernetes.pods()[0]["metadata"]["name"]))
    (pod,) = kubernetes.pods()
    {
        "oom": lambda: kubernetes.oom_kill(pod["metadata"]["name"]),
        "evict": lambda: kubernetes.evict(pod["metadata"]["name"], "low on memory"),
        "lose": lambda: kubernetes.lose_node(pod["spec"]["nodeName"]),
    }[how]()


@pytest.mark.parametrize(
    ("how", "pod_reason", "container_reason"), [("oom", None, "OOMKilled"), ("evict", "Evicted", "Error")]
)
def test_a_disturbed_pod_is_a_failure_with_its_reason(
    how: str,
    pod_reason: str | None,
    container_reason: str,
    kubernetes: FakeKubernetes,
    operator: Operator,
    context: Any,
) -> None:
    disturbed = operator("echo up; exec sleep 60", deferrable=True)
    assert "failed" in failure_of(disturbed, context, before_it_ends=lambda: disturb(kubernetes, how))
    (pod,) = kubernetes.pods()
    assert pod["status"].get("reason") == pod_reason
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == container_reason


def test_a_pod_that_vanishes_is_not_found(kubernetes: FakeKubernetes, operator: Operator, context: Any) -> None:
    vanishing = operator("echo up; exec sleep 60", deferrable=True)
    assert "not found" in failure_of(vanishing, context, before_it_ends=lambda: disturb(kubernetes, "lose"))


def test_a_pod_over_its_deadline_fails_the_task(kubernetes: FakeKubernetes, operator: Operator, context: Any) -> None:
    failure_of(operator("exec sleep 60", active_deadline_seconds=1, deferrable=True), context)
    assert kubernetes.pods()[0]["status"]["reason"] == "DeadlineExceeded"


def test_a_killed_task_deletes_its_pod_with_grace(kubernetes: FakeKubernetes, operator: Operator, context: Any) -> None:
    killed = operator("trap 'echo bye; exit 143' TERM; echo up; while :; do sleep 0.05; done", deferrable=True)
    with pytest.raises(TaskDeferred):
        killed.execute(context)
    name = kubernetes.pods()[0]["metadata"]["name"]
    kubernetes.wait_for(lambda: kubernetes.log(name))
    killed.on_kill()
    kubernetes.wait_for(lambda: not kubernetes.pods())
    assert kubernetes.log(name) == "up\nbye\n"


def test_a_second_attempt_finds_the_pod_of_the_first(
    kubernetes: FakeKubernetes, operator: Operator, context: Any
) -> None:
    with pytest.raises(TaskDeferred):
        operator("sleep 1", deferrable=True).execute(context)
    context["ti"].try_number = 2
    run_deferred(operator("sleep 1", deferrable=True), context)
    assert len(kubernetes.created_pods()) == 1


def test_without_its_role_the_operator_is_refused(tmp_path: Path, context: Any) -> None:
    with FakeKubernetes(images={IMAGE: python_image()}, allowed=ROLE - {("create", "pods")}) as kubernetes:
        with pytest.raises(ApiException, match="cannot create resource"):
            operator_of(kubernetes, tmp_path, "true").execute(context)
        assert not kubernetes.created_pods()


def test_secrets_reach_the_pod(kubernetes: FakeKubernetes, operator: Operator, context: Any) -> None:
    kubernetes.add_secret("s3-credentials", {"AWS_SECRET_ACCESS_KEY": "the key"})
    source = k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="s3-credentials"))
    operator('[ "$AWS_SECRET_ACCESS_KEY" = "the key" ]', env_from=[source]).execute(context)

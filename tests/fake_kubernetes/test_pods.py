"""Pods really run: what they get, how they end, and where they go."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes import client

from fake_kubernetes import NAMESPACE, FakeKubernetes, Image, Node, Taint
from fake_kubernetes.container import MARK
from fake_kubernetes.objects import Json
from fake_kubernetes.samples import IMAGE, client_of, gpu, pod_of, python_image

Create = Callable[[Json], str]
NO_GRACE: Json = {"terminationGracePeriodSeconds": 1}


@pytest.fixture
def create(api: client.CoreV1Api) -> Create:
    """Create a pod, and give its name."""
    return lambda pod: str(api.create_namespaced_pod(NAMESPACE, pod).metadata.name)


def state(pod: Json) -> Json:
    (status,) = pod["status"]["containerStatuses"]
    inner: Json = status["state"]
    return inner


def wait_for_phase(kubernetes: FakeKubernetes, name: str, phase: str) -> Json:
    kubernetes.wait_for(lambda: kubernetes.pod(name)["status"]["phase"] == phase)
    return kubernetes.pod(name)


def wait_until_waiting(kubernetes: FakeKubernetes, name: str, reason: str) -> str:
    """Give the message with which the pod's container waits for this reason."""

    def message() -> str | None:
        pod = kubernetes.pod(name)
        waiting = state(pod).get("waiting", {}) if "containerStatuses" in pod["status"] else {}
        return waiting.get("message") if waiting.get("reason") == reason else None

    found = kubernetes.wait_for(message)
    assert found is not None
    return found


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("script", "phase", "code", "reason"),
    [
        ("exit 0", "Succeeded", 0, "Completed"),
        ("exit 75", "Failed", 75, "Error"),
        ("kill -SEGV $$$$", "Failed", 139, "Error"),
    ],
)
def test_an_exit_code_becomes_phase_and_state(
    script: str, phase: str, code: int, reason: str, kubernetes: FakeKubernetes, create: Create
) -> None:
    end = state(wait_for_phase(kubernetes, create(pod_of(script)), phase))["terminated"]
    assert (end["exitCode"], end["reason"]) == (code, reason)


def test_a_program_that_is_not_there_fails_the_pod(kubernetes: FakeKubernetes, create: Create) -> None:
    pod = wait_for_phase(kubernetes, create(pod_of(command=["no-such-program"])), "Failed")
    assert state(pod)["terminated"]["reason"] == "StartError"


def test_the_message_of_a_failure_comes_from_the_log_when_asked_for(kubernetes: FakeKubernetes, create: Create) -> None:
    pod = pod_of("echo the end; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
    assert state(wait_for_phase(kubernetes, create(pod), "Failed"))["terminated"]["message"] == "the end\n"


def test_a_process_sees_what_its_pod_gives_it_and_nothing_of_ours(
    kubernetes: FakeKubernetes, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "secret")
    kubernetes.add_secret("s3", {"AWS_ACCESS_KEY_ID": "key", "OTHER": "x"})
    kubernetes.add_config_map("endpoints", {"ENDPOINT": "http://s3"})
    env: list[Json] = [
        {"name": "OTHER", "value": "$(ENDPOINT)/$(UNKNOWN)/$$(ENDPOINT)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}}},
    ]
    sources: list[Json] = [{"secretRef": {"name": "s3"}}, {"configMapRef": {"name": "endpoints"}}]
    wait_for_phase(kubernetes, create(pod_of("env", env=env, envFrom=sources)), "Succeeded")
    seen = dict(line.split("=", 1) for line in kubernetes.log("step").splitlines())
    del seen["PWD"], seen[MARK]
    assert seen == {
        "AWS_ACCESS_KEY_ID": "key",
        "ENDPOINT": "http://s3",
        "OTHER": "http://s3/$(UNKNOWN)/$(ENDPOINT)",
        "NODE": "node-1",
        "APP": "training",
        "KEY": "key",
        "HOSTNAME": "step",
        "HOME": "/dev/null",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }


def test_a_missing_secret_holds_the_pod_until_it_is_there(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("echo $TOKEN", envFrom=[{"secretRef": {"name": "mlflow"}}]))
    assert wait_until_waiting(kubernetes, name, "CreateContainerConfigError") == 'secret "mlflow" not found'
    kubernetes.add_secret("mlflow", {"TOKEN": "t"})
    wait_for_phase(kubernetes, name, "Succeeded")
    assert kubernetes.log(name) == "t\n"


def test_a_missing_volume_holds_the_pod_until_it_is_there(kubernetes: FakeKubernetes, create: Create) -> None:
    volume = {"name": "token", "secret": {"secretName": "mlflow"}}
    mounts = [{"name": "token", "mountPath": "/run/token"}]
    name = create(pod_of(command=["cat", "/run/token/key"], volumeMounts=mounts, spec={"volumes": [volume]}))
    assert 'secret "mlflow" not found' in wait_until_waiting(kubernetes, name, "ContainerCreating")
    kubernetes.wait_for(lambda: "FailedMount" in {event["reason"] for event in kubernetes.events(name)})
    kubernetes.add_secret("mlflow", {"key": "t"})
    wait_for_phase(kubernetes, name, "Succeeded")
    assert kubernetes.log(name) == "t\n"


def test_a_volume_is_a_folder_for_whom_a_variable_or_an_argument_names_it(
    kubernetes: FakeKubernetes, create: Create
) -> None:
    kubernetes.add_config_map("settings", {"bc.toml": "here\n"})
    volumes: list[Json] = [{"name": "scratch", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}, {"name": "settings", "mountPath": "/etc/bc"}]
    pod = pod_of(
        command=["sh", "-c", 'mkdir "$CACHE"; echo 1 > "$CACHE/file"; cat cache/file "$0"', "/etc/bc/bc.toml"],
        env=[{"name": "CACHE", "value": "/scratch/cache"}],
        workingDir="/scratch",
        volumeMounts=mounts,
        spec={"volumes": volumes},
    )
    wait_for_phase(kubernetes, create(pod), "Succeeded")
    assert kubernetes.log("step") == "1\nhere" + "\n"


@pytest.mark.parametrize(
    ("security", "user", "message"),
    [
        ({"runAsNonRoot": True, "runAsUser": 0}, "10001", "container's runAsUser breaks non-root policy"),
        ({"runAsNonRoot": True}, "0", "container has runAsNonRoot and image will run as root"),
        ({"runAsNonRoot": True}, "bc", "image has non-numeric user (bc), cannot verify user is non-root"),
    ],
)
def test_root_is_refused_where_the_pod_says_so(
    security: Json, user: str, message: str, kubernetes: FakeKubernetes, create: Create
) -> None:
    kubernetes.add_image(IMAGE, Image(user=user))
    name = create(pod_of("true", securityContext=security))
    assert message in wait_until_waiting(kubernetes, name, "CreateContainerConfigError")


def test_an_image_that_is_not_there_is_tried_again_until_it_is(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("true", image="registry.example/typo:1.0"))
    assert "not found" in wait_until_waiting(kubernetes, name, "ErrImagePull")
    assert "Back-off" in wait_until_waiting(kubernetes, name, "ImagePullBackOff")
    wait_until_waiting(kubernetes, name, "ErrImagePull")
    kubernetes.add_image("registry.example/typo:1.0", python_image())
    wait_for_phase(kubernetes, name, "Succeeded")
    assert {"Failed", "BackOff", "Pulled", "Started"} <= {event["reason"] for event in kubernetes.events(name)}


def test_what_a_container_leaves_running_ends_with_it(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("setsid sleep 600 & echo $!"))
    wait_for_phase(kubernetes, name, "Succeeded")
    assert is_gone(int(kubernetes.log(name)))


def test_nothing_is_left_when_the_cluster_stops(tmp_path: Path) -> None:
    with FakeKubernetes(images={IMAGE: python_image()}) as kubernetes:
        api = client_of(kubernetes, tmp_path)
        api.create_namespaced_pod(NAMESPACE, pod_of("trap '' TERM; echo $$$$; while :; do sleep 0.1; done"))
        kubernetes.wait_for(lambda: kubernetes.log("step"))
    assert is_gone(int(kubernetes.log("step")))


def test_a_deleted_pod_has_its_grace_and_then_is_gone(
    kubernetes: FakeKubernetes, api: client.CoreV1Api, create: Create
) -> None:
    name = create(pod_of("trap 'echo bye; exit 143' TERM; echo up; while :; do sleep 0.05; done"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    api.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=10)
    assert "deletionTimestamp" in kubernetes.pod(name)["metadata"]
    kubernetes.wait_for(lambda: not kubernetes.pods())
    assert kubernetes.log(name) == "up\nbye\n"
    (gone,) = kubernetes.deleted_pods()
    assert state(gone)["terminated"]["exitCode"] == 143


def test_a_stubborn_pod_is_killed_after_its_grace(
    kubernetes: FakeKubernetes, api: client.CoreV1Api, create: Create
) -> None:
    name = create(pod_of("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    begin = time.monotonic()
    api.delete_namespaced_pod(name, NAMESPACE, body=client.V1DeleteOptions(grace_period_seconds=1))
    kubernetes.wait_for(lambda: not kubernetes.pods())
    assert time.monotonic() - begin >= 1
    assert state(kubernetes.deleted_pods()[0])["terminated"]["exitCode"] == 137


def test_a_pod_deleted_by_force_is_gone_at_once(
    kubernetes: FakeKubernetes, api: client.CoreV1Api, create: Create
) -> None:
    name = create(pod_of("trap '' TERM; echo $$$$; while :; do sleep 0.05; done"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    api.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
    assert not kubernetes.pods()
    kubernetes.wait_for(lambda: is_gone(int(kubernetes.log(name))))


def test_a_pod_above_its_deadline_fails_for_that_reason(kubernetes: FakeKubernetes, create: Create) -> None:
    pod = wait_for_phase(kubernetes, create(pod_of("sleep 60", spec={"activeDeadlineSeconds": 1})), "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert state(pod)["terminated"]["exitCode"] == 143


def test_a_deadline_counts_from_the_node_on_not_from_the_start(kubernetes: FakeKubernetes, create: Create) -> None:
    pod = pod_of("true", image="registry.example/typo:1.0", spec={"activeDeadlineSeconds": 1})
    pod = wait_for_phase(kubernetes, create(pod), "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert "waiting" in state(pod)


def test_an_evicted_pod_is_kept_and_says_so(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    kubernetes.evict(name, "The node was low on resource: ephemeral-storage.")
    pod = wait_for_phase(kubernetes, name, "Failed")
    assert (pod["status"]["reason"], state(pod)["terminated"]["exitCode"]) == ("Evicted", 0)
    assert "low on resource" in pod["status"]["message"]


def test_a_pod_whose_node_is_lost_is_gone(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("trap 'echo bye' TERM; echo up; while :; do sleep 0.05; done"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    kubernetes.lose_node("node-1")
    kubernetes.wait_for(lambda: not kubernetes.pods())
    assert kubernetes.log(name) == "up\n"
    conditions = kubernetes.deleted_pods()[0]["status"]["conditions"]
    assert "DeletionByPodGC" in {condition.get("reason") for condition in conditions}


def test_the_kernel_kills_for_memory(kubernetes: FakeKubernetes, create: Create) -> None:
    name = create(pod_of("echo up; exec sleep 60"))
    kubernetes.wait_for(lambda: kubernetes.log(name))
    kubernetes.oom_kill(name)
    end = state(wait_for_phase(kubernetes, name, "Failed"))["terminated"]
    assert (end["reason"], end["exitCode"]) == ("OOMKilled", 137)


@pytest.mark.parametrize(("megabytes", "reason"), [(10, "Completed"), (150, "OOMKilled")])
def test_a_memory_limit_counts_where_the_test_asks_for_it(megabytes: int, reason: str, tmp_path: Path) -> None:
    with FakeKubernetes(images={IMAGE: python_image()}, enforces_memory=True) as kubernetes:
        script = f"import time; held = b'x' * {megabytes * 2**20}; time.sleep(0.5)"
        pod = pod_of(command=["python", "-c", script], resources={"limits": {"memory": "100Mi"}})
        client_of(kubernetes, tmp_path).create_namespaced_pod(NAMESPACE, pod)
        pod = wait_for_phase(kubernetes, "step", "Succeeded" if reason == "Completed" else "Failed")
        assert state(pod)["terminated"]["reason"] == reason


def test_a_gpu_that_is_taken_is_waited_for(kubernetes: FakeKubernetes, create: Create) -> None:
    create(pod_of("echo up; exec sleep 60", "first", resources=gpu(1)))
    kubernetes.wait_for(lambda: kubernetes.log("first"))
    for name in ("second", "third"):
        create(pod_of("true", name, resources=gpu(1)))
    (event,) = kubernetes.wait_for(lambda: kubernetes.events("second"))
    assert (event["reason"], event["message"]) == (
        "FailedScheduling",
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    )
    (condition,) = kubernetes.pod("second")["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    kubernetes.add_node(Node("node-2", gpus=1))
    wait_for_phase(kubernetes, "third", "Succeeded")
    second, third = (kubernetes.pod(name) for name in ("second", "third"))
    assert second["spec"]["nodeName"] == third["spec"]["nodeName"] == "node-2"
    assert second["status"]["startTime"] <= third["status"]["startTime"]


IN_ZONE_B: Json = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}
NOT_ON_B: Json = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["b"]}]}
PREFER = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRE = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    ("spec", "node"),
    [
        ({}, "a"),
        ({"nodeSelector": {"zone": "b"}}, "b"),
        ({"affinity": {"nodeAffinity": {REQUIRE: {"nodeSelectorTerms": [IN_ZONE_B]}}}}, "b"),
        ({"affinity": {"nodeAffinity": {PREFER: [{"weight": 1, "preference": IN_ZONE_B}]}}}, "b"),
        ({"affinity": {"nodeAffinity": {PREFER: [{"weight": 1, "preference": NOT_ON_B}]}}}, "a"),
        ({"nodeSelector": {"zone": "c"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}, "c"),
        ({"nodeSelector": {"zone": "c"}, "tolerations": [{"key": "gpu", "value": "yes"}]}, "c"),
        ({"nodeSelector": {"zone": "c"}, "tolerations": [{"key": "gpu", "value": "no"}]}, None),
        ({"nodeSelector": {"zone": "c"}}, None),
        ({"nodeSelector": {"zone": "d"}}, None),
    ],
)
def test_a_pod_goes_where_it_wants_and_may(spec: Json, node: str | None, tmp_path: Path) -> None:
    nodes = [Node(zone, labels={"zone": zone}) for zone in "ab"]
    tainted = Node("c", labels={"zone": "c"}, taints=(Taint("gpu", "yes"),))
    with FakeKubernetes(nodes=[*nodes, tainted], images={IMAGE: python_image()}) as kubernetes:
        client_of(kubernetes, tmp_path).create_namespaced_pod(NAMESPACE, pod_of("true", spec=spec))
        if node is None:
            (event,) = kubernetes.wait_for(lambda: kubernetes.events("step"))
            assert event["reason"] == "FailedScheduling"
        else:
            assert wait_for_phase(kubernetes, "step", "Succeeded")["spec"]["nodeName"] == node


def test_many_pods_run_at_once(kubernetes: FakeKubernetes, create: Create) -> None:
    for number in range(20):
        create(pod_of("sleep 0.5", f"step-{number}"))
    kubernetes.wait_for(lambda: [pod["status"]["phase"] for pod in kubernetes.pods()] == ["Succeeded"] * 20)


def test_pods_start_no_container_during_a_pause(kubernetes: FakeKubernetes, create: Create) -> None:
    kubernetes.pause()
    name = create(pod_of("echo up"))
    kubernetes.wait_for(lambda: "Pulled" in {event["reason"] for event in kubernetes.events(name)})
    assert kubernetes.log(name) == ""
    kubernetes.resume()
    wait_for_phase(kubernetes, name, "Succeeded")


def test_a_test_can_act_before_the_client_knows_of_its_pod(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    order: list[Any] = []
    kubernetes.on_pod_created(lambda pod: order.append(pod["metadata"]["name"]))
    api.create_namespaced_pod(NAMESPACE, pod_of("true"))
    order.append("answered")
    assert order == ["step", "answered"]


def test_the_programs_of_an_image_are_translated(kubernetes: FakeKubernetes, create: Create) -> None:
    image = Image(programs={"bc": [sys.executable, "-c", "import sys; print(sys.argv[1:])"]}, entrypoint=("bc", "help"))
    kubernetes.add_image("bc:1", image)
    create(pod_of(name="named", image="bc:1", command=["bc"], args=["train"]))
    create(pod_of(name="default", image="bc:1", command=None))
    assert kubernetes.wait_for(lambda: kubernetes.log("named")) == "['train']\n"
    assert kubernetes.wait_for(lambda: kubernetes.log("default")) == "['help']\n"

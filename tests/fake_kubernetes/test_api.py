"""The API server, asked by the real client: what it takes, what it refuses, lists, watches, patches and logs."""

import math
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from fake_kubernetes import NAMESPACE, ROLE, Access, FakeKubernetes, Rules
from fake_kubernetes.objects import Json
from fake_kubernetes.samples import IMAGE, client_of, gpu, pod_of, python_image


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[int, str]:
    """Give the code and the body of the refusal."""
    with pytest.raises(ApiException) as raised:
        call(*arguments, **options)
    return raised.value.status, raised.value.body


def test_a_created_pod_has_its_defaults(api: client.CoreV1Api) -> None:
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}
    pod = api.create_namespaced_pod(NAMESPACE, pod_of("true", resources=resources))
    container = pod.spec.containers[0]
    assert (pod.spec.termination_grace_period_seconds, pod.spec.dns_policy) == (30, "ClusterFirst")
    assert (pod.spec.service_account_name, pod.spec.enable_service_links) == ("default", True)
    assert container.resources.requests == {"cpu": "500m", "memory": "1Gi"}
    assert (container.image_pull_policy, container.termination_message_policy) == ("IfNotPresent", "File")
    assert (pod.status.phase, pod.status.qos_class) == ("Pending", "Burstable")
    assert pod.metadata.uid
    assert pod.metadata.creation_timestamp


def test_a_pod_that_ran_has_the_status_of_a_kubelet(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("exec sleep 60"))
    kubernetes.wait_for(lambda: kubernetes.pod("step")["status"]["phase"] == "Running")
    pod = api.read_namespaced_pod("step", NAMESPACE)
    (status,) = pod.status.container_statuses
    assert (pod.spec.node_name, pod.status.pod_ip) == ("node-1", "127.0.0.1")
    assert status.image_id.startswith(f"{IMAGE}@sha256:")
    assert status.ready
    assert status.state.running.started_at <= datetime.now(tz=UTC)
    conditions = {condition.type: condition.status for condition in pod.status.conditions}
    assert conditions["PodScheduled"] == conditions["Ready"] == "True"


@pytest.mark.parametrize(
    ("pod", "code", "sentence"),
    [
        (pod_of(spec={"containers": []}), 422, "spec.containers: Required value"),
        (pod_of(name="Train_1"), 422, "metadata.name: Invalid value: 'Train_1'"),
        (pod_of(name="a" * 254), 422, "metadata.name"),
        (pod_of(image=" "), 422, "spec.containers[0].image: Required value"),
        (pod_of(imagePullpolicy="Always"), 400, 'unknown field \\"spec.containers[0].imagePullpolicy\\"'),
        (pod_of(env=[{"name": "PORT", "value": 1}]), 400, "cannot unmarshal int into field spec.containers[0].env[0]"),
        (pod_of(spec={"activeDeadlineSeconds": "60"}), 400, "spec.activeDeadlineSeconds of type int"),
        (pod_of(spec={"hostNetwork": 1}), 400, "spec.hostNetwork of type bool"),
        (pod_of(spec={"tolerations": {}}), 400, "spec.tolerations, which is a list"),
        (pod_of(spec={"activeDeadlineSeconds": 0}), 422, "must be greater than or equal to 1"),
        (pod_of(resources={"limits": {"memory": "16GiB"}}), 422, "limits[memory]: Invalid value: '16GiB'"),
        (pod_of(resources={"limits": {"gpu": "1"}}), 422, "must be a standard resource for containers"),
        (pod_of(resources={"requests": {"nvidia.com/gpu": "1"}}), 422, "Limit must be set for non overcommitable"),
        (pod_of(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), 422, "less than or equal to cpu limit"),
        (pod_of(volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}]), 422, "Not found: 'scratch'"),
        (pod_of(spec={"restartPolicy": "Always"}), 422, "this fake never restarts"),
        (pod_of(spec={"initContainers": [{"name": "first"}]}), 422, "this fake runs none"),
        (pod_of(spec={"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}), 422, "no other volumes"),
        (pod_of(spec={"serviceAccountName": "nobody"}), 403, 'serviceaccount \\"nobody\\" not found'),
        (pod_of(spec={"priorityClassName": "high"}), 403, "no PriorityClass with name high was found"),
        (pod_of(spec={"runtimeClassName": "nvidia"}), 403, 'RuntimeClass \\"nvidia\\" not found'),
        ({"kind": "Job", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {}}, 400, "not that of a v1 Pod"),
    ],
)
def test_a_pod_that_a_cluster_would_refuse_is_refused(
    pod: Json, code: int, sentence: str, api: client.CoreV1Api
) -> None:
    seen, body = refusal(api.create_namespaced_pod, NAMESPACE, pod)
    assert seen == code
    assert sentence in body


@pytest.mark.parametrize(
    "labels", [{"run": "scheduled__2026-11-23T02:00:00+00:00"}, {"a" * 64: "x"}, {"": "x"}, {"run": "x" * 64}]
)
def test_a_label_is_what_a_label_may_be(labels: dict[str, str], api: client.CoreV1Api) -> None:
    pod = pod_of("true")
    pod["metadata"]["labels"] = labels
    assert refusal(api.create_namespaced_pod, NAMESPACE, pod)[0] == 422


def test_a_priority_class_gives_its_priority(tmp_path: Path) -> None:
    rules = Rules(priority_classes={"training": 100}, runtime_classes=("nvidia",))
    with FakeKubernetes(images={IMAGE: python_image()}, rules=rules) as kubernetes:
        pod = pod_of("true", spec={"priorityClassName": "training", "runtimeClassName": "nvidia"})
        assert client_of(kubernetes, tmp_path).create_namespaced_pod(NAMESPACE, pod).spec.priority == 100


SECURE: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        ({}, None),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation != false"),
        ({"capabilities": {}}, "unrestricted capabilities"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "unrestricted capabilities"),
        ({"runAsNonRoot": False}, "runAsNonRoot != true"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
    ],
)
def test_a_namespace_can_enforce_the_restricted_profile(changes: Json, violation: str | None, tmp_path: Path) -> None:
    with FakeKubernetes(images={IMAGE: python_image()}, rules=Rules(enforces_restricted=True)) as kubernetes:
        api = client_of(kubernetes, tmp_path)
        pod = pod_of("true", securityContext={**SECURE, **changes})
        if violation is None:
            api.create_namespaced_pod(NAMESPACE, pod)
        else:
            code, body = refusal(api.create_namespaced_pod, NAMESPACE, pod)
            assert code == 403
            assert violation in body


def test_a_name_is_given_once(api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("true"))
    code, body = refusal(api.create_namespaced_pod, NAMESPACE, pod_of("true"))
    assert code == 409
    assert "AlreadyExists" in body


def test_what_is_not_there_is_not_found(api: client.CoreV1Api) -> None:
    for call, arguments in [
        (api.read_namespaced_pod, ("nobody", NAMESPACE)),
        (api.delete_namespaced_pod, ("nobody", NAMESPACE)),
        (api.read_namespaced_pod_log, ("nobody", NAMESPACE)),
        (api.patch_namespaced_pod, ("nobody", NAMESPACE, {})),
        (api.create_namespaced_pod, ("nowhere", pod_of("true"))),
    ]:
        assert refusal(call, *arguments)[0] == 404


def test_a_dry_run_leaves_nothing(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    assert api.create_namespaced_pod(NAMESPACE, pod_of("true"), dry_run="All").spec.dns_policy == "ClusterFirst"
    assert not kubernetes.pods()


def test_nobody_gets_in_without_the_token(kubernetes: FakeKubernetes, tmp_path: Path) -> None:
    stranger = client_of(kubernetes, tmp_path, token="guessed")
    assert refusal(stranger.list_namespaced_pod, NAMESPACE)[0] == 401
    assert client.VersionApi(stranger.api_client).get_code().minor == "36"
    assert not kubernetes.requests


def test_the_role_allows_its_verbs_and_no_others(
    kubernetes: FakeKubernetes, api: client.CoreV1Api, tmp_path: Path
) -> None:
    for call, arguments, resource in [
        (api.list_pod_for_all_namespaces, (), "pods"),
        (api.delete_collection_namespaced_pod, (NAMESPACE,), "pods"),
        (api.list_namespaced_secret, (NAMESPACE,), "secrets"),
        (api.read_namespaced_event, ("e", NAMESPACE), "events"),
        (api.connect_get_namespaced_pod_exec, ("p", NAMESPACE), "pods/exec"),
        (api.list_namespace, (), "namespaces"),
    ]:
        code, body = refusal(call, *arguments)
        assert code == 403
        assert f'resource \\"{resource}\\"' in body
    with FakeKubernetes(allowed=(ROLE - {("patch", "pods")}) | {("list", "namespaces")}) as other:
        api = client_of(other, tmp_path)
        assert refusal(api.patch_namespaced_pod, "p", NAMESPACE, {})[0] == 403
        assert [item.metadata.name for item in api.list_namespace().items] == [NAMESPACE]
    assert Access("list", "secrets", "") in kubernetes.requests


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=training", ["a", "b"]),
        ("app==training,try=2", ["b"]),
        ("try!=1", ["b", "c"]),
        ("try in (1, 2),app", ["a", "b"]),
        ("try notin (1)", ["b", "c"]),
        ("!try", ["c"]),
        ("app=training,already_checked!=True,!airflow-worker", ["a", "b"]),
    ],
)
def test_labels_select(selector: str, names: list[str], kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    for name, labels in (("a", {"app": "training", "try": "1"}), ("b", {"app": "training", "try": "2"}), ("c", {})):
        pod = pod_of("true", name)
        pod["metadata"]["labels"] = labels
        api.create_namespaced_pod(NAMESPACE, pod)
    found = api.list_namespaced_pod(NAMESPACE, label_selector=selector).items
    assert [pod.metadata.name for pod in found] == names
    assert [pod["metadata"]["name"] for pod in kubernetes.pods(selector)] == names


def test_fields_select(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    for name, script in (("good", "true"), ("bad", "false")):
        api.create_namespaced_pod(NAMESPACE, pod_of(script, name))
        kubernetes.wait_for(lambda: kubernetes.pods()[-1]["status"]["phase"] in ("Succeeded", "Failed"))
    (pod,) = api.list_namespaced_pod(NAMESPACE, field_selector="status.phase=Failed").items
    assert pod.metadata.name == "bad"
    assert refusal(api.list_namespaced_pod, NAMESPACE, field_selector="spec.image=x")[0] == 400
    assert refusal(api.list_namespaced_pod, NAMESPACE, label_selector="a b")[0] == 400


def test_a_watch_tells_what_happens_from_the_list_on(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    version = api.list_namespaced_pod(NAMESPACE).metadata.resource_version
    seen: list[tuple[str, str]] = []
    api.create_namespaced_pod(NAMESPACE, pod_of("exec sleep 0.5"))
    kubernetes.wait_for(lambda: kubernetes.pod("step")["status"]["phase"] == "Succeeded")
    threading.Timer(0.2, api.delete_namespaced_pod, ("step", NAMESPACE)).start()
    watcher = watch.Watch()
    for event in watcher.stream(api.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=20):
        seen.append((event["type"], event["object"].status.phase))
        if event["type"] == "DELETED":
            watcher.stop()
    assert list(dict.fromkeys(seen)) == [
        ("ADDED", "Pending"),
        ("MODIFIED", "Pending"),
        ("MODIFIED", "Running"),
        ("MODIFIED", "Succeeded"),
        ("DELETED", "Succeeded"),
    ]


def test_a_watch_of_events_begins_with_those_there_are_and_ends_in_time(
    kubernetes: FakeKubernetes, api: client.CoreV1Api
) -> None:
    for name in ("step", "other"):
        api.create_namespaced_pod(NAMESPACE, pod_of("true", name))
        kubernetes.wait_for(lambda: kubernetes.pods()[-1]["status"]["phase"] == "Succeeded")
    options = {"field_selector": "involvedObject.name=step", "timeout_seconds": 1}
    events = list(watch.Watch().stream(api.list_namespaced_event, NAMESPACE, **options))
    assert [event["object"].reason for event in events] == ["Scheduled", "Pulling", "Pulled", "Started"]
    listed = api.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=step").items
    assert [event.reason for event in listed] == ["Scheduled", "Pulling", "Pulled", "Started"]


@pytest.mark.parametrize(
    ("content_type", "patch"),
    [
        ("application/merge-patch+json", {"metadata": {"labels": {"checked": "True", "app": None}}}),
        ("application/strategic-merge-patch+json", {"metadata": {"labels": {"checked": "True", "app": None}}}),
        (
            "application/json-patch+json",
            [
                {"op": "add", "path": "/metadata/labels/checked", "value": "True"},
                {"op": "remove", "path": "/metadata/labels/app"},
            ],
        ),
    ],
)
def test_a_pod_is_patched_by_any_kind_of_patch(
    content_type: str, patch: Any, kubernetes: FakeKubernetes, api: client.CoreV1Api
) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("true"))
    api.patch_namespaced_pod("step", NAMESPACE, patch, _content_type=content_type)
    assert kubernetes.pod("step")["metadata"]["labels"] == {"checked": "True"}


def test_a_strategic_patch_finds_its_container_by_name(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("true"))
    same = {"spec": {"containers": [{"name": "base", "image": IMAGE}]}}
    api.patch_namespaced_pod("step", NAMESPACE, same)
    assert kubernetes.pod("step")["spec"]["containers"][0]["command"] == ["sh", "-c", "true"]


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({"spec": {"priority": 7}}, 422),
        ({"metadata": {"uid": "other"}}, 422),
        ({"metadata": {"labels": {"run": "no label!"}}}, 422),
        ({"metadata": {"label": {}}}, 400),
        ([{"op": "test", "path": "/metadata/name", "value": "other"}], 422),
    ],
)
def test_what_may_not_change_does_not(patch: Any, code: int, kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("exec sleep 60"))
    before = kubernetes.pod("step")
    assert refusal(api.patch_namespaced_pod, "step", NAMESPACE, patch)[0] == code
    assert kubernetes.pod("step")["metadata"]["labels"] == before["metadata"]["labels"]


def test_a_log_is_read_as_asked(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("echo one; echo two >&2; sleep 1.2; printf three"))
    kubernetes.wait_for(lambda: kubernetes.pod("step")["status"]["phase"] == "Succeeded")

    def read(**options: str | int) -> str:
        # Raw, for this client turns the bytes of a log into the text "b'...'" and can't ask for `sinceTime`.
        path, bearer = f"/api/v1/namespaces/{NAMESPACE}/pods/step/log", ["BearerToken"]
        answer = api.api_client.call_api(
            path, "GET", query_params=list(options.items()), auth_settings=bearer, _preload_content=False
        )
        return str(answer.data.decode())

    assert read() == read(container="base") == "one\ntwo\nthree\n"
    assert read(tailLines=2) == "two\nthree\n"
    lines = [line.split(" ") for line in read(timestamps="true").splitlines()]
    assert [text for _, text in lines] == ["one", "two", "three"]
    third = datetime.fromisoformat(lines[2][0])
    assert read(sinceTime=third.isoformat()) == "three\n"
    assert read(sinceSeconds=math.ceil((datetime.now(tz=UTC) - third).total_seconds())) == "three\n"
    assert refusal(api.read_namespaced_pod_log, "step", NAMESPACE, container="other")[0] == 400
    assert refusal(api.read_namespaced_pod_log, "step", NAMESPACE, previous=True)[0] == 400


def test_a_log_is_followed_to_the_end(kubernetes: FakeKubernetes, api: client.CoreV1Api, tmp_path: Path) -> None:
    """The pod ends only after its first line has come through."""
    go_on = tmp_path / "go-on"
    pod = pod_of(f"echo one; while [ ! -e {go_on} ]; do sleep 0.05; done; echo two")
    api.create_namespaced_pod(NAMESPACE, pod)
    kubernetes.wait_for(lambda: kubernetes.pod("step")["status"]["phase"] == "Running")
    lines = iter(api.read_namespaced_pod_log("step", NAMESPACE, follow=True, _preload_content=False))
    assert next(lines) == b"one\n"
    go_on.touch()
    assert list(lines) == [b"two\n"]


def test_a_pod_that_has_not_started_has_no_log(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    kubernetes.pause()
    api.create_namespaced_pod(NAMESPACE, pod_of("true"))
    code, body = refusal(api.read_namespaced_pod_log, "step", NAMESPACE)
    assert code == 400
    assert "is waiting to start" in body


def test_a_pod_without_a_node_is_deleted_at_once(kubernetes: FakeKubernetes, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("true", resources=gpu(2)))
    kubernetes.wait_for(lambda: kubernetes.events("step"))
    api.delete_namespaced_pod("step", NAMESPACE)
    assert not kubernetes.pods()


def test_another_pod_of_the_same_name_is_not_deleted_by_mistake(
    kubernetes: FakeKubernetes, api: client.CoreV1Api
) -> None:
    api.create_namespaced_pod(NAMESPACE, pod_of("exec sleep 60"))
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="that-of-another"))
    assert refusal(api.delete_namespaced_pod, "step", NAMESPACE, body=options)[0] == 409
    assert len(kubernetes.pods()) == 1

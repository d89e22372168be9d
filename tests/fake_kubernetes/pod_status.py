"""A pod's status, as a kubelet writes it.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Mapping

from fake_kubernetes.container import Container
from fake_kubernetes.images import image_id
from fake_kubernetes.objects import Json, now, timestamp

# All processes share this machine, so every pod has its address.
ADDRESS = "127.0.0.1"
MAX_MESSAGE_BYTES = 2048
MAX_MESSAGE_LINES = 80
READINESS = ("PodReadyToStartContainers", "ContainersReady", "Ready")


def set_condition(status: Json, kind: str, *, is_true: bool, reason: str = "", message: str = "") -> None:
    """Set a condition; its time is that of its last change between true and false."""
    conditions = status.setdefault("conditions", [])
    old: Json = next((condition for condition in conditions if condition["type"] == kind), {})
    new = {"type": kind, "status": str(is_true), "lastProbeTime": None}
    is_new = old.get("status") != new["status"]
    new["lastTransitionTime"] = timestamp(now()) if is_new else old["lastTransitionTime"]
    new |= {name: text for name, text in (("reason", reason), ("message", message)) if text}
    conditions[:] = [condition for condition in conditions if condition["type"] != kind] + [new]


def waiting(reason: str, message: str = "") -> Json:
    """Return the state of a container that can't be started yet."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def state_of(container: Container, specification: Json) -> Json:
    """Return the state of a container that was started."""
    started = timestamp(container.started_at)
    if not container.ended.is_set():
        return {"running": {"startedAt": started}}
    code = container.exit_code
    reason = "OOMKilled" if container.was_out_of_memory else "Error" if code else "Completed"
    end = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": timestamp(container.ended_at)}
    if code and specification["terminationMessagePolicy"] == "FallbackToLogsOnError":
        end["message"] = container.log.text(last=MAX_MESSAGE_LINES)[-MAX_MESSAGE_BYTES:]
    return {"terminated": {**end, "containerID": container.id}}


def failed_to_start(message: str) -> Json:
    """Return the state of a container whose program could not be started."""
    time = timestamp(now())
    return {
        "terminated": {
            "exitCode": 128,
            "reason": "StartError",
            "message": f"failed to create containerd task: OCI runtime create failed: {message}",
            "startedAt": time,
            "finishedAt": time,
        }
    }


def container_status(specification: Json, state: Json, container_id: str) -> Json:
    """Return what a pod's status says of one container."""
    is_running = "running" in state
    return {
        "name": specification["name"],
        "image": specification["image"],
        "imageID": "" if "waiting" in state else image_id(specification["image"]),
        **({"containerID": container_id} if container_id else {}),
        "ready": is_running,
        "started": is_running,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    }


def phase_of(states: Mapping[str, Json]) -> str:
    """Return a pod's phase by the states of its containers, none of which is ever restarted."""
    if any("waiting" in state for state in states.values()):
        return "Pending"
    if any("running" in state for state in states.values()):
        return "Running"
    return "Failed" if any(state["terminated"]["exitCode"] for state in states.values()) else "Succeeded"


def set_phase(status: Json, phase: str) -> None:
    """Set a pod's phase, with the conditions that go with it."""
    status["phase"] = phase
    reason = {"Succeeded": "PodCompleted", "Failed": "PodFailed", "Pending": "ContainersNotReady"}.get(phase, "")
    set_condition(status, "Initialized", is_true=True, reason="PodCompleted" if phase == "Succeeded" else "")
    for kind in READINESS:
        set_condition(status, kind, is_true=phase == "Running", reason=reason)

"""How pods are ended from outside, and what their status says of it afterwards."""

from dataclasses import dataclass

from fake_kubernetes.objects import Json
from fake_kubernetes.pod_status import set_condition, set_phase


@dataclass(frozen=True)
class Ending:
    """SIGTERM, SIGKILL after the grace, and then a status.

    Without a `reason` the containers' exit codes say how it went. `disruption` is the reason of the condition
    DisruptionTarget. `removes`: the object goes away with the processes.
    """

    grace_seconds: float
    reason: str = ""
    message: str = ""
    disruption: str = ""
    removes: bool = False

    def write_into(self, status: Json) -> None:
        """Say in a pod's status that it came to this end."""
        if self.reason or status["phase"] == "Pending":
            set_phase(status, "Failed")
        if self.reason:
            status |= {"reason": self.reason, "message": self.message}
        if self.disruption:
            set_condition(status, "DisruptionTarget", is_true=True, reason=self.disruption, message=self.message)


def deletion(grace_seconds: float) -> Ending:
    """Return the end of a pod that somebody deletes."""
    return Ending(grace_seconds, removes=True)


def eviction(grace_seconds: float, message: str) -> Ending:
    """Return the end of a pod whose node runs out of something."""
    return Ending(grace_seconds, "Evicted", message, "TerminationByKubelet")


def deadline(grace_seconds: float) -> Ending:
    """Return the end of a pod that takes longer than its `activeDeadlineSeconds`."""
    message = "Pod was active on the node longer than the specified deadline"
    return Ending(grace_seconds, "DeadlineExceeded", message)


def node_lost() -> Ending:
    """Return the end of a pod whose node is gone, at once and without SIGTERM."""
    return Ending(0, disruption="DeletionByPodGC", message="PodGC: node no longer exists", removes=True)


def shutdown() -> Ending:
    """Return the end of a pod when the whole fake stops."""
    return Ending(0, removes=True)

"""What the tests of this folder share: the configuration of the pods, and a step to run in them."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attempts import Task
from fake_kubernetes import FakeKubernetes, Image

from bc_tasks.errors import BcError

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

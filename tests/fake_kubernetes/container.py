"""A container: a local process with all that it starts, its output kept line by line."""

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fake_kubernetes.container_log import ContainerLog
from fake_kubernetes.objects import now

# Every process of a container carries this in its environment and its children inherit it. So all are found again
# when their first one has ended, those that left its process group (torchrun's workers do) among them.
MARK = "FAKE_KUBERNETES_CONTAINER"
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Command:
    """What to run: program and arguments, the whole environment, and where."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    working_dir: Path


class Container:
    """A running or ended container.

    As in a real one SIGTERM goes to the first process alone, and when that has ended the others are killed.
    """

    def __init__(self, command: Command) -> None:
        """Start it. Raises: OSError: the program or the working directory isn't there."""
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            command.arguments,
            env={**command.environment, MARK: self._mark},
            cwd=command.working_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.id = f"containerd://{self._mark}"
        self.started_at = self.ended_at = now()
        self.log = ContainerLog()
        self.ended = threading.Event()
        self.was_out_of_memory = False
        self._output_ended = threading.Event()
        threading.Thread(target=self._read, name="container output", daemon=True).start()
        threading.Thread(target=self._see_to_the_end, name="container end", daemon=True).start()

    @property
    def exit_code(self) -> int:
        """What it ended with: 128 + n for signal n."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    @property
    def resident_bytes(self) -> int:
        """The memory that its processes hold now."""
        total = 0
        for process in self._processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def terminate(self) -> None:
        """Ask it to end."""
        if not self.ended.is_set():
            self._process.send_signal(signal.SIGTERM)

    def kill(self, *, out_of_memory: bool = False) -> None:
        """End it at once, with all that it started."""
        if not self.ended.is_set():
            self.was_out_of_memory = out_of_memory
            self._process.kill()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with output:
            for line in output:
                self.log.add(line)
        self._output_ended.set()

    def _see_to_the_end(self) -> None:
        """Kill what the first process leaves running; the output ends only when all have ended that hold it.

        A process that is just being replaced by another program shows no environment, hence the second look.
        """
        self._process.wait()
        while self._kill_the_rest() or not self._output_ended.wait(POLL_SECONDS):
            pass
        self.ended_at = now()
        self.log.close()
        self.ended.set()

    def _kill_the_rest(self) -> bool:
        """Kill every process that is left, and say whether there was one."""
        left = list(self._processes())
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return bool(left)

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

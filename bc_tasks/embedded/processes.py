"""Servers that run beside us: started with a log, awaited until ready, and ended with all that they started.

Every process carries its state folder in its environment (`MARK`), and its children inherit that. So whatever a server
has started is found again: after it left its process group (Airflow's tasks do), after its parent died, or after this
program was killed and another one cleans up. A process that merely got a recycled pid carries no mark and is never
touched, which a file of pids could not promise.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from bc_tasks.errors import ConfigError, InfrastructureError

MARK = "BC_EMBEDDED_STATE"
POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
NUM_LOG_LINES = 15


@dataclass(frozen=True)
class Service:
    """A running server: its state folder, its log, and the process that was started."""

    name: str
    state: Path
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self, *, grace_seconds: float = 10) -> None:
        """End the server and everything that it started."""
        stop(self.state, grace_seconds=grace_seconds)
        self.process.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    state: Path,
    environment: Mapping[str, str],
    is_ready: Callable[[], bool],
    ready_within_seconds: float,
) -> Service:
    """Start a server in a session of its own, its output in `<state>/<name>.log`, and wait until it is ready.

    Raises:
        ConfigError: one is running on this state folder already.
        InfrastructureError: it ended, or wasn't ready in time; its last log lines are in the message.
    """
    refuse_second(name, state)
    log = state / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=state,
            # SPT_NOENV keeps setproctitle (Airflow, gunicorn) from writing its titles over the environment.
            env={**os.environ, **environment, MARK: str(state.resolve()), "SPT_NOENV": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(name, state, log, process)
    try:
        _wait_until_ready(service, is_ready, ready_within_seconds)
    except BaseException:
        service.stop()
        raise
    return service


def refuse_second(name: str, state: Path) -> None:
    """Raise a ConfigError where a server runs on this state folder already; two would spoil its data."""
    if found := running(state):
        raise ConfigError(
            f"{name} runs on {state} already (process {found[0].pid}); use that one, or end it first with `bc down`"
        )


def running(state: Path) -> list[psutil.Process]:
    """Return the living processes that were started on `state` or a folder below it."""
    state = state.resolve()
    return [process for process in psutil.process_iter() if _is_marked(process, state)]


def stop(state: Path, *, grace_seconds: float = 10) -> int:
    """End all processes started on `state` or below: SIGTERM, and after the grace SIGKILL; return how many there were.

    Raises:
        InfrastructureError: some could not be ended.
    """
    num_found = len(found := running(state))
    _signal(found, psutil.Process.terminate)
    psutil.wait_procs(found, timeout=grace_seconds)
    deadline = time.monotonic() + KILL_SECONDS
    while survivors := running(state):  # again and again: a dying process may just have started another
        if time.monotonic() > deadline:
            raise InfrastructureError(f"processes {[process.pid for process in survivors][:10]} can't be ended")
        _signal(survivors, psutil.Process.kill)
        psutil.wait_procs(survivors, timeout=1)
    return num_found


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def free_ports(num_ports: int) -> list[int]:
    """Return different TCP ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num_ports)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def is_free(port: int) -> bool:
    """Return whether a server could listen on this TCP port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def last_lines(log: Path) -> str:
    """Return the end of a log file, for an error message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])


def _wait_until_ready(service: Service, is_ready: Callable[[], bool], within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while not is_ready():
        if (code := service.process.poll()) is not None:
            raise _not_started(service, f"ended with exit code {code} before it was ready")
        if time.monotonic() > deadline:
            raise _not_started(service, f"wasn't ready within {within_seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def _not_started(service: Service, what: str) -> InfrastructureError:
    return InfrastructureError(f"{service.name} {what}; the end of {service.log}:\n{last_lines(service.log)}")


def _is_marked(process: psutil.Process, state: Path) -> bool:
    try:
        mark = process.environ().get(MARK)
    except (psutil.Error, OSError):  # it has just ended, or is another user's
        return False
    return mark is not None and Path(mark).is_relative_to(state)


def _signal(processes: Sequence[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            send(process)
        except psutil.NoSuchProcess:
            continue

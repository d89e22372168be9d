"""What the embedded servers rely on: started with a log, awaited, and ended with all that they started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bc_tasks.embedded import processes
from bc_tasks.errors import ConfigError, InfrastructureError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]
# A parent whose child leaves its session, and takes another title, as Airflow's and gunicorn's do.
FAMILY_SCRIPT = """
import subprocess, sys, time
child = "import setproctitle, time; setproctitle.setproctitle('worker: ' + 'x' * 3000); time.sleep(600)"
print(subprocess.Popen([sys.executable, "-c", child], start_new_session=True).pid, flush=True)
time.sleep(600)
"""
FAMILY = [sys.executable, "-c", FAMILY_SCRIPT]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder whose processes end with the test."""
    yield tmp_path
    processes.stop(tmp_path, grace_seconds=0)


def start(command: list[str], state: Path, *, says: str = "", within_seconds: float = 20) -> processes.Service:
    """Start a command that is ready when its log holds these words."""
    log = state / "server.log"
    return processes.start(
        "server",
        command,
        state=state,
        environment={"GREETING": "hello"},
        is_ready=lambda: log.exists() and says in log.read_text(),
        ready_within_seconds=within_seconds,
    )


def test_a_server_is_awaited_and_then_ended(state: Path) -> None:
    service = start([sys.executable, "-c", "import os, time; print(os.environ['GREETING']); time.sleep(600)"], state)
    assert [process.pid for process in processes.running(state)] == [service.process.pid]
    assert os.getsid(service.process.pid) == service.process.pid
    service.stop()
    assert processes.running(state) == []
    assert service.process.returncode is not None


def test_output_and_environment_are_as_given(state: Path) -> None:
    script = "import os, sys, time; print(os.environ['GREETING'], file=sys.stderr, flush=True); time.sleep(600)"
    assert start([sys.executable, "-c", script], state, says="hello").log.read_text() == "hello\n"


def test_a_server_that_dies_is_told_with_the_end_of_its_log(state: Path) -> None:
    script = "print('\\n'.join(f'line {n}' for n in range(100))); print('no space left'); raise SystemExit(3)"
    with pytest.raises(InfrastructureError, match="exit code 3") as caught:
        start([sys.executable, "-c", script], state, says="never")
    assert "no space left" in str(caught.value)
    assert "line 99" in str(caught.value)
    assert "line 50" not in str(caught.value)


def test_a_server_that_is_never_ready_is_ended(state: Path) -> None:
    with pytest.raises(InfrastructureError, match="wasn't ready within 1 s"):
        start(SLEEP, state, says="never", within_seconds=1)
    assert processes.running(state) == []


def test_a_second_server_on_the_same_state_is_refused(state: Path) -> None:
    first = start(SLEEP, state)
    with pytest.raises(ConfigError, match=rf"process {first.process.pid}\).*bc down"):
        start(SLEEP, state)
    assert first.process.poll() is None


def test_what_ignores_sigterm_is_killed(state: Path) -> None:
    service = start(STUBBORN, state, says="deaf")
    service.stop(grace_seconds=0.5)
    assert service.process.returncode is not None
    assert processes.running(state) == []


def test_a_child_that_left_the_session_and_changed_its_title_ends_too(state: Path) -> None:
    service = start(FAMILY, state, says="\n")
    child = psutil.Process(int(service.log.read_text()))
    while not child.cmdline()[0].startswith("worker"):
        time.sleep(0.05)
    assert {process.pid for process in processes.running(state)} == {service.process.pid, child.pid}
    service.stop()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_parent_left_behind_is_found_and_ended(state: Path) -> None:
    (state / "server").mkdir()
    starting = (
        "import sys, time; from pathlib import Path; from bc_tasks.embedded import processes; "
        "processes.start('server', sys.argv[2:], state=Path(sys.argv[1]), environment={}, is_ready=lambda: True, "
        "ready_within_seconds=5); print('started', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starting, str(state / "server"), *SLEEP], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert len(processes.running(state)) == 1
    assert processes.stop(state) == 1
    assert processes.running(state) == []


def test_processes_of_others_are_left_alone(state: Path) -> None:
    others = [
        subprocess.Popen(SLEEP, cwd=state),
        subprocess.Popen(SLEEP, env={**os.environ, processes.MARK: f"{state}-of-another"}),
        subprocess.Popen(SLEEP, env={**os.environ, processes.MARK: str(state.parent)}),
    ]
    try:
        assert processes.stop(state) == 0
        assert [other.poll() for other in others] == [None, None, None]
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_free_ports_differ_and_can_be_listened_on() -> None:
    ports = processes.free_ports(10)
    assert len(set(ports)) == 10
    assert all(processes.is_free(port) for port in ports)
    with socket.create_server(("127.0.0.1", ports[0])):
        assert not processes.is_free(ports[0])

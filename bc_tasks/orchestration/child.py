"""A child process in a group of its own: its lines as they come, and no part of it left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL: below the 5 s after which Airflow's supervisor kills the operator itself.

Source: `WatchedSubprocess.kill` in airflow/sdk/execution_time/supervisor.py, task-sdk 1.3.2.
"""


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command, its standard output and errors in one stream of lines that arrive as they are written.

    It gets a process group, so that it can be ended with everything that it starts, but stays in our session,
    so that whoever ends the whole session finds it too.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )


def lines(child: subprocess.Popen[str]) -> Iterator[str]:
    """Give the child's lines, without their ends, until it has closed its output."""
    assert child.stdout is not None
    for line in child.stdout:
        yield line.rstrip()


def end(child: subprocess.Popen[str]) -> None:
    """End the child's whole group: SIGTERM, and after a grace SIGKILL. Nothing happens where none of it is left."""
    if not _signal(child, signal.SIGTERM):
        return
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        child.poll()  # a dead leader counts as a member until somebody has asked for its exit code
        if not _signal(child, 0):
            return
        time.sleep(0.05)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[str], number: int) -> bool:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS denies permission where only a dead leader is left
        return False
    return True

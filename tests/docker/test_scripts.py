"""The shell scripts inside the airflow image, run as the official Helm chart runs them."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from bc_tasks.environment import CHECKOUT

AIRFLOW = CHECKOUT / "docker" / "airflow"


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment whose `airflow` says what it was called with."""
    airflow = tmp_path / "airflow"
    airflow.write_text('#!/bin/sh\necho "airflow got: $*"\n')
    airflow.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["airflow", "scheduler"], "airflow got: scheduler"),
        (["scheduler"], "airflow got: scheduler"),
        (["bash", "-c", "exec \\\nairflow api-server"], "airflow got: api-server"),
        (["sh", "-c", "echo $0 $1", "two words", "more"], "two words more"),
        (["python3", "-c", "print('not airflow')"], "airflow got: python3 -c print('not airflow')"),
        (["/bin/echo", "a path"], "a path"),
    ],
)
def test_the_entry_point_takes_commands_as_the_official_image_does(
    command: list[str], answer: str, programs: dict[str, str]
) -> None:
    done = subprocess.run(
        [AIRFLOW / "entrypoint.sh", *command], capture_output=True, text=True, check=True, env=programs
    )
    assert done.stdout.strip() == answer


def test_old_task_logs_are_removed_and_new_ones_are_not(tmp_path: Path) -> None:
    old, new = tmp_path / "logs" / "run-1" / "attempt=1.log", tmp_path / "logs" / "run-2" / "attempt=1.log"
    for log in (old, new):
        log.parent.mkdir(parents=True)
        log.touch()
    eight_days_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (eight_days_ago, eight_days_ago))
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__LOG_RETENTION_DAYS": "7"}
    cleaner = subprocess.Popen([AIRFLOW / "clean-logs.sh"], env=environment, process_group=0)
    try:
        deadline = time.monotonic() + 10
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not old.exists()
        assert new.exists()
        assert cleaner.poll() is None
    finally:
        os.killpg(cleaner.pid, 9)
        cleaner.wait()

"""The house operator with real processes: what comes out of an exit code, and that nothing is left running."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from bc_tasks.errors import (
    AlreadyExists,
    BcError,
    ConfigError,
    DataError,
    InfrastructureError,
    RecordMissing,
)
from bc_tasks.orchestration.operators import StepOperator
from bc_tasks.orchestration.step import RETRY_POLICY

EXIT = "import sys; print(sys.argv[1:]); sys.exit({code})"
KILL_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WITH_A_CHILD = """
import json, os, pathlib, signal, subprocess, sys, time
{prelude}
child = subprocess.Popen([sys.executable, "-c", "import signal, time; {prelude}; time.sleep(600)"])
path = pathlib.Path(sys.argv[3].removeprefix("file://"))
path.with_suffix(".part").write_text(json.dumps([os.getpid(), child.pid]))
path.with_suffix(".part").rename(path)
{postlude}
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def step(script: str, run_uri: str = "file:///nowhere/runs/night", **arguments: Any) -> StepOperator:
    operator = StepOperator(task_id="ingest", run_uri=run_uri, **arguments)
    operator.program = (sys.executable, "-c", script)
    return operator


def wait_for_pids(path: Path) -> list[int]:
    wait_until(path.exists)
    pids: list[int] = json.loads(path.read_text())
    return pids


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("script", "kind", "sentence", "action"),
    [
        (EXIT.format(code=2), ConfigError, "different versions", RetryAction.FAIL),
        (EXIT.format(code=65), DataError, "the data can't be used", RetryAction.FAIL),
        (EXIT.format(code=66), RecordMissing, "left no record", RetryAction.FAIL),
        (EXIT.format(code=70), BcError, "mistake in the program", RetryAction.FAIL),
        (EXIT.format(code=73), AlreadyExists, "somebody else was first", RetryAction.FAIL),
        (EXIT.format(code=75), InfrastructureError, "did not answer in time", RetryAction.RETRY),
        (EXIT.format(code=78), ConfigError, "configuration or the credentials", RetryAction.FAIL),
        (EXIT.format(code=1), BcError, "the program itself broke", RetryAction.FAIL),
        (KILL_ITSELF, InfrastructureError, "ended by SIGKILL", RetryAction.RETRY),
    ],
)
def test_an_exit_code_becomes_the_error_it_stands_for(
    script: str, kind: type[BcError], sentence: str, action: RetryAction, task_instance: Any
) -> None:
    with pytest.raises(kind, match=sentence) as raised:
        step(script).execute({"ti": task_instance})
    assert raised.type is kind
    assert RETRY_POLICY.evaluate(raised.value, try_number=1, max_tries=2).action is action
    assert task_instance.left["failure"] == str(raised.value)


def test_a_time_out_is_not_retried() -> None:
    assert RETRY_POLICY.evaluate(AirflowTaskTimeout(), try_number=1, max_tries=2).action is RetryAction.FAIL


def test_the_log_has_the_command_to_repeat_by_hand_and_every_line(
    capfd: pytest.CaptureFixture[str], task_instance: Any
) -> None:
    script = "import sys; print(sys.argv[1:]); print('an error line', file=sys.stderr)"
    step(script, backbone="resnet50").execute({"ti": task_instance})
    arguments = ["ingest", "--run-uri", "file:///nowhere/runs/night", "--backbone", "resnet50"]
    log = capfd.readouterr().out
    for line in (f"The same by hand: bc {' '.join(arguments)}", str(arguments), "an error line"):
        assert line in log


def test_lines_come_while_the_step_runs(capfd: pytest.CaptureFixture[str], tmp_path: Path, task_instance: Any) -> None:
    """The step goes on only when its line has been seen, so a line that waits for the end would wait for ever."""
    go_on = tmp_path / "go-on"
    script = f"import os, time\nprint('epoch 1')\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)"
    running = threading.Thread(target=step(script).execute, args=({"ti": task_instance},))
    running.start()
    try:
        wait_until(lambda: "epoch 1" in capfd.readouterr().out)
    finally:
        go_on.touch()
        running.join(60)


@pytest.mark.parametrize("prelude", ["", STUBBORN], ids=["obedient", "stubborn"])
def test_a_killed_task_leaves_no_process(prelude: str, tmp_path: Path, task_instance: Any) -> None:
    pids = tmp_path / "pids"
    operator = step(WITH_A_CHILD.format(prelude=prelude, postlude="time.sleep(600)"), f"file://{pids}")
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute({"ti": task_instance})
        except InfrastructureError as error:
            raised.append(error)

    running = threading.Thread(target=execute)
    running.start()
    both = wait_for_pids(pids)
    begin = time.monotonic()
    operator.on_kill()
    assert time.monotonic() - begin < 4.5, "Airflow kills the operator itself after 5 s"
    running.join(10)
    wait_until(lambda: all(map(is_gone, both)))
    assert "ended by SIG" in str(raised)


def test_a_task_that_runs_out_of_time_leaves_no_process(tmp_path: Path, task_instance: Any) -> None:
    pids = tmp_path / "pids"
    operator = step(WITH_A_CHILD.format(prelude="", postlude="time.sleep(600)"), f"file://{pids}")

    def ring() -> None:
        wait_until(pids.exists)
        os.kill(os.getpid(), signal.SIGALRM)  # as the clock of `timeout` will

    threading.Thread(target=ring).start()
    with pytest.raises(AirflowTaskTimeout), timeout(600):
        operator.execute({"ti": task_instance})
    both = wait_for_pids(pids)
    wait_until(lambda: all(map(is_gone, both)))


def test_what_a_step_leaves_running_ends_with_it(tmp_path: Path, task_instance: Any) -> None:
    pids = tmp_path / "pids"
    script = WITH_A_CHILD.format(prelude="", postlude="os.close(1); os.close(2)").replace(
        '600)"]', '600)"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL'
    )
    step(script, f"file://{pids}").execute({"ti": task_instance})
    both = wait_for_pids(pids)
    wait_until(lambda: all(map(is_gone, both)))


def test_killing_a_task_that_has_not_begun_is_nothing() -> None:
    step("").on_kill()

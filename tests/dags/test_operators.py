"""The house operator with real processes: what comes out of an exit code, and that nothing is left running."""

import json
import logging
import sys
import threading
import time
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
from bc_tasks.orchestration.operators import RETRY_POLICY, StepOperator

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


def wait_for_pids(path: Path) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [psutil.Process(pid) for pid in json.loads(path.read_text())]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


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
    caplog: pytest.LogCaptureFixture, task_instance: Any
) -> None:
    script = "import sys; print(sys.argv[1:]); print('an error line', file=sys.stderr)"
    with caplog.at_level(logging.INFO):
        step(script, backbone="resnet50").execute({"ti": task_instance})
    arguments = ["ingest", "--run-uri", "file:///nowhere/runs/night", "--backbone", "resnet50"]
    assert caplog.messages[-3:] == [f"The same by hand: bc {' '.join(arguments)}", str(arguments), "an error line"]


def test_lines_come_while_the_step_runs(caplog: pytest.LogCaptureFixture, tmp_path: Path, task_instance: Any) -> None:
    """The step goes on only when its line has been seen, so a line that waits for the end would wait for ever."""
    go_on = tmp_path / "go-on"
    script = f"import os, time\nprint('epoch 1')\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)"
    running = threading.Thread(target=step(script).execute, args=({"ti": task_instance},))
    with caplog.at_level(logging.INFO):
        running.start()
        deadline = time.monotonic() + 60
        while "epoch 1" not in caplog.messages and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = "epoch 1" in caplog.messages
        go_on.touch()
        running.join(60)
    assert seen


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
    processes = wait_for_pids(pids)
    begin = time.monotonic()
    operator.on_kill()
    assert time.monotonic() - begin < 4.5, "Airflow kills the operator itself after 5 s"
    running.join(10)
    assert_gone(processes)
    assert "ended by SIG" in str(raised)


def test_a_task_that_runs_out_of_time_leaves_no_process(tmp_path: Path, task_instance: Any) -> None:
    pids = tmp_path / "pids"
    operator = step(WITH_A_CHILD.format(prelude="", postlude="time.sleep(600)"), f"file://{pids}")
    with pytest.raises(AirflowTaskTimeout), timeout(5):
        operator.execute({"ti": task_instance})
    assert_gone(wait_for_pids(pids))


def test_what_a_step_leaves_running_ends_with_it(tmp_path: Path, task_instance: Any) -> None:
    pids = tmp_path / "pids"
    script = WITH_A_CHILD.format(prelude="", postlude="os.close(1); os.close(2)").replace(
        '600)"]', '600)"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL'
    )
    step(script, f"file://{pids}").execute({"ti": task_instance})
    assert_gone(wait_for_pids(pids))


def test_killing_a_task_that_has_not_begun_is_nothing() -> None:
    step("").on_kill()

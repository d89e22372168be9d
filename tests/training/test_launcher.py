import signal

import pytest
from process_tasks import be_killed, run_out_of_memory

from bc_tasks.errors import BcError, ConfigError, InfrastructureError, Interrupted, OutOfMemory
from bc_tasks.training.launcher import Task, _explain, _Unexplained, launch

LOST = _Unexplained("process 1 of 2 failed: connection closed by peer")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (run_out_of_memory, "^too many pixels$"),
        (be_killed, "^process 2 of 2 ended with exit code -9: it was killed, as Linux does when memory runs out"),
    ],
)
def test_what_ended_one_process_ends_all_and_is_said_once(
    task: Task, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutOfMemory, match=sentence):
        launch(task, (), count=2, grace_seconds=10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "exit_code", "kind", "sentence"),
    [
        ({0: LOST, 1: ConfigError("no such stage")}, 70, ConfigError, "no such stage"),
        ({0: Interrupted("stopped"), 1: OutOfMemory("too much")}, 143, OutOfMemory, "too much"),
        ({0: Interrupted("stopped"), 1: Interrupted("SIGTERM came")}, 143, Interrupted, "stopped"),
        ({0: InfrastructureError("S3 is away"), 1: Interrupted("SIGTERM came")}, 75, InfrastructureError, "S3 is away"),
        ({0: LOST}, 70, BcError, "connection closed by peer"),
        ({1: LOST}, -signal.SIGBUS, OutOfMemory, "process 1 of 2 .* pods.train.shared_memory"),
        ({1: LOST}, -signal.SIGSEGV, BcError, "process 1 of 2 ended with exit code -11: it left no word"),
    ],
)
def test_the_error_that_says_most_is_raised(
    words: dict[int, BcError], exit_code: int, kind: type[BcError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence) as raised:
        raise _explain(words, rank=0, exit_code=exit_code, count=2)
    assert raised.value.exit_code == kind.exit_code

import os
import signal
import time
from collections.abc import Callable

import pytest

from bc_tasks.errors import BcError, Interrupted
from bc_tasks.interruption import ending_at_once, noted


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_step_ends_at_once_through_its_cleaning_up_which_a_second_signal_does_not_break_off() -> None:
    done = []

    def step() -> None:
        try:
            terminate()
            done.append("went on")
        finally:
            terminate()
            done.append("cleaned up")

    with pytest.raises(Interrupted, match="SIGTERM came"), ending_at_once():
        step()
    assert done == ["cleaned up"]


@pytest.mark.parametrize("kind", [Exception, BcError])
def test_nothing_that_handles_errors_takes_it_for_one(kind: type[Exception]) -> None:
    def try_again_and_again() -> None:
        try:
            terminate()
        except kind:
            pytest.fail("it would go on")

    with pytest.raises(Interrupted), ending_at_once():
        try_again_and_again()


def test_a_wait_is_broken_off() -> None:
    started = time.monotonic()
    signal.signal(signal.SIGALRM, lambda *_: terminate())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(Interrupted), ending_at_once():
        time.sleep(20)
    assert time.monotonic() - started < 10


def test_what_only_notes_it_goes_on_and_can_see_it() -> None:
    def training(is_stopping: Callable[[], bool]) -> None:
        assert not is_stopping()
        terminate()
        terminate()
        assert is_stopping()
        raise Interrupted("the checkpoint is stored")

    with pytest.raises(Interrupted, match="stored"), ending_at_once(), noted() as is_stopping:
        training(is_stopping)


def test_what_only_notes_it_ends_where_nobody_looked() -> None:
    done = []

    def training() -> None:
        terminate()
        done.append("went on")

    with pytest.raises(Interrupted, match="SIGTERM came"), noted():
        training()
    assert done == ["went on"]


def test_afterwards_the_handler_is_the_one_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_at_once(), noted():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

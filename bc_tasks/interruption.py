"""SIGTERM: somebody stops us, or the machine goes down. A step ends at once; a training first keeps what it has.

A handler is needed in any case: in a container `bc` may be process 1, for which the kernel leaves out every signal
that has none. Python runs handlers in the main thread only, so these are for the main thread.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from bc_tasks.errors import Interrupted

SENTENCE = "SIGTERM came: the machine goes down, or somebody stopped this step; it can be tried again"


class Terminated(BaseException):
    """SIGTERM came. As KeyboardInterrupt, it is no Exception, so that nothing takes it for an error and goes on."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End what runs within when SIGTERM comes, through its `finally` blocks.

    Only the first one counts: any more would break off the cleaning up.

    Raises:
        Interrupted: SIGTERM came.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise Terminated

    with _handling(end):
        try:
            yield
        except Terminated:
            raise Interrupted(SENTENCE) from None


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Let what runs within go on when SIGTERM comes, and give what says whether it has come.

    Raises:
        Interrupted: at the end, where SIGTERM came and nobody has raised anything because of it.
    """
    came = Event()
    with _handling(lambda *_: came.set()):
        yield came.is_set
    if came.is_set():
        raise Interrupted(SENTENCE)


@contextmanager
def _handling(handler: Callable[..., Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""As many processes and threads as there are cores for us: in a pod fewer than its node has, and Python sees those."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


def num_cores() -> int:
    """Return how many cores this process may use."""
    from joblib import cpu_count

    return int(cpu_count())


@contextmanager
def processes() -> Iterator[Executor]:
    """Give a pool that works on all of them; spawned, because forking beside threads may hang."""
    with ProcessPoolExecutor(max_workers=num_cores(), mp_context=get_context("spawn")) as pool:
        yield pool


def share() -> None:
    """Let torch use as many threads as there are cores for it, and let them sleep while they wait for each other.

    By default they spin, and on a machine that does something else too, two threads then train eight times slower
    than these (see benchmarks/RESULTS.md). Both must be said before torch is imported.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

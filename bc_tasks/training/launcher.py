"""Starts one process for each GPU, by torchrun's own machinery, and turns what becomes of them into one outcome."""

import logging
import pickle
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Concatenate

import torch
from torch.distributed import get_node_local_rank
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bc_tasks import interruption
from bc_tasks.errors import BcError, ConfigError, Interrupted, OutOfMemory
from bc_tasks.training.distributed import Workers, joined

Task = Callable[Concatenate[Workers, ...], None]
DEATHS: dict[int, tuple[type[BcError], str]] = {
    signal.SIGKILL: (
        OutOfMemory,
        "it was killed, as Linux does when memory runs out: lower training.batch_size, or raise pods.train.memory",
    ),
    signal.SIGBUS: (OutOfMemory, "shared memory ran out: raise pods.train.shared_memory"),
}
"""What a signal that ended a process says, where nobody sent it on purpose."""
SECONDS_TO_FIND_THE_CULPRIT = 2
"""When a process dies, the others get errors of their connections to it; they wait, so that it is seen to end first."""


def launch(task: Task, arguments: tuple[Any, ...], *, count: int, grace_seconds: int) -> None:
    """Run `task(workers, *arguments)` in `count` processes on this machine; all can be pickled.

    SIGTERM is passed on to them, and they have `grace_seconds` to end.

    Raises:
        ConfigError: there are GPUs, but fewer than processes.
        BcError: what one of them raised; one that says what happened rather than one that follows from it.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < count:
        raise ConfigError(f"training needs {count} GPUs (pods.train.gpus_per_pod), but {num_gpus} can be seen here")
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it would tell of each failure at length; we do below
    with TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",  # a pod's own name need not lead anywhere
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # SIGTERM and SIGINT stay with our handlers: at a second signal, torch's own would wait for nobody.
            signals_to_handle="SIGQUIT",
            shutdown_timeout=grace_seconds,
        )
        try:
            elastic_launch(config, _run)(task, arguments, count, Path(folder))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise _explain(_last_words(Path(folder)), rank, failure.exitcode, count) from None
        except interruption.Terminated:
            # What follows from the others' end says nothing here.
            words = {rank: e for rank, e in _last_words(Path(folder)).items() if not isinstance(e, _Unexplained)}
            if not words:
                raise
            raise _explain(words, min(words), Interrupted.exit_code, count) from None


def _run(task: Task, arguments: tuple[Any, ...], count: int, folder: Path) -> None:
    """Run the task in this new process; an error goes into a file, and its code becomes the exit code."""
    rank = get_node_local_rank()
    logging.basicConfig(level=logging.ERROR if rank else logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with interruption.ending_at_once(), joined(rank, count) as workers:
            task(workers, *arguments)
    except BcError as error:
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(error))
        sys.exit(error.exit_code)
    except Exception:
        unexplained = _Unexplained(f"process {rank + 1} of {count} failed:\n{traceback.format_exc()}")
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(unexplained))
        time.sleep(SECONDS_TO_FIND_THE_CULPRIT)
        sys.exit(unexplained.exit_code)


class _Unexplained(BcError):
    """A mistake of ours, or what follows from the death of another process."""


def _last_words(folder: Path) -> dict[int, BcError]:
    """Return the errors that processes left, by rank; one that was killed left none."""
    files = sorted(folder.glob("*.pickle"), key=lambda path: int(path.stem))
    return {int(path.stem): pickle.loads(path.read_bytes()) for path in files}  # noqa: S301 - our own processes' bytes


def _explain(words: dict[int, BcError], rank: int, exit_code: int, count: int) -> BcError:
    """Return the error that says most about a launch in which the process `rank` was seen to end first."""
    for error in words.values():
        if not isinstance(error, _Unexplained | Interrupted):
            return error
    if rank in words:
        return words[rank]
    kind, why = DEATHS.get(-exit_code, (BcError, "it left no word; look above for what Python or CUDA printed"))
    return kind(f"process {rank + 1} of {count} ended with exit code {exit_code}: {why}")

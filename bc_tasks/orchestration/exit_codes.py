"""What the exit code of `bc` says about a step, as an error that knows whether a retry can help."""

import signal

from bc_tasks.errors import (
    AlreadyExists,
    BcError,
    ConfigError,
    DataError,
    InfrastructureError,
    Interrupted,
    OutOfMemory,
    RecordMissing,
)

EXIT_CODES: dict[int, tuple[type[BcError], str]] = {
    2: (ConfigError, "the command line was refused: DAG file and `bc` are of different versions"),
    DataError.exit_code: (DataError, "the data can't be used as it is"),
    RecordMissing.exit_code: (RecordMissing, "a step before it left no record, or a stored object has vanished"),
    BcError.exit_code: (BcError, "it met a mistake in the program, or training diverged"),
    OutOfMemory.exit_code: (
        OutOfMemory,
        "memory was not enough: its log says of what; lower the batch size, or give the pod more",
    ),
    AlreadyExists.exit_code: (AlreadyExists, "somebody else was first: two nights ran on the same data"),
    InfrastructureError.exit_code: (InfrastructureError, "S3, MLflow or the network did not answer in time"),
    ConfigError.exit_code: (ConfigError, "the configuration or the credentials are wrong"),
    Interrupted.exit_code: (Interrupted, "it was interrupted; training goes on from its checkpoint"),
}
"""The codes of `bc_tasks.errors` (and of Typer, for a command line it can't read), each in one sentence."""

SHELL_SIGNAL = 128
"""A shell, and Kubernetes, add this to the number of the signal that ended a program."""


def to_error(step: str, code: int) -> BcError:
    """Return the error that a step's exit code other than 0 stands for.

    A signal ended it where the code is below 0, as `subprocess` says it, or above 128, as a shell and a pod do.
    """
    if code in EXIT_CODES:
        kind, sentence = EXIT_CODES[code]
        return kind(f"{step} failed with exit code {code}: {sentence}")
    if code < 0 or code > SHELL_SIGNAL:
        return InfrastructureError(
            f"{step} was ended by {_signal_name(code)}: somebody stopped it, the machine is going down, "
            "or it ran out of memory"
        )
    return BcError(f"{step} failed with exit code {code}: a code that `bc` does not use: the program itself broke")


def _signal_name(code: int) -> str:
    number = -code if code < 0 else code - SHELL_SIGNAL
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""What the exit code of `bc` says about a step, as an error that knows whether a retry can help."""

import signal

from bc_tasks.errors import AlreadyExists, BcError, ConfigError, DataError, InfrastructureError, RecordMissing

EXIT_CODES: dict[int, tuple[type[BcError], str]] = {
    2: (ConfigError, "the command line was refused: DAG file and `bc` are of different versions"),
    DataError.exit_code: (DataError, "the data can't be used as it is"),
    RecordMissing.exit_code: (RecordMissing, "a step before it left no record, or a stored object has vanished"),
    BcError.exit_code: (BcError, "it met a mistake in the program, or training diverged"),
    AlreadyExists.exit_code: (AlreadyExists, "somebody else was first: two nights ran on the same data"),
    InfrastructureError.exit_code: (InfrastructureError, "S3, MLflow or the network did not answer in time"),
    ConfigError.exit_code: (ConfigError, "the configuration or the credentials are wrong"),
}
"""The codes of `bc_tasks.errors` (and of Typer, for a command line it can't read), each in one sentence."""


def to_error(step: str, code: int) -> BcError:
    """Return the error that a step's exit code other than 0 stands for; below 0, a signal ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        return InfrastructureError(
            f"{step} was ended by {name}: somebody stopped it, the machine is going down, or it ran out of memory"
        )
    kind, sentence = EXIT_CODES.get(code, (BcError, "a code that `bc` does not use: the program itself broke"))
    return kind(f"{step} failed with exit code {code}: {sentence}")

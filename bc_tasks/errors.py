"""The tree of errors; each knows its exit code and whether a retry can help.

    BcError                       70  a mistake of ours, or one without a better name      no retry
    ├── ConfigError               78  configuration, arguments or credentials are wrong    no retry
    ├── DataError                 65  the data can't be used as it is                      no retry
    │   ├── ImageError                one image can't be used; carries its quarantine reason
    │   ├── HoldoutChanged            the holdout isn't the one that was fixed
    │   └── ValidationFailed          too much of the night's data is bad
    ├── TrainingDiverged          70  the loss became NaN or infinite                      no retry
    ├── RecordMissing             66  a step before this one has left no record            no retry
    ├── ObjectNotFound            66  nothing is stored under that URI                     no retry
    ├── AlreadyExists             73  a conditional write lost: somebody else was first    no retry
    ├── OutOfMemory               71  the GPU's or the machine's memory was not enough     no retry
    └── InfrastructureError       75  S3, MLflow or the network didn't answer in time      retry
        └── Interrupted          143  SIGTERM: the machine goes down, or somebody stops us  retry

The codes follow BSD's sysexits.h, so that a shell, a pod and Airflow can all tell them apart; 143 is a shell's own
code for a program that SIGTERM ended.
"""

from typing import ClassVar


class BcError(Exception):
    """Anything that this package raises on purpose."""

    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False


class ConfigError(BcError):
    """The configuration, a command's arguments or the credentials are wrong."""

    exit_code = 78


class DataError(BcError):
    """The data can't be used as it is."""

    exit_code = 65


class ImageError(DataError):
    """One image can't be used; `reason` is a `QuarantineReason`, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class HoldoutChanged(DataError):
    """The holdout isn't the one that was fixed, so nothing measured on it can be compared."""


class ValidationFailed(DataError):
    """Too much of the night's data is bad; nothing was trained and no snapshot was committed."""


class TrainingDiverged(BcError):
    """The loss became NaN or infinite."""


class RecordMissing(BcError):
    """A step before this one has left no record, so it failed or has not run."""

    exit_code = 66


class ObjectNotFound(BcError):
    """Nothing is stored under that URI."""

    exit_code = 66


class AlreadyExists(BcError):
    """A conditional write lost: an object of that name is there already."""

    exit_code = 73


class OutOfMemory(BcError):
    """The memory of the GPU or of the machine was not enough; the same again would end the same way."""

    exit_code = 71


class InfrastructureError(BcError):
    """S3, MLflow or the network didn't answer in time; trying again can help."""

    exit_code = 75
    retryable = True


class Interrupted(InfrastructureError):
    """SIGTERM came: the node is being drained, the pod evicted or its time over, or somebody stopped the task."""

    exit_code = 143

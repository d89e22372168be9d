"""A folder of records, such as a run's: where they are read and written."""

import re
from typing import TypeVar

from pydantic import ValidationError

from bc_tasks.errors import DataError, ObjectNotFound, RecordMissing
from bc_tasks.records import Record
from bc_tasks.storage import Storage, join

R = TypeVar("R", bound=Record)


def to_run_name(dag_run_id: str) -> str:
    """Make the name of a run's folder out of Airflow's run id: the same on every try, and safe in a URI."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", dag_run_id.replace("+00:00", "Z"))


def exists(storage: Storage, run_uri: str, file_name: str) -> bool:
    """Say whether a step has left this record, so that it need not be done again."""
    return storage.find(join(run_uri, file_name)) is not None


def read(storage: Storage, run_uri: str, kind: type[R], file_name: str | None = None) -> R:
    """Read a record; `file_name` is needed only where a step leaves several.

    Raises:
        RecordMissing: the step has not finished.
        DataError: what is there is no such record.
    """
    name = file_name or kind.usual_name()
    try:
        data = storage.read(join(run_uri, name))
    except ObjectNotFound as error:
        raise RecordMissing(
            f"{run_uri} has no {name}: the step {kind.step!r} failed or has not run; see its log"
        ) from error
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{join(run_uri, name)} is no {kind.__name__} record: {error}") from error


def write(
    storage: Storage, run_uri: str, record: Record, *, file_name: str | None = None, if_absent: bool = False
) -> None:
    """Write a record: the commit mark of its step, so write it last; with `if_absent`, only where none is.

    Raises:
        AlreadyExists: `if_absent`, and somebody else was first.
    """
    data = record.model_dump_json(indent=1).encode()
    uri = join(run_uri, file_name or record.file_name)
    storage.write(uri, data, content_type="application/json", if_absent=if_absent)

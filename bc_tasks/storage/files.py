"""The `file://` half of the storage: folders that behave as a bucket does.

An object appears whole or not at all: it is written under a temporary name in its own folder and then renamed, or
linked where the first writer must win.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from bc_tasks.errors import AlreadyExists, ConfigError, InfrastructureError, ObjectNotFound
from bc_tasks.storage.objects import Objects, StoredObject

SCHEME = "file://"
PARTIAL = ".bc-partial-"


@dataclass(frozen=True)
class FileStore:
    """Objects as files; the ETag is a digest of size, time and inode, so that a listing reads no content."""

    def list(self, prefix_uri: str) -> Objects:
        """Return the files below a folder; a folder that isn't there has none."""
        with _translated(prefix_uri):
            found = [
                _stored(SCHEME + str(path), path.stat())
                for folder, _, names in os.walk(_path(prefix_uri), onerror=_raise_unless_missing)
                for path in (Path(folder, name) for name in names)
                if not path.name.startswith(PARTIAL)
            ]
        return sorted(found, key=lambda item: item.uri)

    def find(self, uri: str) -> StoredObject | None:
        """Return the file, or None."""
        path = _path(uri)
        with _translated(uri):
            return _stored(uri, path.stat()) if path.is_file() else None

    def read(self, uri: str, etag: str | None) -> bytes:
        """Return the content of the file."""
        with _opened(uri) as file:
            before = _stored(uri, os.fstat(file.fileno()))
            data = file.read()
            after = _stored(uri, os.fstat(file.fileno()))
        if after != before or len(data) != before.num_bytes or etag not in (None, before.etag):
            raise InfrastructureError(f"{uri} was changed or replaced since it was listed; list again")
        return data

    def read_range(self, uri: str, start: int, num_bytes: int) -> bytes:
        """Return a piece of the file."""
        with _opened(uri) as file:
            file.seek(start)
            return file.read(num_bytes)

    def write(self, uri: str, data: bytes, content_type: str, if_absent: bool) -> StoredObject:  # noqa: ARG002  # files have no content type
        """Write a file, wholly or not at all."""
        with replacing(_path(uri), if_absent=if_absent) as file:
            file.write(data)
            file.flush()
            return _stored(uri, os.fstat(file.fileno()))

    def download(self, uri: str, path: Path) -> None:
        """Copy a file out."""
        with _opened(uri) as source, replacing(path) as file:
            shutil.copyfileobj(source, file)

    def upload(self, files: dict[str, Path]) -> None:
        """Copy files in, each wholly or not at all."""
        for uri, path in files.items():
            with path.open("rb") as source, replacing(_path(uri)) as file:
                shutil.copyfileobj(source, file)

    def delete(self, uri: str) -> None:
        """Remove a file, if it is there."""
        path = _path(uri)
        with _translated(uri):
            if path.is_file():
                path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, if_absent: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` when the block ends well, and vanishes when it doesn't."""
    partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    with _translated(SCHEME + str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if if_absent:
                _link(partial, path)
            else:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _link(partial: Path, path: Path) -> None:
    """Give a file its name only if nobody has it; a rename would take it from them."""
    try:
        path.hardlink_to(partial)
    except FileExistsError as error:
        raise AlreadyExists(f"{SCHEME}{path} is there already") from error


@contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    path = _path(uri)
    with _translated(uri):
        if not path.is_file():
            raise ObjectNotFound(f"nothing is stored under {uri}")
        with path.open("rb") as file:
            yield file


def _path(uri: str) -> Path:
    return Path(uri.removeprefix(SCHEME))


def _stored(uri: str, stat: os.stat_result) -> StoredObject:
    identity = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    return StoredObject(
        uri=uri,
        etag=hashlib.sha256(identity.encode()).hexdigest()[:32],
        version_id=None,
        num_bytes=stat.st_size,
        modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
    )


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ConfigError(f"{uri} can't be a file ({error.strerror}): check the path and its rights") from error
    except OSError as error:
        raise InfrastructureError(f"the file system can't serve {uri}: {error.strerror}") from error

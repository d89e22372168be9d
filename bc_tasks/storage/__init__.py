"""Where all data lies: S3 (AWS, MinIO, Ceph, SeaweedFS, by endpoint) under `s3://`, folders under `file://`.

A write is whole or not at all; a read has its length and its checksum checked; every error is one of ours and says what
to do. `s3.py` and `files.py` are the two halves, and keep the same promises.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bc_tasks.config import StorageConfig
from bc_tasks.errors import BcError, ConfigError, DataError, InfrastructureError
from bc_tasks.storage.files import FileStore
from bc_tasks.storage.objects import Objects, Store, StoredObject, content_type_of, join
from bc_tasks.storage.s3 import S3Store, connect

__all__ = ["Storage", "StoredObject", "join", "open_storage"]

READ_AHEAD_BYTES = 256 << 20
DEFAULTS = StorageConfig()


@dataclass(frozen=True)
class Storage:
    """Objects by URI; made by `open_storage`, and safe to share between threads.

    Beside what each method names, all raise ConfigError (no such bucket, wrong credentials, a missing right) and
    InfrastructureError (no answer in time, the server is down or overloaded: trying again can help).
    """

    s3: Store
    files: Store
    pool: ThreadPoolExecutor
    num_threads: int

    def list(self, prefix_uri: str) -> Objects:
        """Return all objects below a folder and its subfolders, sorted by URI, without the placeholders `.../`."""
        return self._store(prefix_uri).list(prefix_uri)

    def find(self, uri: str) -> StoredObject | None:
        """Return an object without its content, or None if there is none."""
        return self._store(uri).find(uri)

    def read(self, uri: str, *, etag: str | None = None) -> bytes:
        """Return an object's content, its length and checksum checked; with `etag`, that very content.

        Raises:
            ObjectNotFound: there is none.
            InfrastructureError: it isn't the content of that `etag` any more, or arrived damaged each time.
        """
        return self._store(uri).read(uri, etag)

    def read_range(self, uri: str, start: int, num_bytes: int) -> bytes:
        """Return a piece of an object, its length checked, but no checksum: those are of the whole.

        Raises:
            ObjectNotFound: there is none.
            DataError: it ends before.
        """
        piece = self._store(uri).read_range(uri, start, num_bytes)
        if len(piece) != num_bytes:
            raise DataError(
                f"{uri} ends {num_bytes - len(piece)} bytes too early: it was cut off, or is another object"
            )
        return piece

    def write(self, uri: str, data: bytes, *, content_type: str | None = None, if_absent: bool = False) -> StoredObject:
        """Store content; with `if_absent`, only where nothing is: of many writers exactly one succeeds.

        Raises:
            AlreadyExists: `if_absent`, and somebody else was first.
        """
        return self._store(uri).write(uri, data, content_type or content_type_of(uri), if_absent)

    def read_many(self, objects: Iterable[StoredObject]) -> Iterator[tuple[StoredObject, bytes | BcError]]:
        """Read objects in parallel, and yield each, in order, with its content or with what is wrong with it alone.

        At most READ_AHEAD_BYTES are held, or one larger object. Errors that would strike the others too are raised.
        """
        window: deque[tuple[StoredObject, Future[bytes]]] = deque()
        held_bytes = 0
        try:
            for item in objects:
                while window and (
                    len(window) >= 2 * self.num_threads or held_bytes + item.num_bytes > READ_AHEAD_BYTES
                ):
                    held_bytes -= window[0][0].num_bytes
                    yield _outcome(*window.popleft())
                window.append((item, self.pool.submit(self.read, item.uri, etag=item.etag)))
                held_bytes += item.num_bytes
            while window:
                yield _outcome(*window.popleft())
        finally:
            for _, future in window:
                future.cancel()

    def download(self, uri: str, path: Path) -> None:
        """Copy an object into a file, checked as by `read`; the file appears whole or not at all.

        Raises:
            ObjectNotFound: there is none.
        """
        self._store(uri).download(uri, path)

    def upload(self, path: Path, uri: str) -> None:
        """Store a file, a large one in parallel parts."""
        self._store(uri).upload({uri: path})

    def upload_folder(self, folder: Path, prefix_uri: str) -> None:
        """Store all files below a folder, in parallel."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self._store(prefix_uri).upload({join(prefix_uri, path.relative_to(folder).as_posix()): path for path in files})

    def delete(self, uri: str) -> None:
        """Remove an object; none being there is fine."""
        self._store(uri).delete(uri)

    def _store(self, uri: str) -> Store:
        scheme = uri.partition("://")[0]
        if scheme not in ("s3", "file"):
            raise ConfigError(f"{uri!r} is no storage URI: write s3://bucket/key or file:///folder/file")
        return self.s3 if scheme == "s3" else self.files


def open_storage(config: StorageConfig = DEFAULTS, environment: Mapping[str, str] | None = None) -> Storage:
    """Return the storage that the AWS_* variables point at: those given, or else those of this process.

    Raises:
        ConfigError: they name no usable endpoint or profile.
    """
    pool = ThreadPoolExecutor(config.num_threads, thread_name_prefix="storage")
    return Storage(S3Store(connect(config, environment or {}), config), FileStore(), pool, config.num_threads)


def _outcome(item: StoredObject, future: Future[bytes]) -> tuple[StoredObject, bytes | BcError]:
    try:
        return item, future.result()
    except (ConfigError, InfrastructureError):
        raise
    except BcError as error:
        return item, error

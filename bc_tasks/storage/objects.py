"""What both halves of the storage speak of: an object, and the URI that names it.

A URI is `s3://bucket/key` or `file:///folder/file`, taken literally: nothing in it is percent-encoded, so a key may
hold spaces, `+`, `#`, `%` and any letter.
"""

import mimetypes
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """An object as it was when it was seen; another `etag` means other content.

    `etag` is without quotes, and an MD5 only for some servers and uploads; `version_id` is None in
    listings and where the bucket keeps no versions; `modified_at` is in UTC.
    """

    uri: str
    etag: str
    version_id: str | None
    num_bytes: int
    modified_at: datetime


Objects = list[StoredObject]


class Store(Protocol):
    """What S3 and a file system both do, in the same way; see `Storage` for what is promised."""

    def list(self, prefix_uri: str) -> Objects:
        """Return what lies below a folder."""

    def find(self, uri: str) -> StoredObject | None:
        """Return the object, without its content."""

    def read(self, uri: str, etag: str | None) -> bytes:
        """Return its content."""

    def read_range(self, uri: str, start: int, num_bytes: int) -> bytes:
        """Return so many bytes of its content, from `start` on; fewer where it ends."""

    def write(self, uri: str, data: bytes, content_type: str, if_absent: bool) -> StoredObject:
        """Store content."""

    def download(self, uri: str, path: Path) -> None:
        """Copy content into a file."""

    def upload(self, files: dict[str, Path]) -> None:
        """Store files, by URI."""

    def delete(self, uri: str) -> None:
        """Remove an object."""


def join(uri: str, *parts: str) -> str:
    """Return the URI of what lies below `uri`, e.g. `join("s3://b/data", "runs", "x")` is `s3://b/data/runs/x`."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def content_type_of(name: str) -> str:
    """Return the content type that the ending of a file name or URI tells."""
    return mimetypes.guess_type(f"_{PurePosixPath(name).suffix}")[0] or "application/octet-stream"

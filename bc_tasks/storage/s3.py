"""The `s3://` half of the storage, and the only home of boto3.

Endpoint, region and credentials come from boto3's own environment: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION (boto3 does not read AWS_REGION), or a profile.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as boto_errors
from botocore.config import Config

from bc_tasks.config import StorageConfig
from bc_tasks.errors import AlreadyExists, ConfigError, ObjectNotFound
from bc_tasks.storage.files import replacing
from bc_tasks.storage.objects import Objects, StoredObject, content_type_of
from bc_tasks.storage.refusals import BROKEN_BODY, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef, PutObjectRequestTypeDef

CHUNK_BYTES = 1 << 20
MULTIPART_BYTES = 64 << 20
MD5_ETAG = re.compile("[0-9a-f]{32}")


def connect(config: StorageConfig, environment: Mapping[str, str]) -> "S3Client":
    """Return a client; what `environment` leaves open comes from the environment of this process.

    Raises:
        ConfigError: these name no usable endpoint or profile.
    """
    options = Config(
        connect_timeout=config.connect_timeout_seconds,
        read_timeout=config.read_timeout_seconds,
        retries={"mode": "adaptive", "total_max_attempts": config.max_attempts},
        max_pool_connections=config.num_threads + 1,  # and one for the caller's own thread
        tcp_keepalive=True,
    )
    try:
        return boto3.session.Session().client(
            "s3",
            config=options,
            endpoint_url=environment.get("AWS_ENDPOINT_URL_S3"),
            region_name=environment.get("AWS_DEFAULT_REGION"),
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        )
    except (boto_errors.BotoCoreError, ValueError) as error:
        raise ConfigError(f"no S3 client can be made: {error}; check AWS_ENDPOINT_URL_S3 and AWS_PROFILE") from error


@dataclass(frozen=True)
class S3Store:
    """Objects in S3 buckets."""

    client: "S3Client"
    config: StorageConfig

    def list(self, prefix_uri: str) -> Objects:
        """Return the objects below a folder."""
        bucket, key = _split(prefix_uri)
        prefix = f"{key.rstrip('/')}/".removeprefix("/")
        with self._translated(prefix_uri):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            found = [
                _stored(f"s3://{bucket}/{item['Key']}", item["ETag"], None, item["Size"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]
        return sorted(found, key=lambda item: item.uri)

    def find(self, uri: str) -> StoredObject | None:
        """Return the object, or None."""
        bucket, key = _split(uri)
        try:
            with self._translated(uri):
                head = self.client.head_object(Bucket=bucket, Key=key)
        except (ConfigError, ObjectNotFound) as error:
            with self._translated(uri):  # HEAD is refused without a word; a listing says it if bucket or keys are wrong
                self.client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            if isinstance(error, ConfigError):
                raise
            return None
        return _stored(uri, head["ETag"], head.get("VersionId"), head["ContentLength"], head["LastModified"])

    def read(self, uri: str, etag: str | None) -> bytes:
        """Return the content of the object."""
        content = io.BytesIO()
        self._fetch(_request(uri, etag), uri, content)
        return content.getvalue()

    def read_range(self, uri: str, start: int, num_bytes: int) -> bytes:
        """Return a piece of the object."""
        content = io.BytesIO()
        self._fetch({**_request(uri), "Range": f"bytes={start}-{start + num_bytes - 1}"}, uri, content)
        return content.getvalue()

    def write(self, uri: str, data: bytes, content_type: str, if_absent: bool) -> StoredObject:
        """Put an object, at once or not at all."""
        bucket, key = _split(uri)
        request: PutObjectRequestTypeDef = {"Bucket": bucket, "Key": key, "Body": data, "ContentType": content_type}
        if if_absent:
            request["IfNoneMatch"] = "*"
        try:
            with self._translated(uri):
                answer = self.client.put_object(**request)
        except AlreadyExists as error:
            return self._unless_ours(uri, data, error)
        written_at = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return _stored(uri, answer["ETag"], answer.get("VersionId"), len(data), written_at)

    def download(self, uri: str, path: Path) -> None:
        """Get an object into a file."""
        with replacing(path) as file:
            self._fetch(_request(uri), uri, file)

    def upload(self, files: dict[str, Path]) -> None:
        """Put files, all in parallel, large ones in parts."""
        limits = TransferConfig(
            multipart_threshold=MULTIPART_BYTES,
            max_concurrency=self.config.num_threads,
            preferred_transfer_client="classic",
        )
        with create_transfer_manager(self.client, limits) as manager:
            futures = {
                uri: manager.upload(str(path), *_split(uri), extra_args={"ContentType": content_type_of(path.name)})
                for uri, path in files.items()
            }
            for uri, future in futures.items():
                with self._translated(uri):
                    future.result()

    def delete(self, uri: str) -> None:
        """Delete an object, if it is there."""
        bucket, key = _split(uri)
        with self._translated(uri):
            self.client.delete_object(Bucket=bucket, Key=key)

    def _fetch(self, request: "GetObjectRequestTypeDef", uri: str, sink: BinaryIO) -> None:
        """Copy an object into `sink`; boto3 retries the request, but not a body that breaks off or is damaged."""
        for attempts_left in reversed(range(self.config.max_attempts)):
            with self._translated(uri):
                answer = self.client.get_object(**request)
                try:
                    _copy_checked(answer, sink)
                    return
                except BROKEN_BODY:
                    if not attempts_left:
                        raise

    def _unless_ours(self, uri: str, data: bytes, error: AlreadyExists) -> StoredObject:
        """Raise `error`, unless it was our own write that was first, whose answer got lost before boto3 repeated it."""
        cause = error.__cause__
        repeated = (
            isinstance(cause, boto_errors.ClientError) and cause.response["ResponseMetadata"]["RetryAttempts"] > 0
        )
        found = self.find(uri) if repeated else None
        if found is None or self.read(uri, found.etag) != data:
            raise error
        return found

    def _translated(self, uri: str) -> AbstractContextManager[None]:
        return translated(uri, _address(self.client.meta.endpoint_url))


def _request(uri: str, etag: str | None = None) -> "GetObjectRequestTypeDef":
    bucket, key = _split(uri)
    request: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
    if etag is not None:
        request["IfMatch"] = f'"{etag}"'
    return request


def _copy_checked(answer: "GetObjectOutputTypeDef", sink: BinaryIO) -> None:
    """Copy a body into `sink`; boto3 checks its length and the checksum sent with it, this also its MD5 ETag."""
    sink.seek(0)
    sink.truncate()
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
        digest.update(chunk)
        sink.write(chunk)
    etag = answer["ETag"].strip('"')
    if _is_md5(etag, answer) and digest.hexdigest() != etag:
        raise boto_errors.ChecksumError(checksum_type="MD5", expected_checksum=etag, actual_checksum=digest.hexdigest())


def _is_md5(etag: str, answer: "GetObjectOutputTypeDef") -> bool:
    """Return whether an ETag is the MD5 of the content: not of a multipart upload, nor with a key of its own.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    if answer.get("ContentRange"):  # a piece, and the ETag is that of the whole
        return False
    has_plain_key = answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
    return has_plain_key and answer.get("StorageClass") != "EXPRESS_ONEZONE" and bool(MD5_ETAG.fullmatch(etag))


def _stored(uri: str, etag: str, version_id: str | None, num_bytes: int, modified_at: datetime) -> StoredObject:
    return StoredObject(uri, etag.strip('"'), version_id, num_bytes, modified_at.astimezone(UTC))


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _address(endpoint_url: str) -> str:
    """Return an endpoint for an error message: without a user and password in it."""
    parts = urlsplit(endpoint_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

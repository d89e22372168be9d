"""The storage's promises, kept by both halves: a real S3 server and a real folder."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from bc_tasks.config import StorageConfig
from bc_tasks.embedded.processes import free_port
from bc_tasks.embedded.seaweedfs import EmbeddedS3
from bc_tasks.errors import AlreadyExists, BcError, ConfigError, InfrastructureError, ObjectNotFound
from bc_tasks.storage import READ_AHEAD_BYTES, Storage, StoredObject, join, open_storage
from bc_tasks.storage.refusals import refused

ODD_KEYS = [
    "plain.jpg",
    "with space.jpg",
    "1+1=2.jpg",
    "100%25.jpg",
    "why?#1&2.jpg",
    "größe-乳房-🩻.png",
    "patient_7_png.rf.0a1b.jpg",
    "quote'\"<x>.csv",
    "deep/er/and [deeper] (still)/x.npy",
]
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
QUICK = StorageConfig(connect_timeout_seconds=1, read_timeout_seconds=1, max_attempts=2)


@pytest.fixture(params=["s3", "file"])
def uri(request: pytest.FixtureRequest, data_uri: str, file_data_uri: str) -> str:
    """A fresh place in each of the two halves."""
    return data_uri if request.param == "s3" else file_data_uri


# What both halves promise.


def test_what_is_written_is_read(storage: Storage, uri: str) -> None:
    before = datetime.now(UTC)
    stored = storage.write(join(uri, "a.bin"), b"content")
    assert storage.read(stored.uri) == b"content"
    assert storage.read(stored.uri, etag=stored.etag) == b"content"
    assert stored.num_bytes == 7
    assert abs(stored.modified_at - before) < timedelta(seconds=5)
    assert '"' not in stored.etag


def test_an_object_looks_the_same_written_found_and_listed(storage: Storage, uri: str) -> None:
    written = storage.write(join(uri, "a.bin"), b"content")
    found = storage.find(written.uri)
    assert found is not None
    [listed] = storage.list(uri)
    for seen in (found, listed):
        assert abs(seen.modified_at - written.modified_at) <= timedelta(seconds=1)
        assert seen.modified_at.tzinfo is UTC
        assert replace(seen, modified_at=written.modified_at) == written


def test_other_content_of_the_same_size_has_another_etag(storage: Storage, uri: str) -> None:
    first = storage.write(join(uri, "a.bin"), b"content")
    second = storage.write(join(uri, "a.bin"), b"CONTENT")
    assert first.etag != second.etag
    assert storage.read(first.uri) == b"CONTENT"


def test_an_empty_object_is_an_object(storage: Storage, uri: str) -> None:
    stored = storage.write(join(uri, "empty"), b"")
    assert storage.read(stored.uri) == b""
    assert storage.list(uri) == [storage.find(stored.uri)]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_is_taken_literally(storage: Storage, uri: str, key: str, tmp_path: Path) -> None:
    stored = storage.write(join(uri, key), key.encode())
    assert stored.uri == f"{uri}/{key}"
    assert [item.uri for item in storage.list(uri)] == [stored.uri]
    assert storage.find(stored.uri) is not None
    storage.download(stored.uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == key
    storage.delete(stored.uri)
    assert storage.list(uri) == []


def test_a_listing_is_sorted_and_holds_only_what_is_below_the_folder(storage: Storage, uri: str) -> None:
    for key in ("b/2", "a/1", "a-b/1", "a.b/1", "ab/1", "a/z/3"):
        storage.write(join(uri, key), b"x")
    assert [item.uri for item in storage.list(join(uri, "a"))] == [join(uri, "a/1"), join(uri, "a/z/3")]
    assert storage.list(join(uri, "a") + "/") == storage.list(join(uri, "a"))
    everything = [item.uri for item in storage.list(uri)]
    assert everything == sorted(everything)
    assert len(everything) == 6


def test_nothing_below_a_folder_that_is_not_there(storage: Storage, uri: str) -> None:
    assert storage.list(join(uri, "nowhere")) == []


def test_a_folder_of_many_files_is_stored_and_listed_whole(storage: Storage, uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "sub").mkdir(parents=True)
    num_files = 1501 if uri.startswith("s3://") else 20  # more than one page of a listing
    for number in range(num_files):
        (folder / "sub" / f"{number:04}.txt").write_text(f"{number:04}")
    storage.upload_folder(folder, join(uri, "copy"))
    listed = storage.list(join(uri, "copy"))
    assert [item.uri for item in listed] == [join(uri, f"copy/sub/{number:04}.txt") for number in range(num_files)]
    last = listed[-50:]
    assert list(storage.read_many(last)) == [(item, item.uri[-8:-4].encode()) for item in last]


@pytest.mark.parametrize("missing", ["nothing", "nothing/below/nothing"])
def test_a_missing_object_is_named(storage: Storage, uri: str, missing: str, tmp_path: Path) -> None:
    gone = join(uri, missing)
    assert storage.find(gone) is None
    with pytest.raises(ObjectNotFound, match=gone):
        storage.read(gone)
    with pytest.raises(ObjectNotFound, match=gone):
        storage.read(gone, etag="0" * 32)
    with pytest.raises(ObjectNotFound, match=gone):
        storage.download(gone, tmp_path / "copy" / "x")
    assert list((tmp_path / "copy").rglob("*")) == []
    storage.delete(gone)


def test_a_folder_is_no_object(storage: Storage, uri: str) -> None:
    storage.write(join(uri, "folder/x"), b"x")
    assert storage.find(join(uri, "folder")) is None
    with pytest.raises(ObjectNotFound):
        storage.read(join(uri, "folder"))
    storage.delete(join(uri, "folder"))
    assert len(storage.list(uri)) == 1


def test_an_object_that_changed_since_it_was_listed_is_refused(storage: Storage, uri: str) -> None:
    [old] = [storage.write(join(uri, "a"), b"old")]
    storage.write(join(uri, "a"), b"new")
    with pytest.raises(InfrastructureError, match="changed") as caught:
        storage.read(old.uri, etag=old.etag)
    assert caught.value.retryable


def test_a_conditional_write_never_replaces(storage: Storage, uri: str) -> None:
    storage.write(join(uri, "mark"), b"first", if_absent=True)
    with pytest.raises(AlreadyExists, match="mark is there already"):
        storage.write(join(uri, "mark"), b"first", if_absent=True)
    assert storage.read(join(uri, "mark")) == b"first"
    storage.delete(join(uri, "mark"))
    storage.write(join(uri, "mark"), b"third", if_absent=True)
    assert [item.uri for item in storage.list(uri)] == [join(uri, "mark")]


def test_of_sixteen_conditional_writers_exactly_one_wins(storage: Storage, uri: str) -> None:
    together = threading.Barrier(16)

    def write(number: int) -> bytes | None:
        mine = f"writer {number}".encode()
        together.wait()
        try:
            storage.write(join(uri, "mark"), mine, if_absent=True)
        except AlreadyExists:
            return None
        return mine

    with ThreadPoolExecutor(16) as writers:
        winners = [mine for mine in writers.map(write, range(16)) if mine]
    assert winners == [storage.read(join(uri, "mark"))]


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(storage: Storage, uri: str, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 66
    (tmp_path / "large").write_bytes(data)
    storage.upload(tmp_path / "large", join(uri, "large"))
    found = storage.find(join(uri, "large"))
    assert found is not None
    assert found.num_bytes == len(data)
    assert uri.startswith("file://") or "-" in found.etag  # of a multipart upload, so no MD5
    storage.download(found.uri, tmp_path / "new folder" / "copy")
    assert hashlib.sha256((tmp_path / "new folder" / "copy").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["copy"]
    assert storage.read(found.uri, etag=found.etag) == data


def test_reading_many_yields_what_is_missing_and_goes_on(storage: Storage, uri: str) -> None:
    objects = [storage.write(join(uri, str(number)), str(number).encode()) for number in range(5)]
    storage.delete(objects[2].uri)
    outcomes = list(storage.read_many(objects))
    assert [item for item, _ in outcomes] == objects
    assert isinstance(outcomes[2][1], ObjectNotFound)
    assert [data for _, data in outcomes if isinstance(data, bytes)] == [b"0", b"1", b"3", b"4"]


def test_reading_many_stops_at_what_would_strike_the_others_too(storage: Storage, uri: str) -> None:
    objects = [storage.write(join(uri, str(number)), b"old") for number in range(3)]
    storage.write(objects[1].uri, b"new")
    outcomes = storage.read_many(objects)
    assert next(outcomes)[1] == b"old"
    with pytest.raises(InfrastructureError, match="changed"):
        next(outcomes)


@pytest.mark.parametrize(
    ("num_bytes", "most"), [(1, 2 * 16 + 1), (READ_AHEAD_BYTES // 2, 3), (READ_AHEAD_BYTES * 2, 2)]
)
def test_reading_many_reads_ahead_only_so_far(storage: Storage, uri: str, num_bytes: int, most: int) -> None:
    stored = storage.write(join(uri, "x"), b"x")
    taken = []

    def objects() -> Iterator[StoredObject]:
        for number in range(60):
            taken.append(number)
            yield replace(stored, num_bytes=num_bytes)

    outcomes = storage.read_many(objects())
    assert next(outcomes)[1] == b"x"
    assert len(taken) == most
    assert sum(1 for _ in outcomes) == 59


@pytest.mark.parametrize("uri", ["http://images/x", "images/x", "/data/x", "S3://images/x", ""])
def test_another_scheme_is_refused(storage: Storage, uri: str) -> None:
    with pytest.raises(ConfigError, match="no storage URI"):
        storage.find(uri)


def test_parts_are_joined_by_one_slash() -> None:
    assert join("s3://b", "x") == "s3://b/x"
    assert join("s3://b/data/", "/runs/", "2026-11-23", "gate.json") == "s3://b/data/runs/2026-11-23/gate.json"


# Folders.


def test_an_upload_that_was_killed_leaves_no_object(storage: Storage, file_data_uri: str, tmp_path: Path) -> None:
    pipe = tmp_path / "endless"
    os.mkfifo(pipe)
    code = "import sys, pathlib, bc_tasks.storage as s; s.open_storage().upload(pathlib.Path(sys.argv[1]), sys.argv[2])"
    upload = subprocess.Popen([sys.executable, "-c", code, str(pipe), f"{file_data_uri}/x.bin"])
    with pipe.open("wb") as source:
        source.write(b"half of it" * 100_000)
        source.flush()
        upload.send_signal(signal.SIGKILL)
        upload.wait()
    assert list((tmp_path / "data").iterdir()), "the upload had not begun"
    assert storage.list(file_data_uri) == []
    assert storage.find(f"{file_data_uri}/x.bin") is None


def test_a_failed_write_leaves_the_old_file_and_no_other(storage: Storage, tmp_path: Path) -> None:
    storage.write(f"file://{tmp_path}/folder/x", b"x")
    with pytest.raises(ConfigError, match="can't be a file"):
        storage.write(f"file://{tmp_path}/folder", b"now a file")
    with pytest.raises(ConfigError, match="can't be a file"):
        storage.write(f"file://{tmp_path}/folder/x/y", b"now a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert storage.read(f"file://{tmp_path}/folder/x") == b"x"


def test_a_file_changed_in_place_has_another_etag(storage: Storage, tmp_path: Path) -> None:
    stored = storage.write(f"file://{tmp_path}/x", b"old")
    (tmp_path / "x").write_bytes(b"new")
    [listed] = storage.list(f"file://{tmp_path}")
    assert listed.etag != stored.etag


# S3, as its clients meet it.


def test_content_types_are_told_by_the_name(storage: Storage, data_uri: str, tmp_path: Path) -> None:
    for name in ("index.html", "style.css", "page.json", "model.safetensors"):
        (tmp_path / name).write_text("x")
    storage.upload_folder(tmp_path, data_uri)
    storage.write(join(data_uri, "x.png"), b"x")
    storage.write(join(data_uri, "record"), b"x", content_type="application/json")
    client, prefix = boto3.client("s3"), data_uri.removeprefix("s3://images/")
    types = {
        item.uri.rpartition("/")[2]: client.head_object(Bucket="images", Key=f"{prefix}/{item.uri.rpartition('/')[2]}")[
            "ContentType"
        ]
        for item in storage.list(data_uri)
    }
    assert types == {
        "index.html": "text/html",
        "style.css": "text/css",
        "page.json": "application/json",
        "model.safetensors": "application/octet-stream",
        "x.png": "image/png",
        "record": "application/json",
    }


def test_placeholders_of_folders_are_not_listed(storage: Storage, data_uri: str) -> None:
    client, prefix = boto3.client("s3"), data_uri.removeprefix("s3://images/")
    client.put_object(Bucket="images", Key=f"{prefix}/inbox/", Body=b"")
    storage.write(join(data_uri, "inbox/x"), b"x")
    assert [item.uri for item in storage.list(data_uri)] == [join(data_uri, "inbox/x")]


Call = Callable[[Storage, str, Path], object]
CALLS: dict[str, Call] = {
    "list": lambda storage, uri, _: storage.list(uri),
    "find": lambda storage, uri, _: storage.find(uri),
    "read": lambda storage, uri, _: storage.read(uri),
    "write": lambda storage, uri, _: storage.write(uri, b"x"),
    "write if absent": lambda storage, uri, _: storage.write(uri, b"x", if_absent=True),
    "read many": lambda storage, uri, _: list(storage.read_many([StoredObject(uri, "0" * 32, None, 1, LONG_AGO)])),
    "download": lambda storage, uri, file: storage.download(uri, file.with_name("copy")),
    "upload": lambda storage, uri, file: storage.upload(file, uri),
    "delete": lambda storage, uri, _: storage.delete(uri),
}
# All but one: to a conditional GET from a missing bucket, SeaweedFS 4.48 answers that the object is missing.
UNCONDITIONAL_CALLS = {name: call for name, call in CALLS.items() if name != "read many"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file."""
    (tmp_path / "file").write_bytes(b"x")
    return tmp_path / "file"


@pytest.fixture(scope="module")
def refused_storages(embedded_s3: EmbeddedS3) -> dict[str, Storage]:
    """Storages whose environment is wrong in one way."""
    right = embedded_s3.environment()
    return {
        "secret": open_storage(QUICK, right | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}),
        "access key": open_storage(QUICK, right | {"AWS_ACCESS_KEY_ID": "NOBODY"}),
        "server": open_storage(QUICK, right | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}"}),
    }


@pytest.mark.parametrize("call", UNCONDITIONAL_CALLS.values(), ids=UNCONDITIONAL_CALLS)
def test_a_missing_bucket_is_named(storage: Storage, embedded_s3: EmbeddedS3, call: Call, file: Path) -> None:
    with pytest.raises(ConfigError, match="bucket no-such-bucket does not exist at http://") as caught:
        call(storage, "s3://no-such-bucket/x", file)
    assert embedded_s3.secret_key not in str(caught.value)
    assert embedded_s3.access_key not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_wrong_secret_key_is_told(refused_storages: dict[str, Storage], call: Call, file: Path) -> None:
    with pytest.raises(ConfigError, match="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
        call(refused_storages["secret"], "s3://images/x", file)
    assert "not-the-secret" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_unknown_access_key_is_told(refused_storages: dict[str, Storage], call: Call, file: Path) -> None:
    with pytest.raises(ConfigError, match="doesn't know the access key"):
        call(refused_storages["access key"], "s3://images/x", file)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_is_down_is_told_within_seconds(
    refused_storages: dict[str, Storage], call: Call, file: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match="didn't answer for s3://images") as caught:
        call(refused_storages["server"], "s3://images/x", file)
    assert time.monotonic() - began < 10
    assert caught.value.retryable


def test_missing_credentials_are_told(embedded_s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", embedded_s3.endpoint_url)
    storage = open_storage(QUICK)
    for call in (storage.list, storage.find, storage.read, storage.delete):
        with pytest.raises(ConfigError, match="no usable credentials for http://"):
            call("s3://images/x")


def test_half_of_the_credentials_is_told(embedded_s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", embedded_s3.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", embedded_s3.access_key)
    with pytest.raises(ConfigError, match="missing: AWS_SECRET_ACCESS_KEY"):
        open_storage(QUICK).list("s3://images")


def test_a_bucket_name_that_cannot_be_is_told(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="no S3 URI"):
        storage.find("s3://im ages/x")
    with pytest.raises(ConfigError, match="IMAGES can't be the name of a bucket"):
        storage.write("s3://IMAGES/x", b"")


@pytest.mark.parametrize(
    "environment",
    [{"AWS_ENDPOINT_URL_S3": "localhost:9000"}, {"AWS_ENDPOINT_URL_S3": "ftp//x"}, {"AWS_PROFILE": "typo"}],
)
def test_an_unusable_environment_is_told(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="check AWS_ENDPOINT_URL_S3 and AWS_PROFILE"):
        open_storage()


# S3 servers that fail.


@contextmanager
def server(*answers: bytes | None) -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """Serve each request with the next of `answers`, the last one for ever; None: never answer.

    Yields the environment that points at it, and the requests that it was sent.
    """
    requests: list[bytes] = []
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                requests.append(connection.recv(65536))
                answer = answers[min(len(requests), len(answers)) - 1]
                if answer is None:
                    held.append(connection)
                    continue
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        endpoint_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield {"AWS_ENDPOINT_URL_S3": endpoint_url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}, requests
        listener.shutdown(socket.SHUT_RDWR)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def http(body: bytes, *, status: str = "200 OK", num_bytes: int | None = None, etag: str = "") -> bytes:
    """Return an HTTP answer; `num_bytes` is what it says of its length."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if num_bytes is None else num_bytes}\r\nConnection: close\r\n"
        f'ETag: "{etag or md5(body)}"\r\nDate: Mon, 23 Nov 2026 14:00:00 GMT\r\n\r\n'
    )
    return head.encode() + body


def refusal(code: str, status: str) -> bytes:
    return http(f"<Error><Code>{code}</Code><Message>words of the server</Message></Error>".encode(), status=status)


def test_a_server_that_never_answers_is_given_up() -> None:
    began = time.monotonic()
    with server(None) as (environment, requests), pytest.raises(InfrastructureError):
        open_storage(QUICK, environment).read("s3://images/x")
    assert len(requests) == QUICK.max_attempts
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "broken",
    [http(b"half", num_bytes=8), http(b"damaged", etag=md5(b"content"))],
    ids=["truncated", "damaged"],
)
def test_a_body_that_does_not_arrive_whole_is_never_returned(broken: bytes, tmp_path: Path) -> None:
    with server(broken) as (environment, requests):
        storage = open_storage(QUICK, environment)
        with pytest.raises(InfrastructureError, match="broke off or was damaged"):
            storage.read("s3://images/x")
        assert len(requests) == QUICK.max_attempts
        with pytest.raises(InfrastructureError, match="broke off or was damaged"):
            storage.download("s3://images/x", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_breaks_off_once_is_asked_for_again() -> None:
    with server(http(b"half of the con", num_bytes=99), http(b"content")) as (environment, requests):
        assert open_storage(QUICK, environment).read("s3://images/x") == b"content"
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("code", "status", "error", "words"),
    [
        ("AccessDenied", "403 Forbidden", ConfigError, "refuses GetObject on s3://images/x: grant that right"),
        ("ExpiredToken", "400 Bad Request", ConfigError, "sign in again"),
        ("RequestTimeTooSkewed", "403 Forbidden", ConfigError, "clock"),
        ("NotImplemented", "501 Not Implemented", ConfigError, "can't do GetObject"),
        ("SomethingNew", "400 Bad Request", ConfigError, "SomethingNew, words of the server"),
        ("SlowDown", "503 Slow Down", InfrastructureError, "SlowDown"),
        ("InternalError", "500 Internal Server Error", InfrastructureError, "trying again can help"),
    ],
)
def test_a_refusal_becomes_one_of_our_errors(code: str, status: str, error: type[BcError], words: str) -> None:
    with server(refusal(code, status)) as (environment, _), pytest.raises(error, match=words):
        open_storage(QUICK, environment).read("s3://images/x")


def test_a_bucket_of_another_region_is_told() -> None:
    error = refused("PermanentRedirect", "", 301, operation="GetObject", uri="s3://images/x", address="https://s3")
    assert isinstance(error, ConfigError)
    assert "AWS_DEFAULT_REGION" in str(error)


@contextmanager
def losing_first_answer(endpoint_url: str) -> Iterator[int]:
    """Forward to an S3 server, but hang up instead of the first answer; yield the port."""
    host, port = endpoint_url.removeprefix("http://").split(":")
    num_lost = 0

    def forward(source: socket.socket, target: socket.socket, lose: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if lose and b"100 Continue" not in data:
                    break
                target.sendall(data)
        target.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal num_lost
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                upstream = socket.create_connection((host, int(port)))
                threading.Thread(target=forward, args=(client, upstream, False), daemon=True).start()
                threading.Thread(target=forward, args=(upstream, client, num_lost == 0), daemon=True).start()
                num_lost += 1

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_winner_whose_answer_got_lost_is_still_the_winner(embedded_s3: EmbeddedS3, data_uri: str) -> None:
    with losing_first_answer(embedded_s3.endpoint_url) as port:
        lossy = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
        storage = open_storage(QUICK, embedded_s3.environment() | lossy)
        stored = storage.write(join(data_uri, "mark"), b"mine", if_absent=True)
    assert open_storage(QUICK, embedded_s3.environment()).read(stored.uri, etag=stored.etag) == b"mine"


def test_a_loser_whose_answer_got_lost_is_still_a_loser(embedded_s3: EmbeddedS3, data_uri: str) -> None:
    open_storage(QUICK, embedded_s3.environment()).write(join(data_uri, "mark"), b"theirs")
    with losing_first_answer(embedded_s3.endpoint_url) as port:
        lossy = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
        storage = open_storage(QUICK, embedded_s3.environment() | lossy)
        with pytest.raises(AlreadyExists):
            storage.write(join(data_uri, "mark"), b"mine", if_absent=True)

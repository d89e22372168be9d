"""The embedded S3 server: private, and the same after a restart."""

import os
import signal
import socket
import stat
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from bc_tasks.embedded import processes, seaweedfs
from bc_tasks.embedded.seaweedfs import EmbeddedS3
from bc_tasks.errors import ConfigError
from bc_tasks.storage import Storage, open_storage


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def listening_ports(s3: EmbeddedS3) -> dict[str, set[int]]:
    ports: dict[str, set[int]] = {}
    for connection in psutil.Process(s3.service.process.pid).net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            ports.setdefault(connection.laddr.ip, set()).add(connection.laddr.port)
    return ports


def test_its_buckets_are_there(storage: Storage) -> None:
    for bucket in ("images", "mlflow"):
        storage.list(f"s3://{bucket}")


def test_its_probe_leaves_nothing_behind(storage: Storage) -> None:
    assert storage.find(f"s3://images/{seaweedfs.READY_KEY}") is None


def test_it_listens_on_this_machine_only_and_on_its_own_ports_only(embedded_s3: EmbeddedS3) -> None:
    ports = listening_ports(embedded_s3)
    assert set(ports) == {"127.0.0.1"}
    assert len(ports["127.0.0.1"]) == len(seaweedfs.PORT_OPTIONS)
    assert not ports["127.0.0.1"] & {8333, 8888, 9333, 23646, 33646}


def test_nobody_reads_without_the_keys(embedded_s3: EmbeddedS3, storage: Storage) -> None:
    storage.write("s3://images/private/x", b"private")
    assert status_of(f"{embedded_s3.endpoint_url}/images/private/x") == 403
    served = [port for port in listening_ports(embedded_s3)["127.0.0.1"] if f":{port}" not in embedded_s3.endpoint_url]
    for port in served:
        try:
            assert status_of(f"http://127.0.0.1:{port}/buckets/images/private/x") >= 400
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            continue  # gRPC


def test_its_secrets_are_for_their_owner_only(embedded_s3: EmbeddedS3) -> None:
    settings = embedded_s3.service.state / "settings.json"
    assert embedded_s3.secret_key in settings.read_text()
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.parent.stat().st_mode) == 0o700
    assert embedded_s3.secret_key not in " ".join(psutil.Process(embedded_s3.service.process.pid).cmdline())
    assert embedded_s3.secret_key not in embedded_s3.service.log.read_text()
    assert embedded_s3.secret_key not in repr(embedded_s3)


def test_a_second_one_on_the_same_data_is_refused(embedded_s3: EmbeddedS3) -> None:
    with pytest.raises(ConfigError, match=r"SeaweedFS runs on .* already"):
        seaweedfs.start(embedded_s3.service.state)


def test_data_keys_and_address_outlive_a_kill_and_a_taken_port(tmp_path: Path) -> None:
    try:
        first = seaweedfs.start(tmp_path, buckets=["images"])
        open_storage(environment=first.environment()).write("s3://images/x", b"kept")
        os.kill(first.service.process.pid, signal.SIGKILL)
        first.service.process.wait()

        second = seaweedfs.start(tmp_path, buckets=["images", "more"])
        assert (second.endpoint_url, second.environment()) == (first.endpoint_url, first.environment())
        storage = open_storage(environment=second.environment())
        assert storage.read("s3://images/x") == b"kept"
        assert storage.list("s3://more") == []
        second.stop()

        with socket.create_server(("127.0.0.1", int(first.endpoint_url.rpartition(":")[2]))):
            third = seaweedfs.start(tmp_path, buckets=["images"])
            assert third.endpoint_url != first.endpoint_url
            assert third.secret_key == first.secret_key
            assert open_storage(environment=third.environment()).read("s3://images/x") == b"kept"
    finally:
        processes.stop(tmp_path)
    assert processes.running(tmp_path) == []

"""Messages about a failed night, to a real web server and a real mail server, through Airflow's connections."""

import email
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from bc_tasks.config import ScheduleConfig
from bc_tasks.orchestration.failure_notifier import failure_notifiers

NOTE = (
    "Candidate snapshot: 420 new images. Stopped: validate failed with exit code 65: the data can't be used as it is."
)


class Server(socketserver.ThreadingTCPServer):
    """A server on a free port that keeps what it gets."""

    def __init__(self, handler: type[socketserver.StreamRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.got: list[Any] = []


class Webhook(socketserver.StreamRequestHandler):
    """Takes one HTTP request."""

    server: Server

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(self.rfile.readline, b"\r\n"))
        self.server.got.append((path, json.loads(self.rfile.read(int(headers["content-length"])))))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Mailbox(socketserver.StreamRequestHandler):
    """Takes one mail by SMTP."""

    server: Server

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                self.server.got.append(email.message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n"))))
            self.wfile.write(b"250 ok\r\n")


@contextmanager
def serving(handler: type[socketserver.StreamRequestHandler]) -> Iterator[Server]:
    with Server(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def connect(monkeypatch: pytest.MonkeyPatch, server: Server, **connection: Any) -> None:
    connection |= {"host": connection["host"].format(port=server.server_address[1])}
    monkeypatch.setenv("AIRFLOW_CONN_ON_CALL", json.dumps(connection))


def fail_a_night(dag_run: Any = SimpleNamespace(note=NOTE)) -> None:  # noqa: B008 - not changed
    context = {
        "dag": DAG("nightly_retraining"),
        "run_id": "scheduled__2026-11-24T02:00:00+00:00",
        "dag_run": dag_run,
        "reason": "task_failure",
    }
    schedule = ScheduleConfig(failure_conn_id="on_call", failure_recipients=("on-call@hospital.example",))
    for notifier in failure_notifiers(schedule):
        notifier(context)


def test_nobody_is_told_where_no_connection_is_configured() -> None:
    assert failure_notifiers(ScheduleConfig()) == []


def test_a_webhook_gets_the_note_and_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Webhook) as server:
        connect(monkeypatch, server, conn_type="http", host="http://127.0.0.1:{port}/services", password="T0/B0/secret")
        fail_a_night()
    [(path, body)] = server.got
    assert path == "/services/T0/B0/secret"
    title, note, address = body["text"].splitlines()
    assert title == "nightly_retraining failed: scheduled__2026-11-24T02:00:00+00:00"
    assert note == NOTE
    assert address.endswith("/dags/nightly_retraining/runs/scheduled__2026-11-24T02%3A00%3A00%2B00%3A00")


def test_an_smtp_connection_sends_a_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Mailbox) as server:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@hospital.example"}
        connect(monkeypatch, server, conn_type="smtp", host="127.0.0.1", port=server.server_address[1], extra=extra)
        fail_a_night()
    [mail] = server.got
    assert isinstance(mail, Message)
    assert mail["To"] == "on-call@hospital.example"
    assert mail["Subject"] == "nightly_retraining failed: scheduled__2026-11-24T02:00:00+00:00"
    body = mail.get_payload(0).get_payload(decode=True).decode()
    assert "the data can&#x27;t be used as it is" in body


def test_a_run_that_broke_before_it_had_a_note_says_airflows_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Webhook) as server:
        connect(monkeypatch, server, conn_type="http", host="http://127.0.0.1:{port}")
        fail_a_night(dag_run=None)
    [(_, body)] = server.got
    assert "Reason: task_failure." in body["text"]

"""HTTP for the API: one thread for each connection, bearer tokens, and streams in chunks."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fake_kubernetes.api import Answer, Api, Request
from fake_kubernetes.api_errors import ApiError

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0-fake",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
LOST = (BrokenPipeError, ConnectionResetError)


def read_request(method: str, url: str, content_type: str, body: bytes) -> Request:
    """Return what an HTTP request is about. Raises: ApiError: it is about nothing in core/v1."""
    parts = urlsplit(url)
    root, version, *segments = [*parts.path.strip("/").split("/"), ""]
    segments = [segment for segment in segments if segment]
    if (root, version) != ("api", "v1") or not segments:
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    namespace = ""
    if segments[0] == "namespaces" and len(segments) > 2:
        namespace, segments = segments[1], segments[2:]
    resource, name, subresource = [*segments, "", ""][:3]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    verb = VERBS.get(method) or (
        "get" if name else "watch" if query.get("watch", "").lower() in ("true", "1") else "list"
    )
    if verb == "delete" and not name:
        verb = "deletecollection"
    return Request(
        verb, f"{resource}/{subresource}".rstrip("/"), namespace, name, query, content_type.partition(";")[0], body
    )


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "ApiServer"

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with suppress(*LOST):
            super().finish()

    def handle(self) -> None:
        with suppress(*LOST):
            super().handle()

    def answer(self) -> None:
        """Read a request and answer it."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.server.answer(self.command, self.path, self.headers, body)
        except ApiError as error:
            answer = Answer(error.status(), error.code)
        if isinstance(answer.content, dict):
            self._send(answer.code, json.dumps(answer.content).encode())
        else:
            self._stream(answer.content_type, answer.content)

    def _send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, content_type: str, chunks: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class ApiServer(ThreadingHTTPServer):
    """The server, on a free port of this machine."""

    daemon_threads = True

    def __init__(self, api: Api, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._api, self._token = api, token
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fake API server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> Answer:
        """Answer a request. Raises: ApiError: it is refused."""
        if path.rstrip("/") == "/version":
            return Answer(VERSION)
        if headers.get("Authorization") != f"Bearer {self._token}":
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return self._api.answer(read_request(method, path, headers.get("Content-Type", ""), body))

    def stop(self) -> None:
        """Answer no more, and cut every connection."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

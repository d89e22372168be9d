"""An HTTP proxy in front of a real server that loses requests, or their answers, as a broken network does."""

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What is lost: requests whose "METHOD path" the pattern `what` fits, before they arrive or after their answer."""

    what: str = "nothing"
    when: Literal["before", "after"] = "before"
    lost: list[str] = field(default_factory=list)


@contextmanager
def lossy_proxy(target: str) -> Iterator[tuple[str, Fault]]:
    """Give the address of a proxy before `target`, and the fault that it has; change the fault at any time."""
    fault, host = Fault(), urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            line = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_lost = re.search(fault.what, line) is not None
            if is_lost:
                fault.lost.append(line)
            if not is_lost or fault.when == "after":
                status, headers, answer = self.ask(body)
            if is_lost:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, {**headers, "Host": host})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, answer.getheaders(), content

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fault
    finally:
        server.shutdown()
        server.server_close()

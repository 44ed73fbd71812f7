"""What stands behind Envoy: a web application that says what it was asked, and a service that repeats what it hears."""

import json
import socketserver
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self


class Upstream:
    """Both, serving from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._web = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
        self._echo = _Echo(("127.0.0.1", 0), _Repeat)
        self._stack = ExitStack()
        self.web_port: int = self._web.server_address[1]
        self.echo_port: int = self._echo.server_address[1]

    def __enter__(self) -> Self:
        for server in (self._web, self._echo):
            thread = threading.Thread(target=server.serve_forever, args=[0.05], name="upstream", daemon=True)
            thread.start()
            self._stack.callback(server.server_close)
            self._stack.callback(server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def connected(self) -> int:
        """How many connections the second one has had."""
        return self._echo.connected


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # as the standard library has it
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # as above

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as above
        """Nobody reads it."""


class _Echo(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    connected: ClassVar[int] = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connected += 1  # type: ignore[misc]  # of this server
        super().process_request(request, client_address)


class _Repeat(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)

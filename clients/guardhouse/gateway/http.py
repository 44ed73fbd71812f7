"""The HTTP port of a gateway: pages of text that are made when they are asked for, for those who watch it.

It takes GET and HEAD, and closes the connection behind each answer. Nobody keeps it: a head has room and time for what
such a request is, and whoever comes when there are too many is turned away.
"""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Self

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Makes the status, the content type and the content."""

TEXT: Final = "text/plain; charset=utf-8"
HEAD_BYTES: Final = 16 << 10
CONNECTIONS: Final = 20
SECONDS: Final = 5.0
"""How long a request and its answer may take."""


class HttpServer:
    """One address. Entered, it listens; raises OSError where it cannot."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self._host = host
        self._port = port
        self._pages = pages
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=HEAD_BYTES)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def port(self) -> int:
        """The one that it listens on, where 0 was asked for."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Whoever asked has gone, or never asked.
            pass
        finally:
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method not in (b"GET", b"HEAD"):
            status, content_type, content = HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"GET or HEAD\n"
        elif (page := self._pages.get(path)) is None:
            status, content_type, content = HTTPStatus.NOT_FOUND, TEXT, f"{', '.join(self._pages)}\n".encode()
        else:
            status, content_type, content = page()
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"content-type: {content_type}",
            f"content-length: {len(content)}",
            *(["allow: GET, HEAD"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
            "connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else content)

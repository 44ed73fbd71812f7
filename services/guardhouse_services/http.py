"""The HTTP port of a service, beside gRPC: it serves the routes that it is given, in the loop of the service."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from guardhouse_services.config import CannotStart

HEADER_BYTES = 16 << 10
CONNECTIONS = 100
IDLE_SECONDS = 5
STOP_SECONDS = 2.0


class _Connection(H11Protocol):
    """One that is closed when no request has come in time: uvicorn's own timer begins with the first answer, and ends
    with the first byte of what may never be a request."""

    _expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asked():
            self._cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The next request may have come with the last.
        if not self._is_asked():
            self._time()

    def _is_asked(self) -> bool:
        # Until there is a request, there is no cycle, whatever its type says.
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _time(self) -> None:
        self._cancel()
        # A close would wait for whoever does not read the answer.
        self._expiry = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def _cancel(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()


class HttpServer:
    """One address. It is uvicorn's protocol without its process: no signal handlers, no workers, no access log."""

    def __init__(self, host: str, port: int, routes: Sequence[BaseRoute]) -> None:
        self._host = host
        self._port = port
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._config = uvicorn.Config(
            Starlette(routes=routes),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            # A header is small, and there are few who have business here.
            h11_max_incomplete_event_size=HEADER_BYTES,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
        )

    @property
    def port(self) -> int:
        """The one that it listens on, where 0 was asked for."""
        if self._server is None:
            raise RuntimeError("not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Raises CannotStart when the address is taken."""
        self._config.load()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listening = socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            raise CannotStart(f"cannot listen on {self._host}:{self._port}: {error.strerror}") from error
        make: Any = self._config.http_protocol_class
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: make(config=self._config, server_state=self._state, app_state={}), sock=listening
        )

    async def stop(self) -> None:
        """Answers what it is being asked, and lets idle connections go."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(self._state.tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()

"""The HTTP port: what it serves, what it bounds, and what it says of the replica."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from demo.plane import free_port_base
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from guardhouse_services import http
from guardhouse_services.config import CannotStart, Settings
from guardhouse_services.http import HttpServer
from guardhouse_services.identity.__main__ import build
from guardhouse_services.node import Node
from guardhouse_services.run import prepare
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.plane import Plane

SERVING = health_pb2.HealthCheckResponse.SERVING


async def say_hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


answered: list[str] = []
begun = asyncio.Event()


async def take_long(_request: Request) -> PlainTextResponse:
    begun.set()
    await asyncio.sleep(0.3)
    answered.append("done")
    return PlainTextResponse("done")


async def say_much(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("much" * (8 << 20))


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    answered.clear()
    begun.clear()
    server = HttpServer(
        "127.0.0.1", 0, [Route("/hello", say_hello), Route("/long", take_long), Route("/much", say_much)]
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
async def node(tmp_path: Path, clock: FakeClock, database_url: DatabaseUrl) -> AsyncIterator[Node]:
    """Identity, which needs no other service to be ready."""
    settings = Settings(
        var=tmp_path / "var", port_base=free_port_base(), database_url=database_url("identity"), log_calls=False
    )
    prepare(settings, clock)
    async with build(settings, clock) as node:
        yield node


async def get(node: Node, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{node.settings.http_port(node.service)}{path}")


async def ready(node: Node, status: int) -> Any:
    """Waits until /readyz answers that, and answers its reasons."""
    async with asyncio.timeout(20):
        while True:
            answer = await get(node, "/readyz")
            if answer.status_code == status:
                return answer.json()["reasons"]
            await asyncio.sleep(0.05)


async def health(settings: Settings, service: str) -> int:
    credentials = grpc.ssl_channel_credentials((settings.tls_path / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{settings.public_port(service)}", credentials) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        status: int = answer.status
        return status


async def serves(node: Node, serving: bool) -> None:
    """Waits until gRPC health says so, which it does a moment after /readyz."""
    async with asyncio.timeout(20):
        while (await health(node.settings, node.service) == SERVING) != serving:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.05)


async def test_only_what_is_routed_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/hello")).text == "hello"
    assert (await client.get("/")).status_code == 404
    assert (await client.post("/hello")).status_code == 405
    assert "server" not in (await client.get("/hello")).headers


async def test_headers_are_bounded(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(64):
            writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        assert (await reader.read(64)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_connection_that_asks_nothing_is_closed(
    server: HttpServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or too little, or reads no answer: a hundred of them would keep out everybody for good."""
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.2)
    whole = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"

    async def answer_to(said: bytes) -> bytes:
        """All that comes until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        try:
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()

    deaf = socket.create_connection(("127.0.0.1", server.port))
    deaf.sendall(whole.replace(b"/hello", b"/much"))
    began = time.monotonic()
    answers = await asyncio.gather(*map(answer_to, (b"", b"G", whole[:-2], whole + b"G")))
    assert time.monotonic() - began > 0.15
    assert [answer.count(b"200 OK") for answer in answers] == [0, 0, 0, 1]
    async with asyncio.timeout(30):
        while server._state.connections:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)
    deaf.close()
    # What takes longer than that to be answered is answered, also what came with the request before.
    assert (await client.get("/long")).text == "done"
    slow = whole.replace(b"/hello", b"/long")
    assert (await answer_to(whole + slow + slow)).count(b"200 OK") == 3


async def test_a_stop_answers_what_is_asked_and_waits_for_nobody_else(
    server: HttpServer, client: httpx.AsyncClient
) -> None:
    await client.get("/hello")
    idle = socket.create_connection(("127.0.0.1", server.port))
    asking = asyncio.create_task(httpx.AsyncClient(base_url=client.base_url).get("/long"))
    async with asyncio.timeout(30):
        await begun.wait()
    began = time.monotonic()
    await server.stop()
    assert answered == ["done"]
    # Nor for the two seconds that a late answer has.
    assert time.monotonic() - began < http.STOP_SECONDS
    assert (await asking).text == "done"
    idle.close()
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient(base_url=client.base_url).get("/hello")


async def test_it_leaves_signals_alone(server: HttpServer) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_port_that_is_taken_is_said_at_once(server: HttpServer) -> None:
    with pytest.raises(CannotStart, match="in use"):
        await HttpServer("127.0.0.1", server.port, []).start()


async def test_a_replica_says_that_it_lives_and_is_ready(node: Node) -> None:
    assert (await get(node, "/healthz")).json() == {"service": "identity"}
    assert await ready(node, 200) == []
    await serves(node, True)


def take_away(postgresql: Any, node: Node) -> str:
    """A node's database; answers its name."""
    name = str(node.database.engine.url.database)
    postgresql._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgresql._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    return name


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_replica_without_its_database_is_not_ready(node: Node, postgresql: Any) -> None:
    """Both ways of asking say so, and say when it is back."""
    await ready(node, 200)
    name = take_away(postgresql, node)
    assert await ready(node, 503) == ["the database does not answer"]
    await serves(node, False)
    assert (await get(node, "/healthz")).status_code == 200
    metrics = (await get(node, "/metrics")).text
    assert "guardhouse_ready 0.0" in metrics
    assert "guardhouse_seats_used" not in metrics
    postgresql._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await ready(node, 200)
    await serves(node, True)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_session_replica_is_asked_while_its_database_is_away(plane: Plane, postgresql: Any) -> None:
    """Section 6.5: it answers from memory, until that is stale."""
    session = plane.nodes["session"]
    await ready(session, 200)
    name = take_away(postgresql, session)
    for _ in range(25):
        await asyncio.sleep(0.1)
        assert (await get(session, "/readyz")).json()["reasons"] == []
    postgresql._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.plane(max_staleness="2s")
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_a_session_replica_is_asked_for_as_long_as_a_policy_stays_open(plane: Plane) -> None:
    """Section 6.5: nobody could ask for what OPEN_BOUNDED allows of replicas that all say they are not ready."""
    staleness = session_pb2.Staleness(mode=session_pb2.STALENESS_MODE_OPEN_BOUNDED, max_open="5s")
    policy = session_pb2.Policy(
        display_name="Intranet",
        enabled=True,
        filter=session_pb2.POLICY_FILTER_L4,
        action=session_pb2.POLICY_ACTION_ALLOW,
        staleness=staleness,
    )
    policies: Any = plane.stub(session_pb2_grpc.PolicyServiceStub)
    await policies.CreatePolicy(session_pb2.CreatePolicyRequest(organization_id=plane.organization, policy=policy))
    session = plane.nodes["session"]
    await ready(session, 200)
    await plane.stop("registry")
    (reason,) = await ready(session, 503)
    said, _, seconds = reason.removesuffix(" s").rpartition(" ")
    assert said == "session registrations: stale for"
    assert int(seconds) >= 5


@pytest.mark.plane(max_staleness="2s")
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_a_session_replica_that_is_cut_off_is_not_ready(plane: Plane) -> None:
    session = plane.nodes["session"]
    await ready(session, 200)
    await plane.stop("registry")
    (reason,) = await ready(session, 503)
    assert reason.startswith("session registrations: stale for ")
    await serves(session, False)
    await plane.start("registry")
    await ready(session, 200)
    await serves(session, True)

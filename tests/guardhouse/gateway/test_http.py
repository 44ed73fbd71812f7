"""What a gateway tells those who watch it, and that the page about it is true."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from guardhouse.durations import SECOND
from guardhouse.gateway import http
from guardhouse.gateway.http import HttpServer
from guardhouse.gateway.metrics import pages
from guardhouse.gateway.wireguard import Gateway
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.clock import FakeClock
from tests.wireguard import FakeInterface, become, on

ORGANIZATION = "org_" + "0" * 32
KEY = "ghk_secret"
PAGE = Path(__file__, "../../../../docs/metrics.md").resolve()
LIBRARY = ("process_", "python_")


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeInterface]:
    async with FakeInterface(tmp_path) as fake:
        yield fake


@pytest.fixture
def gateway(fake: FakeInterface) -> Gateway:
    profile = Profile(registry="127.0.0.1:1", organization_id=ORGANIZATION, key=KEY)
    return Gateway(profile, on(fake), FakeClock(), "edge", 30 * SECOND)


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        HttpServer("127.0.0.1", 0, pages(gateway)) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


async def fed(gateway: Gateway, count: int) -> None:
    events = []
    for number in range(1, count + 1):
        event = pb.Event()
        event.registration.registration.CopyFrom(
            pb.Registration(
                registration_id=f"reg_{number:032x}",
                state=pb.REGISTRATION_STATE_ACTIVE,
                key_type=pb.KEY_TYPE_CURVE25519,
                public_key=secrets.token_bytes(32),
                ipv4=f"100.96.0.{number}",
                ipv6=f"fd00::{number}",
            )
        )
        events.append(event)
    await gateway.begin(ORGANIZATION)
    await gateway.page(ORGANIZATION, events)
    await gateway.end(ORGANIZATION, ("epoch", 7))


async def figures(client: httpx.AsyncClient, *names: str) -> list[float]:
    answer = await client.get("/metrics")
    families = text_string_to_metric_families(answer.raise_for_status().text)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    return [found[f"guardhouse_gateway_{name}"] for name in names]


async def test_figures_are_those_of_what_happened(
    gateway: Gateway, fake: FakeInterface, client: httpx.AsyncClient
) -> None:
    assert await figures(client, "staleness_seconds", "admits", "peers") == [float("inf"), 0, 0]
    await fed(gateway, 3)
    await gateway.turn()
    fake.handshakes = dict.fromkeys(fake.peers, 1_700_000_000)
    gateway._due = 0
    await gateway.turn()
    assert (await figures(client, "staleness_seconds"))[0] < 5
    assert await figures(client, "peers", "admits", "interface_up", "max_staleness_seconds") == [3, 1, 1, 30]
    assert await figures(client, "known_revision", "applied_revision") == [7, 7]
    assert await figures(client, "handshakes_total", "set_right_total", "apply_seconds_count") == [3, 3, 1]
    assert await figures(client, "interface_errors_total", "resyncs_total") == [0, 0]
    await fake.__aexit__()
    await gateway.change(ORGANIZATION, [pb.Event(registration_deleted=f"reg_{1:032x}")], ("epoch", 7), ("epoch", 8))
    assert await figures(client, "known_revision", "applied_revision") == [8, 7]
    assert await figures(client, "peers", "interface_up", "interface_errors_total") == [2, 0, 1]


async def test_it_is_ready_when_the_interface_is_what_the_registry_says(
    gateway: Gateway, fake: FakeInterface, client: httpx.AsyncClient
) -> None:
    async def reasons() -> tuple[int, list[str]]:
        answer = await client.get("/readyz")
        return answer.status_code, answer.json()["reasons"]

    assert (await client.get("/healthz")).status_code == 200
    assert await reasons() == (503, ["the registry has not been heard of"])
    await fed(gateway, 1)
    assert await reasons() == (503, ["the interface has not got everything yet"])
    await gateway.turn()
    assert await reasons() == (200, [])
    gateway._clock.advance(31)  # type: ignore[attr-defined]
    assert await reasons() == (503, ["the registry was heard of too long ago"])


async def test_nothing_that_is_asked_is_a_secret_or_stays(client: httpx.AsyncClient) -> None:
    for path in ("/metrics", "/readyz", "/healthz"):
        answer = await client.get(path)
        assert KEY not in answer.text
        assert answer.headers["connection"] == "close"
        assert (await client.head(path)).content == b""
    assert (await client.get("/metrics?name[]=up")).status_code == 200
    assert (await client.get("/")).status_code == 404
    assert (await client.post("/metrics")).status_code == 405


async def test_whoever_says_nothing_or_too_much_is_let_go(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unbounded: neither how long a request may take, nor its length, nor how many there are."""
    monkeypatch.setattr(http, "SECONDS", 60)
    monkeypatch.setattr(http, "CONNECTIONS", 2)
    async with HttpServer("127.0.0.1", 0, pages(gateway)) as server:

        async def answer(said: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(said)
            try:
                return await asyncio.wait_for(reader.read(), 20)
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

        assert await answer(b"GET /" + b"x" * (64 << 10)) == b""
        await become(lambda: not server._serving)
        with monkeypatch.context() as patch:
            patch.setattr(http, "SECONDS", 0.3)
            answers = await asyncio.gather(*(answer(b"GET /healthz HTTP/1.1\r\n") for _ in range(5)))
            assert set(answers) == {b""}
        await become(lambda: not server._serving)
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        await become(lambda: len(server._serving) == 2)
        assert await answer(b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        for _, writer in silent:
            writer.close()
        await become(lambda: not server._serving)
        assert b"200 OK" in await answer(b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_the_page_lists_what_there_is(client: httpx.AsyncClient) -> None:
    """Every metric of a gateway is on the page, with its type, and the other way around; so are those it watches."""
    section = PAGE.read_text().partition("## A WireGuard gateway")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(guardhouse_\w+)` \| (gauge|counter|histogram) \|", section, re.MULTILINE))
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    served = {
        (f"{it.name}_total" if it.type == "counter" else it.name, it.type)
        for it in families
        if not it.name.startswith(LIBRARY)
    }
    assert served == listed
    watched = re.findall(r"^\| `(.*?)`", section.partition("| when | then |")[2], re.MULTILINE)
    assert len(watched) == 6
    for expression in watched:
        names = set(re.findall(r"\bguardhouse_\w+", expression))
        assert names
        assert names <= {name for name, _ in listed}, expression


async def test_a_port_that_is_taken_is_said(gateway: Gateway) -> None:
    async with HttpServer("127.0.0.1", 0, pages(gateway)) as server:
        with pytest.raises(OSError, match="address already in use"):
            await HttpServer("127.0.0.1", server.port, {}).__aenter__()

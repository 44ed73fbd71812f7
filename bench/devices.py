"""What lists of registrations, heartbeats and the deletion of a device cost.

A page is timed in the transaction that reads it: the first 1,000 of 1,000,000 registrations, and the last. Devices say
that they live as often as 10,000 of them do once a minute, spread evenly, over TLS with their own tokens; what the
services use when nobody calls is not counted. A device with 1,000 registrations is deleted by the use case, in one
transaction, and a row is inserted in one of its own.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from bench.calls import BARE_HOST
from bench.contract import PATH, messages
from bench.figure import Figure, Sample, Target, ratios, summary, take_rounds
from bench.loaders import Row, bearer, insert
from bench.machine import cpu_of
from bench.plane import POSTGRESQL, Plane
from bench.postgresql import PostgreSQL
from bench.run import Bench
from guardhouse import ids
from guardhouse.clock import SystemClock
from guardhouse.common.v1.access_pb2 import ROLE_ADMIN
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Order, Range, RegistrationFilter, State
from guardhouse_services.registry.store import tables
from guardhouse_services.registry.usecases.devices import Devices
from guardhouse_services.registry.usecases.registrations import Registrations

T = TypeVar("T")

PAGE = 1000
PAGES = 5
"""Of a sample."""
DEVICES_A_MINUTE = 10_000
BEATS = 2500
"""Of a sample: as many as come in a quarter of a minute."""
EMPTY_CALLS = 500
"""At the same pace, on a bare server."""
IDLE_SECONDS = 10.0
FLUSHED_SECONDS = 11.0
"""By then what was taken last is written."""
ON_DEVICE = 1000
HEARTBEAT = "/guardhouse.registry.v1.RegistrationService/Heartbeat"
NAMES = ("list_page_flatness", "heartbeat_cost", "delete_device_cost")


async def measure(bench: Bench) -> list[Figure]:
    figures: list[Figure] = []
    if bench.wants("list_page_flatness"):
        figures.append(await _pages(bench, *await bench.loaded(POSTGRESQL, bench.huge)))
    if bench.wants("heartbeat_cost"):
        figures.append(await _heartbeats(bench, *await bench.loaded(POSTGRESQL, bench.large)))
    if bench.wants("delete_device_cost"):
        figures.append(await _deletions(bench))
    return figures


async def _pages(bench: Bench, plane: Plane, registrations: Sequence[str]) -> Figure:
    database = Database(plane.settings.database("registry"), SystemClock(), "registry", pb.Change)
    bench.say("pages of registrations", bench.pairs(15))
    try:
        before = await database.read(
            lambda tx: store.registrations.find(tx, plane.organization_id, registrations[-PAGE - 1])
        )
        if before is None:
            raise AssertionError("unreachable: it has been loaded")
        first = Range(PAGE)
        last = Range(PAGE, after=before.place(Order.CREATE))
        sides = {
            side: Pages(database, plane.organization_id, page).take for side, page in (("last", last), ("first", first))
        }
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    finally:
        database.close()
    value, quartiles = summary(ratios(rounds, "last", "first", lambda sample: sample.seconds))
    times = {side: summary([each[side].seconds / PAGES for each in rounds])[0] for side in sides}
    absolute = {f"the {side} of {len(registrations):,}": f"{seconds * 1e3:.1f} ms" for side, seconds in times.items()}
    return Figure("list_page_flatness", value, quartiles, Target("≤", 1.2), "", absolute)


@dataclass
class Pages:
    """Reads one page again and again."""

    database: Database
    organization_id: str
    page: Range

    async def take(self) -> Sample:
        registrations = Registrations(self.database)
        began = time.perf_counter()
        for _ in range(PAGES):
            found = await registrations.page(self.organization_id, RegistrationFilter(LISTED), self.page)
            if len(found.rows) != PAGE:
                raise RuntimeError("the page is not full")
        return Sample(PAGES, time.perf_counter() - began)


async def _heartbeats(bench: Bench, plane: Plane, registrations: Sequence[str]) -> Figure:
    count, rounds = bench.size(BEATS), 1 if bench.quick else 5
    bench.say("heartbeats", rounds)
    dice = random.Random(0)
    async with plane:
        beats = Beats(plane)
        plane.spawn("session", BARE_HOST, "bare")
        await plane.channel("session", host=BARE_HOST).channel_ready()
        empty: list[float] = []
        await beats.send(dice.sample(registrations, min(count, 200)))
        await asyncio.sleep(FLUSHED_SECONDS)
        await plane.calm()
        costs: list[Cost] = []
        for _ in range(rounds):
            costs.append(await beats.cost(dice.sample(registrations, count)))
            empty.append(await beats.cost_of_empty_calls(bench.size(EMPTY_CALLS)))
            bench.tick()
    shares = [100 * each.whole * DEVICES_A_MINUTE / 60 for each in costs]
    value, quartiles = summary(shares)
    absolute = {
        "registry": f"{median(each.registry for each in costs) * 1e6:.0f} µs CPU each",
        "database": f"{median(each.database for each in costs) * 1e6:.0f} µs CPU each",
        "an empty call on a bare server, at that pace": f"{median(empty) * 1e6:.0f} µs CPU",
    }
    return Figure("heartbeat_cost", value, quartiles, Target("≤", 5.0), "%", absolute)


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU of a heartbeat."""

    registry: float
    database: float

    @property
    def whole(self) -> float:
        return self.registry + self.database


class Beats:
    """Devices that say that they live, each with its own token, at the pace of 10,000 a minute."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._call: Any = plane.channel("registry").unary_unary(HEARTBEAT)
        request, _ = messages()
        self._empty = request(organization_id=plane.organization_id).SerializeToString()

    async def cost(self, registrations: Sequence[str]) -> Cost:
        """What these cost, until the last of them is written, beyond what would be used anyway."""
        began = time.perf_counter()
        before = self._cpu()
        await asyncio.sleep(IDLE_SECONDS)
        idle = [(now - then) / (time.perf_counter() - began) for now, then in zip(self._cpu(), before, strict=True)]
        began, before = time.perf_counter(), self._cpu()
        await self.send(registrations)
        await asyncio.sleep(FLUSHED_SECONDS)
        seconds = time.perf_counter() - began
        used = [now - then - seconds * rate for now, then, rate in zip(self._cpu(), before, idle, strict=True)]
        return Cost(*(max(each, 0.0) / len(registrations) for each in used))

    async def cost_of_empty_calls(self, count: int) -> float:
        """Seconds of CPU that each takes of a bare server."""
        call: Any = self._plane.channel("session", host=BARE_HOST).unary_unary(PATH)
        pid = self._plane.pid("session", BARE_HOST)
        before = cpu_of([pid])

        async def make(_number: int) -> None:
            await call(self._empty, timeout=30)

        await _evenly(range(count), make)
        return (cpu_of([pid]) - before) / count

    async def send(self, registrations: Sequence[str]) -> None:
        await _evenly(registrations, self._beat)

    async def _beat(self, registration_id: str) -> None:
        request = pb.HeartbeatRequest(
            organization_id=self._plane.organization_id,
            registration_id=registration_id,
            os_version="6.1",
            client_version="1.0",
        )
        metadata = (("authorization", f"Bearer {bearer(registration_id)}"),)
        await self._call(request.SerializeToString(), metadata=metadata, timeout=30)

    def _cpu(self) -> tuple[float, float]:
        """Of the registry, and of the database. What else the services do goes on whether devices live or not."""
        server = self._plane.server
        if server is None:
            raise AssertionError("unreachable: the plane is on PostgreSQL")
        return self._plane.cpu_of("registry"), server.cpu()


async def _evenly(items: Sequence[T], make: Callable[[T], Awaitable[None]]) -> None:
    """One after the other begins, at the pace of 10,000 a minute, whether those before have ended or not."""
    began = time.perf_counter()
    waiting: list[asyncio.Future[None]] = []
    for number, item in enumerate(items):
        due = began + number * 60 / DEVICES_A_MINUTE
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        waiting.append(asyncio.ensure_future(make(item)))
    await asyncio.gather(*waiting)


async def _deletions(bench: Bench) -> Figure:
    server = bench.server()
    url = server.create("deletions_registry", "registry")
    database = Database(url, SystemClock(), "registry", pb.Change)
    bench.say("deletions of a device", bench.pairs(15))
    try:
        work = Deletions(database, server, bench.size(ON_DEVICE))
        sides = {"delete": work.delete, "insert": work.insert}
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    finally:
        database.close()
    value, quartiles = summary(ratios(rounds, "delete", "insert", lambda sample: sample.cost))
    absolute = {side: f"{summary([each[side].cost for each in rounds])[0] * 1e6:.0f} µs CPU a row" for side in sides}
    return Figure("delete_device_cost", value, quartiles, None, "", absolute)


class Deletions:
    """Devices with many registrations of a service token, in one organization."""

    def __init__(self, database: Database, server: PostgreSQL, count: int) -> None:
        self._database = database
        self._server = server
        self._count = count
        self._organization_id = ids.new_id(ids.ORGANIZATION, SystemClock().now())

    async def delete(self) -> Sample:
        device_id = self._new_device([self._row(number) for number in range(self._count)])
        caller = Caller("key", "bench", self._organization_id, ROLE_ADMIN)
        key = RequestKey(self._organization_id, caller.name, "DeleteDevice", secrets.token_hex(8), b"")
        cpu, began = self._cpu(), time.perf_counter()
        call = Call(caller, "/guardhouse.registry.v1.DeviceService/DeleteDevice", "bench", key)
        done = await Devices(self._database).delete(call, self._organization_id, device_id)
        if done.deleted != self._count:
            raise RuntimeError("the device had others")
        return Sample(self._count, time.perf_counter() - began, self._cpu() - cpu)

    async def insert(self) -> Sample:
        """As many rows, each in a transaction of its own."""
        device_id = self._new_device([])
        rows = [self._row(number) | {"device_id": device_id} for number in range(self._count)]
        cpu, began = self._cpu(), time.perf_counter()
        for row in rows:

            def write(tx: Transaction, row: Row = row) -> None:
                tx.execute(_INSERT, row)

            await self._database.write(write)
        return Sample(self._count, time.perf_counter() - began, self._cpu() - cpu)

    def _new_device(self, rows: Sequence[Row]) -> str:
        now = SystemClock().now()
        device_id = ids.new_id(ids.DEVICE, now)
        claims = dict.fromkeys(("os_version", "client_version", "serial_number", "model", "manufacturer"), "")
        of = {"organization_id": self._organization_id, "device_id": device_id}
        with self._database.engine.begin() as connection:
            names = {"hardware_id": device_id, "display_name": "server", "platform": pb.PLATFORM_LINUX}
            insert(
                connection,
                tables.device,
                [of | claims | names | {"create_time": now, "active_registrations": len(rows)}],
            )
            insert(connection, tables.registration, [row | of for row in rows])
        return device_id

    def _row(self, number: int) -> Row:
        now = SystemClock().now()
        return {
            "organization_id": self._organization_id,
            "registration_id": ids.new_id(ids.REGISTRATION, now),
            "state": State.ACTIVE,
            "key_type": pb.KEY_TYPE_CURVE25519,
            "public_key": secrets.token_bytes(32),
            "request_id": secrets.token_hex(8),
            "fingerprint": b"",
            "deadline": now,
            "service_token_id": "svt_" + "0" * 32,
            "lease_id": ids.new_id(ids.LEASE, now),
            "ipv4": f"100.96.{number >> 8}.{number & 255}",
            "ipv6": f"fd00::{number:x}",
            "authenticate_time": now,
            "authorize_revision": 1,
            "identity_token": "",
            "token_hash": b"",
            "create_time": now,
        }

    def _cpu(self) -> float:
        return time.process_time() + self._server.cpu()


_INSERT = tables.registration.insert()

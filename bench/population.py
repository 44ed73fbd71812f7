"""A stand-in for identity, registry and session, as a gateway with its key follows them: people, each with a device.

`python -m bench.servers population` sends as many as the organization that is asked for has by its name, with 1,000
policies and lists of 5,000 values, and changes of them when it is told to. What it sends is made as it goes, so that
the follower is what takes the time, and what it knows is small.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from bench import rules
from guardhouse.clock import SystemClock
from guardhouse.common.v1 import feed_pb2
from guardhouse.durations import DAY, SECOND
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.times import set_time

POLICIES = 1000
PAGE_EVENTS = 1000
CHANGES_A_SECOND = 1000
TICK_SECONDS = 0.01
CHURN = "/guardhouse.bench.v1.PopulationService/Churn"
CHECKS = ("disk_encryption", "firewall", "os_version", "screen_lock")

CONTRACTS: dict[str, Any] = {"identity": identity, "registry": registry, "session": session}


def organization_of(count: int) -> str:
    """The organization that has so many people."""
    return f"org_{count:032x}"


def registration_of(number: int) -> str:
    """The registration of one of them: all ids are as unlike one another as real ones."""
    return _id("reg", number)


def _id(prefix: str, number: int) -> str:
    return f"{prefix}_{(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1:032x}"


class Population:
    """The people of one organization, and who follows them."""

    def __init__(self, organization_id: str, policies: int = POLICIES) -> None:
        self._policies = policies
        self.organization_id = organization_id
        self._began = SystemClock().now() - DAY
        self._dice = random.Random(0)
        self.count = int(organization_id[4:], 16)
        self._revisions = {"identity": 1_000_000_000, "registry": 1_000_000_000, "session": 1_000}
        self._streams: dict[str, set[asyncio.Queue[bytes]]] = {service: set() for service in CONTRACTS}

    # What there is

    def events(self, service: str) -> Iterator[Any]:
        """Of a snapshot."""
        numbers = range(self.count)
        match service:
            case "identity":
                for number in numbers:
                    yield self._user(number)
                # Every second one has signed in again since.
                for number in numbers[::2]:
                    yield self._authentication(number)
            case "registry":
                yield from map(self._registration, numbers)
            case "session":
                for place, each in enumerate(rules.lists()):
                    each.list_id = f"lst_{place:032x}"
                    yield session.Event(list=each)
                for place, policy in enumerate(rules.policies(self._policies)):
                    policy.policy_id = f"pol_{place:032x}"
                    yield session.Event(policy=policy)

    def _user(self, number: int, revoked_revision: int = 0) -> identity.Event:
        event = identity.Event()
        record = event.user
        record.user.user_id = _id("usr", number)
        record.user.email = f"person{number}@example.com"
        record.user.display_name = f"Person {number}"
        record.user.groups.extend(("everyone", f"group{number % 100}", f"group{number // 100 % 100}"))
        record.revoked_revision = revoked_revision
        return event

    def _authentication(self, number: int) -> identity.Event:
        event = identity.Event()
        fact = event.authentication
        fact.registration_id = registration_of(number)
        fact.revision = self._revisions["identity"]
        set_time(fact.authenticate_time, self._began + 3600 * SECOND + self._dice.randrange(SECOND))
        return event

    def _registration(self, number: int) -> registry.Event:
        event = registry.Event()
        record = event.registration
        of = record.registration
        of.registration_id = registration_of(number)
        of.device_id = f"dev_{number:032x}"
        of.user_id = _id("usr", number)
        of.state = registry.REGISTRATION_STATE_ACTIVE
        of.ipv4 = address_of(number)
        of.ipv6 = f"fd00::{number >> 16:x}:{number & 0xFFFF:x}"
        set_time(record.authenticate_time, self._began + number)
        record.authorize_revision = 1000 + number
        record.posture.passed.extend(CHECKS[:3])
        record.posture.failed.extend(CHECKS[3:])
        return event

    # What becomes of it

    async def churn(self, seconds: float) -> None:
        """Somebody signs in again, is described anew, or a device says how it is, a thousand times a second."""
        loop = asyncio.get_running_loop()
        began, made = loop.time(), 0
        while (now := loop.time()) < began + seconds:
            due = int((now - began) * CHANGES_A_SECOND)
            self._change(due - made)
            made = due
            await asyncio.sleep(TICK_SECONDS)

    def _change(self, count: int) -> None:
        """So many, in one message of each feed, as whatever waits is sent."""
        made: dict[str, list[Any]] = {"identity": [], "registry": []}
        for _ in range(count):
            event: Any
            number, kind = self._dice.randrange(self.count), self._dice.randrange(4)
            if kind < 2:
                service, event = "registry", self._registration(number)
            else:
                service, event = "identity", self._authentication(number) if kind == 2 else self._user(number)
            self._revisions[service] += 1
            made[service].append(CONTRACTS[service].Change(revision=self._revisions[service], events=[event]))
        for service, changes in made.items():
            contract = CONTRACTS[service]
            message = contract.WatchResponse(
                organization_id=self.organization_id, changes=contract.Changes(changes=changes)
            ).SerializeToString()
            for stream in self._streams[service] if changes else ():
                stream.put_nowait(message)

    # Sending it

    async def watch(self, service: str, requests: AsyncIterator[Any], start: Any, context: Any) -> None:
        contract = CONTRACTS[service]
        known = {position.organization_id for position in start.positions}
        wanted = [each for each in start.organization_ids if each not in known]
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        for organization_id in wanted:
            events = self.events(service) if organization_id else iter(())
            position = feed_pb2.Position(epoch="bench", revision=self._revisions[service])
            if organization_id:
                self._streams[service].add(waiting)
            for page in _pages(contract, organization_id, events):
                await context.write(page)
                # The other feeds have their turn.
                await asyncio.sleep(0)
            end = contract.WatchResponse(organization_id=organization_id)
            end.snapshot_end.position.CopyFrom(position)
            await context.write(end.SerializeToString())
        self._streams[service].add(waiting)

        async def pong() -> None:
            async for request in requests:
                answer = contract.WatchResponse()
                answer.pong.nonce = request.ping.nonce
                waiting.put_nowait(answer.SerializeToString())

        ponging = asyncio.create_task(pong())
        try:
            while True:
                await context.write(await waiting.get())
        finally:
            self._streams[service].discard(waiting)
            ponging.cancel()


def address_of(number: int) -> str:
    return ".".join(map(str, (0x64400000 + number).to_bytes(4, "big")))


def _pages(contract: Any, organization_id: str, events: Iterator[Any]) -> Iterator[bytes]:
    page: list[Any] = []
    for event in events:
        page.append(event)
        if len(page) == PAGE_EVENTS:
            yield _page(contract, organization_id, page)
            page = []
    yield _page(contract, organization_id, page)


def _page(contract: Any, organization_id: str, events: list[Any]) -> bytes:
    message = contract.WatchResponse(organization_id=organization_id, snapshot=contract.Snapshot(events=events))
    raw: bytes = message.SerializeToString()
    return raw


def handlers() -> list[grpc.GenericRpcHandler]:
    """The three Watch methods, and the one that has changes made."""
    populations: dict[str, Population] = {}

    def watch(service: str) -> Any:
        async def serve(requests: AsyncIterator[Any], context: Any) -> None:
            start = (await anext(requests)).start
            organization_id = start.organization_ids[-1]
            if organization_id not in populations:
                populations[organization_id] = Population(organization_id)
            await populations[organization_id].watch(service, requests, start, context)

        return grpc.stream_stream_rpc_method_handler(serve, CONTRACTS[service].WatchRequest.FromString)

    async def churn(seconds: bytes, _context: Any) -> bytes:
        await asyncio.gather(*(each.churn(float(seconds)) for each in populations.values()))
        return b""

    made = [
        grpc.method_handlers_generic_handler(
            f"guardhouse.{service}.v1.{service.capitalize()}FeedService", {"Watch": watch(service)}
        )
        for service in CONTRACTS
    ]
    name, method = CHURN[1:].split("/")
    return [*made, grpc.method_handlers_generic_handler(name, {method: grpc.unary_unary_rpc_method_handler(churn)})]

"""Ipam on a database of its own, with the registry's part played by the test."""

import asyncio
import secrets
from typing import Any

import sqlalchemy as sa

from guardhouse.durations import SECOND
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, SERVICE_TOKEN, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.times import to_timestamp
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.database import Database, Transaction, change
from guardhouse_services.directory import Directory
from guardhouse_services.follower import Effects
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.ip_profiles import NOBODY, Holder
from guardhouse_services.ipam.domain.leases import Lease, State, parse_history, parse_quarantine
from guardhouse_services.ipam.domain.subnets import parse_network
from guardhouse_services.ipam.store import tables
from guardhouse_services.ipam.usecases import Ipam, apply, missing, seen, snapshot
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock

HOUR = 3600
EPOCH = "epoch"


def new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


class Fresh:
    """Stands in for the follower, and its proof that the feed is applied."""

    def __init__(self) -> None:
        self.value = True
        self.followed = asyncio.Event()

    async def run(self) -> None:
        self.followed.set()
        await asyncio.Event().wait()

    async def fresh(self, _since: int) -> bool:
        return self.value


class World:
    """The service under test, and a registry that says whatever the test wants it to."""

    def __init__(self, url: str, clock: FakeClock, network: str = "100.96.0.0/12", quarantine: str = "1h") -> None:
        self.clock = clock
        self.organization = new(ORGANIZATION)
        self.database = Database(url, clock, "ipam", pb.Change)
        migrate(self.database.engine, "ipam")
        self.directory = Directory(clock)
        self.fresh = Fresh()
        self.directory.follower = self.fresh  # type: ignore[assignment]
        self.outcomes: dict[str, registry.ResolveIntentResponse | Exception] = {}
        self.asked: list[str] = []
        self.ipam = self.restart(network, quarantine)
        self.effects = Effects(self.database, "registry", apply, seen, missing)
        self.position = 0

    def restart(self, network: str, quarantine: str = "1h", history: str = "8760h") -> Ipam:
        """The service with other settings."""
        self.ipam = Ipam(
            self.clock,
            self.database,
            self.directory,
            parse_network(network),
            parse_quarantine(quarantine),
            parse_history(history),
            self._resolve_intent,
        )
        self.ipam.addresses.follower = self.fresh  # type: ignore[assignment]
        return self.ipam

    async def start(self) -> None:
        await self.add_organization(self.organization)
        await self.resync()

    async def add_organization(self, organization_id: str) -> None:
        view = self.directory.view
        event = identity_pb2.Event(organization=identity_pb2.Organization(organization_id=organization_id))
        if "" not in view.states:
            await view.begin("")
            await view.end("", (EPOCH, 0))
        await view.change("", [event], (EPOCH, 0), (EPOCH, 0))

    # What the registry does

    async def reserve(
        self,
        intent: str = "",
        device: str = "",
        holder: str = "",
        organization_id: str = "",
        identity: Holder = NOBODY,
    ) -> Lease:
        organization_id = organization_id or self.organization
        return await self.ipam.addresses.reserve_addresses(
            self.call(organization_id),
            organization_id,
            intent or new(REGISTRATION),
            device or new(DEVICE),
            holder or new(USER),
            identity,
        )

    async def release(self, intent: str) -> None:
        await self.ipam.addresses.release_addresses(self.call(self.organization), self.organization, intent)

    def call(self, organization_id: str) -> Call:
        caller = Caller("service", "registry")
        return Call(caller, "Method", "trace", RequestKey(organization_id, caller.name, "Method", "", b""))

    async def hold(self, device: str = "", holder: str = "") -> Lease:
        """An enrollment that became active."""
        lease = await self.reserve(device=device, holder=holder)
        await self.change(self.record(name(lease), lease))
        return lease

    def record(self, registration_id: str, lease: Lease, **fields: Any) -> registry.Event:
        made = registry.Registration(
            registration_id=registration_id,
            state=registry.REGISTRATION_STATE_ACTIVE,
            create_time=to_timestamp(self.clock.now()),
            **fields,
        )
        return registry.Event(registration=registry.RegistrationRecord(registration=made, lease_id=lease.lease_id))

    async def change(self, *events: registry.Event) -> None:
        """The next change of the registry's feed."""
        before, self.position = (EPOCH, self.position), self.position + 1
        await self.effects.change(self.organization, events, before, (EPOCH, self.position))

    async def resync(self, *events: registry.Event, replayed: list[list[registry.Event]] | None = None) -> None:
        """A snapshot of the registry's feed, and the changes since it began."""
        await self.effects.begin(self.organization)
        await self.effects.page(self.organization, events)
        for each in replayed or ():
            await self.effects.page(self.organization, each)
        await self.effects.end(self.organization, (EPOCH, self.position))

    def answers(self, registration_id: str, outcome: int, lease_id: str = "") -> None:
        self.outcomes[registration_id] = registry.ResolveIntentResponse(
            outcome=outcome,  # type: ignore[arg-type]
            lease_id=lease_id,
        )

    async def _resolve_intent(self, _organization_id: str, intent_id: str) -> registry.ResolveIntentResponse:
        self.asked.append(intent_id)
        answer = self.outcomes.get(intent_id, registry.ResolveIntentResponse(outcome=registry.INTENT_OUTCOME_PENDING))
        if isinstance(answer, Exception):
            raise answer
        return answer

    # What is so

    async def lease(self, lease: Lease) -> Lease | None:
        """The lease as it is now."""
        return await self.database.read(lambda tx: store.leases.find_lease(tx, self.organization, lease.lease_id))

    async def state(self, lease: Lease) -> State | None:
        found = await self.lease(lease)
        return found.state if found else None

    async def leases(self) -> list[sa.Row[Any]]:
        query = sa.select(tables.lease).where(tables.lease.c.organization_id == self.organization)
        return list(await self.database.read(lambda tx: tx.execute(query).all()))

    async def history(self) -> list[sa.Row[Any]]:
        query = sa.select(tables.holding).where(tables.holding.c.organization_id == self.organization)
        query = query.order_by(tables.holding.c.hold_time, tables.holding.c.registration_id)
        return list(await self.database.read(lambda tx: tx.execute(query).all()))

    async def events(self) -> list[tuple[str, str]]:
        """The feed so far: each event's kind and registration."""
        query = sa.select(change.c.payload).where(change.c.organization_id == self.organization)
        payloads = await self.database.read(lambda tx: tx.execute(query.order_by(change.c.revision)).scalars().all())
        events = [event for payload in payloads for event in pb.Change.FromString(payload).events]
        return [(kind := event.WhichOneof("kind") or "", getattr(event, kind).registration_id) for event in events]

    async def snapshot(self) -> dict[str, str]:
        """The feed's snapshot: the holder of each address."""

        def read(tx: Transaction) -> dict[str, str]:
            events, _ = snapshot(tx, self.organization, "", 1000)
            return {event.lease.ipv4: event.lease.registration_id for event in events}

        return await self.database.read(read)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def close(self) -> None:
        self.database.close()


def name(lease: Lease) -> str:
    """The registration that a lease was reserved for."""
    assert lease.registration_id is not None
    return lease.registration_id


def deleted(registration_id: str) -> registry.Event:
    return registry.Event(registration_deleted=registration_id)


def machine() -> str:
    return new(SERVICE_TOKEN)


def microseconds(seconds: float) -> int:
    return round(seconds * SECOND)

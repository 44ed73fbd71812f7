"""What a pair of addresses costs in a /16 that is nearly full, and in one that is nearly empty.

Measured is the transaction of ReserveAddresses, from its first statement to its last: the flush behind it takes the
same time whatever the network holds, and would hide a difference. Pairs come and go while it is measured, each given
back resting until its quarantine is over, because churn is what makes an allocator slow. Every size and pattern is an
organization of the same database.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bench.figure import Figure, Target, percentile, resampled
from bench.loaders import insert_space, without_indexes
from bench.run import Bench
from guardhouse import ids
from guardhouse.clock import SystemClock
from guardhouse.durations import DAY, SECOND
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.times import to_timestamp
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.config import Settings
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import DirectoryState
from guardhouse_services.ipam.__main__ import build
from guardhouse_services.ipam.domain.subnets import new_space
from guardhouse_services.ipam.store import tables
from guardhouse_services.ipam.usecases import apply
from guardhouse_services.run import prepare

NETWORK = "10.20.0.0/16"
FULL, EMPTY = 0.99, 0.01
PATTERNS = ("contiguous", "random")
FILLED = (tables.lease, tables.holding)
CYCLES = 1500
WARM_UP = 50
REGISTRY, METHOD = Caller("service", "registry"), "/guardhouse.ipam.v1.AddressService/ReserveAddresses"
TARGET = Target("≤", 1.5)
SHARES = {"p50": 0.5, "p99": 0.99}
NAMES = tuple(f"allocate_flatness_{pattern}_{name}" for pattern in PATTERNS for name in SHARES)


class MovingClock:
    """A second passes with each allocation, so that the quarantine of ten minutes ends while it is measured."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._ahead = 0

    def now(self) -> int:
        return self._clock.now() + self._ahead

    def steady(self) -> int:
        return self._clock.steady() + self._ahead

    def tick(self, seconds: int = 1) -> None:
        self._ahead += seconds * SECOND


@dataclass
class Network:
    """An organization's /16, filled to a share in a pattern."""

    organization_id: str
    pattern: str
    share: float
    held: list[str] = field(default_factory=list)
    """The registrations that hold a pair."""
    times: list[float] = field(default_factory=list)
    """Seconds of the transactions."""


async def measure(bench: Bench) -> list[Figure]:
    clock, server = MovingClock(), bench.server()
    url = server.create("allocation_ipam", "ipam")
    settings = Settings(var=bench.folder() / "var", database_url=url, ipv4_subnet=NETWORK, quarantine="10m")
    prepare(settings, clock)
    node = build(settings, clock)
    with node.database.engine.begin() as connection, without_indexes(connection, *FILLED):
        networks = [fill(connection, pattern, share, clock) for pattern in PATTERNS for share in (FULL, EMPTY)]
    server.tidy("allocation_ipam")
    installation = node.directory.view.states[""] = DirectoryState("")
    for network in networks:
        installation.organizations[network.organization_id] = identity_pb2.Organization()
    cycles = bench.size(CYCLES)
    bench.say("allocations", cycles)
    churn = Churn(node.database, node.servicer, clock)
    try:
        for cycle in range(WARM_UP + cycles):
            # One after the other, so that whatever else the machine does hits all of them alike.
            for network in networks if cycle % 2 == 0 else reversed(networks):
                seconds = await churn.run(network)
                if cycle >= WARM_UP:
                    network.times.append(seconds)
            clock.tick()
            bench.tick()
    finally:
        await node.peers.close()
        node.database.close()
    return list(_figures({(network.pattern, network.share): network.times for network in networks}))


class Churn:
    """Reserves a pair, has it held, and has another one given back."""

    def __init__(self, database: Database, servicer: Any, clock: MovingClock) -> None:
        self._database = database
        self._servicer = servicer
        self._clock = clock
        self._dice = random.Random(0)
        self._seconds = 0.0
        self.seconds_of_both = 0.0
        """Of the newest pair: to reserve it, and to have it held and another one given back."""
        self._run = database.run
        database.run = self._timed

    async def _timed(self, kind: str, function: Callable[[Transaction], Any], validate_only: bool) -> Any:
        def work(tx: Transaction) -> Any:
            began = time.perf_counter()
            result = function(tx)
            self._seconds = time.perf_counter() - began
            return result

        return await self._run(kind, work, validate_only)

    async def run(self, network: Network) -> float:
        """The seconds of the reservation."""
        now = self._clock.now()
        made, lease = await self._reserve(network, now)
        seconds = self._seconds
        await self._apply(network, [self._held(made, lease, now), self._given_back(network, made)])
        self.seconds_of_both = seconds + self._seconds
        return seconds

    async def run_together(self, network: Network, count: int) -> None:
        """So many at a time."""
        now = self._clock.now()
        reserved = await asyncio.gather(*(self._reserve(network, now) for _ in range(count)))
        held = [self._held(made, lease, now) for made, lease in reserved]
        await self._apply(network, [*held, *(self._given_back(network, made) for made, _ in reserved)])

    async def _reserve(self, network: Network, now: int) -> tuple[str, ipam_pb2.ReserveAddressesResponse]:
        made = ids.new_id(ids.REGISTRATION, now)
        request = ipam_pb2.ReserveAddressesRequest(
            organization_id=network.organization_id,
            intent_id=made,
            device_id=ids.new_id(ids.DEVICE, now),
            user_id=ids.new_id(ids.USER, now),
        )
        key = RequestKey(network.organization_id, REGISTRY.name, METHOD, "", b"")
        return made, await self._servicer.ReserveAddresses(request, Call(REGISTRY, METHOD, "", key))

    def _held(self, made: str, lease: ipam_pb2.ReserveAddressesResponse, now: int) -> registry_pb2.Event:
        registration = registry_pb2.Registration(registration_id=made, create_time=to_timestamp(now))
        return registry_pb2.Event(
            registration=registry_pb2.RegistrationRecord(registration=registration, lease_id=lease.lease_id)
        )

    def _given_back(self, network: Network, made: str) -> registry_pb2.Event:
        at = self._dice.randrange(len(network.held))
        gone, network.held[at] = network.held[at], made
        return registry_pb2.Event(registration_deleted=gone)

    async def _apply(self, network: Network, events: list[registry_pb2.Event]) -> None:
        await self._database.write(lambda tx: apply(tx, network.organization_id, events))


def fill(connection: Connection, pattern: str, share: float, clock: MovingClock, network: str = NETWORK) -> Network:
    """Contiguously: the lowest are held, and the others were never given out. At random: all were, and the others rest
    since long ago."""
    now = clock.now()
    filled = Network(ids.new_id(ids.ORGANIZATION, now), pattern, share)
    space = new_space(network, secrets.randbits(56))
    addresses = IPv4Network(network).num_addresses - 2
    held = round(addresses * share)
    given = held if pattern == "contiguous" else addresses
    insert_space(
        connection,
        filled.organization_id,
        replace(space, next_ipv4=space.next_ipv4 + given),
        [now - 2 * DAY + place for place in range(held)],
    )
    about = {"organization_id": filled.organization_id, "held": held, "began": now - 2 * DAY, "rested": now - DAY}
    about |= {
        "first": space.next_ipv4,
        "last": space.next_ipv4 + given - 1,
        "ipv6": space.ipv6,
        "shuffle": given > held,
    }
    # However long it takes: it is nothing that a service does.
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    connection.execute(sa.text("SELECT setseed(0.5)"))
    connection.execute(_LEASES, about)
    filled.held = list(connection.execute(_HOLDINGS, about).scalars())
    return filled


# A network of a million pairs is written by the database itself: sent row by row it would take a minute. The ids are as
# guardhouse.ids makes them, a microsecond after one another.
_LEASES = sa.text("""
    INSERT INTO lease (
        organization_id, ipv4, ipv6, lease_id, state, registration_id, device_id, holder_id,
        reserve_time, hold_time, release_time, rest_time
    )
    SELECT :organization_id, ipv4, host(CAST(:ipv6 AS inet) + ipv4), 'lse_' || id,
        CASE WHEN is_held THEN 'HELD' ELSE 'RESTING' END,
        CASE WHEN is_held THEN 'reg_' || id END, 'dev_' || id, 'usr_' || id, time,
        CASE WHEN is_held THEN time END,
        CASE WHEN NOT is_held THEN :rested + place END,
        CASE WHEN NOT is_held THEN :rested + place END
    FROM (
        SELECT ipv4, place, place < :held AS is_held, time,
            lpad(to_hex(time / 1000), 12, '0') || '7' || lpad(to_hex(time % 1000 * 4096 / 1000), 3, '0')
            || '8' || left(md5(random()::text), 15) AS id
        FROM (
            SELECT ipv4, place, :began + place AS time
            FROM (
                SELECT ipv4, row_number() OVER (ORDER BY CASE WHEN :shuffle THEN random() ELSE ipv4 END) - 1 AS place
                FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS ipv4
            )
        )
    )
    ORDER BY place
""")
_HOLDINGS = sa.text("""
    INSERT INTO holding (organization_id, lease_id, registration_id, device_id, holder_id, ipv4, ipv6, hold_time)
    SELECT organization_id, lease_id, registration_id, device_id, holder_id, ipv4, ipv6, hold_time
    FROM lease
    WHERE organization_id = :organization_id AND state = 'HELD'
    RETURNING registration_id
""")


def _figures(times: dict[tuple[str, float], list[float]]) -> Iterator[Figure]:
    for pattern in PATTERNS:
        full, empty = times[pattern, FULL], times[pattern, EMPTY]
        for name, share in SHARES.items():

            def ratio(above: list[float], below: list[float], share: float = share) -> float:
                return percentile(above, share) / percentile(below, share)

            absolute = {
                f"{filled:.0%} full": f"{percentile(times[pattern, filled], share) * 1e3:.2f} ms"
                for filled in (FULL, EMPTY)
            }
            quartiles = resampled(ratio, full, empty)
            yield Figure(f"allocate_flatness_{pattern}_{name}", ratio(full, empty), quartiles, TARGET, "", absolute)

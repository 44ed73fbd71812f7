"""Three replicas of ipam on one PostgreSQL, and 64 who fill a /24, delete and come again (I-01, I-02, decision 25)."""

import asyncio
import copy
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from guardhouse.durations import SECOND
from guardhouse.errors import SubnetExhausted
from guardhouse.ids import DEVICE, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse_services.database import Database
from guardhouse_services.ipam.domain.leases import Lease, State
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.ipam.world import World, deleted, name, new

pytestmark = [
    pytest.mark.parametrize("engine", ["postgresql"], indirect=True),
    pytest.mark.long,
    pytest.mark.timeout(240),
]

CLIENTS, SECONDS = 64, 60
NETWORK, USABLE = "10.9.8.0/24", 254
QUARANTINE = 600
HASTE = 120
"""Seconds that pass in one."""
SAMPLE_SECONDS = 0.1

Person = tuple[str, str]

# Beside the unique indexes, which are the authority: what followers are told, and what stays as history.
_TWICE = """
    SELECT ipv4 FROM holding WHERE release_time IS NULL GROUP BY organization_id, ipv4 HAVING count(*) > 1
    UNION SELECT ipv4 FROM lease WHERE state <> 'RESTING' GROUP BY organization_id, ipv4 HAVING count(*) > 1
    UNION SELECT one.ipv4 FROM holding one JOIN holding other USING (organization_id, ipv4)
    WHERE one.lease_id < other.lease_id AND one.hold_time < coalesce(other.release_time, 9e18)
    AND other.hold_time < coalesce(one.release_time, 9e18)
"""


@pytest.fixture
async def worlds(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[list[World]]:
    """The same organization, through three replicas."""
    url = database_url("ipam")
    first = World(url, clock, network=NETWORK, quarantine="10m")
    await first.start()
    found = [first]
    for _ in range(2):
        other = copy.copy(first)
        other.database = Database(url, clock, "ipam", pb.Change)
        other.restart(NETWORK, "10m")
        found.append(other)
    yield found
    for world in found:
        world.close()


@dataclass
class Crowd:
    """What the clients were told: who has which address, and who had it until when."""

    worlds: list[World]
    chance: random.Random = field(default_factory=lambda: random.Random(13))
    used: dict[int, Person] = field(default_factory=dict)
    released: dict[int, tuple[int, Person]] = field(default_factory=dict)
    feed: asyncio.Lock = field(default_factory=asyncio.Lock)
    reserved: int = 0
    refused: int = 0
    again: int = 0
    samples: int = 0
    over: bool = False

    async def come_and_go(self) -> None:
        people = [(new(DEVICE), new(USER)) for _ in range(8)]
        mine: dict[Person, Lease] = {}
        while not self.over:
            person = self.chance.choice(people)
            if person in mine and self.chance.random() < 0.6:
                await self.leave(person, mine.pop(person))
                if self.chance.random() < 0.7:
                    # Most do not come again.
                    people[people.index(person)] = (new(DEVICE), new(USER))
            elif person not in mine and (lease := await self.enroll(person)) is not None:
                mine[person] = lease
            await asyncio.sleep(self.chance.uniform(0, 0.05))
        for person, lease in mine.items():
            await self.leave(person, lease)

    async def enroll(self, person: Person) -> Lease | None:
        world = self.chance.choice(self.worlds)
        try:
            lease = await world.reserve("", *person)
        except SubnetExhausted:
            self.refused += 1
            return None
        assert lease.ipv4 not in self.used, "an address of somebody else"
        self.used[lease.ipv4] = person
        self.reserved += 1
        time, before = self.released.pop(lease.ipv4, (0, person))
        if before != person:
            self.again += 1
            assert lease.reserve_time - time >= (QUARANTINE - 1) * SECOND, "an address in its quarantine"
        if self.chance.random() < 0.2:
            # It comes to nothing. Whoever had it before is remembered on.
            del self.used[lease.ipv4]
            if before != person:
                self.released[lease.ipv4] = (time, before)
            await self.chance.choice(self.worlds).release(name(lease))
            return None
        async with self.feed:
            await self.worlds[0].change(self.worlds[0].record(name(lease), lease))
        return lease

    async def leave(self, person: Person, lease: Lease) -> None:
        async with self.feed:
            # It may go to somebody as soon as the transaction is over.
            del self.used[lease.ipv4]
            self.released[lease.ipv4] = (self.worlds[0].clock.now(), person)
            await self.worlds[0].change(deleted(name(lease)))

    async def watch(self) -> None:
        while not self.over:
            found = await self.worlds[self.samples % 3].database.read(lambda tx: tx.execute(sa.text(_TWICE)).all())
            assert found == []
            self.samples += 1
            await asyncio.sleep(SAMPLE_SECONDS)

    async def hasten(self) -> None:
        while not self.over:
            await asyncio.sleep(1)
            self.worlds[0].advance(HASTE)


async def test_64_clients_over_three_replicas_share_a_24_for_a_minute(worlds: list[World]) -> None:
    """I-01, I-02: no address has two holders, none goes to somebody else in its quarantine, and none is lost."""
    crowd = Crowd(worlds)
    work = [crowd.watch(), crowd.hasten(), *(crowd.come_and_go() for _ in range(CLIENTS))]
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
        await asyncio.sleep(SECONDS)
        crowd.over = True
    # A run in which little happened proves nothing.
    assert crowd.samples > SECONDS
    assert min(crowd.reserved, crowd.refused, crowd.again) > 100
    assert crowd.used == {}
    rows = await worlds[1].leases()
    assert {row.state for row in rows} == {State.RESTING}
    assert len(rows) <= USABLE
    worlds[0].advance(2 * QUARANTINE)
    got = await asyncio.gather(*(worlds[number % 3].reserve() for number in range(USABLE)))
    assert len({lease.ipv4 for lease in got}) == len({lease.ipv6 for lease in got}) == USABLE
    with pytest.raises(SubnetExhausted):
        await worlds[2].reserve()

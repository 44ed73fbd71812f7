"""Seats and ID tokens over three replicas of identity on one PostgreSQL (invariants I-04 and I-08).

Each race is run a second time with the database's check taken out, in the way that it is usually forgotten: what must
not happen is seen then, so the race would show it.
"""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from guardhouse.errors import IdTokenInvalid, SeatLimitBelowUse, SeatsExhausted
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.store.tables import seat_pool, used_token
from guardhouse_services.identity.usecases import Identity
from guardhouse_services.identity.usecases.authentications import Recorded
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.identity.world import World, outcome

pytestmark = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)

SAMPLE_SECONDS = 0.01
LONG = [(64, 1), (64, 100), (256, 1), (256, 10), (256, 100)]
RACES = [(64, 10), *(pytest.param(*race, marks=[pytest.mark.long, pytest.mark.timeout(240)]) for race in LONG)]


@pytest.fixture
async def worlds(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[list[World]]:
    """The same organization, through three replicas."""
    url = database_url("identity")
    first = World(url, clock)
    await first.start()
    found = [first]
    for _ in range(2):
        other = copy.copy(first)
        other.database = Database(url, clock, "identity", pb.Change)
        other.identity = Identity(clock, other.database, MasterKey(b"k" * 32), first._verify, first._resolve)
        found.append(other)
    yield found
    for world in found:
        world.close()


@dataclass
class Race:
    """What came of it."""

    admitted: int
    refused: int
    purchased: int
    samples: int = 0
    overtaken: list[tuple[int, int]] = field(default_factory=list)
    """What was used of what was purchased, whenever it was more."""


async def race(worlds: list[World], people: int, seats: int) -> Race:
    """So many sign in for the first time, through all replicas, while somebody buys as many seats again, one by one."""
    await worlds[0].limit(seats)
    found = Race(0, 0, 2 * seats)
    going = True

    async def sample() -> None:
        while going:
            usage = await worlds[2].seats()
            found.samples += 1
            if usage.purchased is not None and usage.used > usage.purchased:
                found.overtaken.append((usage.used, usage.purchased))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def buy() -> None:
        for more in range(1, seats + 1):
            await worlds[more % 3].limit(seats + more)

    sampling = asyncio.create_task(sample())
    logins = (outcome(worlds[number % 3].log_in(f"person{number}")) for number in range(people))
    results, _ = await asyncio.gather(asyncio.gather(*logins), buy())
    going = False
    await sampling
    kinds = Counter(type(result) for result in results)
    assert set(kinds) <= {Recorded, SeatsExhausted}
    found.admitted, found.refused = kinds[Recorded], kinds[SeatsExhausted]
    return found


@pytest.mark.parametrize(("people", "seats"), RACES)
async def test_first_logins_never_take_more_than_is_purchased(worlds: list[World], people: int, seats: int) -> None:
    """I-04: nobody sees more seats in use than there are, while the limit is raised; who is refused may come again."""
    found = await race(worlds, people, seats)
    assert found.overtaken == []
    assert found.samples > 5
    assert min(people, seats) <= found.admitted <= min(people, found.purchased)
    assert found.admitted + found.refused == people
    assert await worlds[1].used() == found.admitted == await worlds[1].count("users")
    await asyncio.gather(*(outcome(worlds[number % 3].log_in(f"person{number}")) for number in range(people)))
    assert await worlds[0].used() == min(people, found.purchased)


async def test_the_race_for_seats_shows_a_check_that_is_missing(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-04: who counts first and takes then takes too many, where the database has no say."""

    def count_and_take(tx: Transaction, organization_id: str) -> None:
        if store.organizations.seats(tx, organization_id).available == 0:
            raise SeatsExhausted("all are taken")
        taken = seat_pool.update().where(seat_pool.c.organization_id == organization_id)
        tx.execute(taken.values(used=seat_pool.c.used + 1))

    monkeypatch.setattr(store.organizations, "take_seat", count_and_take)
    await worlds[0].database.write(
        lambda tx: tx.execute(sa.text("ALTER TABLE seat_pool DROP CONSTRAINT seat_pool_bounds"))
    )
    assert await shown(lambda: _overtaken(worlds))


async def _overtaken(worlds: list[World]) -> bool:
    organization_id = await worlds[0].add_organization()
    for world in worlds:
        world.organization = organization_id
    try:
        found = await race(worlds, 64, 5)
    except SeatLimitBelowUse:
        # Whoever buys finds that more are used than there will be.
        return True
    return found.admitted > found.purchased or bool(found.overtaken)


async def winners(worlds: list[World]) -> int:
    """How many of 64 racers, each with a request of its own, get in with one ID token."""
    token = worlds[0].sign_in("ada")
    results = await asyncio.gather(*(outcome(worlds[number % 3].log_in(token, f"r{number}")) for number in range(64)))
    kinds = Counter(type(result) for result in results)
    assert set(kinds) <= {Recorded, IdTokenInvalid}
    return kinds[Recorded]


async def test_64_racers_with_one_id_token_have_one_winner(worlds: list[World]) -> None:
    """I-08."""
    assert await winners(worlds) == 1


async def test_the_race_for_a_token_shows_a_check_that_is_missing(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-08: who looks first and writes then lets several in, where the database has no say."""

    def look_and_use(tx: Transaction, organization_id: str, token_hash: bytes, use: str) -> None:
        query = sa.select(used_token.c.use).where(used_token.c.token_hash == token_hash)
        if any(found != use for found in tx.execute(query).scalars()):
            raise IdTokenInvalid(detail="replayed")
        row = {"organization_id": organization_id, "token_hash": token_hash, "use": use, "use_time": tx.now}
        tx.execute(used_token.insert().values(row))

    monkeypatch.setattr(store.intents, "use_token", look_and_use)
    await worlds[0].database.write(
        lambda tx: tx.execute(sa.text("ALTER TABLE used_token DROP CONSTRAINT used_token_pkey"))
    )

    async def several() -> bool:
        return await winners(worlds) > 1

    assert await shown(several)


async def forget(worlds: list[World], check: str) -> None:
    await worlds[0].database.write(lambda tx: tx.execute(sa.text(check)))


async def shown(happens: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it happens in one of ten races."""
    for _ in range(10):
        if await happens():
            return True
    return False

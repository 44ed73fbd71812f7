"""How a subnet's pairs are used: that pins are counted, what asking costs, and what Prometheus is told."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse.durations import DAY, SECOND
from guardhouse.errors import SubnetExhausted, SubnetInUse
from guardhouse.ids import DEVICE, LEASE, REGISTRATION, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.ipam import metrics, store
from guardhouse_services.ipam.domain.leases import Lease, State
from guardhouse_services.ipam.store import tables
from guardhouse_services.metrics import Gauge
from guardhouse_services.paging import Page
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.ipam.test_mutations import at
from tests.guardhouse_services.ipam.test_pins import fill, pin, shown, unpin
from tests.guardhouse_services.ipam.test_subnets import create, delete, listed
from tests.guardhouse_services.ipam.test_subnets import shown as subnet_shown
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new
from tests.guardhouse_services.plans import cost_of

QUARANTINE = HOUR * SECOND
FULL_SECONDS = 0.05
"""I-01."""
TRIES = 20
FEW, MANY = 100, 5000


@pytest.fixture
def desk(world: World) -> Desk:
    return at(world)


async def gauges(world: World, per_organization: bool = False) -> Mapping[str, Gauge]:
    read = metrics.figures(QUARANTINE)
    return {each.name: each for each in await world.database.read(lambda tx: read(tx, per_organization))}


async def capacity(desk: Desk, world: World, subnet: pb.Subnet) -> dict[str, int]:
    """By states, those of which there are any; the states add up."""
    found = (await subnet_shown(desk, world, subnet)).capacity
    counts = {state: int(getattr(found, state)) for state in metrics.STATES}
    assert sum(counts.values()) == found.total
    return {state: count for state, count in counts.items() if count}


async def test_what_pins_keep_is_not_free(world: World, desk: Desk) -> None:
    """Decision 25: nobody else ever gets it. What is held of it, or rests, is not counted twice."""
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    device, user = new(DEVICE), new(USER)
    await pin(world, "10.1.0.9", device, user)
    held = await world.hold()
    excluded = await pin(world, "10.1.0.0/29")
    # One of the eight names the network, and one is held.
    assert await capacity(desk, world, lab) == {"active": 1, "pinned": 6 + 1, "free": 254 - 8}
    kept = await world.hold(device, user)
    assert await capacity(desk, world, lab) == {"active": 2, "pinned": 6, "free": 254 - 8}
    await world.change(deleted(name(held)), deleted(name(kept)))
    assert await capacity(desk, world, lab) == {"quarantined": 2, "pinned": 6, "free": 254 - 8}
    world.advance(2 * HOUR)
    assert await capacity(desk, world, lab) == {"pinned": 8, "free": 254 - 8}
    await unpin(world, excluded.pin_id)
    assert await capacity(desk, world, lab) == {"pinned": 1, "free": 253}


async def test_a_subnet_runs_out_sooner_when_much_of_it_is_pinned(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    for _ in range(10):
        await world.hold()
    before = (await subnet_shown(desk, world, lab)).capacity.exhaust_time
    await pin(world, "10.1.0.128/25")
    after = (await subnet_shown(desk, world, lab)).capacity.exhaust_time
    # Ten a day: 244 are free, then 127 less.
    assert before.seconds - after.seconds == pytest.approx(12.7 * 86400, abs=10)


async def test_a_subnet_with_pins_is_not_deleted(world: World, desk: Desk) -> None:
    """Decision 25: a pin would be a promise that nobody keeps. The refusal says which there are."""
    lab = await create(desk, world, "10.1.0.0/24")
    made = await pin(world, "10.1.0.7", new(DEVICE), new(USER))
    with pytest.raises(SubnetInUse, match="unpin them first") as error:
        await delete(desk, world, lab)
    assert error.value.metadata == {"pin_ids": made.pin_id}
    await unpin(world, made.pin_id)
    await delete(desk, world, lab)


async def test_what_is_excluded_is_walked_over_once(small: World) -> None:
    """performance.md: a subnet that is full but for what rests under a pin says so without looking at that again."""
    leases = [await small.hold() for _ in range(14)]
    await small.change(*(deleted(name(lease)) for lease in leases))
    made = await pin(small, "10.9.8.0/28")
    small.advance(2 * HOUR)
    seen: list[int] = []

    def count(tx: Transaction) -> int:
        (subnet,) = store.subnets.of_space(tx, small.organization, store.subnets.read_space(tx, small.organization))  # type: ignore[arg-type]
        return len(store.leases.find_rested(tx, small.organization, subnet, tx.now - QUARANTINE, 100))

    for _ in range(2):
        seen.append(await small.database.read(count))
        with pytest.raises(SubnetExhausted):
            await small.reserve()
    assert seen == [14, 0]
    await unpin(small, made.pin_id)
    assert sorted(await fill(small)) == sorted(map(shown, leases))


async def test_a_full_subnet_says_so_in_less_than_50_ms(world: World, desk: Desk) -> None:
    """I-01. The fastest of a few counts: a machine that runs many tests at once makes any one of them wait."""
    await create(desk, world, "10.1.0.0/24", is_default=True)
    await fill(world)
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        with pytest.raises(SubnetExhausted):
            await world.reserve()
        times.append(time.perf_counter() - began)
    assert min(times) < FULL_SECONDS


async def test_what_was_held_long_ago_is_forgotten_but_for_where_growth_begins(world: World, desk: Desk) -> None:
    """A row a day, for a month, and one before that."""
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    for _ in range(40):
        await world.hold()
        world.advance(24 * HOUR)
    before = (await subnet_shown(desk, world, lab)).capacity

    def days(tx: Transaction) -> list[int]:
        query = sa.select(tables.usage.c.day).where(tables.usage.c.subnet_id == lab.subnet_id)
        return sorted(tx.execute(query).scalars())

    assert len(await world.database.read(days)) == 40
    await world.ipam.addresses.forget_once()
    kept = await world.database.read(days)
    assert kept[0] == world.clock.now() // DAY - 30
    assert len(kept) == 30
    after = (await subnet_shown(desk, world, lab)).capacity
    assert after.growth_per_day == before.growth_per_day == pytest.approx(1.0, abs=0.05)
    world.advance(90 * 24 * HOUR)
    await world.ipam.addresses.forget_once()
    assert await world.database.read(days) == kept[-1:]
    assert (await subnet_shown(desk, world, lab)).capacity.growth_per_day == 0
    await world.hold()
    await world.ipam.addresses.forget_once()
    assert (await subnet_shown(desk, world, lab)).capacity.growth_per_day == pytest.approx(1 / 30)


async def test_prometheus_is_told_of_each_subnet_until_it_is_deleted(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24")
    await world.reserve()
    await pin(world, "10.1.0.9")
    (default, _) = await listed(desk, world)
    told = await gauges(world)
    key = (lab.subnet_id,)
    assert told["guardhouse_subnet_free"].samples[key] == 253
    assert told["guardhouse_subnet_capacity"].samples[key] == 254
    assert key not in told["guardhouse_subnet_exhaust_timestamp_seconds"].samples
    total = 254 + 2**20 - 2
    assert told["guardhouse_addresses_capacity"].samples == {(): total}
    states = told["guardhouse_addresses"].samples
    assert sum(states.values()) == total
    assert (states[("reserved",)], states[("pinned",)]) == (1, 1)
    await unpin(world, (await world.ipam.pins.list(world.organization, Page("", 1)))[0].pin_id)
    await delete(desk, world, lab)
    told = await gauges(world, per_organization=True)
    assert list(told["guardhouse_subnet_free"].samples) == [(world.organization, default.subnet_id)]
    assert told["guardhouse_subnet_free"].labels == ("organization_id", "subnet_id")
    assert sum(told["guardhouse_addresses"].samples.values()) == 2**20 - 2


async def test_prometheus_is_told_first_of_subnets_that_run_out(
    world: World, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many subnets there are, as many have series of their own: those that matter."""
    assert metrics.SUBNETS == 100
    monkeypatch.setattr(metrics, "SUBNETS", 2)
    growing = await create(desk, world, "10.1.0.0/24", is_default=True)
    await world.hold()
    pinned = await create(desk, world, "10.2.0.0/24")
    await pin(world, "10.2.0.0/25")
    for number in range(3, 8):
        await create(desk, world, f"10.{number}.0.0/24")
    told = await gauges(world)
    assert list(told["guardhouse_subnet_free"].samples) == [(growing.subnet_id,), (pinned.subnet_id,)]
    exhaust = (await subnet_shown(desk, world, growing)).capacity.exhaust_time
    times = told["guardhouse_subnet_exhaust_timestamp_seconds"].samples
    assert times == {(growing.subnet_id,): pytest.approx(exhaust.seconds, abs=1000)}
    assert told["guardhouse_addresses_capacity"].samples[()] == 7 * 254 + 2**20 - 2


async def test_installations_without_a_subnet_have_figures(world: World) -> None:
    told = await gauges(world)
    assert set(told["guardhouse_addresses"].samples.values()) == {0}
    assert told["guardhouse_addresses_capacity"].samples == {(): 0}
    assert told["guardhouse_subnet_free"].samples == {}


async def load(world: World, number: int, first: int) -> None:
    """A third of so many pairs is held, and the rest have rested for long."""

    def write(tx: Transaction) -> None:
        space = store.subnets.read_space(tx, world.organization)
        assert space is not None
        leases = []
        for ipv4 in range(first, first + number):
            lease = Lease(
                new(LEASE), ipv4, space.ipv6_of(ipv4), State.HELD, new(REGISTRATION), "dev", "usr", 0, hold_time=0
            )
            if ipv4 % 3:
                lease = replace(lease, state=State.RESTING, registration_id=None, hold_time=None, rest_time=ipv4)
            leases.append(lease)
        store.leases.add_leases(tx, world.organization, leases)
        place = replace(store.subnets.of_space(tx, world.organization, space)[0], next_ipv4=first + number)
        store.subnets.save_place(tx, world.organization, place)

    await world.database.write(write)
    with world.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


async def test_asking_and_allocating_cost_the_same_however_much_is_given_out(world: World, engine: str) -> None:
    """performance.md: of capacity, of figures for Prometheus and of allocations, with fifty times as many pairs."""
    lease = await world.reserve()
    for last in range(9, 12):
        await pin(world, f"100.96.0.{last}")

    def of(tx: Transaction) -> Any:
        space = store.subnets.read_space(tx, world.organization)
        assert space is not None
        return store.subnets.of_space(tx, world.organization, space)

    works: dict[str, Callable[[Transaction], Any]] = {
        "capacity": lambda tx: store.subnets.usages(tx, world.organization, of(tx), QUARANTINE),
        "figures": lambda tx: metrics.figures(QUARANTINE)(tx, True),
        "known": lambda tx: store.leases.find_known(tx, world.organization, [("reg_1", "dev_1", "usr_1")]),
        "rested": lambda tx: store.leases.find_rested(tx, world.organization, of(tx)[0], tx.now, 4),
        "new": lambda tx: store.leases.find_pairs(tx, world.organization, lease.ipv4 + 90_000, lease.ipv4 + 90_004),
        "holder": lambda tx: store.leases.find_holding(tx, world.organization, lease.ipv4, tx.now),
    }

    def costs() -> dict[str, int]:
        with world.database.engine.connect() as connection:
            tx = Transaction(connection, world.clock.now(), "ipam", pb.Change, False)
            return {what: cost_of(connection, lambda: work(tx)) for what, work in works.items()}  # noqa: B023

    await load(world, FEW, lease.ipv4 + 100)
    few = costs()
    await load(world, MANY, lease.ipv4 + 1000)
    many = costs()
    # An index gets a level deeper.
    slack = {"sqlite": 1, "postgresql": 12}[engine]
    assert {what: cost for what, cost in many.items() if cost > few[what] + slack} == {}, (few, many)

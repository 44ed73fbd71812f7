"""Reserving and giving back, on both engines (decisions 23 and 25, I-01, I-02)."""

import asyncio
import ipaddress
import random
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import (
    Conflict,
    DurationInvalid,
    EnrollmentAborted,
    InvalidField,
    OrganizationNotFound,
    SubnetExhausted,
)
from guardhouse.ids import DEVICE, LEASE, ORGANIZATION, REGISTRATION, USER
from guardhouse_services.audit import audit_record
from guardhouse_services.config import Settings
from guardhouse_services.database import Transaction
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import Lease, State, parse_quarantine
from guardhouse_services.ipam.domain.subnets import parse_network
from guardhouse_services.ipam.store import tables
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, machine, name, new

LAST = ipaddress.IPv4Address("10.9.8.14")


async def test_64_at_once_get_the_14_addresses_of_a_28_once_each(small: World) -> None:
    """I-01: the exact count is granted, and everybody else is told at once."""
    got = await asyncio.gather(*(small.reserve() for _ in range(64)), return_exceptions=True)
    leases = [each for each in got if isinstance(each, Lease)]
    refused = [each for each in got if isinstance(each, SubnetExhausted)]
    assert (len(leases), len(refused)) == (14, 50)
    assert sorted(lease.ipv4 for lease in leases) == [int(LAST) - 13 + i for i in range(14)]
    assert len({lease.ipv6 for lease in leases}) == 14
    assert refused[0].metadata == {"subnet": "10.9.8.0/28"}


async def test_reservations_that_wait_together_share_a_transaction(world: World) -> None:
    """performance.md: each has its pair and its record all the same."""
    count = 0

    def committed(_connection: object) -> None:
        nonlocal count
        count += 1

    await world.reserve()
    sa.event.listen(world.database.engine, "commit", committed)
    leases = await asyncio.gather(*(world.reserve() for _ in range(48)))
    sa.event.remove(world.database.engine, "commit", committed)
    assert len({lease.ipv4 for lease in leases}) == 48
    assert count <= 2
    records = await world.database.read(
        lambda tx: tx.execute(sa.select(sa.func.count(audit_record.c.sequence))).scalar()
    )
    assert records == 49


async def test_one_intent_gets_one_pair_however_often_it_asks(world: World) -> None:
    intent = new(REGISTRATION)
    got = await asyncio.gather(*(world.reserve(intent) for _ in range(16)))
    assert len({lease.lease_id for lease in got}) == 1
    assert len(await world.leases()) == 1


async def test_an_intent_is_answered_the_same_after_it_became_active(world: World) -> None:
    lease = await world.hold()
    again = await world.reserve(name(lease))
    assert (again.lease_id, again.ipv4, again.ipv6) == (lease.lease_id, lease.ipv4, lease.ipv6)


async def test_reserving_writes_no_event(world: World) -> None:
    await world.reserve()
    assert await world.events() == []


async def test_an_intent_that_was_released_reserves_nothing_more(world: World) -> None:
    lease = await world.reserve()
    await world.release(name(lease))
    await world.release(name(lease))
    with pytest.raises(EnrollmentAborted):
        await world.reserve(name(lease))


async def test_a_release_that_comes_before_its_reservation_wins(world: World) -> None:
    intent = new(REGISTRATION)
    await world.release(intent)
    with pytest.raises(EnrollmentAborted):
        await world.reserve(intent)


async def test_a_released_intent_is_remembered_for_a_day(world: World) -> None:
    first, second = new(REGISTRATION), new(REGISTRATION)
    await world.release(first)
    world.advance(23 * HOUR)
    await world.release(second)
    with pytest.raises(EnrollmentAborted):
        await world.reserve(first)
    world.advance(2 * HOUR)
    await world.release(new(REGISTRATION))
    with pytest.raises(EnrollmentAborted):
        await world.reserve(second)
    await world.reserve(first)


async def test_an_address_that_nobody_held_is_free_at_once(small: World) -> None:
    """Enrollments that are refused must not use a network up."""
    for _ in range(40):
        lease = await small.reserve()
        await small.release(name(lease))
    assert {row.state for row in await small.leases()} == {State.RESTING}
    assert [row for row in await small.leases() if row.ipv4 > int(LAST) - 13] == []


async def test_releasing_leaves_what_is_held(world: World) -> None:
    lease = await world.hold()
    await world.release(name(lease))
    assert await world.state(lease) is State.HELD


async def test_a_deleted_registrations_address_rests_before_it_is_given_out(small: World) -> None:
    """Decision 25, I-02."""
    held = [await small.hold() for _ in range(14)]
    await small.change(deleted(name(held[3])))
    with pytest.raises(SubnetExhausted):
        await small.reserve()
    small.advance(HOUR - 5)
    with pytest.raises(SubnetExhausted):
        await small.reserve()
    small.advance(6)
    lease = await small.reserve()
    assert (lease.ipv4, lease.ipv6) == (held[3].ipv4, held[3].ipv6)
    assert lease.lease_id != held[3].lease_id
    with pytest.raises(SubnetExhausted):
        await small.reserve()


async def test_rested_addresses_are_reused_oldest_first_and_before_new_ones(world: World) -> None:
    """Decision 25."""
    held = [await world.hold() for _ in range(5)]
    order = [3, 0, 4, 1]
    for which in order:
        await world.change(deleted(name(held[which])))
        world.advance(1)
    world.advance(HOUR)
    again = [await world.reserve() for _ in range(5)]
    assert [lease.ipv4 for lease in again[:4]] == [held[which].ipv4 for which in order]
    assert again[4].ipv4 == held[4].ipv4 + 1


async def test_registrations_that_are_deleted_together_are_reused_in_that_order(world: World) -> None:
    held = [await world.hold() for _ in range(5)]
    await world.change(*(deleted(name(lease)) for lease in reversed(held)))
    world.advance(2 * HOUR)
    again = [await world.reserve() for _ in range(5)]
    assert [lease.ipv4 for lease in again] == [lease.ipv4 for lease in reversed(held)]


async def test_a_network_that_is_used_up_takes_nothing_from_others(small: World) -> None:
    leases = [await small.hold() if number % 2 else await small.reserve() for number in range(14)]
    await small.change(deleted(name(leases[1])))
    before = await small.leases()
    with pytest.raises(SubnetExhausted):
        await small.reserve()
    assert await small.leases() == before


async def test_the_same_user_on_the_same_device_gets_the_old_pair_back_at_once(world: World) -> None:
    """Decision 25."""
    device, user = new(DEVICE), new(USER)
    old = await world.hold(device, user)
    await world.change(deleted(name(old)))
    assert (await world.reserve(device=new(DEVICE), holder=user)).ipv4 != old.ipv4
    assert (await world.reserve(device=device, holder=machine())).ipv4 != old.ipv4
    again = await world.reserve(device=device, holder=user)
    assert (again.ipv4, again.ipv6) == (old.ipv4, old.ipv6)
    assert again.lease_id != old.lease_id


async def test_an_aborted_return_does_not_cut_the_quarantine_short(small: World) -> None:
    """Decision 25: whoever knows the address as the old holder's still has to forget it."""
    held = [await small.hold() for _ in range(13)]
    device, user = new(DEVICE), new(USER)
    old = await small.hold(device, user)
    await small.change(deleted(name(old)))
    small.advance(HOUR / 2)
    again = await small.reserve(device=device, holder=user)
    assert again.ipv4 == old.ipv4
    await small.release(name(again))
    with pytest.raises(SubnetExhausted):
        await small.reserve()
    small.advance(HOUR / 2)
    assert (await small.reserve()).ipv4 == old.ipv4
    assert len(held) == 13


async def test_the_ipv6_address_ends_in_the_ipv4_address_of_its_pair(world: World) -> None:
    """Decision 23: a random /64 of RFC 4193 an organization, and one allocator for both families."""
    lease = await world.reserve()
    address = ipaddress.IPv6Address(lease.ipv6)
    assert int(address) & 0xFFFF_FFFF == lease.ipv4
    assert (int(address) >> 32) & 0xFFFF_FFFF == 0
    assert address in ipaddress.IPv6Network("fd00::/8")
    assert str(address) == lease.ipv6


async def test_two_organizations_share_the_ipv4_network_and_no_ipv6_prefix(world: World) -> None:
    other = new(ORGANIZATION)
    await world.add_organization(other)
    ours, theirs = await world.reserve(), await world.reserve(organization_id=other)
    assert ours.ipv4 == theirs.ipv4
    assert ours.ipv6[:19] != theirs.ipv6[:19]


async def test_an_organizations_network_is_fixed_at_its_first_use(world: World) -> None:
    first = await world.reserve()
    world.restart("10.0.0.0/8")
    second = await world.reserve()
    assert second.ipv4 == first.ipv4 + 1
    assert second.ipv6.split("::")[0] == first.ipv6.split("::")[0]


async def test_an_unknown_organization_reserves_nothing(world: World) -> None:
    with pytest.raises(OrganizationNotFound):
        await world.reserve(organization_id=new(ORGANIZATION))


@pytest.mark.parametrize("column", ["ipv4", "ipv6", "lease_id", "registration_id"])
async def test_the_database_refuses_an_address_to_a_second_holder(world: World, column: str) -> None:
    """I-01: the unique index is the authority, the allocator only a hint."""
    lease = await world.reserve()
    mine = {"ipv4": lease.ipv4 + 1, "ipv6": "fd00::1", "lease_id": "lse_x", "registration_id": "reg_x"}
    mine[column] = getattr(lease, column)

    def steal(tx: Transaction) -> None:
        state = {"organization_id": world.organization, "state": State.RESERVED, "reserve_time": 0}
        tx.execute(tables.lease.insert().values(device_id="dev_x", holder_id="usr_x", **state, **mine))

    with pytest.raises(IntegrityError):
        await world.database.write(steal)


def test_unless_it_is_set_addresses_are_of_100_96_and_rest_for_an_hour() -> None:
    """Decisions 23 and 25."""
    settings = {name: Settings.model_fields[name].default for name in ("ipv4_subnet", "quarantine")}
    assert settings == {"ipv4_subnet": "100.96.0.0/12", "quarantine": "1h"}


@pytest.mark.parametrize("text", ["10m", "1h", "24h"])
def test_a_quarantine_of_ten_minutes_or_more_is_accepted(text: str) -> None:
    assert parse_quarantine(text) >= 600_000_000


@pytest.mark.parametrize("text", ["9m59.999999s", "0", "-1h", "", "1d"])
def test_a_shorter_quarantine_is_refused(text: str) -> None:
    """Decision 25."""
    with pytest.raises(DurationInvalid):
        parse_quarantine(text)


@pytest.mark.parametrize("text", ["100.96.0.1/12", "fd00::/8", "10.0.0.0/31", "8.8.8.0/24", "", "x", "10.0.0.0/7"])
def test_a_network_without_private_addresses_is_refused(text: str) -> None:
    """Decision 24."""
    with pytest.raises(InvalidField):
        parse_network(text)


async def test_a_reservation_takes_eleven_statements_whatever_was_given_out_before(world: World) -> None:
    """No scan, and few round trips: the space, its subnets, the pins, what is known and what rests, two rows written;
    three put it on record. One more looks whether a new address was given to somebody before."""

    async def statements() -> int:
        count = 0

        def executed(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            nonlocal count
            count += not statement.startswith("BEGIN")

        sa.event.listen(world.database.engine, "after_cursor_execute", executed)
        await world.reserve()
        sa.event.remove(world.database.engine, "after_cursor_execute", executed)
        return count

    await world.reserve()
    fresh = await statements()
    assert fresh == 11
    held = [await world.hold() for _ in range(60)]
    assert await statements() == fresh
    for lease in held[::2]:
        await world.change(deleted(name(lease)))
    assert await statements() == fresh
    world.advance(2 * HOUR)
    assert await statements() == fresh - 1


async def test_the_oldest_rested_address_is_found_by_one_step_in_an_index(world: World, engine: str) -> None:
    """performance.md: neither sorted nor filtered, and begun behind what was taken before."""
    query = store.leases.rested(world.organization, 0, 1, 2, 1)

    def explain(tx: Transaction) -> str:
        if engine == "postgresql":
            # On an empty table the planner would rather read all of it.
            tx.execute(sa.text("SET LOCAL enable_seqscan = off"))
            tx.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        dialect = world.database.engine.dialect
        text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        prefix = "EXPLAIN" if engine == "postgresql" else "EXPLAIN QUERY PLAN"
        return "\n".join(str(row[-1]) for row in tx.execute(sa.text(f"{prefix} {text}")))

    plan = await world.database.read(explain)
    assert "lease_rested" in plan
    assert "rest_time)>" in plan.replace(" ", "")
    assert not {"Sort", "TEMP B-TREE", "Filter"} & set(plan.replace(":", " ").split())


async def test_a_search_begins_where_the_last_one_ended(world: World) -> None:
    """performance.md: what was taken from the head of the queue is never walked over again."""
    held = [await world.hold() for _ in range(3)]
    for lease in held:
        await world.change(deleted(name(lease)))
    world.advance(2 * HOUR)
    places = {row.ipv4: row.rest_time for row in await world.leases()}
    for lease in held:
        assert (await world.reserve()).ipv4 == lease.ipv4
        space = await world.database.read(lambda tx: store.subnets.read_space(tx, world.organization))
        assert space is not None
        assert space.rested_time == places[lease.ipv4]
    await world.reserve()
    space = await world.database.read(lambda tx: store.subnets.read_space(tx, world.organization))
    assert space is not None
    assert world.clock.now() - space.rested_time < (HOUR + 60) * 1_000_000


async def test_no_walk_of_calls_ever_gives_an_address_twice(small: World) -> None:
    """I-01, I-02: reserving, activating, deleting, giving back and waiting in any order."""
    chance = random.Random(7)
    reserved: list[Lease] = []
    held: list[Lease] = []
    released: dict[int, int] = {}
    people = [(new(DEVICE), new(USER)) for _ in range(20)]
    owner: dict[int, tuple[str, str]] = {}
    for _ in range(400):
        match chance.choices(["reserve", "activate", "abort", "delete", "wait"], [6, 4, 2, 4, 2])[0]:
            case "reserve":
                person = chance.choice(people)
                taken = {lease.ipv4 for lease in reserved + held}
                try:
                    lease = await small.reserve(device=person[0], holder=person[1])
                except SubnetExhausted:
                    resting = [at for ipv4, at in released.items() if ipv4 not in taken]
                    assert len(taken) + len(resting) == 14
                    assert all(at > small.clock.now() - HOUR * 1_000_000 for at in resting)
                    continue
                assert lease.ipv4 not in taken
                if lease.ipv4 in released and owner[lease.ipv4] != person:
                    assert released.pop(lease.ipv4) <= small.clock.now() - HOUR * 1_000_000
                owner[lease.ipv4] = person
                reserved.append(lease)
            case "activate" if reserved:
                lease = reserved.pop(chance.randrange(len(reserved)))
                await small.change(small.record(name(lease), lease))
                held.append(lease)
            case "abort" if reserved:
                await small.release(name(reserved.pop(chance.randrange(len(reserved)))))
            case "delete" if held:
                lease = held.pop(chance.randrange(len(held)))
                released[lease.ipv4] = small.clock.now()
                await small.change(deleted(name(lease)))
            case "wait":
                small.advance(chance.choice([60, HOUR / 3, HOUR]))
    assert {row.ipv4 for row in await small.leases() if row.state == State.HELD} == {lease.ipv4 for lease in held}


async def test_a_pair_that_somebody_has_is_given_to_nobody_else(world: World) -> None:
    """I-01, I-12: the row itself refuses, whatever whoever chose it took it for."""
    first, other = await world.hold(), await world.hold()
    await world.change(deleted(name(other)))
    wanted = [replace(each, lease_id=new(LEASE), registration_id=new(REGISTRATION)) for each in (other, first)]
    with pytest.raises(Conflict):
        await world.database.write(lambda tx: store.leases.take_rested(tx, world.organization, wanted))
    assert await world.state(first) is State.HELD
    assert await world.state(other) is State.RESTING
    await world.database.write(lambda tx: store.leases.take_rested(tx, world.organization, wanted[:1]))
    assert await world.state(wanted[0]) is State.RESERVED

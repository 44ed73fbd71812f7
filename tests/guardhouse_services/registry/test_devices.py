"""Devices and what becomes of them, on both engines (decisions 14, 15 and 16, I-03, I-12)."""

import pytest

from guardhouse.errors import (
    DeviceNotFound,
    EnrollmentAborted,
    RegistrationNotFound,
    RequestIdReused,
    SubnetExhausted,
)
from guardhouse_services.paging import Page
from guardhouse_services.registry.domain import KEEP_ENDED, SECOND, State
from guardhouse_services.requests import KEEP
from tests.guardhouse_services.registry.world import World, acts_and_then, machine, name, refuses, user

HOUR = 3600
EVERYTHING = Page("", 1000)


async def test_a_deleted_device_takes_all_its_registrations_and_no_other(world: World) -> None:
    """Decision 16, I-03."""
    holder = user()
    revoked = await world.enroll(holder, "laptop")
    await world.revoke(name(revoked))
    mine, token = await world.enroll(holder, "laptop"), await world.enroll(machine(), "laptop")
    elsewhere = await world.enroll(holder, "phone")
    assert await world.delete_device(mine.device.device_id) == 3
    assert await world.states(revoked, mine, token, elsewhere) == ["DELETED"] * 3 + ["ACTIVE"]
    assert sorted((await world.changes())[-1]) == sorted(("deleted", name(it)) for it in (revoked, mine, token))
    assert [it.device_id for it in await world.devices()] == [elsewhere.device.device_id]


async def test_a_second_deletion_finds_nothing(world: World) -> None:
    """Decision 16."""
    device_id = (await world.enroll()).device.device_id
    call = world.call("once", "body")
    assert [await world.delete_device(device_id, call) for _ in range(2)] == [1, 1]
    with pytest.raises(DeviceNotFound):
        await world.delete_device(device_id)
    with pytest.raises(RequestIdReused):
        await world.delete_device(device_id, world.call("once", "other"))
    with pytest.raises(DeviceNotFound):
        await world.registry.device(world.organization, device_id)
    assert len(await world.changes()) == 2


async def test_a_deleted_device_aborts_the_enrollments_on_it(world: World) -> None:
    """Decision 16."""
    device_id = (await world.enroll(user(), "laptop")).device.device_id
    await world.begin(user(), "laptop")
    await world.begin(user(), "phone")
    assert await world.delete_device(device_id) == 1
    assert [row.state for row in await world.rows()] == [State.DELETED, State.ABORTED, State.PENDING]


async def test_an_enrollment_whose_device_is_deleted_meanwhile_is_aborted(world: World) -> None:
    """I-12."""
    old = await world.enroll(machine(), "laptop")

    async def delete() -> None:
        await world.delete_device(old.device.device_id)

    world.ipam.will("reserve", acts_and_then(delete))
    attempt = await world.attempt(user(), "laptop")
    with pytest.raises(EnrollmentAborted):
        await world.registry.register(attempt)
    assert await world.devices() == []
    assert [row.state for row in await world.rows()] == [State.DELETED, State.ABORTED]
    again = await world.registry.register(attempt)
    assert again.device.device_id != old.device.device_id


async def test_a_device_that_comes_back_is_another_one(world: World) -> None:
    """Decision 14."""
    holder = user()
    old = await world.enroll(holder, "laptop", name="old")
    await world.delete_device(old.device.device_id)
    new = await world.enroll(holder, "laptop", name="new")
    assert new.device.device_id != old.device.device_id
    assert new.registration.lease != old.registration.lease
    assert [(it.device_id, it.claims.display_name) for it in await world.devices()] == [(new.device.device_id, "new")]


async def test_a_device_stays_the_same_while_its_registrations_come_and_go(world: World) -> None:
    holder = user()
    first = await world.enroll(holder, "laptop", name="old")
    await world.delete(name(first))
    world.clock.advance(60)
    second = await world.enroll(holder, "laptop", name="new")
    assert second.device.device_id == first.device.device_id
    assert second.device.create_time == first.device.create_time
    assert second.device.claims.display_name == "new"


async def test_two_organizations_have_two_devices_for_one_machine(world: World) -> None:
    first = await world.enroll(user(), "laptop")
    second = await world.enroll(user(), "laptop", organization_id=await world.add_organization())
    assert first.device.device_id != second.device.device_id
    with pytest.raises(DeviceNotFound):
        await world.delete_device(second.device.device_id)
    with pytest.raises(DeviceNotFound):
        await world.registry.device(world.organization, second.device.device_id)


async def test_a_device_that_never_enrolled_cannot_be_seen_or_deleted(world: World) -> None:
    await world.begin(user(), "laptop")
    (intent,) = await world.rows()
    with pytest.raises(DeviceNotFound):
        await world.registry.device(world.organization, intent.device_id)
    with pytest.raises(DeviceNotFound):
        await world.delete_device(intent.device_id)
    assert await world.registry.devices(world.organization, None, EVERYTHING) == []
    assert await world.state(intent.registration_id) == State.PENDING


async def test_a_repeated_enrollment_after_its_device_is_gone_says_so(world: World) -> None:
    attempt = await world.attempt()
    enrolled = await world.registry.register(attempt)
    await world.delete_device(enrolled.device.device_id)
    with pytest.raises(RegistrationNotFound):
        await world.registry.register(attempt)


async def test_the_sweep_forgets_what_never_enrolled_and_what_ended_long_ago(world: World) -> None:
    """I-07: not before the last of the retries that are answered."""
    world.ipam.will("reserve", refuses(SubnetExhausted("all are held")))
    with pytest.raises(SubnetExhausted):
        await world.enroll(user(), "phone")
    attempt = await world.attempt(user(), "desktop")
    active, revoked, deleted = (
        await world.enroll(user(), "laptop"),
        await world.enroll(user(), "tablet"),
        await world.registry.register(attempt),
    )
    await world.revoke(name(revoked))
    world.clock.advance(HOUR)
    await world.delete(name(deleted))
    assert KEEP_ENDED > KEEP
    world.clock.advance(KEEP_ENDED / SECOND - HOUR - 60)
    await world.registry.sweep_once()
    assert [row.state for row in await world.rows()] == ["ABORTED", "ACTIVE", "REVOKED", "DELETED"]
    assert await world.device_rows() == 4
    world.clock.advance(61)
    await world.registry.sweep_once()
    assert [row.state for row in await world.rows()] == ["ACTIVE", "REVOKED", "DELETED"]
    assert {it.claims.hardware_id for it in await world.devices()} == {"laptop", "tablet", "desktop"}
    assert await world.device_rows() == 3
    world.clock.advance(HOUR)
    await world.registry.sweep_once()
    assert await world.states(active, revoked, deleted) == ["ACTIVE", "REVOKED", "None"]
    # A device stays until it is deleted.
    assert await world.device_rows() == 3


async def test_the_sweep_leaves_a_device_on_which_somebody_is_enrolling(world: World) -> None:
    attempt = await world.begin(user(), "laptop")
    await world.registry.sweep_once()
    assert await world.device_rows() == 1
    await world.registry.register(attempt)


# Lists


async def test_registrations_are_listed_by_state_user_and_device(world: World) -> None:
    holder = user()
    active, revoked, gone = [await world.enroll(holder, it) for it in ("laptop", "phone", "tablet")]
    other, token = await world.enroll(user(), "desktop"), await world.enroll(machine(), "laptop")
    await world.begin(user(), "laptop")
    await world.revoke(name(revoked))
    await world.delete(name(gone))

    async def listed(*states: State, user_id: str = "", device_id: str = "") -> list[str]:
        rows = await world.registry.registrations(world.organization, states, user_id, device_id, EVERYTHING)
        return [row.registration_id for row in rows]

    both = (State.ACTIVE, State.REVOKED)
    assert await listed(State.ACTIVE) == [name(it) for it in (active, other, token)]
    assert await listed(State.REVOKED) == [name(revoked)]
    assert await listed(*both) == [name(it) for it in (active, revoked, other, token)]
    assert await listed(*both, user_id=holder) == [name(active), name(revoked)]
    assert await listed(*both, device_id=active.device.device_id) == [name(active), name(token)]
    assert await listed(*both, user_id=holder, device_id=active.device.device_id) == [name(active)]
    assert await listed(*both, user_id=user()) == []


async def test_devices_are_listed_by_their_active_registrations(world: World) -> None:
    """Decision 15."""
    laptop, phone, tablet = [await world.enroll(user(), it) for it in ("laptop", "phone", "tablet")]
    await world.enroll(machine(), "laptop")
    await world.revoke(name(phone))
    await world.delete(name(tablet))
    await world.begin(user(), "phone")
    await world.begin(user(), "desktop")
    await world.enroll(user(), "laptop", organization_id=await world.add_organization())

    async def listed(active: bool | None) -> list[tuple[str, int]]:
        rows = await world.registry.devices(world.organization, active, EVERYTHING)
        return [(row.device_id, row.active_registrations) for row in rows]

    only, without = [(laptop.device.device_id, 2)], [(it.device.device_id, 0) for it in (phone, tablet)]
    assert await listed(True) == only
    assert await listed(False) == without
    assert await listed(None) == only + without


async def test_a_page_shows_one_row_more_than_asked_and_goes_on_behind_the_last(world: World) -> None:
    made = [await world.enroll() for _ in range(3)]

    async def ids(after: str, size: int) -> list[str]:
        rows = await world.registry.registrations(world.organization, (State.ACTIVE,), "", "", Page(after, size))
        return [row.registration_id for row in rows]

    assert await ids("", 1) == [name(made[0]), name(made[1])]
    assert await ids(name(made[0]), 5) == [name(made[1]), name(made[2])]
    devices = await world.registry.devices(world.organization, None, Page(made[0].device.device_id, 1))
    assert [it.device_id for it in devices] == [made[1].device.device_id, made[2].device.device_id]

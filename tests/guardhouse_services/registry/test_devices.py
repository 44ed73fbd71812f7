"""Devices and what becomes of them, on both engines (decisions 14, 15 and 16, I-03, I-12)."""

from typing import Any

import pytest

from guardhouse.errors import (
    DeviceNotFound,
    EnrollmentAborted,
    RegistrationNotFound,
    RequestIdReused,
    SubnetExhausted,
)
from guardhouse.ids import DEVICE
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.registry.domain import KEEP_ENDED, SECOND, State
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.requests import KEEP
from tests.guardhouse_services.registry.world import (
    World,
    acts_and_then,
    insert_many,
    machine,
    name,
    new,
    refuses,
    user,
)

HOUR = 3600


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


async def test_a_device_with_many_registrations_goes_in_changes_of_500(world: World) -> None:
    """Decision 16, I-20: in one transaction, and none of its changes is larger than a follower takes."""
    device_id = (await world.enroll(user(), "laptop")).device.device_id
    await insert_many(world, 1000, device_id)
    before = len(await world.changes())
    rehearsal = await world.registry.devices.delete(world.call(), world.organization, device_id, validate_only=True)
    assert (rehearsal.deleted, rehearsal.users, rehearsal.revision_token) == (1001, 1, "")
    assert len(await world.changes()) == before
    assert await world.delete_device(device_id) == 1001
    changes = (await world.changes())[before:]
    assert [len(each) for each in changes] == [500, 500, 1]
    assert len({registration_id for each in changes for _, registration_id in each}) == 1001


async def test_what_a_deletion_leaves_is_counted_by_user(world: World, servicer: RegistryServicer) -> None:
    """Decision 16: registrations, their addresses, and the users among their holders, whose seats stay."""
    holder = user()
    mine = [await world.enroll(holder, it) for it in ("laptop", "phone")]
    others = [await world.enroll(user(), "desktop"), await world.enroll(machine(), "laptop")]
    about: dict[str, Any] = {
        "organization_id": world.organization,
        "registration_ids": [name(it) for it in (*mine, *others)],
    }
    revoked = await servicer.RevokeRegistrations(pb.RevokeRegistrationsRequest(**about), world.call())
    assert (revoked.registrations_revoked, revoked.addresses_held, revoked.users) == (4, 8, 2)
    laptop: dict[str, Any] = {"organization_id": world.organization, "device_id": mine[0].device.device_id}
    of_device = await servicer.RevokeDevice(pb.RevokeDeviceRequest(**laptop), world.call())
    assert (of_device.registrations_revoked, of_device.addresses_held, of_device.users) == (0, 4, 1)
    for validate_only in (True, False):
        request = pb.DeleteDeviceRequest(**laptop, validate_only=validate_only)
        gone = await servicer.DeleteDevice(request, world.call())
        assert (gone.registrations_deleted, gone.addresses_released, gone.users) == (2, 4, 1)
    for validate_only in (True, False):
        rest = pb.DeleteRegistrationsRequest(**about, validate_only=validate_only)
        deleted = await servicer.DeleteRegistrations(rest, world.call())
        assert (deleted.registrations_deleted, deleted.addresses_released, deleted.users) == (2, 4, 2)
    assert len(world.identity.seats) == 3


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
        await world.registry.devices.get(world.organization, device_id)
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
        await world.register(attempt)
    assert await world.devices() == []
    assert [row.state for row in await world.rows()] == [State.DELETED, State.ABORTED]
    again = await world.register(attempt)
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


async def test_machines_are_told_apart_by_their_hardware_ids_and_not_by_names(world: World) -> None:
    """Decision 14: names are not unique; and no id of a device is one of a registration."""
    first, second = await world.enroll(user(), "one", name="laptop"), await world.enroll(user(), "two", name="laptop")
    third = await world.enroll(machine(), "one", name="renamed")
    assert first.device.device_id == third.device.device_id != second.device.device_id
    names = {it.device_id: it.claims.display_name for it in await world.devices()}
    assert names == {first.device.device_id: "renamed", second.device.device_id: "laptop"}
    assert {it.device.device_id for it in (first, second)}.isdisjoint(map(name, (first, second, third)))


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
        await world.registry.devices.get(world.organization, second.device.device_id)


async def test_a_device_that_never_enrolled_cannot_be_seen_or_deleted(world: World) -> None:
    await world.begin(user(), "laptop")
    (intent,) = await world.rows()
    with pytest.raises(DeviceNotFound):
        await world.registry.devices.get(world.organization, intent.device_id)
    with pytest.raises(DeviceNotFound):
        await world.delete_device(intent.device_id)
    assert await world.listed_devices(None) == []
    assert await world.state(intent.registration_id) == State.PENDING


async def test_a_repeated_enrollment_after_its_device_is_gone_says_so(world: World) -> None:
    attempt = await world.attempt()
    enrolled = await world.register(attempt)
    await world.delete_device(enrolled.device.device_id)
    with pytest.raises(RegistrationNotFound):
        await world.register(attempt)


async def test_the_sweep_forgets_what_never_enrolled_and_what_ended_long_ago(world: World) -> None:
    """I-07: not before the last of the retries that are answered."""
    world.ipam.will("reserve", refuses(SubnetExhausted("all are held")))
    with pytest.raises(SubnetExhausted):
        await world.enroll(user(), "phone")
    attempt = await world.attempt(user(), "desktop")
    active, revoked, deleted = (
        await world.enroll(user(), "laptop"),
        await world.enroll(user(), "tablet"),
        await world.register(attempt),
    )
    await world.revoke(name(revoked))
    world.clock.advance(HOUR)
    await world.delete(name(deleted))
    assert KEEP_ENDED > KEEP
    world.clock.advance(KEEP_ENDED / SECOND - HOUR - 60)
    await world.registry.enrollments.sweep_once()
    assert [row.state for row in await world.rows()] == ["ABORTED", "ACTIVE", "REVOKED", "DELETED"]
    assert await world.device_rows() == 4
    world.clock.advance(61)
    await world.registry.enrollments.sweep_once()
    assert [row.state for row in await world.rows()] == ["ACTIVE", "REVOKED", "DELETED"]
    assert {it.claims.hardware_id for it in await world.devices()} == {"laptop", "tablet", "desktop"}
    assert await world.device_rows() == 3
    world.clock.advance(HOUR)
    await world.registry.enrollments.sweep_once()
    assert await world.states(active, revoked, deleted) == ["ACTIVE", "REVOKED", "None"]
    # A device stays until it is deleted.
    assert await world.device_rows() == 3


async def test_the_sweep_leaves_a_device_on_which_somebody_is_enrolling(world: World) -> None:
    attempt = await world.begin(user(), "laptop")
    await world.registry.enrollments.sweep_once()
    assert await world.device_rows() == 1
    await world.register(attempt)


# Revoking a device


async def test_a_revoked_device_keeps_its_addresses_and_may_enroll_again(world: World) -> None:
    """Decision 16: every active registration, and no other device's."""
    holder = user()
    revoked = await world.enroll(holder, "laptop")
    await world.revoke(name(revoked))
    mine, token = await world.enroll(holder, "laptop"), await world.enroll(machine(), "laptop")
    elsewhere, changes = await world.enroll(holder, "phone"), len(await world.changes())
    device_id = mine.device.device_id
    assert await world.revoke_device(device_id) == (2, 3)
    assert await world.states(revoked, mine, token, elsewhere) == ["REVOKED"] * 3 + ["ACTIVE"]
    assert sorted((await world.changes())[-1]) == sorted(("revoked", name(it)) for it in (mine, token))
    assert (await world.find(name(mine))).lease == mine.registration.lease
    assert await world.revoke_device(device_id) == (0, 3)
    assert len(await world.changes()) == changes + 1
    again = await world.enroll(holder, "laptop")
    assert again.device.device_id == device_id
    assert again.device.active_registrations == 1


async def test_a_repeated_revocation_of_a_device_has_one_effect(world: World) -> None:
    """I-07."""
    enrolled = await world.enroll()
    device_id, call = enrolled.device.device_id, world.call("once", "body")
    first = await world.revoke_device(device_id, call)
    await world.unrevoke(name(enrolled))
    assert await world.revoke_device(device_id, call) == first == (1, 1)
    assert await world.states(enrolled) == ["ACTIVE"]
    with pytest.raises(RequestIdReused):
        await world.revoke_device(device_id, world.call("once", "other"))


async def test_what_is_no_device_cannot_be_revoked(world: World) -> None:
    """Nor can one of another organization (I-27), or on which nobody has enrolled."""
    elsewhere = await world.enroll(organization_id=await world.add_organization())
    await world.begin(user(), "laptop")
    (intent,) = [row for row in await world.rows() if row.state == State.PENDING]
    for device_id in (elsewhere.device.device_id, intent.device_id, new(DEVICE)):
        with pytest.raises(DeviceNotFound):
            await world.revoke_device(device_id)
    assert await world.states(elsewhere) == ["ACTIVE"]


# Lists


async def test_registrations_are_listed_by_state_user_and_device(world: World) -> None:
    holder = user()
    active, revoked, gone = [await world.enroll(holder, it) for it in ("laptop", "phone", "tablet")]
    other, token = await world.enroll(user(), "desktop"), await world.enroll(machine(), "laptop")
    await world.begin(user(), "laptop")
    await world.revoke(name(revoked))
    await world.delete(name(gone))

    listed, both = world.listed, (State.ACTIVE, State.REVOKED)
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
        return [(row.device_id, row.active_registrations) for row in await world.listed_devices(active)]

    only, without = [(laptop.device.device_id, 2)], [(it.device.device_id, 0) for it in (phone, tablet)]
    assert await listed(True) == only
    assert await listed(False) == without
    assert await listed(None) == only + without

"""The same user enrolling again on the same device, on both engines (decisions 17 and 18)."""

import asyncio

import pytest

from guardhouse.errors import Conflict, DeviceHeldByAnotherUser, EnrollmentAborted, GuardhouseError, SubnetExhausted
from guardhouse_services.registry.domain import State
from tests.guardhouse_services.registry.world import (
    World,
    acts_and_then,
    machine,
    name,
    refuses,
    user,
)


async def test_a_second_enrollment_takes_over_the_addresses_of_the_first(world: World) -> None:
    """Decision 18: the lease moves, and the deletion comes behind the new holder."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    new = await world.enroll(holder, "laptop")
    assert name(new) != name(old)
    assert new.registration.lease == old.registration.lease
    assert new.device.device_id == old.device.device_id
    assert new.device.active_registrations == 1
    assert await world.states(old, new) == ["DELETED", "ACTIVE"]
    assert (await world.changes())[1:] == [[("active", name(new)), ("deleted", name(old))]]
    assert [method for method, _ in world.calls] == ["authorize", "reserve", "authorize"]
    lease = old.registration.lease.lease_id
    assert await world.resolve(name(new)) == (State.ACTIVE, lease)


async def test_another_device_of_the_user_is_untouched(world: World) -> None:
    holder = user()
    laptop, phone = await world.enroll(holder, "laptop"), await world.enroll(holder, "phone")
    await world.enroll(holder, "laptop")
    assert await world.states(laptop, phone) == ["DELETED", "ACTIVE"]


async def test_another_user_is_refused_and_given_back(world: World) -> None:
    """Decision 18: until the holder leaves, or an admin revokes or deletes the holder's; and that is what it says."""
    old = await world.enroll(user(), "laptop", name="Anna's")
    second = await world.attempt(user(), "laptop", name="Ben's")
    with pytest.raises(DeviceHeldByAnotherUser, match="its user can leave, or an admin can") as caught:
        await world.register(second)
    assert caught.value.metadata == {"device_id": old.device.device_id}
    assert sorted(world.calls[-2:]) == [("cancel", State.ABORTED), ("release", State.ABORTED)]
    assert list(world.identity.seats) == [name(old)]
    assert await world.states(old) == ["ACTIVE"]
    assert [it.claims.display_name for it in await world.devices()] == ["Anna's"]
    await world.revoke(name(old))
    new = await world.register(second)
    assert new.registration.lease != old.registration.lease
    assert await world.states(old, new) == ["REVOKED", "ACTIVE"]


async def test_a_revoked_registration_stays_and_keeps_its_addresses(world: World) -> None:
    """Decision 17."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    await world.revoke(name(old))
    new = await world.enroll(holder, "laptop")
    assert await world.states(old, new) == ["REVOKED", "ACTIVE"]
    assert new.registration.lease != old.registration.lease
    assert (await world.find(name(old))).lease == old.registration.lease


async def test_service_tokens_never_hand_over_and_never_take_the_users_place(world: World) -> None:
    """Decision 18 speaks of users."""
    token, holder = machine(), user()
    first, second = await world.enroll(token, "server"), await world.enroll(token, "server")
    mine = await world.enroll(holder, "server")
    third = await world.enroll(machine(), "server")
    again = await world.enroll(holder, "server")
    assert await world.states(first, second, third, mine, again) == ["ACTIVE"] * 3 + ["DELETED", "ACTIVE"]
    assert again.registration.lease == mine.registration.lease
    assert len({it.registration.lease.lease_id for it in (first, second, third, again)}) == 4
    assert again.device.active_registrations == 4


# What happens between the look at the predecessor and the activation


async def test_a_predecessor_that_is_revoked_meanwhile_keeps_its_addresses(world: World) -> None:
    """Decision 18: the lease moves only if the old one is still active."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")

    async def revoke() -> None:
        await world.revoke(name(old))

    async with world.before_write(2, revoke):
        new = await world.register(attempt)
    assert await world.states(old, new) == ["REVOKED", "ACTIVE"]
    assert new.registration.lease.lease_id == world.ipam.leases[name(new)].lease_id
    assert (await world.find(name(old))).lease == old.registration.lease


async def test_a_predecessor_that_is_deleted_meanwhile_hands_nothing_over(world: World) -> None:
    """I-02: its addresses rest before somebody has them again."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")

    async def delete() -> None:
        await world.delete(name(old))

    async with world.before_write(2, delete):
        new = await world.register(attempt)
    assert new.registration.lease != old.registration.lease
    assert await world.events() == [("active", name(old)), ("deleted", name(old)), ("active", name(new))]


async def test_a_predecessor_that_comes_meanwhile_is_taken_over(world: World) -> None:
    holder = user()
    got: list[str] = []

    async def overtakes() -> None:
        got.append(name(await world.enroll(holder, "laptop")))

    world.ipam.will("reserve", acts_and_then(overtakes))
    new = await world.enroll(holder, "laptop")
    assert new.registration.lease.lease_id == world.ipam.leases[got[0]].lease_id
    assert await world.state(got[0]) == State.DELETED


async def test_another_user_who_comes_meanwhile_holds_the_device(world: World) -> None:
    async def overtakes() -> None:
        await world.enroll(user(), "laptop")

    world.ipam.will("reserve", acts_and_then(overtakes))
    with pytest.raises(DeviceHeldByAnotherUser):
        await world.enroll(user(), "laptop")
    assert len(await world.snapshot()) == 1
    assert len(world.ipam.leases) == 1


async def test_a_predecessor_that_is_revoked_and_back_is_the_same(world: World) -> None:
    holder = user()
    old = await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")

    async def revoke_and_restore() -> None:
        await world.revoke(name(old))
        await world.unrevoke(name(old))

    async with world.before_write(2, revoke_and_restore):
        new = await world.register(attempt)
    assert new.registration.lease == old.registration.lease


async def test_a_place_that_never_stands_still_is_a_conflict_in_the_end(world: World) -> None:
    """And then the intent is aborted like any other that failed."""
    holder = user()
    old = await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")

    async def change() -> None:
        await (world.revoke if await world.state(name(old)) == State.ACTIVE else world.unrevoke)(name(old))
        world.database.before[world.database.writes + 1] = change

    world.database.before[world.database.writes + 2] = change
    with pytest.raises(Conflict):
        await world.register(attempt)
    world.database.before.clear()
    (intent,) = await world.rows(attempt.request_id)
    assert intent.state == State.ABORTED
    assert list(world.ipam.leases) == list(world.identity.seats) == [name(old)]


async def test_a_refused_activation_leaves_the_predecessor(world: World) -> None:
    """I-12: it is deleted in the transaction that activates its successor, or not at all."""
    holder = user()
    old = await world.enroll(holder, "laptop", name="old")

    async def revoke() -> None:
        await world.follow(world.identity.revocation(holder))
        await world.unrevoke(name(old))

    world.identity.will("authorize", acts_and_then(revoke))
    with pytest.raises(EnrollmentAborted):
        await world.enroll(holder, "laptop", name="new")
    assert await world.states(old) == ["ACTIVE"]
    assert [it.claims.display_name for it in await world.devices()] == ["old"]
    assert list(world.ipam.leases) == [name(old)]


async def test_a_handover_that_is_asked_for_again_changes_nothing(world: World) -> None:
    holder = user()
    await world.enroll(holder, "laptop")
    attempt = await world.attempt(holder, "laptop")
    new = await world.register(attempt)
    assert await world.register(attempt) == new
    assert len(await world.changes()) == 2


async def test_eight_enrollments_of_one_user_on_one_device_leave_one(world: World) -> None:
    """Decision 18 under concurrency: one place, one lease that moves along."""
    holder = user()
    attempts = [await world.attempt(holder, "laptop") for _ in range(8)]
    got = await asyncio.gather(*map(world.register, attempts), return_exceptions=True)
    assert all(isinstance(it, Conflict) for it in got if isinstance(it, GuardhouseError))
    assert not [it for it in got if isinstance(it, BaseException) and not isinstance(it, GuardhouseError)]
    assert len(await world.snapshot()) == 1


async def test_eight_users_on_one_device_leave_one(world: World) -> None:
    attempts = [await world.attempt(user(), "laptop") for _ in range(8)]
    got = await asyncio.gather(*map(world.register, attempts), return_exceptions=True)
    assert sum(isinstance(it, DeviceHeldByAnotherUser) for it in got) == 7
    assert len(await world.snapshot()) == 1
    assert len(world.identity.seats) == 1


async def test_an_enrollment_that_fails_in_the_end_changes_no_claims(world: World) -> None:
    """Also when it had to start over, because the predecessor had changed."""
    holder = user()
    old = await world.enroll(holder, "laptop", name="old")
    attempt = await world.attempt(holder, "laptop", name="new")

    async def revoke() -> None:
        await world.revoke(name(old))

    world.ipam.will("reserve", refuses(SubnetExhausted("all are held")))
    async with world.before_write(2, revoke):
        with pytest.raises(SubnetExhausted):
            await world.register(attempt)
    assert [it.claims.display_name for it in await world.devices()] == ["old"]

"""What the audit log says of enrollments, devices and registrations, on both engines (I-33, decision 18)."""

import pytest

from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.errors import (
    DeviceHeldByAnotherUser,
    KeyNotCurrent,
    LeaveNotAllowed,
    RegistrationNotFound,
    SubnetExhausted,
)
from guardhouse.ids import REGISTRATION
from tests.guardhouse_services.registry.world import World, acts_and_then, machine, name, new, refuses, user


async def last(world: World, count: int = 1) -> AuditRecord:
    """The newest record, when there are so many."""
    records = await world.records()
    assert len(records) == count
    return records[-1]


def told(record: AuditRecord) -> tuple[str, str, list[str]]:
    return record.actor, record.method.rpartition("/")[2], list(record.objects)


async def test_an_enrollment_is_on_record_as_the_doing_of_its_holder(world: World) -> None:
    holder, token = user(), machine()
    first = await world.enroll(holder, "laptop", request_id="request")
    record = await last(world)
    assert told(record) == (f"user:{holder}", "Register", [name(first), first.device.device_id])
    assert (record.before_revision, record.after_revision, record.request_id) == (0, 1, "request")
    second = await world.enroll(holder, "laptop")
    objects = [name(second), first.device.device_id, name(first)]
    assert told(await last(world, 2)) == (f"user:{holder}", "Register", objects)
    third = await world.enroll(token, "laptop")
    objects = [name(third), first.device.device_id]
    assert told(await last(world, 3)) == (f"service_token:{token}", "Register", objects)


async def test_a_repeated_enrollment_is_on_record_once(world: World) -> None:
    """Nor is one that failed for reasons of ours."""
    attempt = await world.attempt()
    world.ipam.will("reserve", refuses(SubnetExhausted("all are held")))
    with pytest.raises(SubnetExhausted):
        await world.register(attempt)
    assert await world.records() == []
    for _ in range(2):
        await world.register(attempt)
    await last(world)


@pytest.mark.parametrize("when", ["at first", "in the end"])
async def test_a_device_that_another_user_holds_is_on_record_with_the_reason(world: World, when: str) -> None:
    """Decision 18: the hardware id is a claim."""
    holder, other = user(), user()

    async def overtakes() -> None:
        await world.enroll(holder, "laptop")

    if when == "at first":
        await overtakes()
    else:
        world.ipam.will("reserve", acts_and_then(overtakes))
    with pytest.raises(DeviceHeldByAnotherUser) as caught:
        await world.enroll(other, "laptop")
    record = await last(world, 2)
    assert told(record) == (f"user:{other}", "Register", [caught.value.metadata["device_id"]])
    assert record.reason == ErrorReason.ERROR_REASON_DEVICE_HELD_BY_ANOTHER_USER
    assert record.before_revision == record.after_revision == 1


async def test_every_batch_is_one_record_of_what_it_changed(world: World) -> None:
    """Also when that is nothing."""
    made = [name(await world.enroll()) for _ in range(3)]
    call, unknown = world.call("once"), new(REGISTRATION)
    for _ in range(2):
        await world.revoke(made[1], made[0], unknown, call=call)
    record = await last(world, 4)
    assert (record.actor, record.request_id) == (world.call().caller.name, "once")
    assert sorted(record.objects) == made[:2]
    assert (record.before_revision, record.after_revision) == (3, 4)
    await world.revoke(made[0])
    record = await last(world, 5)
    assert (list(record.objects), record.before_revision, record.after_revision) == ([], 4, 4)
    await world.unrevoke(*made)
    assert sorted((await last(world, 6)).objects) == made[:2]
    await world.delete(*made)
    assert sorted((await last(world, 7)).objects) == made
    await world.delete(unknown)
    assert list((await last(world, 8)).objects) == []


async def test_what_is_only_asked_for_is_not_on_record(world: World) -> None:
    """AIP-163."""
    enrolled = await world.enroll()
    await world.registry.registrations.delete(world.call("x"), world.organization, [name(enrolled)], validate_only=True)
    await last(world)


async def test_what_admins_do_to_devices_is_on_record(world: World) -> None:
    enrolled = await world.enroll()
    device_id, call = enrolled.device.device_id, world.call("once")
    for _ in range(2):
        await world.revoke_device(device_id, call)
    assert list((await last(world, 2)).objects) == [device_id, name(enrolled)]
    await world.revoke_device(device_id)
    record = await last(world, 3)
    assert (list(record.objects), record.before_revision, record.after_revision) == ([device_id], 2, 2)
    await world.delete_device(device_id)
    assert list((await last(world, 4)).objects) == [device_id, name(enrolled)]


async def test_what_a_device_does_is_on_record_once(world: World) -> None:
    enrolled = await world.enroll()
    actor, call = f"device:{name(enrolled)}", world.rotation(enrolled)
    late = world.rotation(enrolled)
    for _ in range(2):
        await world.registry.rotations.rotate(*call)
    with pytest.raises(KeyNotCurrent):
        await world.registry.rotations.rotate(*late)
    assert told(await last(world, 2)) == (actor, "RotateKey", [name(enrolled)])
    for _ in range(2):
        await world.leave(enrolled, "once")
    with pytest.raises(RegistrationNotFound):
        await world.leave(enrolled, "twice")
    assert told(await last(world, 3)) == (actor, "Leave", [name(enrolled)])


async def test_a_device_that_may_not_leave_is_on_record_with_the_reason(world: World) -> None:
    """I-33: every refusal, and nothing is changed by it."""
    managed = await world.enroll(managed=True)
    for number in (2, 3):
        with pytest.raises(LeaveNotAllowed):
            await world.leave(managed, "once")
        record = await last(world, number)
        assert told(record) == (f"device:{name(managed)}", "Leave", [name(managed)])
        assert record.reason == ErrorReason.ERROR_REASON_LEAVE_NOT_ALLOWED
        assert record.before_revision == record.after_revision


async def test_what_follows_from_identity_is_on_record_as_a_job(world: World) -> None:
    """Decision 5: and what changes nothing is not."""
    holder = user()
    made = [name(await world.enroll(holder)) for _ in range(2)]
    revocation, removal = world.identity.revocation(holder), world.identity.removal(holder)
    for _ in range(2):
        await world.follow(revocation)
    record = await last(world, 3)
    assert (record.actor, record.method, sorted(record.objects)) == ("job:follow identity", "", made)
    assert (record.before_revision, record.after_revision) == (2, 3)
    for _ in range(2):
        await world.follow(removal)
    assert sorted((await last(world, 4)).objects) == made


@pytest.mark.parametrize("by", ["sweep", "question"])
async def test_an_enrollment_that_is_aborted_is_on_record(world: World, by: str) -> None:
    await world.begin()
    (intent,) = await world.rows()
    if by == "question":
        await world.resolve(intent.registration_id)
    else:
        await world.registry.enrollments.sweep_once()
    assert await world.records() == []
    world.clock.advance(31)
    for _ in range(2):
        if by == "question":
            await world.resolve(intent.registration_id)
        else:
            await world.registry.enrollments.sweep_once()
    record = await last(world)
    assert list(record.objects) == [intent.registration_id]
    assert record.actor == ("job:sweep" if by == "sweep" else world.call().caller.name)

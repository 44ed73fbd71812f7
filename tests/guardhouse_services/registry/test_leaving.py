"""A device that deletes its own registration, on both engines (decisions 16, 18 and 22, I-07)."""

import asyncio

import pytest

from guardhouse import revisions
from guardhouse.errors import AccessDenied, CredentialsInvalid, RegistrationNotFound, RequestIdReused
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.access import Rule
from guardhouse_services.registry.domain import KEEP_ENDED, SECOND
from guardhouse_services.registry.usecases.callers import LEAVE
from guardhouse_services.requests import KEEP
from tests.guardhouse_services.registry.world import World, machine, name, user


async def test_a_device_leaves_and_another_user_may_come(world: World) -> None:
    """Decision 18: until the holder leaves."""
    first, sibling = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    token = await world.leave(first)
    assert revisions.decode(token).position.revision == 3
    assert await world.states(first, sibling) == ["DELETED", "ACTIVE"]
    assert (await world.events())[-1] == ("deleted", name(first))
    second = await world.enroll(user(), "laptop")
    assert second.registration.lease != first.registration.lease


async def test_a_repeated_leave_is_answered_for_a_day(world: World) -> None:
    """I-07: the answer may have been lost."""
    world.clock.stop()
    enrolled = await world.enroll()
    first = await world.leave(enrolled, "once")
    assert await world.leave(enrolled, "once") == first
    assert len(await world.changes()) == 2
    with pytest.raises(RequestIdReused):
        await world.leave(enrolled, "once", "another body")
    with pytest.raises(RegistrationNotFound):
        await world.leave(enrolled, "twice")
    world.clock.advance(KEEP / SECOND - 1)
    await world.registry.enrollments.sweep_once()
    assert await world.leave(enrolled, "once") == first
    world.clock.advance(1)
    with pytest.raises(RegistrationNotFound):
        await world.leave(enrolled, "once")


async def test_one_who_leaves_eight_times_at_once_leaves_once(world: World) -> None:
    enrolled = await world.enroll()
    got = await asyncio.gather(*(world.leave(enrolled, "once") for _ in range(8)))
    assert len(set(got)) == 1
    assert len(await world.changes()) == 2


async def test_the_token_of_one_that_left_is_good_for_leave_and_nothing_else(world: World) -> None:
    """Decision 22: the device is recognised for the repetition, as long as that is answered."""
    enrolled = await world.enroll()
    await world.leave(enrolled)
    caller = await world.registry.callers.device(enrolled.token)
    assert (caller.kind, caller.id, caller.only) == ("device", name(enrolled), LEAVE)
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            path, rule = f"/{service.full_name}/{method.name}", Rule.of(method)
            if path == LEAVE:
                rule.check(caller, path)
                continue
            with pytest.raises((CredentialsInvalid, AccessDenied)) as caught:
                rule.check(caller, path)
            assert caught.type is CredentialsInvalid
    with pytest.raises(CredentialsInvalid):
        await world.registry.callers.device(enrolled.token[:-1])
    world.clock.advance(KEEP_ENDED / SECOND + 1)
    await world.registry.enrollments.sweep_once()
    with pytest.raises(CredentialsInvalid):
        await world.registry.callers.device(enrolled.token)


async def test_one_that_is_revoked_at_this_moment_does_not_leave(world: World) -> None:
    """Decision 16: its key is invalid at once, and its addresses are held."""
    enrolled = await world.enroll()
    await world.revoke(name(enrolled))
    with pytest.raises(CredentialsInvalid):
        await world.leave(enrolled)
    assert await world.states(enrolled) == ["REVOKED"]

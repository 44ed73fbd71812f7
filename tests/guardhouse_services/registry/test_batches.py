"""Revoking, restoring and deleting many at once, on both engines (decisions 16, 18 and 36, I-03, I-07)."""

import asyncio

import pytest

from guardhouse.errors import RegistrationNotFound, RequestIdReused
from guardhouse.ids import REGISTRATION
from guardhouse_services.registry.domain import State
from tests.guardhouse_services.registry.world import World, insert_many, machine, name, new, user


async def test_a_revocation_keeps_everything_but_the_key(world: World) -> None:
    """Decision 16."""
    enrolled, sibling = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    assert await world.revoke(name(enrolled)) == {name(enrolled): "REVOKED"}
    found = await world.registry.registrations.get(world.organization, name(enrolled))
    assert (found.lease, found.public_key) == (enrolled.registration.lease, enrolled.registration.public_key)
    assert found.revoke_time is not None
    assert await world.states(sibling) == ["ACTIVE"]
    assert world.identity.seats.keys() == {name(enrolled)}
    assert (await world.events())[-1] == ("revoked", name(enrolled))


async def test_restoring_brings_back_the_same_registration(world: World) -> None:
    """Decision 16."""
    enrolled = await world.enroll()
    await world.revoke(name(enrolled))
    assert await world.unrevoke(name(enrolled)) == {name(enrolled): "ACTIVE"}
    found = await world.registry.registrations.get(world.organization, name(enrolled))
    assert found == enrolled.registration


async def test_a_deletion_is_for_good_and_leaves_the_siblings(world: World) -> None:
    """Decision 16, I-03: a second one finds nothing."""
    enrolled, sibling = await world.enroll(user(), "laptop"), await world.enroll(machine(), "laptop")
    assert await world.delete(name(enrolled)) == {name(enrolled): "DELETED"}
    for again in (world.delete, world.revoke, world.unrevoke):
        assert await again(name(enrolled)) == {name(enrolled): "REGISTRATION_NOT_FOUND"}
    with pytest.raises(RegistrationNotFound):
        await world.registry.registrations.get(world.organization, name(enrolled))
    assert await world.states(sibling) == ["ACTIVE"]
    assert (await world.events())[-1] == ("deleted", name(enrolled))


async def test_a_revoked_registration_can_be_deleted(world: World) -> None:
    enrolled = await world.enroll()
    await world.revoke(name(enrolled))
    assert await world.delete(name(enrolled)) == {name(enrolled): "DELETED"}


async def test_what_is_so_already_is_answered_and_told_nobody(world: World) -> None:
    enrolled = await world.enroll()
    await world.unrevoke(name(enrolled))
    assert len(await world.changes()) == 1
    await world.revoke(name(enrolled))
    found = await world.find(name(enrolled))
    world.clock.advance(60)
    assert await world.revoke(name(enrolled)) == {name(enrolled): "REVOKED"}
    assert await world.find(name(enrolled)) == found
    assert len(await world.changes()) == 2


@pytest.mark.parametrize("action", ["revoke", "unrevoke", "delete"])
async def test_a_batch_answers_in_the_order_in_which_it_was_asked(world: World, action: str) -> None:
    """Decision 36: an unknown one is an answer for that item."""
    made = [name(await world.enroll()) for _ in range(4)]
    if action == "unrevoke":
        await world.revoke(*made)
    ids = [made[2], new(REGISTRATION), made[0], new(REGISTRATION), made[3]]
    outcomes = await getattr(world, action)(*ids)
    done = {"revoke": "REVOKED", "unrevoke": "ACTIVE", "delete": "DELETED"}[action]
    missing = "REGISTRATION_NOT_FOUND"
    assert list(outcomes.items()) == list(zip(ids, [done, missing, done, missing, done], strict=True))
    told = {"revoke": "revoked", "unrevoke": "active", "delete": "deleted"}[action]
    assert sorted((await world.changes())[-1]) == sorted((told, made[at]) for at in (0, 2, 3))
    assert await world.state(made[1]) == (State.REVOKED if action == "unrevoke" else State.ACTIVE)


@pytest.mark.parametrize("action", ["revoke", "unrevoke", "delete"])
async def test_a_batch_reaches_no_other_organization(world: World, action: str) -> None:
    """I-27."""
    elsewhere = await world.enroll(organization_id=await world.add_organization())
    before = await world.find(name(elsewhere))
    assert await getattr(world, action)(name(elsewhere)) == {name(elsewhere): "REGISTRATION_NOT_FOUND"}
    assert await world.find(name(elsewhere)) == before
    with pytest.raises(RegistrationNotFound):
        await world.registry.registrations.get(world.organization, name(elsewhere))


async def test_a_batch_of_unknown_ones_writes_no_change(world: World) -> None:
    await world.enroll()
    await world.delete(new(REGISTRATION), new(REGISTRATION))
    assert len(await world.changes()) == 1


# Where a restored one would break decision 18


async def test_of_two_revoked_ones_of_a_user_on_a_device_one_comes_back(world: World) -> None:
    """Decision 18, in one batch and in another one after it."""
    holder = user()
    first = await world.enroll(holder, "laptop")
    await world.revoke(name(first))
    second = await world.enroll(holder, "laptop")
    await world.revoke(name(second))
    held = "DEVICE_HELD_BY_ANOTHER_REGISTRATION"
    assert await world.unrevoke(name(first), name(second)) == {name(first): "ACTIVE", name(second): held}
    assert await world.unrevoke(name(second), name(first)) == {name(second): held, name(first): "ACTIVE"}
    assert await world.states(first, second) == ["ACTIVE", "REVOKED"]
    assert (await world.changes())[4:] == [[("active", name(first))]]
    await world.revoke(name(first))
    assert await world.unrevoke(name(second)) == {name(second): "ACTIVE"}


async def test_the_one_that_replaced_it_has_the_place(world: World) -> None:
    holder = user()
    first = await world.enroll(holder, "laptop")
    await world.revoke(name(first))
    second = await world.enroll(holder, "laptop")
    outcomes = await world.registry.registrations.unrevoke(world.call(), world.organization, [name(first)])
    ((_, error),) = outcomes.outcomes
    assert error.reason == "DEVICE_HELD_BY_ANOTHER_REGISTRATION"  # type: ignore[union-attr]
    assert error.metadata == {"registration_id": name(second)}  # type: ignore[union-attr]
    assert await world.states(first, second) == ["REVOKED", "ACTIVE"]


async def test_another_users_place_is_not_taken_back(world: World) -> None:
    first = await world.enroll(user(), "laptop")
    await world.revoke(name(first))
    second = await world.enroll(user(), "laptop")
    assert await world.unrevoke(name(first)) == {name(first): "DEVICE_HELD_BY_ANOTHER_USER"}
    await world.revoke(name(second))
    outcomes = await world.unrevoke(name(second), name(first))
    assert outcomes == {name(second): "DEVICE_HELD_BY_ANOTHER_USER", name(first): "ACTIVE"}


async def test_service_tokens_come_back_beside_a_user(world: World) -> None:
    tokens = [await world.enroll(machine(), "server") for _ in range(2)]
    mine = await world.enroll(user(), "server")
    ids = [*map(name, tokens), name(mine)]
    await world.revoke(*ids)
    assert await world.unrevoke(*ids) == dict.fromkeys(ids, "ACTIVE")


async def test_each_device_has_its_own_place(world: World) -> None:
    holder = user()
    ids = [name(await world.enroll(holder)) for _ in range(3)]
    await world.revoke(*ids)
    assert await world.unrevoke(*ids) == dict.fromkeys(ids, "ACTIVE")


async def test_restoring_and_enrolling_at_once_leave_one(world: World) -> None:
    """Decision 18 under concurrency."""
    holder = user()
    revoked = []
    for _ in range(4):
        enrolled = await world.enroll(holder, "laptop")
        await world.revoke(name(enrolled))
        revoked.append(name(enrolled))
    attempts = [await world.attempt(holder, "laptop") for _ in range(4)]
    work = [world.unrevoke(it) for it in revoked] + [world.register(it) for it in attempts]
    await asyncio.gather(*work, return_exceptions=True)
    active = [row for row in await world.rows() if row.state == State.ACTIVE]
    assert len(active) == 1


# The same request again


@pytest.mark.parametrize("action", ["revoke", "unrevoke", "delete"])
async def test_a_repeated_batch_has_one_effect_and_the_same_outcomes(world: World, action: str) -> None:
    """I-07."""
    made = [name(await world.enroll()) for _ in range(2)]
    if action == "unrevoke":
        await world.revoke(*made)
    ids, call = (made[1], new(REGISTRATION), made[0]), world.call("again", action)
    first = await getattr(world, action)(*ids, call=call)
    changes = await world.changes()
    assert list((await getattr(world, action)(*ids, call=call)).items()) == list(first.items())
    assert await world.changes() == changes
    with pytest.raises(RequestIdReused):
        await getattr(world, action)(*ids[:1], call=world.call("again", "other"))


async def test_a_repeated_revocation_does_not_undo_what_came_after(world: World) -> None:
    enrolled = await world.enroll()
    call = world.call("once")
    await world.revoke(name(enrolled), call=call)
    await world.unrevoke(name(enrolled))
    assert await world.revoke(name(enrolled), call=call) == {name(enrolled): "ACTIVE"}
    assert await world.states(enrolled) == ["ACTIVE"]


async def test_a_repeated_restoration_repeats_its_refusals(world: World) -> None:
    """Although the place has become free since."""
    first = await world.enroll(user(), "laptop")
    await world.revoke(name(first))
    second = await world.enroll(user(), "laptop")
    call = world.call("once")
    refused = {name(first): "DEVICE_HELD_BY_ANOTHER_USER"}
    assert await world.unrevoke(name(first), call=call) == refused
    await world.delete(name(second))
    assert await world.unrevoke(name(first), call=call) == refused
    assert await world.unrevoke(name(first)) == {name(first): "ACTIVE"}


async def test_a_repeated_request_says_what_the_first_said(world: World) -> None:
    call, unknown = world.call("once"), new(REGISTRATION)
    got = [await world.registry.registrations.delete(call, world.organization, [unknown]) for _ in range(2)]
    messages = [error.message for it in got for _, error in it.outcomes]  # type: ignore[union-attr]
    assert messages[0] == messages[1]


async def test_the_same_batch_eight_times_at_once_is_one_change(world: World) -> None:
    enrolled = await world.enroll()
    call = world.call("once")
    got = await asyncio.gather(*(world.delete(name(enrolled), call=call) for _ in range(8)))
    assert got == [{name(enrolled): "DELETED"}] * 8
    assert len(await world.changes()) == 2


async def test_more_than_500_deletions_are_several_changes_without_a_gap(world: World) -> None:
    ids = await insert_many(world, 1000)
    before = await world.changes()
    batch = await world.registry.registrations.delete(world.call(), world.organization, ids)
    assert [key for key, _ in batch.outcomes] == ids
    changes = (await world.changes())[len(before) :]
    assert [len(each) for each in changes] == [500, 500]
    assert {registration_id for each in changes for _, registration_id in each} == set(ids)
    assert {kind for each in changes for kind, _ in each} == {"deleted"}

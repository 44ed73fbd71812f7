"""Removals and revocations against enrollments that they may overtake, on both engines (decision 5, I-12)."""

import pytest

from guardhouse.errors import EnrollmentAborted, UserRemoved
from guardhouse.identity.v1 import identity_pb2
from guardhouse_services.registry.domain import State
from tests.guardhouse_services.registry.world import World, acts_and_then, machine, name, user


async def test_a_removed_users_registrations_go_and_nobody_elses(world: World) -> None:
    holder, other = user(), user()
    mine = [await world.enroll(holder) for _ in range(3)]
    await world.revoke(name(mine[1]))
    theirs, token = await world.enroll(other), await world.enroll(machine())
    await world.follow(world.identity.removal(holder))
    assert await world.states(*mine) == ["DELETED"] * 3
    assert await world.states(theirs, token) == ["ACTIVE", "ACTIVE"]
    assert sorted((await world.changes())[-1]) == sorted(("deleted", name(it)) for it in mine)


async def test_a_revocation_takes_the_keys_and_keeps_the_addresses(world: World) -> None:
    """Decision 16."""
    holder = user()
    mine, theirs = await world.enroll(holder), await world.enroll()
    await world.follow(world.identity.revocation(holder))
    found = await world.registry.registrations.get(world.organization, name(mine))
    assert (found.state, found.lease) == (State.REVOKED, mine.registration.lease)
    assert found.revoke_time is not None
    assert await world.states(theirs) == ["ACTIVE"]
    assert (await world.changes())[-1] == [("revoked", name(mine))]


async def test_a_user_who_was_removed_while_enrolling_is_refused(world: World) -> None:
    holder = user()

    async def remove() -> None:
        await world.follow(world.identity.removal(holder))

    world.identity.will("authorize", acts_and_then(remove))
    attempt = await world.attempt(holder)
    with pytest.raises(UserRemoved):
        await world.register(attempt)
    assert sorted(world.calls[-2:]) == [("cancel", State.ABORTED), ("release", State.ABORTED)]
    assert (world.identity.seats, world.ipam.leases) == ({}, {})
    assert await world.events() == []
    # Removed and still admitted: the next one is authorized behind the removal.
    assert (await world.register(attempt)).registration.state == State.ACTIVE


async def test_a_user_who_was_revoked_while_enrolling_starts_over(world: World) -> None:
    holder = user()

    async def revoke() -> None:
        await world.follow(world.identity.revocation(holder))

    world.identity.will("authorize", acts_and_then(revoke))
    with pytest.raises(EnrollmentAborted):
        await world.enroll(holder)
    assert await world.events() == []
    await world.enroll(holder)


async def test_a_removal_that_arrives_after_the_activation_deletes(world: World) -> None:
    """It was made while the enrollment was under way, and the registry hears of it later."""
    holder = user()
    late: list[identity_pb2.Event] = []

    async def remove() -> None:
        late.append(world.identity.removal(holder))

    world.identity.will("authorize", acts_and_then(remove))
    enrolled = await world.enroll(holder)
    await world.follow(*late)
    assert await world.states(enrolled) == ["DELETED"]


async def test_a_removal_that_arrives_late_leaves_a_newer_enrollment_alone(world: World) -> None:
    """Decision 5: it touches only what was authorized at or before it."""
    holder = user()
    old = await world.enroll(holder)
    removal = world.identity.removal(holder)
    new = await world.enroll(holder)
    assert (old.registration.authorize_revision, new.registration.authorize_revision) == (8, 9)
    await world.follow(removal)
    assert await world.states(old, new) == ["DELETED", "ACTIVE"]


async def test_a_revocation_that_arrives_late_leaves_a_newer_enrollment_alone(world: World) -> None:
    holder = user()
    old = await world.enroll(holder)
    revocation = world.identity.revocation(holder)
    new = await world.enroll(holder)
    await world.follow(revocation)
    assert await world.states(old, new) == ["REVOKED", "ACTIVE"]


async def test_a_revocation_acts_once_and_not_again_after_it_was_undone(world: World) -> None:
    holder = user()
    enrolled = await world.enroll(holder)
    revocation = world.identity.revocation(holder)
    await world.follow(revocation)
    assert await world.unrevoke(name(enrolled)) == {name(enrolled): "ACTIVE"}
    before = await world.events()
    await world.follow(revocation)
    # A later change of the user carries the revocation along.
    later = identity_pb2.Event()
    later.CopyFrom(revocation)
    later.user.user.email = "new@example.com"
    await world.follow(later, revocation)
    assert await world.states(enrolled) == ["ACTIVE"]
    assert await world.events() == before
    await world.follow(world.identity.revocation(holder))
    assert await world.states(enrolled) == ["REVOKED"]


async def test_events_that_come_again_or_in_another_order_change_nothing(world: World) -> None:
    holder = user()
    first = await world.enroll(holder)
    revocation = world.identity.revocation(holder)
    revoked = revocation.user.registrations_revoked_revision
    second = await world.enroll(holder)
    removal = world.identity.fact(holder, removed=world.identity.revision + 1, revoked=revoked)
    world.identity.revision += 1
    third = await world.enroll(holder)
    both = world.identity.fact(holder, removed=removal.user.removed_revision, revoked=world.identity.revision + 1)
    world.identity.revision += 1
    fourth = await world.enroll(holder)
    await world.follow(revocation, removal, both)
    expected = ["DELETED", "DELETED", "REVOKED", "ACTIVE"]
    assert await world.states(first, second, third, fourth) == expected
    await world.unrevoke(name(third))
    before = await world.events()
    for events in ([removal], [revocation], [both, removal, revocation], [both], [revocation, removal, both]):
        await world.follow(*events)
    assert await world.states(first, second, third, fourth) == ["DELETED", "DELETED", "ACTIVE", "ACTIVE"]
    assert await world.events() == before
    await world.follow(world.identity.fact(holder))
    assert await world.events() == before


async def test_an_old_event_does_not_open_the_fence_again(world: World) -> None:
    """I-12: an older fact takes nothing back from a newer one."""
    holder = user()
    old = world.identity.removal(holder)

    async def news() -> None:
        await world.follow(world.identity.removal(holder))
        await world.follow(old)
        await world.follow(world.identity.fact(holder, revoked=2))

    world.identity.will("authorize", acts_and_then(news))
    with pytest.raises(UserRemoved):
        await world.enroll(holder)


async def test_a_removal_and_a_revocation_keep_each_other(world: World) -> None:
    """Each is known by its own revision."""
    holder = user()

    async def news() -> None:
        await world.follow(world.identity.revocation(holder))
        await world.follow(world.identity.fact(holder, removed=3))

    world.identity.will("authorize", acts_and_then(news))
    with pytest.raises(EnrollmentAborted):
        await world.enroll(holder)


async def test_a_removal_fences_one_organization_only(world: World) -> None:
    holder = user()
    other = await world.add_organization()
    elsewhere = await world.enroll(holder, organization_id=other)
    await world.follow(world.identity.removal(holder))
    assert await world.states(elsewhere) == ["ACTIVE"]


async def test_what_identity_tells_of_others_changes_nothing(world: World) -> None:
    await world.enroll()
    before = await world.events()
    await world.follow(
        identity_pb2.Event(organization=identity_pb2.Organization(organization_id=world.organization)),
        identity_pb2.Event(identity_provider_deleted="idp_x"),
        world.identity.removal(user()),
    )
    assert await world.events() == before

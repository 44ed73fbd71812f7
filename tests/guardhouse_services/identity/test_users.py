"""Users: listed, revoked, removed (decision 5)."""

import pytest

from guardhouse.errors import EnrollmentAborted, OrganizationNotFound, RemovalNotFound, UserNotFound
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import REMOVAL, USER, new_id
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import NOBODY, Person
from guardhouse_services.identity.domain.users import Removal
from guardhouse_services.paging import Page
from tests.guardhouse_services.identity.world import (
    EVERYBODY,
    ISSUER,
    World,
    deleted,
    held,
    lease_of,
    registered,
    released,
    unknown_organization,
)


def progress(removal: Removal) -> tuple[int, int, int, bool]:
    return removal.registrations, removal.registrations_deleted, removal.addresses_released, removal.done


async def newest_record(world: World) -> pb.UserRecord:
    return (await world.events())[-1][-1].user


async def test_revoking_keeps_the_seat_and_is_ordered_by_its_revision(world: World) -> None:
    """Decisions 5 and 35."""
    intent = await world.enroll("ada")
    call = world.call(world.organization)
    user, _, _ = await world.identity.users.revoke(call, world.organization, intent.user_id, False)
    assert user.revoked_revision == await world.revision()
    assert user.revoked_revision >= intent.authorize_revision
    assert user.registrations_revoked_revision == 0
    assert await world.used() == 1
    record = await newest_record(world)
    assert record.revoked_revision == user.revoked_revision
    assert record.user.seat_status == pb.SEAT_STATUS_ACTIVE


async def test_revoking_the_registrations_as_well_is_asked_for(world: World) -> None:
    """Decision 5."""
    intent = await world.enroll("ada")
    call = world.call(world.organization)
    user, _, _ = await world.identity.users.revoke(call, world.organization, intent.user_id, True)
    assert user.registrations_revoked_revision == user.revoked_revision == await world.revision()


async def test_a_repeated_revocation_is_one(world: World) -> None:
    """Invariant I-07: it would end the sessions that were begun since."""
    intent = await world.enroll("ada")
    call = world.call(world.organization, "again")
    first, _, _ = await world.identity.users.revoke(call, world.organization, intent.user_id, False)
    again, _, _ = await world.identity.users.revoke(call, world.organization, intent.user_id, False)
    assert again == first
    assert await world.revision() == first.revoked_revision


async def test_removing_frees_the_seat_at_once_and_keeps_the_user_listed(world: World) -> None:
    """Decision 5."""
    await world.limit(1)
    intent = await world.enroll("ada")
    removal = await world.remove(intent)
    assert (removal.users, removal.seats_freed) == (1, 1)
    assert await world.used() == 0
    (user,) = await world.users()
    assert user.seat_time is None
    assert user.removed_revision == await world.revision()
    record = await newest_record(world)
    assert record.user.seat_status == pb.SEAT_STATUS_INACTIVE
    assert record.removed_revision == user.removed_revision
    await world.enroll("bob")


async def test_a_removed_user_who_enrolls_again_takes_a_seat_again(world: World) -> None:
    """Decision 5: with the same user_id, and behind the removal."""
    first = await world.enroll("ada")
    await world.remove(first)
    again = await world.enroll("ada")
    assert again.user_id == first.user_id
    user = await world.user(again)
    assert user.seat_time == again.create_time
    assert user.removed_revision < again.authorize_revision
    assert first.authorize_revision <= user.removed_revision
    assert await world.used() == 1


async def test_a_removal_counts_registrations_and_addresses_as_they_go(world: World) -> None:
    """Decision 5."""
    laptop, phone = await world.enroll("ada"), await world.enroll("ada")
    bystander = await world.enroll("bob")
    removal = await world.remove(laptop)
    assert progress(removal) == (2, 0, 0, False)
    await world.registry(deleted(laptop))
    await world.registry(deleted(bystander))
    await world.ipam(released(bystander))
    assert progress(await world.removal(removal)) == (2, 1, 0, False)
    await world.ipam(released(laptop))
    await world.registry(deleted(phone))
    assert progress(await world.removal(removal)) == (2, 2, 1, False)
    await world.ipam(released(phone))
    assert progress(await world.removal(removal)) == (2, 2, 2, True)


async def test_an_enrollment_under_way_is_refused_and_keeps_the_removal_open(world: World) -> None:
    """Decision 5: what was authorized before the removal goes, whatever the registry does with it."""
    await world.enroll("ada")
    intent = await world.authorize("ada")
    removal = await world.remove(intent)
    assert removal.seats_freed == 1
    assert not removal.done
    with pytest.raises(EnrollmentAborted):
        await world.authorize("ada", intent_id=intent.intent_id)
    # The registry had not heard of the removal: it tells of the registration, then deletes it.
    await world.registry(registered(intent))
    assert await world.used() == 0
    assert (await world.user(intent)).seat_time is None
    assert (await world.removal(removal)).registrations == 2
    await world.registry(deleted(intent))
    assert (await world.removal(removal)).registrations_deleted == 1


async def test_an_aborted_enrollment_does_not_keep_a_removal_open(world: World) -> None:
    """Decision 5."""
    first = await world.enroll("ada")
    await world.registry(deleted(first))
    await world.ipam(released(first))
    intent = await world.authorize("ada")
    removal = await world.remove(intent)
    assert not removal.done
    await world.cancel(intent)
    assert progress(await world.removal(removal)) == (0, 0, 0, True)
    assert await world.used() == 0


async def test_the_outcome_of_an_enrollment_under_way_is_asked_for(world: World) -> None:
    """Decision 5: the registry is asked when nobody says what became of it."""
    first = await world.enroll("ada")
    intent, other = await world.authorize("ada"), await world.authorize("ada")
    removal = await world.remove(first)
    world.outcomes[intent.intent_id] = registry_pb2.INTENT_OUTCOME_ABORTED
    world.outcomes[other.intent_id] = registry_pb2.INTENT_OUTCOME_DELETED
    world.clock.advance(61)
    await world.identity.resolver.resolve_once()
    found = await world.removal(removal)
    assert (found.undecided, found.registrations, found.registrations_deleted) == (0, 2, 1)
    assert await world.used() == 0


async def test_a_registration_that_arrives_late_joins_the_removal(world: World) -> None:
    """Decision 5: it was authorized before, and its record comes behind."""
    first = await world.enroll("ada")
    late = await world.authorize("ada")
    world.outcomes[late.intent_id] = registry_pb2.INTENT_OUTCOME_ACTIVE
    world.clock.advance(61)
    await world.identity.resolver.resolve_once()
    removal = await world.remove(first)
    assert removal.registrations == 1
    await world.registry(registered(late))
    assert (await world.removal(removal)).registrations == 2


async def test_a_registration_authorized_behind_the_removal_does_not_join_it(world: World) -> None:
    """Decision 5."""
    removal = await world.remove(await world.enroll("ada"))
    await world.enroll("ada")
    assert (await world.removal(removal)).registrations == 1


async def test_addresses_that_a_successor_took_over_are_no_longer_waited_for(world: World) -> None:
    """Decisions 5 and 18: the lease moved, so nobody will release it for the one that was replaced."""
    first = await world.enroll("ada")
    removal = await world.remove(first)
    successor = await world.authorize("ada")
    await world.registry(registered(successor, lease_of(first)), deleted(first))
    assert progress(await world.removal(removal)) == (1, 1, 1, True)
    second = await world.remove(successor)
    await world.registry(deleted(successor))
    assert progress(await world.removal(second)) == (1, 1, 0, False)
    await world.ipam(released(successor, lease_of(first)))
    assert progress(await world.removal(second)) == (1, 1, 1, True)


async def test_a_lease_that_was_handed_over_is_released_for_all_that_had_it(world: World) -> None:
    """Decision 18: the successor is deleted before anybody saw it hold the lease."""
    first, second = await world.enroll("ada"), await world.authorize("ada")
    removal = await world.remove(first)
    await world.registry(registered(second, lease_of(first)), deleted(first), deleted(second))
    assert progress(await world.removal(removal)) == (2, 2, 0, False)
    await world.ipam(released(second, lease_of(first)))
    assert progress(await world.removal(removal)) == (2, 2, 2, True)


async def test_addresses_released_before_the_registration_was_heard_of_count(world: World) -> None:
    """The two feeds do not wait for each other."""
    intent = await world.enroll("ada")
    late = await world.authorize("ada")
    removal = await world.remove(intent)
    await world.ipam(released(late), released(intent))
    assert progress(await world.removal(removal)) == (1, 0, 1, False)
    await world.registry(registered(late), deleted(late), deleted(intent))
    assert progress(await world.removal(removal)) == (2, 2, 2, True)


async def test_a_removal_ends_though_the_feeds_were_compacted(world: World) -> None:
    """What snapshots of the registry and of ipam lack is gone, for the count; no seat depends on it."""
    gone, kept = await world.enroll("ada"), await world.enroll("ada")
    bob = await world.enroll("bob")
    removal = await world.remove(gone)
    await world.registry_snapshot(registered(kept), registered(bob))
    assert progress(await world.removal(removal)) == (2, 1, 0, False)
    await world.ipam_snapshot(held(kept), held(bob))
    assert progress(await world.removal(removal)) == (2, 1, 1, False)
    assert await world.used() == 1


async def test_removing_everybody_leaves_nobody_a_seat(world: World) -> None:
    """Decision 5."""
    names = [f"user{number}" for number in range(5)]
    intents = [await world.enroll(name) for name in names]
    enrolling = await world.authorize("new")
    removal = await world.remove()
    assert (removal.users, removal.seats_freed, removal.registrations) == (6, 6, 5)
    assert await world.used() == 0
    assert {user.seat_time for user in await world.users()} == {None}
    assert len(await world.users()) == 5
    with pytest.raises(EnrollmentAborted):
        await world.authorize("new", intent_id=enrolling.intent_id)
    other = await world.remove(intents[0], intents[0])
    assert (other.users, other.seats_freed) == (1, 0)


async def test_removing_everybody_of_an_empty_organization_is_done(world: World) -> None:
    removal = await world.remove()
    assert (removal.users, removal.done) == (0, True)
    call = world.call()
    with pytest.raises(OrganizationNotFound):
        await world.identity.users.remove(call, unknown_organization(world.clock), [], True)


async def test_an_unknown_user_keeps_everybody(world: World) -> None:
    """Decision 5: all of them or nobody; one who never got in is unknown."""
    intent = await world.enroll("ada")
    refused = await world.authorize("bob")
    await world.cancel(refused)
    for unknown in (new_id(USER, world.clock.now()), refused.user_id):
        call = world.call(world.organization)
        with pytest.raises(UserNotFound) as error:
            await world.identity.users.remove(call, world.organization, [intent.user_id, unknown], False)
        assert error.value.metadata == {"user_id": unknown}
        with pytest.raises(UserNotFound):
            await world.identity.users.revoke(call, world.organization, unknown, False)
    assert await world.used() == 1
    assert (await world.user(intent)).removed_revision == 0


async def test_who_has_enrolled_a_moment_ago_can_be_revoked_and_removed(world: World) -> None:
    """Decision 5: Register has answered with the id before the registry's feed tells of it here."""
    intent = await world.authorize("ada")
    call = world.call(world.organization)
    user, _, _ = await world.identity.users.revoke(call, world.organization, intent.user_id, True)
    assert user.registrations_revoked_revision >= intent.authorize_revision
    removal = await world.remove(intent)
    assert (removal.users, removal.seats_freed, removal.done) == (1, 1, False)
    await world.registry(registered(intent), deleted(intent))
    await world.ipam(released(intent))
    assert progress(await world.removal(removal)) == (1, 1, 1, True)
    assert await world.used() == 0
    (user,) = await world.users()
    assert user.seat_time is None
    assert user.removed_revision >= intent.authorize_revision


async def test_users_of_another_organization_are_unknown(world: World) -> None:
    """Invariant I-27."""
    intent = await world.enroll("ada")
    other = await world.add_organization()
    with pytest.raises(UserNotFound):
        await world.identity.users.get(other, intent.user_id)
    with pytest.raises(UserNotFound):
        await world.identity.users.remove(world.call(other), other, [intent.user_id], False)
    removal = await world.remove(intent)
    with pytest.raises(RemovalNotFound):
        await world.identity.users.removal(other, removal.removal_id)


async def test_a_repeated_removal_is_one(world: World) -> None:
    """Invariant I-07: whoever enrolled since is not removed again."""
    intent = await world.enroll("ada")
    call = world.call(world.organization, "again")
    first, _ = await world.identity.users.remove(call, world.organization, [intent.user_id], False)
    await world.enroll("ada")
    again, _ = await world.identity.users.remove(call, world.organization, [intent.user_id], False)
    assert again.removal_id == first.removal_id
    assert await world.used() == 1


async def test_a_large_removal_is_several_consecutive_revisions(world: World) -> None:
    """Every event of it carries the first, by which it is ordered."""
    people = [Person(ISSUER, f"user{number}", NOBODY, 0, None, b"") for number in range(501)]

    def enroll(tx: Transaction) -> None:
        for person in people:
            user, _ = store.users.lock_or_create(tx, world.organization, person, new_id(USER, tx.now))
            store.users.save(tx, world.organization, [user.authenticated(NOBODY, tx.now)])

    await world.database.write(enroll)
    before = await world.revision()
    await world.remove()
    later = [event for events in (await world.events())[before:] for event in events]
    assert await world.revision() == before + 2
    assert len(later) == 501
    assert {event.user.removed_revision for event in later} == {before + 1}


async def test_users_are_listed_by_address_and_seat(world: World) -> None:
    """Letters of either case are equal; whoever never got in is not there."""
    ada = await world.enroll("ada", email="Ada.Lovelace@Example.com")
    bob = await world.enroll("bob")
    await world.authorize("cyd")
    await world.remove(bob)
    users = world.identity.users

    async def listed(email: str, has_seat: bool | None) -> list[str]:
        return [user.user_id for user in await users.page(world.organization, EVERYBODY, email, has_seat)]

    assert await listed("", None) == [ada.user_id, bob.user_id]
    assert await listed("ada.lovelace@example.COM", None) == [ada.user_id]
    assert await listed("", True) == [ada.user_id]
    assert await listed("", False) == [bob.user_id]
    first = await users.page(world.organization, Page("", 1), "", None)
    assert [user.user_id for user in first] == [ada.user_id, bob.user_id]
    rest = await users.page(world.organization, Page(ada.user_id, 1), "", None)
    assert [user.user_id for user in rest] == [bob.user_id]


async def test_an_unknown_removal_is_not_found(world: World) -> None:
    with pytest.raises(RemovalNotFound):
        await world.identity.users.removal(world.organization, new_id(REMOVAL, world.clock.now()))

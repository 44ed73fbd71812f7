"""What becomes of enrollments of which nobody says how they ended (section 5 of the failure table)."""

import pytest

from guardhouse.errors import EnrollmentAborted, Internal, ServiceUnavailable
from guardhouse.identity.v1 import identity_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.usecases import seats
from guardhouse_services.leases import IN_A_ROW
from tests.guardhouse_services.identity.world import World, deleted, registered, released

ACTIVE = registry_pb2.INTENT_OUTCOME_ACTIVE
ABORTED = registry_pb2.INTENT_OUTCOME_ABORTED
DELETED = registry_pb2.INTENT_OUTCOME_DELETED


async def test_nobody_is_asked_in_the_first_minute(world: World) -> None:
    world.clock.stop()
    await world.authorize("ada")
    world.clock.advance(59)
    assert await world.identity.resolver.resolve_once() == 0
    assert world.asked == []


async def test_time_alone_frees_no_seat(world: World) -> None:
    """Only the registry's word does: not a timer, and not a registry that cannot be asked."""
    intent = await world.authorize("ada")
    world.clock.advance(86400)
    await world.identity.resolver.resolve_once()
    assert world.asked == [intent.intent_id]
    world.outcomes[intent.intent_id] = ServiceUnavailable("down")
    world.clock.advance(10)
    with pytest.raises(ServiceUnavailable):
        await world.identity.resolver.resolve_once()
    assert await world.used() == 1
    await world.registry_snapshot()
    assert await world.used() == 1


async def test_a_pending_one_is_asked_about_again_and_keeps_nobody_waiting(world: World) -> None:
    first = await world.authorize("ada")
    world.clock.advance(61)
    await world.identity.resolver.resolve_once()
    await world.identity.resolver.resolve_once()
    assert world.asked == [first.intent_id]
    world.clock.advance(6)
    await world.identity.resolver.resolve_once()
    assert world.asked == [first.intent_id] * 2


async def test_an_intent_that_cannot_be_answered_holds_up_no_other(world: World) -> None:
    broken, other = await world.authorize("ada"), await world.authorize("bob")
    world.outcomes |= {broken.intent_id: Internal("broken"), other.intent_id: ABORTED}
    world.clock.advance(61)
    assert await world.identity.resolver.resolve_once() == 1
    assert await world.used() == 1


async def test_one_that_cannot_be_dealt_with_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any number of them: they go behind the others, and are asked about again."""
    broken = [(await world.authorize(f"user{number}")).intent_id for number in range(2 * IN_A_ROW)]
    fine = (await world.authorize("bob")).intent_id
    world.outcomes |= dict.fromkeys([*broken, fine], ABORTED)
    world.clock.advance(61)
    cancel = seats.cancel

    def stumble(tx: Transaction, organization_id: str, intent_id: str) -> bool:
        if intent_id in broken:
            raise RuntimeError("broken")
        return cancel(tx, organization_id, intent_id)

    monkeypatch.setattr(seats, "cancel", stumble)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await world.identity.resolver.resolve_once()
    assert await world.identity.resolver.resolve_once() == 1
    assert await world.used() == len(broken)
    monkeypatch.undo()
    world.clock.advance(6)
    assert await world.identity.resolver.resolve_once() == len(broken)
    assert await world.used() == 0


async def test_what_was_answered_counts_when_the_registry_goes_away_then(world: World) -> None:
    answered, other = await world.authorize("ada"), await world.authorize("bob")
    world.outcomes |= {answered.intent_id: ABORTED, other.intent_id: ServiceUnavailable("down")}
    world.clock.advance(61)
    with pytest.raises(ServiceUnavailable):
        await world.identity.resolver.resolve_once()
    assert await world.used() == 1


async def test_an_active_one_holds_its_seat(world: World) -> None:
    """Failure table, row 7."""
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = ACTIVE
    world.clock.advance(61)
    assert await world.identity.resolver.resolve_once() == 1
    user = await world.user(intent)
    assert user.seat_time == intent.create_time
    assert (await world.events())[-1][0].user.user.seat_status == identity_pb2.SEAT_STATUS_ACTIVE
    revision = await world.revision()
    await world.registry(registered(intent))
    await world.cancel(intent)
    assert await world.used() == 1
    assert await world.revision() == revision


@pytest.mark.parametrize("feed_first", [True, False])
async def test_deleting_what_came_of_it_frees_no_seat(world: World, feed_first: bool) -> None:
    """Decisions 2 and 16: whether the feed tells of the registration first or the registry when it is asked."""
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = DELETED
    world.clock.advance(61)
    if feed_first:
        await world.registry(registered(intent), deleted(intent))
        assert await world.identity.resolver.resolve_once() == 0
    else:
        assert await world.identity.resolver.resolve_once() == 1
        await world.registry(registered(intent), deleted(intent))
    (user,) = await world.users()
    assert (user.user_id, user.seat_time) == (intent.user_id, intent.create_time)
    assert await world.used() == 1
    assert await world.count("registration") == 1
    assert await world.read(lambda tx: store.registrations.live(tx, world.organization)) == set()


async def test_a_removed_users_registration_that_is_deleted_by_then_has_no_seat(world: World) -> None:
    """Decision 5: the removal counts it as deleted."""
    intent = await world.authorize("ada")
    removal = await world.remove()
    world.outcomes[intent.intent_id] = DELETED
    world.clock.advance(61)
    assert await world.identity.resolver.resolve_once() == 1
    assert await world.used() == 0
    found = await world.removal(removal)
    assert (found.registrations, found.registrations_deleted, found.undecided) == (1, 1, 0)


async def test_one_that_is_off_frees_its_seat_and_is_refused(world: World) -> None:
    """Failure table, rows 3 and 9."""
    intent = await world.authorize("ada")
    world.outcomes[intent.intent_id] = ABORTED
    world.clock.advance(61)
    await world.identity.resolver.resolve_once()
    assert await world.used() == 0
    assert await world.users() == []
    with pytest.raises(EnrollmentAborted):
        await world.authorize("ada", intent_id=intent.intent_id)
    world.clock.advance(10)
    assert await world.identity.resolver.resolve_once() == 0


async def test_a_service_tokens_enrollment_is_resolved_too(world: World) -> None:
    _, secret = await world.service_token()
    await world.allow(Rule(RuleKind.ANY_SERVICE_TOKEN), decision=Decision.SERVICE_AUTH, precedence=1)
    active, aborted = await world.authorize(secret), await world.authorize(secret)
    world.outcomes |= {active.intent_id: ACTIVE, aborted.intent_id: ABORTED}
    world.clock.advance(61)
    assert await world.identity.resolver.resolve_once() == 2
    assert await world.used() == 0


async def test_what_is_long_decided_is_forgotten(world: World) -> None:
    """Tombstones are kept for a day, used tokens while they could be accepted, removals for ever."""
    ada, bob = await world.enroll("ada"), await world.enroll("bob")
    await world.cancel(await world.authorize("cyd"))
    waiting = await world.authorize("dan")
    removal = await world.remove(ada)
    await world.registry(deleted(ada), deleted(bob))
    await world.ipam(released(ada), released(bob))
    await world.identity.resolver.forget_once()
    assert [await world.count(table) for table in ("intent", "used_token", "registration")] == [4, 4, 2]
    world.clock.advance(86401)
    await world.identity.resolver.forget_once()
    assert [await world.count(table) for table in ("intent", "used_token", "registration")] == [1, 0, 1]
    assert (await world.removal(removal)).done
    await world.registry(registered(waiting))
    assert await world.used() == 2

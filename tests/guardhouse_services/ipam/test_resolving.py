"""What becomes of reservations whose outcome is not known, on both engines (invariants.md, section 5; I-13)."""

import asyncio

import pytest

from guardhouse.errors import EnrollmentAborted, ServiceUnavailable
from guardhouse.ids import DEVICE, ORGANIZATION, REGISTRATION, USER
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.database import Transaction
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import State
from guardhouse_services.ipam.usecases.addresses import RESOLVE_BATCH
from tests.guardhouse_services.ipam.world import World, deleted, name, new

PENDING = registry.INTENT_OUTCOME_PENDING
ACTIVE = registry.INTENT_OUTCOME_ACTIVE
ABORTED = registry.INTENT_OUTCOME_ABORTED
DELETED = registry.INTENT_OUTCOME_DELETED


async def test_nothing_stays_reserved_65_seconds_after_an_abort(small: World) -> None:
    """I-13; the failure table's rows 3 to 5."""
    leases = [await small.reserve() for _ in range(14)]
    for lease in leases:
        small.answers(name(lease), ABORTED)
    await small.ipam.addresses.resolve_once()
    assert small.asked == []
    small.advance(65)
    await small.ipam.addresses.resolve_once()
    assert {row.state for row in await small.leases()} == {State.RESTING}
    assert len([await small.reserve() for _ in range(14)]) == 14
    with pytest.raises(EnrollmentAborted):
        await small.reserve(name(leases[0]))


async def test_no_time_frees_a_reservation_that_is_pending(world: World) -> None:
    """Never a timer."""
    lease = await world.reserve()
    for _ in range(5):
        world.advance(24 * 3600)
        await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is State.RESERVED
    assert len(world.asked) == 5


async def test_no_time_frees_a_reservation_while_the_registry_is_down(world: World) -> None:
    """The failure table's row 11: more than one batch of them, and each is asked about once a round."""
    leases = [await world.reserve() for _ in range(20)]
    for lease in leases:
        world.outcomes[name(lease)] = ServiceUnavailable("it is down", service="registry")
    world.advance(600)
    await world.ipam.addresses.resolve_once()
    assert sorted(world.asked) == sorted(map(name, leases))
    assert {row.state for row in await world.leases()} == {State.RESERVED}
    for lease in leases:
        world.answers(name(lease), ABORTED)
    world.advance(6)
    await world.ipam.addresses.resolve_once()
    assert {row.state for row in await world.leases()} == {State.RESTING}


async def test_one_that_cannot_be_dealt_with_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any number of one organization's: they go behind the others, and are asked about again."""
    theirs = new(ORGANIZATION)
    await world.add_organization(theirs)
    broken = [await world.reserve(organization_id=theirs) for _ in range(RESOLVE_BATCH + 1)]
    lease = await world.reserve()
    for each in (*broken, lease):
        world.answers(name(each), ABORTED)
    world.advance(61)
    bury = store.leases.bury

    def stumble(tx: Transaction, organization_id: str, intent_id: str) -> bool:
        if organization_id == theirs:
            raise RuntimeError("broken")
        return bury(tx, organization_id, intent_id)

    monkeypatch.setattr(store.leases, "bury", stumble)
    for _ in range(2):
        await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is State.RESTING
    world.organization = theirs
    assert {row.state for row in await world.leases()} == {State.RESERVED}
    monkeypatch.undo()
    world.advance(6)
    await world.ipam.addresses.resolve_once()
    assert {row.state for row in await world.leases()} == {State.RESTING}


async def test_a_reservation_under_an_active_registration_becomes_held(world: World) -> None:
    """The failure table's row 7: never freed."""
    lease = await world.reserve()
    world.answers(name(lease), ACTIVE, lease.lease_id)
    world.advance(61)
    await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is State.HELD
    assert await world.events() == [("lease", name(lease))]
    await world.change(world.record(name(lease), lease))
    assert len(await world.events()) == 1


async def test_a_reservation_is_freed_when_its_registration_holds_another_lease(world: World) -> None:
    device, user = new(DEVICE), new(USER)
    old = await world.hold(device, user)
    spare = await world.reserve(device=device, holder=user)
    world.answers(name(spare), ACTIVE, old.lease_id)
    world.advance(61)
    await world.ipam.addresses.resolve_once()
    assert (await world.state(old), await world.state(spare)) == (State.HELD, State.RESTING)
    await world.change(world.record(name(spare), old), deleted(name(old)))
    assert await world.state(old) is State.HELD


async def test_an_answer_without_a_lease_frees_nothing(world: World) -> None:
    lease = await world.reserve()
    world.answers(name(lease), ACTIVE)
    world.advance(61)
    await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is State.RESERVED


async def test_a_registration_that_has_come_and_gone_lets_its_address_rest(small: World) -> None:
    """Peers may have seen it: it is not free at once."""
    lease = await small.reserve()
    small.answers(name(lease), DELETED)
    small.advance(61)
    await small.ipam.addresses.resolve_once()
    assert await small.state(lease) is State.RESTING
    assert (await small.reserve()).ipv4 != lease.ipv4


async def test_a_missing_registration_is_released_when_the_registry_says_so(world: World) -> None:
    """The failure table's row 17."""
    gone, there = await world.hold(), await world.hold()
    await world.resync()
    world.answers(name(gone), DELETED)
    world.answers(name(there), ACTIVE, there.lease_id)
    await world.ipam.addresses.resolve_once()
    assert (await world.state(gone), await world.state(there)) == (State.RESTING, State.HELD)
    assert (await world.events())[2:] == [("lease_released", name(gone))]
    world.asked.clear()
    world.advance(600)
    await world.ipam.addresses.resolve_once()
    assert world.asked == []


@pytest.mark.parametrize("outcome", [ABORTED, DELETED])
async def test_an_end_counts_only_when_the_feed_is_applied_up_to_it(world: World, outcome: int) -> None:
    """Who took the lease over meanwhile is known from the feed alone."""
    held, reserved = await world.hold(), await world.reserve()
    await world.resync()
    for lease in (held, reserved):
        world.answers(name(lease), outcome)
    world.fresh.value = False
    world.advance(61)
    await world.ipam.addresses.resolve_once()
    assert (await world.state(held), await world.state(reserved)) == (State.HELD, State.RESERVED)
    world.fresh.value = True
    world.advance(6)
    await world.ipam.addresses.resolve_once()
    assert (await world.state(held), await world.state(reserved)) == (State.RESTING, State.RESTING)


async def test_a_reservation_that_comes_after_its_tombstone_is_freed_as_well(small: World) -> None:
    """The failure table's row 9: an intent that was aborted days ago reserves once more, and nobody comes for it."""
    intent = new(REGISTRATION)
    await small.release(intent)
    small.advance(25 * 3600)
    await small.release(new(REGISTRATION))
    late = await small.reserve(intent)
    small.answers(intent, ABORTED)
    small.advance(65)
    await small.ipam.addresses.resolve_once()
    assert await small.state(late) is State.RESTING
    assert (await small.reserve()).ipv4 == late.ipv4


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_lease_that_was_taken_over_unseen_goes_to_its_taker(world: World, is_held: bool) -> None:
    """The change with the deletion was compacted: the snapshot shows only who has the lease now."""
    lease = await world.hold() if is_held else await world.reserve()
    successor = new(REGISTRATION)
    await world.resync(world.record(successor, lease))
    assert (await world.lease(lease)).registration_id == name(lease)  # type: ignore[union-attr]
    world.answers(name(lease), DELETED)
    world.advance(61)
    await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is (State.HELD if is_held else State.RESERVED)
    world.answers(successor, ACTIVE, lease.lease_id)
    world.advance(6)
    await world.ipam.addresses.resolve_once()
    found = await world.lease(lease)
    assert found is not None
    assert (found.state, found.registration_id, found.ask_time) == (State.HELD, successor, None)
    assert (await world.events())[-1] == ("lease", successor)


async def test_a_taker_that_is_gone_as_well_is_found_out(world: World) -> None:
    lease = await world.hold()
    successor = new(REGISTRATION)
    await world.resync(world.record(successor, lease))
    await world.resync()
    world.answers(name(lease), DELETED)
    world.answers(successor, DELETED)
    await world.ipam.addresses.resolve_once()
    assert await world.state(lease) is State.RESTING
    assert [row.registration_id for row in await world.history()] == [name(lease)]


async def test_an_answer_that_comes_behind_the_feed_changes_nothing(world: World) -> None:
    """I-12: it was asked about a reservation that meanwhile became more."""
    lease = await world.reserve()
    successor = new(REGISTRATION)
    world.answers(name(lease), ACTIVE, lease.lease_id)
    inner = world.ipam.addresses._resolve_intent

    async def slow(organization_id: str, intent_id: str) -> registry.ResolveIntentResponse:
        answer = await inner(organization_id, intent_id)
        # The takeover is in the snapshot, and its change is not in what follows.
        await world.resync(world.record(successor, lease))
        return answer

    world.ipam.addresses._resolve_intent = slow
    world.advance(61)
    await asyncio.wait_for(world.ipam.addresses.resolve_once(), 10)
    found = await world.lease(lease)
    assert found is not None
    assert (found.registration_id, found.claim_id) == (name(lease), successor)

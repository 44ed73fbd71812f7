"""Following the registry's feed, on both engines (decisions 16, 18 and 26, I-03, I-12)."""

import itertools
from dataclasses import replace

import pytest

from guardhouse.errors import AddressNotFound
from guardhouse.ids import DEVICE, REGISTRATION, USER
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.times import from_timestamp, to_timestamp
from guardhouse_services.ipam.domain.leases import FOREVER, Lease, State
from tests.guardhouse_services.ipam.world import World, deleted, microseconds, name, new


async def holder(world: World, lease: Lease, at: int = FOREVER) -> str:
    found = await world.ipam.addresses.lookup_address(world.organization, lease.ipv6, at)
    return found.registration_id


async def test_an_active_registration_holds_what_was_reserved_for_it(world: World) -> None:
    lease = await world.reserve()
    with pytest.raises(AddressNotFound):
        await holder(world, lease)
    await world.change(world.record(name(lease), lease))
    assert await world.state(lease) is State.HELD
    assert await holder(world, lease) == name(lease)
    assert await world.events() == [("lease", name(lease))]
    assert set((await world.snapshot()).values()) == {name(lease)}


async def test_a_revoked_registration_keeps_its_addresses(world: World) -> None:
    """Decision 16, I-03."""
    lease = await world.hold()
    before = await world.lease(lease)
    assert before is not None
    revoked = world.record(name(lease), lease)
    revoked.registration.registration.state = registry.REGISTRATION_STATE_REVOKED
    revoked.registration.registration.revoke_time.CopyFrom(to_timestamp(world.clock.now()))
    await world.change(revoked)
    after = await world.lease(lease)
    assert after == replace(before, revoke_time=from_timestamp(revoked.registration.registration.revoke_time))
    await world.change(world.record(name(lease), lease))
    assert await world.lease(lease) == before
    assert len(await world.events()) == 1


async def test_deleting_one_registration_leaves_its_siblings(world: World) -> None:
    """I-03."""
    device = new(DEVICE)
    first, second = await world.hold(device), await world.hold(device)
    await world.change(deleted(name(first)))
    assert (await world.state(first), await world.state(second)) == (State.RESTING, State.HELD)
    assert (await world.events())[2:] == [("lease_released", name(first))]
    assert set((await world.snapshot()).values()) == {name(second)}


async def test_a_deletion_that_comes_twice_releases_once(world: World) -> None:
    lease = await world.hold()
    await world.change(deleted(name(lease)))
    after = await world.leases(), await world.history(), await world.events()
    world.advance(60)
    await world.change(deleted(name(lease)))
    assert (await world.leases(), await world.history(), await world.events()) == after


async def test_an_activation_that_comes_again_changes_nothing(world: World) -> None:
    lease = await world.hold()
    record = world.record(name(lease), lease)
    after = await world.leases(), await world.history(), await world.events()
    world.advance(60)
    await world.change(record, record)
    assert (await world.leases(), await world.history(), await world.events()) == after


async def test_an_activation_that_comes_after_the_deletion_changes_nothing(world: World) -> None:
    """I-12: a lease that has ended never comes back."""
    lease = await world.hold()
    late = world.record(name(lease), lease)
    await world.change(deleted(name(lease)))
    after = await world.leases(), await world.history(), await world.events()
    await world.change(late)
    assert (await world.leases(), await world.history(), await world.events()) == after


async def test_a_successor_takes_the_lease_over(world: World) -> None:
    """Decision 18: the change has the new registration with the old lease, and the old one's deletion."""
    old = await world.hold()
    successor = new(REGISTRATION)
    await world.change(world.record(successor, old), deleted(name(old)))
    assert await world.state(old) is State.HELD
    assert await holder(world, old) == successor
    assert (await world.events())[1:] == [("lease", successor)]
    assert list((await world.snapshot()).values()) == [successor]
    await world.change(deleted(name(old)))
    assert await holder(world, old) == successor
    await world.change(deleted(successor))
    assert await world.state(old) is State.RESTING


async def test_what_a_successor_reserved_for_itself_is_free_at_once(small: World) -> None:
    device, user = new(DEVICE), new(USER)
    old = await small.hold(device, user)
    spare = await small.reserve(device=device, holder=user)
    assert spare.ipv4 != old.ipv4
    await small.change(small.record(name(spare), old), deleted(name(old)))
    assert (await small.state(old), await small.state(spare)) == (State.HELD, State.RESTING)
    assert (await small.reserve()).ipv4 == spare.ipv4


async def test_an_old_event_does_not_take_a_lease_from_its_holder(world: World) -> None:
    """A snapshot's pages are newer than the changes that follow them."""
    first = await world.hold()
    second, third = new(REGISTRATION), new(REGISTRATION)
    changes = [
        [world.record(second, first), deleted(name(first))],
        [world.record(third, first), deleted(second)],
    ]
    for change in changes:
        await world.change(*change)
    after = await world.leases(), await world.history(), await world.events()
    await world.resync(world.record(third, first), replayed=[[world.record(name(first), first)], *changes])
    assert (await world.leases(), await world.history(), await world.events()) == after


async def test_a_snapshot_that_broke_off_leaves_no_claim_behind_the_next_one(world: World) -> None:
    lease = await world.hold()
    second, third = new(REGISTRATION), new(REGISTRATION)
    old = [world.record(second, lease), deleted(name(lease))]
    await world.change(*old)
    await world.change(world.record(third, lease), deleted(second))
    await world.effects.begin(world.organization)
    await world.effects.page(world.organization, old)
    await world.resync(world.record(third, lease))
    await world.change(deleted(third))
    assert await world.state(lease) is State.RESTING


async def test_an_old_deletion_between_old_activations_releases_nothing(world: World) -> None:
    """The chain of holders was missed, and the snapshot shows the last one first."""
    first = await world.reserve()
    second, third = new(REGISTRATION), new(REGISTRATION)
    await world.resync(
        world.record(third, first),
        replayed=[
            [world.record(name(first), first)],
            [world.record(second, first), deleted(name(first))],
            [world.record(third, first), deleted(second)],
        ],
    )
    assert await world.state(first) is State.HELD
    assert await holder(world, first) == third
    assert ("lease_released", second) not in await world.events()


async def test_a_snapshot_that_omits_a_lease_frees_nothing(world: World) -> None:
    """Never absence from a snapshot: the registry is asked."""
    held, reserved = await world.hold(), await world.reserve()
    await world.resync()
    assert (await world.state(held), await world.state(reserved)) == (State.HELD, State.RESERVED)
    await world.ipam.addresses.resolve_once()
    assert world.asked == [name(held)]
    assert (await world.state(held), await world.state(reserved)) == (State.HELD, State.RESERVED)


async def test_a_snapshot_that_shows_a_lease_asks_nobody(world: World) -> None:
    held = await world.hold()
    await world.resync(world.record(name(held), held))
    await world.ipam.addresses.resolve_once()
    assert world.asked == []


async def test_events_of_an_organization_without_addresses_do_nothing(world: World) -> None:
    lease = Lease("lse_x", 1, "", State.HELD, "reg_x", "", "", 0)
    await world.change(world.record("reg_x", lease), deleted("reg_y"))
    assert await world.leases() == []


async def test_who_held_an_address_is_known_for_any_time(world: World) -> None:
    """Decision 26."""
    times = [world.clock.now()]

    def later() -> None:
        world.advance(60)
        times.append(world.clock.now())
        world.advance(60)

    later()
    old = await world.hold()
    later()
    successor = new(REGISTRATION)
    await world.change(world.record(successor, old), deleted(name(old)))
    later()
    await world.change(deleted(successor))
    later()
    world.advance(2 * 3600)
    new_holder = await world.hold()
    assert new_holder.ipv4 == old.ipv4
    later()
    for time, expected in zip(times, [None, None, name(old), successor, None, name(new_holder)], strict=True):
        if expected is None:
            with pytest.raises(AddressNotFound):
                await holder(world, old, time)
        else:
            assert await holder(world, old, time) == expected
    assert await holder(world, old) == name(new_holder)


async def test_a_hold_begins_when_the_registry_made_it_so(world: World) -> None:
    """Decision 26: also when ipam was told an hour later."""
    lease = await world.reserve()
    world.advance(10)
    record = world.record(name(lease), lease)
    activated = world.clock.now()
    world.advance(3600)
    await world.change(record)
    assert await holder(world, lease, activated + microseconds(1)) == name(lease)
    with pytest.raises(AddressNotFound):
        await holder(world, lease, activated - microseconds(5))


async def test_a_clock_that_is_wrong_makes_no_two_holders(world: World) -> None:
    """I-18: the registry's time is believed only within what is certain."""
    first = await world.hold()
    early, late = new(REGISTRATION), new(REGISTRATION)
    record = world.record(early, first)
    record.registration.registration.create_time.seconds -= 3600
    await world.change(record, deleted(name(first)))
    record = world.record(late, first)
    record.registration.registration.create_time.seconds += 3600
    await world.change(record, deleted(early))
    spans = sorted((row.hold_time, row.release_time or FOREVER) for row in await world.history())
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert all(begin <= end for begin, end in spans)
    assert max(row.hold_time for row in await world.history()) <= world.clock.now()


async def test_an_address_is_found_in_any_form_and_only_in_its_network(world: World) -> None:
    lease = await world.hold()
    prefix = lease.ipv6.split("::")[0]
    for address in ("100.96.0.1", "::ffff:100.96.0.1", lease.ipv6):
        found = await world.ipam.addresses.lookup_address(world.organization, address)
        assert found.registration_id == name(lease)
    for address in ("100.96.0.2", "10.0.0.1", "fd00::6460:1", f"{prefix}:0:1:6460:1", f"{prefix}::", "100.96.0.0"):
        with pytest.raises(AddressNotFound):
            await world.ipam.addresses.lookup_address(world.organization, address)
    with pytest.raises(AddressNotFound):
        await world.ipam.addresses.lookup_address(new("org"), "100.96.0.1")

"""Lists of addresses by what they are, and the map of a subnet, on both engines (decisions 16, 25 and 26)."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from guardhouse.errors import SubnetNotFound
from guardhouse.ids import DEVICE, SUBNET, USER
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.ipam.domain.address_map import Block, Counts, block_size, blocks_of
from guardhouse_services.ipam.domain.addresses import AddressState
from guardhouse_services.ipam.domain.leases import Lease
from guardhouse_services.ipam.domain.pins import Pin
from guardhouse_services.ipam.domain.subnets import Subnet
from guardhouse_services.paging import Page
from tests.guardhouse_services.ipam.test_pins import pin
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new


async def revoke(world: World, lease: Lease) -> None:
    event = world.record(name(lease), lease)
    event.registration.registration.state = registry.REGISTRATION_STATE_REVOKED
    event.registration.registration.revoke_time.FromMicroseconds(world.clock.now())
    await world.change(event)


async def one_of_each(world: World) -> dict[AddressState, Lease]:
    held = [AddressState.ACTIVE, AddressState.REVOKED, AddressState.QUARANTINED]
    leases: dict[AddressState, Lease] = {state: await world.hold() for state in held}
    leases[AddressState.RESERVED] = await world.reserve()
    await revoke(world, leases[AddressState.REVOKED])
    await world.change(deleted(name(leases[AddressState.QUARANTINED])))
    return leases


async def listed(world: World, state: AddressState | None = None, size: int = 100, **filters: str) -> list[int]:
    """The addresses, by pages of that size."""
    found: list[Lease] = []
    given = {"subnet_id": "", "device_id": "", "holder_id": "", **filters}
    while True:
        after = found[-1].lease_id if found else ""
        page, _ = await world.ipam.view.list(world.organization, state, page=Page(after, size), **given)
        found += page[:size]
        if len(page) <= size:
            return [each.ipv4 for each in found]


async def test_addresses_are_listed_by_their_state(world: World) -> None:
    leases = await one_of_each(world)
    for state, lease in leases.items():
        assert await listed(world, state) == [lease.ipv4]
    held = [leases[state].ipv4 for state in (AddressState.ACTIVE, AddressState.REVOKED)]
    assert await listed(world) == held
    world.advance(HOUR + 1)
    assert await listed(world, AddressState.QUARANTINED) == []


async def test_addresses_are_listed_by_holder_device_and_subnet(world: World) -> None:
    device, user = new(DEVICE), new(USER)
    both, its, theirs = await world.hold(device, user), await world.hold(device), await world.hold(holder=user)
    await world.hold()
    assert await listed(world, device_id=device) == [both.ipv4, its.ipv4]
    assert await listed(world, holder_id=user, size=1) == [both.ipv4, theirs.ipv4]
    assert await listed(world, holder_id=user, device_id=device) == [both.ipv4]
    subnet = (await world.ipam.view.map(world.organization, "", 16)).subnet
    assert len(await listed(world, subnet_id=subnet.subnet_id)) == 4
    with pytest.raises(SubnetNotFound):
        await listed(world, subnet_id=new(SUBNET))


async def test_an_address_that_nobody_ever_had_is_in_no_quarantine(world: World) -> None:
    """Decision 25: what was reserved for an enrollment that came to nothing is free at once."""
    lease = await world.reserve()
    await world.release(name(lease))
    assert await listed(world, AddressState.QUARANTINED) == []
    found = await world.ipam.view.map(world.organization, "", 16)
    assert sum(block.free for block in found.blocks) == (1 << 20) - 2


async def test_a_map_counts_every_address_once(small: World) -> None:
    await one_of_each(small)
    await pin(small, "10.9.8.3")
    await pin(small, "10.9.8.12/30")
    found = await small.ipam.view.map(small.organization, "", 4)
    assert found.size == 4
    assert found.blocks == [
        Block(Counts(active=1, revoked=1, quarantined=1), 0),
        Block(Counts(reserved=1), 3),
        Block(Counts(), 4),
        Block(Counts(pinned=3), 0),
    ]


async def test_a_map_is_what_is_counted_one_by_one(small: World) -> None:
    """Whatever was done, and however large the blocks are."""
    chance = random.Random(3)
    held: list[Lease] = []
    for _ in range(40):
        match chance.choice(["hold", "delete", "revoke", "wait"]):
            case "hold" if len(held) < 9:
                held.append(await small.hold())
            case "delete" if held:
                await small.change(deleted(name(held.pop(chance.randrange(len(held))))))
            case "revoke" if held:
                await revoke(small, chance.choice(held))
            case "wait":
                small.advance(HOUR / 3)
    fine = await small.ipam.view.map(small.organization, "", 16)
    assert [block.free for block in (fine.blocks[0], fine.blocks[-1])] == [0, 0]
    assert sum(block.counts.active + block.counts.revoked for block in fine.blocks) == len(held)
    for count in (1, 2, 8):
        coarse = await small.ipam.view.map(small.organization, "", count)
        assert len(coarse.blocks) == count
        assert sum(block.free for block in coarse.blocks) == sum(block.free for block in fine.blocks)
        assert sum(block.counts.used for block in coarse.blocks) == sum(block.counts.used for block in fine.blocks)


async def test_an_organization_without_addresses_has_no_map(world: World) -> None:
    with pytest.raises(SubnetNotFound):
        await world.ipam.view.map(world.organization, "", 16)


@given(st.integers(8, 28), st.integers(1, 4096), st.integers(0, 15), st.integers(0, 3))
def test_blocks_are_as_many_as_wanted_at_most_and_hold_the_whole_subnet(
    prefix: int, count: int, start: int, length: int
) -> None:
    subnet = Subnet("sub_1", 0, "", "", f"10.0.0.0/{prefix}", True, 0, 0, 0)
    size = block_size(subnet, count)
    assert subnet.network.num_addresses <= count * size
    first = 10 << 24
    made = Pin("pin_1", first + start, first + min(start + length, 15), None, None, "", 0)
    blocks = blocks_of(subnet, size, {}, [made])
    assert len(blocks) == -(-subnet.network.num_addresses // size)
    assert all(block.free >= 0 <= block.counts.pinned for block in blocks)
    assert sum(block.free + block.counts.pinned for block in blocks) == subnet.network.num_addresses - 2

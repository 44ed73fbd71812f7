"""Subnets of an organization, on both engines (decision 24)."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.durations import DAY
from guardhouse.errors import (
    FieldRequired,
    InvalidField,
    LimitReached,
    SubnetExhausted,
    SubnetInUse,
    SubnetNotFound,
    SubnetOverlaps,
)
from guardhouse.ids import DEVICE, ORGANIZATION, SUBNET, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.database import Transaction
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.subnets import LIMIT, Capacity, Subnet, Usage, capacity
from guardhouse_services.ipam.store import tables
from guardhouse_services.ipam.usecases import addresses
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.ipam.test_mutations import at
from tests.guardhouse_services.ipam.world import HOUR, World, deleted, name, new


@pytest.fixture
def desk(world: World) -> Desk:
    return at(world)


async def create(desk: Desk, world: World, network: str, **fields: Any) -> pb.Subnet:
    made = pb.Subnet(**{"display_name": network, "network": network, **fields})
    answer = await desk.send(pb.CreateSubnetRequest(organization_id=world.organization, subnet=made))
    subnet: pb.Subnet = answer.subnet
    return subnet


async def listed(desk: Desk, world: World) -> list[pb.Subnet]:
    return list((await desk.send(pb.ListSubnetsRequest(organization_id=world.organization))).subnets)


async def shown(desk: Desk, world: World, subnet: pb.Subnet) -> pb.Subnet:
    request = pb.GetSubnetRequest(organization_id=world.organization, subnet_id=subnet.subnet_id)
    found: pb.Subnet = (await desk.send(request)).subnet
    return found


async def delete(desk: Desk, world: World, subnet: pb.Subnet) -> pb.Subnet:
    request = pb.DeleteSubnetRequest(organization_id=world.organization, subnet_id=subnet.subnet_id)
    gone: pb.Subnet = (await desk.send(request)).subnet
    return gone


async def update(desk: Desk, world: World, subnet: pb.Subnet, *paths: str) -> pb.Subnet:
    request = pb.UpdateSubnetRequest(
        organization_id=world.organization, subnet=subnet, update_mask=FieldMask(paths=paths)
    )
    changed: pb.Subnet = (await desk.send(request)).subnet
    return changed


async def profile(desk: Desk, world: World, subnet: pb.Subnet, match: str, precedence: int = 10) -> pb.IpProfile:
    made = pb.IpProfile(display_name="P", match=match, precedence=precedence, subnet_id=subnet.subnet_id, enabled=True)
    answer = await desk.send(pb.CreateIpProfileRequest(organization_id=world.organization, ip_profile=made))
    created: pb.IpProfile = answer.ip_profile
    return created


async def test_the_default_subnet_comes_with_the_first_enrollment(world: World, desk: Desk) -> None:
    """Decision 23: of the setting, a /12."""
    assert await listed(desk, world) == []
    await world.reserve()
    (only,) = await listed(desk, world)
    assert (only.network, only.is_default, only.capacity.total) == ("100.96.0.0/12", True, 2**20 - 2)


async def test_a_subnet_of_an_organization_that_has_none_comes_beside_the_default(world: World, desk: Desk) -> None:
    made = await create(desk, world, "10.1.0.0/24")
    default, other = await listed(desk, world)
    assert (default.network, default.is_default) == ("100.96.0.0/12", True)
    assert other == made
    assert not made.is_default
    assert made.capacity.total == 254


@pytest.mark.parametrize("network", ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/11", "10.9.9.0/24"])
async def test_private_networks_from_24_on_are_accepted(world: World, desk: Desk, network: str) -> None:
    """Decision 24."""
    assert (await create(desk, world, network)).network == network


BESIDE = ("9.255.255.0/24", "11.0.0.0/24", "172.15.255.0/24", "172.32.0.0/16", "192.167.255.0/24", "192.169.0.0/24")
BESIDE_SHARED = ("100.63.255.0/24", "100.128.0.0/24")


@pytest.mark.parametrize(
    "network",
    ["10.0.0.0/25", "10.0.0.1/24", "8.8.8.0/24", "10.0.0.0/7", "fd00::/64", "x", *BESIDE, *BESIDE_SHARED],
)
async def test_another_network_is_refused_by_the_name_of_its_field(world: World, desk: Desk, network: str) -> None:
    """Decision 24: what is neither of RFC 1918 nor of 100.64.0.0/10 is somebody's."""
    with pytest.raises(InvalidField) as error:
        await create(desk, world, network)
    assert error.value.field == "subnet.network"


async def test_a_subnet_needs_a_network(world: World, desk: Desk) -> None:
    with pytest.raises(FieldRequired) as error:
        await create(desk, world, "", display_name="x")
    assert error.value.field == "subnet.network"


async def test_a_network_is_never_changed(world: World, desk: Desk) -> None:
    """Decision 24. Whoever sends back what was read, sends the network along."""
    made = await create(desk, world, "10.9.0.0/16")
    made.display_name = "Offices"
    changed = await update(desk, world, made, "display_name")
    assert (changed.display_name, changed.network) == ("Offices", "10.9.0.0/16")
    changed.network = "10.8.0.0/16"
    with pytest.raises(InvalidField) as refused:
        await update(desk, world, changed, "display_name")
    assert refused.value.field == "subnet.network"


@pytest.mark.parametrize("network", ["100.96.0.0/12", "100.100.0.0/24", "100.64.0.0/10", "10.0.0.0/8", "10.1.2.0/24"])
async def test_subnets_never_overlap(world: World, desk: Desk, network: str) -> None:
    """Nor are they written when two that overlap come at once."""
    await create(desk, world, "10.1.0.0/16")
    with pytest.raises(SubnetOverlaps):
        await create(desk, world, network)
    both = await asyncio.gather(
        create(desk, world, "10.8.0.0/16"), create(desk, world, "10.8.4.0/24"), return_exceptions=True
    )
    assert {type(each) for each in both} == {pb.Subnet, SubnetOverlaps}


async def test_organizations_may_have_the_same_network(world: World, desk: Desk) -> None:
    other = new("org")
    await world.add_organization(other)
    await create(desk, world, "10.1.0.0/24")
    made = pb.Subnet(display_name="x", network="10.1.0.0/24")
    assert (await desk.send(pb.CreateSubnetRequest(organization_id=other, subnet=made))).subnet.network == "10.1.0.0/24"
    with pytest.raises(SubnetNotFound):
        await shown(desk, world, (await desk.send(pb.ListSubnetsRequest(organization_id=other))).subnets[0])


async def test_an_organization_has_at_most_a_hundred_subnets(world: World, desk: Desk) -> None:
    for number in range(LIMIT - 1):
        await create(desk, world, f"10.1.{number}.0/24")
    with pytest.raises(LimitReached):
        await create(desk, world, "10.2.0.0/24")


async def test_exactly_one_subnet_is_the_default(world: World, desk: Desk) -> None:
    """Decision 24. Who has an address keeps it, and whoever comes next gets one of the new default."""
    held = await world.hold()
    lab = await create(desk, world, "10.1.0.0/24")
    lab.is_default = True
    lab = await update(desk, world, lab, "is_default")
    assert [each.is_default for each in await listed(desk, world)] == [False, True]
    assert (await world.reserve()).ipv4 >> 8 == 0x0A0100
    assert await world.lease(held) is not None
    other = await create(desk, world, "10.2.0.0/24", is_default=True)
    assert [each.subnet_id for each in await listed(desk, world) if each.is_default] == [other.subnet_id]
    other.is_default = False
    with pytest.raises(InvalidField, match="make another one the default"):
        await update(desk, world, other, "is_default")


async def test_a_subnets_network_stays_as_it_is(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24")
    with pytest.raises(InvalidField) as error:
        await update(desk, world, lab, "network")
    assert error.value.field == "update_mask"


async def test_a_subnet_that_is_used_is_not_deleted(world: World, desk: Desk) -> None:
    """Decision 24: it says by what, and what to do."""
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    with pytest.raises(SubnetInUse, match="make another one the default first"):
        await delete(desk, world, lab)
    reserved = await world.reserve()
    (first, _) = await listed(desk, world)
    first.is_default = True
    await update(desk, world, first, "is_default")
    with pytest.raises(SubnetInUse, match="reserved or in quarantine"):
        await delete(desk, world, lab)
    await world.change(world.record(name(reserved), reserved))
    with pytest.raises(SubnetInUse, match="delete them") as error:
        await delete(desk, world, lab)
    assert error.value.metadata == {"registration_ids": name(reserved)}
    await world.change(deleted(name(reserved)))
    with pytest.raises(SubnetInUse, match="reserved or in quarantine"):
        await delete(desk, world, lab)
    world.advance(HOUR + 1)
    named = await profile(desk, world, lab, 'identity.email == "a@b.c"')
    with pytest.raises(SubnetInUse, match="IP profiles name") as error:
        await delete(desk, world, lab)
    assert error.value.metadata == {"ip_profile_ids": named.ip_profile_id}
    gone = pb.DeleteIpProfileRequest(organization_id=world.organization, ip_profile_id=named.ip_profile_id)
    await desk.send(gone)
    assert (await delete(desk, world, lab)).subnet_id == lab.subnet_id
    with pytest.raises(SubnetNotFound):
        await shown(desk, world, lab)


async def test_addresses_of_a_deleted_subnet_are_given_out_by_the_one_that_has_them_next(
    world: World, desk: Desk
) -> None:
    """I-01: each once, whatever the deleted one has left behind."""
    first = await create(desk, world, "10.1.0.0/24", is_default=True)
    leases = [await world.hold() for _ in range(5)]
    await world.change(*(deleted(name(lease)) for lease in leases))
    default = (await listed(desk, world))[0]
    default.is_default = True
    await update(desk, world, default, "is_default")
    world.advance(2 * HOUR)
    await delete(desk, world, first)
    await create(desk, world, "10.1.0.0/16", is_default=True)
    again = [await world.reserve() for _ in range(8)]
    assert [lease.ipv4 for lease in again] == [leases[0].ipv4 + number for number in range(8)]
    for lease in again:
        await world.change(world.record(name(lease), lease))
    assert len(await world.snapshot()) == 8


async def test_a_full_subnet_gives_nothing_of_another(world: World, desk: Desk) -> None:
    """Decision 24: no fall-through, reserved pairs or not."""
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    got = await asyncio.gather(*(world.reserve() for _ in range(300)), return_exceptions=True)
    assert [type(each) for each in got].count(SubnetExhausted) == 300 - 254
    with pytest.raises(SubnetExhausted) as error:
        await world.reserve()
    assert error.value.metadata == {"subnet": "10.1.0.0/24"}
    used = (await shown(desk, world, lab)).capacity
    assert (used.reserved, used.free) == (254, 0)


async def test_a_holder_comes_back_to_the_old_pair_in_the_same_subnet_only(world: World, desk: Desk) -> None:
    """Decision 25, within what decision 24 chooses now."""
    device, user = new(DEVICE), new(USER)
    old = await world.hold(device, user)
    await world.change(deleted(name(old)))
    await create(desk, world, "10.1.0.0/24", is_default=True)
    assert (await world.reserve(device=device, holder=user)).ipv4 >> 8 == 0x0A0100


async def test_a_subnet_counts_what_its_addresses_are(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    held = [await world.hold() for _ in range(7)]
    await world.reserve()
    await world.change(deleted(name(held[0])), deleted(name(held[1])))
    revoked = world.record(name(held[2]), held[2])
    revoked.registration.registration.state = registry.REGISTRATION_STATE_REVOKED
    revoked.registration.registration.revoke_time.GetCurrentTime()
    await world.change(revoked)
    used = (await shown(desk, world, lab)).capacity
    assert (used.active, used.revoked, used.reserved, used.quarantined, used.free) == (4, 1, 1, 2, 246)
    await world.change(world.record(name(held[2]), held[2]))
    world.advance(2 * HOUR)
    used = (await shown(desk, world, lab)).capacity
    assert (used.active, used.revoked, used.reserved, used.quarantined, used.free) == (5, 0, 1, 0, 248)
    await world.resync(*(world.record(name(lease), lease) for lease in held[2:]))
    used = (await shown(desk, world, lab)).capacity
    assert (used.active, used.revoked) == (5, 0)
    assert used.total == 254


async def test_what_a_release_without_subnets_has_changed_is_counted_anew(world: World, desk: Desk) -> None:
    """It wrote a space without a subnet, kept no count, and did not note who is revoked."""
    held = [await world.hold() for _ in range(5)]

    def forget(tx: Transaction) -> None:
        tx.execute(tables.subnet.delete())
        tx.execute(tables.usage.delete())
        tx.execute(tables.space.update().values(is_told=False))

    await world.database.write(forget)
    await world.ipam.addresses.recount()
    (default,) = await listed(desk, world)
    assert (default.network, default.is_default, default.capacity.active) == ("100.96.0.0/12", True, 5)
    assert default.capacity.growth_per_day == 0
    assert await world.effects.positions() == {}
    revoked = world.record(name(held[0]), held[0])
    revoked.registration.registration.state = registry.REGISTRATION_STATE_REVOKED
    revoked.registration.registration.revoke_time.GetCurrentTime()
    await world.resync(revoked, *(world.record(name(lease), lease) for lease in held[1:]))
    (default,) = await listed(desk, world)
    assert (default.capacity.active, default.capacity.revoked) == (4, 1)
    before = await desk.dump()
    await world.ipam.addresses.recount()
    assert await desk.dump() == before


async def test_an_organization_that_cannot_be_counted_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is followed all the same, and what failed is tried again until it is done."""
    ours, theirs = world.organization, new(ORGANIZATION)
    await world.add_organization(theirs)
    for organization_id in (ours, theirs):
        await world.reserve(organization_id=organization_id)
    held = tables.subnet.c.held
    await world.database.write(lambda tx: tx.execute(tables.subnet.update().values(held=7)))
    counted: list[str] = []
    recount = store.subnets.recount

    def stumble(tx: Transaction, organization_id: str, of: Subnet) -> None:
        counted.append(organization_id)
        if counted.count(ours) == 1 and organization_id == ours:
            raise RuntimeError("broken")
        recount(tx, organization_id, of)

    monkeypatch.setattr(store.subnets, "recount", stumble)
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.01)
    following = asyncio.create_task(world.ipam.addresses.follow())
    async with asyncio.timeout(10):
        await world.fresh.followed.wait()
        query = sa.select(held).where(held > 0)
        while await world.database.read(lambda tx: tx.execute(query).all()):  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert sorted(counted) == sorted([ours, ours, theirs])


def test_the_day_on_which_a_subnet_is_full_is_told_by_its_growth() -> None:
    """At the rate of the last 30 days, or since it was made; never for one that shrinks."""
    now = 1000 * DAY
    of = Subnet("sub_1", 1, "", "", "10.1.0.0/24", False, 0, 0, 0, held=54, revoked=4)
    told = capacity(of, Usage(0, 0, 24), now)
    assert told == Capacity(50, 4, 0, 0, 200, 254, 1.0, now + 200 * DAY)
    assert capacity(of, Usage(0, 0, 54), now).exhaust_time is None
    assert capacity(of, Usage(0, 0, 60), now).growth_per_day < 0
    young = Subnet("sub_1", 1, "", "", "10.1.0.0/24", False, now - 2 * DAY, 0, 0, held=100)
    assert capacity(young, Usage(0, 0, 0), now).exhaust_time == now + round(154 / 50 * DAY)
    huge = Subnet("sub_1", 1, "", "", "10.0.0.0/8", False, 0, 0, 0, held=1)
    assert capacity(huge, Usage(0, 0, 0), now).exhaust_time is None


async def test_growth_is_counted_from_a_month_ago(world: World, desk: Desk) -> None:
    lab = await create(desk, world, "10.1.0.0/24", is_default=True)
    for _ in range(10):
        await world.hold()
    world.advance(40 * 24 * HOUR)
    for _ in range(30):
        await world.hold()
    used = (await shown(desk, world, lab)).capacity
    assert used.growth_per_day == pytest.approx(1.0)
    assert used.exhaust_time.seconds * 1_000_000 == pytest.approx(world.clock.now() + 214 * DAY, abs=DAY)


@pytest.mark.parametrize("kind", [pb.GetSubnetRequest, pb.DeleteSubnetRequest])
async def test_a_subnet_that_is_not_there_is_not_found(world: World, desk: Desk, kind: Any) -> None:
    with pytest.raises(SubnetNotFound):
        await desk.send(kind(organization_id=world.organization, subnet_id=new(SUBNET)))


async def test_what_is_only_tried_changes_nothing(world: World, desk: Desk) -> None:
    """AIP-163."""
    lab = await create(desk, world, "10.1.0.0/24")
    about: dict[str, Any] = {"organization_id": world.organization, "validate_only": True}
    before = await desk.dump()
    made = await desk.send(pb.CreateSubnetRequest(subnet=pb.Subnet(display_name="x", network="10.2.0.0/24"), **about))
    gone = await desk.send(pb.DeleteSubnetRequest(subnet_id=lab.subnet_id, **about))
    assert (made.subnet.network, made.revision_token, gone.subnet.network) == ("10.2.0.0/24", "", "10.1.0.0/24")
    assert await desk.dump() == before

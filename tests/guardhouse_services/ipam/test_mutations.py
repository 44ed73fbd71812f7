"""Every mutation of ipam's contract: one effect for a repeated request (I-07), and one record of it (I-33)."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import EnrollmentAborted, SubnetExhausted
from guardhouse.ids import DEVICE, IP_PROFILE, PIN, REGISTRATION, SUBNET, USER
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.feed import Feed
from guardhouse_services.ipam import store
from guardhouse_services.ipam.servicer import IpamServicer
from guardhouse_services.ipam.usecases import snapshot
from guardhouse_services.paging import Pages
from tests.guardhouse_services.desk import Desk, Expected, Story, only
from tests.guardhouse_services.ipam.world import World, deleted, name, new


def named(part: str, field: str) -> Callable[[Any, Any], list[str]]:
    """The id in a part of the answer."""
    return lambda _, answer: [getattr(getattr(answer, part), field)]


def renamed(part: str) -> Callable[[Any], Any]:
    return lambda request: setattr(getattr(request, part), "display_name", "Renamed otherwise")


def another_id(field: str, prefix: str) -> Callable[[Any], Any]:
    return lambda request: setattr(request, field, new(prefix))


MUTATIONS = {
    "CreateSubnet": Expected(named("subnet", "subnet_id"), change=renamed("subnet")),
    "UpdateSubnet": Expected(named("subnet", "subnet_id"), change=renamed("subnet")),
    "DeleteSubnet": Expected(named("subnet", "subnet_id"), change=another_id("subnet_id", SUBNET)),
    "CreateIpProfile": Expected(named("ip_profile", "ip_profile_id"), change=renamed("ip_profile")),
    "UpdateIpProfile": Expected(named("ip_profile", "ip_profile_id"), change=renamed("ip_profile")),
    "DeleteIpProfile": Expected(named("ip_profile", "ip_profile_id"), change=another_id("ip_profile_id", IP_PROFILE)),
    "ReserveAddresses": Expected(
        lambda request, answer: [answer.lease_id, request.intent_id], actor=lambda *_: "service:registry"
    ),
    "ReleaseAddresses": Expected(lambda request, _: [request.intent_id], actor=lambda *_: "service:registry"),
    "PinAddress": Expected(lambda _, answer: [answer.pin.pin_id], change=lambda it: setattr(it, "description", "x")),
    "UnpinAddress": Expected(lambda request, _: [request.pin_id], change=lambda it: setattr(it, "pin_id", new(PIN))),
}


def at(world: World) -> Desk:
    """The servicer of that world."""
    key = MasterKey(b"k" * 32)
    audit = Audit(world.clock, world.database, "ipam", pb, key, Settings())
    servicer = IpamServicer(world.clock, world.ipam, Pages(key), Feed(world.database, pb, snapshot), audit)
    return Desk(pb.DESCRIPTOR, servicer, world.database, store.metadata)


@pytest.fixture
def desk(world: World) -> Desk:
    return at(world)


def reserve(world: World) -> pb.ReserveAddressesRequest:
    return pb.ReserveAddressesRequest(
        organization_id=world.organization, intent_id=new(REGISTRATION), device_id=new(DEVICE), user_id=new(USER)
    )


async def story(world: World) -> Story:
    yield reserve(world)
    request = reserve(world)
    lease = yield request
    held = await world.database.read(lambda tx: store.leases.find_lease(tx, world.organization, lease.lease_id))
    assert held is not None
    await world.change(world.record(request.intent_id, held))
    yield pb.ReleaseAddressesRequest(organization_id=world.organization, intent_id=new(REGISTRATION))
    pinned = yield pb.PinAddressRequest(
        organization_id=world.organization, network="100.96.7.7", device_id=new(DEVICE), user_id=new(USER)
    )
    yield pb.UnpinAddressRequest(organization_id=world.organization, pin_id=pinned.pin.pin_id)
    about: dict[str, Any] = {"organization_id": world.organization}
    draft = pb.Subnet(display_name="Lab", network="10.1.0.0/24")
    subnet = (yield pb.CreateSubnetRequest(**about, subnet=draft)).subnet
    wanted = pb.IpProfile(display_name="All", match='identity.email != ""', precedence=1, subnet_id=subnet.subnet_id)
    profile = (yield pb.CreateIpProfileRequest(**about, ip_profile=wanted)).ip_profile
    yield pb.UpdateSubnetRequest(**about, subnet=subnet, update_mask=FieldMask(paths=["display_name"]))
    yield pb.UpdateIpProfileRequest(**about, ip_profile=profile, update_mask=FieldMask(paths=["display_name"]))
    yield pb.DeleteIpProfileRequest(**about, ip_profile_id=profile.ip_profile_id)
    yield pb.DeleteSubnetRequest(**about, subnet_id=subnet.subnet_id)


async def test_every_mutation_has_one_effect_one_answer_and_one_record(world: World, desk: Desk) -> None:
    """I-07 and I-33: at once, again, and later."""
    await desk.tell(story(world), MUTATIONS)


async def test_what_is_refused_leaves_no_record(small: World) -> None:
    """A full subnet, and an intent that was given back, are no changes."""
    desk, refused = at(small), reserve(small)
    await desk.send(pb.ReleaseAddressesRequest(organization_id=small.organization, intent_id=refused.intent_id))
    for _ in range(14):
        await desk.send(reserve(small))
    before = await desk.dump()
    with pytest.raises(SubnetExhausted):
        await desk.send(reserve(small))
    with pytest.raises(EnrollmentAborted):
        await desk.send(refused)
    assert await desk.dump() == before


async def test_leases_that_end_without_a_call_are_on_record(world: World, desk: Desk) -> None:
    """I-33: by the feed of the registry, and by its answer; a hold that begins is history anyway (decision 26)."""
    held, kept, lost = await world.hold(), await world.hold(), await world.reserve()
    since = len(await desk.records(world.organization))
    await world.change(deleted(name(held)))
    followed = only((await desk.records(world.organization))[since:], "job:follow registry")
    assert list(followed.objects) == [held.lease_id]
    assert followed.after_revision == followed.before_revision + 1
    world.answers(name(lost), registry.INTENT_OUTCOME_ABORTED)
    world.advance(61)
    for _ in range(2):
        await world.ipam.addresses.resolve_once()
    record = only(await desk.records(world.organization), "job:resolve intents")
    assert list(record.objects) == [lost.lease_id]
    assert await world.state(kept) == "HELD"

"""What is shown of a device and its registrations, and the tags that admins give it, on both engines."""

from dataclasses import replace

import pytest

from guardhouse import keys
from guardhouse.errors import DeviceNotFound, EtagMismatch, FieldRequired, InvalidField, RequestIdReused
from guardhouse.ids import DEVICE
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.access import Call
from guardhouse_services.registry.domain import Device
from guardhouse_services.registry.messages import device_etag, to_event
from guardhouse_services.registry.servicer import RegistryServicer
from tests.guardhouse_services.registry.world import World, machine, name, new, user

MINUTE = 60


async def tag(world: World, device_id: str, call: Call | None = None, etag: str = "", **tags: str) -> Device:
    device, _ = await world.registry.devices.update(call or world.call(), world.organization, device_id, tags, etag)
    return device


async def get(world: World, device_id: str) -> Device:
    return await world.registry.devices.get(world.organization, device_id)


async def test_a_device_shows_what_it_claimed_last(world: World) -> None:
    attempt = await world.attempt(user(), "laptop")
    claims = replace(attempt.claims, mac_address="02:42:ac:11:00:02", os_version_extra="UBR 4317")
    device_id = (await world.register(replace(attempt, claims=claims))).device.device_id
    assert (await get(world, device_id)).claims == claims
    again = await world.enroll(machine(), "laptop")
    assert (await get(world, device_id)).claims == again.device.claims
    assert again.device.claims.mac_address == ""


async def test_tags_are_replaced_as_a_whole_and_told_nobody(world: World) -> None:
    device_id = (await world.enroll()).device.device_id
    await tag(world, device_id, site="Ulm", owner="it")
    assert (await tag(world, device_id, site="Bonn")).tags == {"site": "Bonn"}
    assert (await get(world, device_id)).tags == {"site": "Bonn"}
    assert [device.tags for device in await world.listed_devices(None)] == [{"site": "Bonn"}]
    assert (await world.changes())[1:] == [[], []]
    assert [(record.method.rpartition("/")[2], list(record.objects)) for record in (await world.records())[1:]] == [
        ("Method", [device_id])
    ] * 2
    assert (await tag(world, device_id)).tags == {}


async def test_tags_stay_when_the_device_enrolls_again(world: World) -> None:
    device_id = (await world.enroll(user(), "laptop")).device.device_id
    await tag(world, device_id, site="Ulm")
    await world.enroll(machine(), "laptop")
    assert (await get(world, device_id)).tags == {"site": "Ulm"}


async def test_a_repeated_tagging_has_one_effect_and_one_answer(world: World) -> None:
    """I-07."""
    device_id, call = (await world.enroll()).device.device_id, world.call("once", "body")
    first = await tag(world, device_id, call, site="Ulm")
    await tag(world, device_id, site="Bonn")
    assert await tag(world, device_id, call, site="Ulm") == first
    assert (await get(world, device_id)).tags == {"site": "Bonn"}
    with pytest.raises(RequestIdReused):
        await tag(world, device_id, world.call("once", "other"), site="Ulm")


async def test_tags_are_of_what_was_there_and_heartbeats_do_not_disturb(world: World) -> None:
    """AIP-154: a device is heard of every minute, which nobody who writes tags has to know."""
    enrolled = await world.enroll()
    device_id = enrolled.device.device_id
    before = device_etag(await get(world, device_id))
    world.clock.advance(MINUTE)
    await world.beat(enrolled, os_version="6.2")
    changed = await tag(world, device_id, etag=before, site="Ulm")
    assert device_etag(changed) == device_etag(await get(world, device_id)) != before
    with pytest.raises(EtagMismatch):
        await tag(world, device_id, etag=before, site="Bonn")
    assert (await get(world, device_id)).tags == {"site": "Ulm"}


async def test_what_is_no_device_has_no_tags(world: World) -> None:
    """Nor can one of another organization (I-27), or on which nobody has enrolled, be given any."""
    elsewhere = await world.enroll(organization_id=await world.add_organization())
    await world.begin(user(), "laptop")
    (intent,) = [row for row in await world.rows() if row.state == "PENDING"]
    for device_id in (elsewhere.device.device_id, intent.device_id, new(DEVICE)):
        with pytest.raises(DeviceNotFound):
            await tag(world, device_id, site="Ulm")


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({str(number): "" for number in range(11)}, "at most 10"),
        ({"": "x"}, "no key"),
        ({"a:b": "x"}, "no key"),
        ({"k" * 65: "x"}, "no key"),
        ({"k": "v" * 1025}, "1025 characters"),
        ({"k": "a\nb"}, "control character"),
    ],
    ids=["many", "empty", "colon", "long key", "long value", "control"],
)
async def test_tags_out_of_bounds_are_refused(
    world: World, servicer: RegistryServicer, tags: dict[str, str], error: str
) -> None:
    device_id = (await world.enroll()).device.device_id
    request = pb.UpdateDeviceRequest(organization_id=world.organization)
    request.device.MergeFrom(pb.Device(device_id=device_id, tags=tags))
    request.update_mask.paths.append("tags")
    with pytest.raises(InvalidField, match=error) as caught:
        await servicer.UpdateDevice(request, world.call())
    assert caught.value.field == "device.tags"


async def test_a_tagging_can_be_tried_first(world: World, servicer: RegistryServicer) -> None:
    """AIP-163: with every check, and without an effect, a record or a revision token."""
    device_id = (await world.enroll()).device.device_id
    request = pb.UpdateDeviceRequest(organization_id=world.organization, validate_only=True)
    request.update_mask.paths.append("tags")
    request.device.MergeFrom(pb.Device(device_id=device_id, tags={"site": "Ulm"}))
    records, changes = await world.records(), await world.all_changes()
    answer = await servicer.UpdateDevice(request, world.call(request_id="once"))
    assert (dict(answer.device.tags), answer.revision_token) == ({"site": "Ulm"}, "")
    assert (await get(world, device_id)).tags == {}
    assert (await world.records(), await world.all_changes()) == (records, changes)
    request.device.etag = "another"
    with pytest.raises(EtagMismatch):
        await servicer.UpdateDevice(request, world.call())
    request.device.MergeFrom(pb.Device(device_id=new(DEVICE)))
    with pytest.raises(DeviceNotFound):
        await servicer.UpdateDevice(request, world.call())


async def test_the_largest_tags_are_kept(world: World, servicer: RegistryServicer) -> None:
    device_id = (await world.enroll()).device.device_id
    tags = {f"{number}{'k' * 63}": "\U0001f512" * 1024 for number in range(10)}
    request = pb.UpdateDeviceRequest(organization_id=world.organization)
    request.device.MergeFrom(pb.Device(device_id=device_id, tags=tags))
    with pytest.raises(FieldRequired):
        await servicer.UpdateDevice(request, world.call())
    request.update_mask.paths.append("tags")
    assert (await servicer.UpdateDevice(request, world.call())).device.tags == tags
    assert (await get(world, device_id)).tags == tags


async def test_a_device_says_when_it_changed(world: World) -> None:
    """An enrollment, another version and tags change it; being heard of does not."""
    enrolled = await world.enroll(user(), "laptop")
    device_id = enrolled.device.device_id
    times = [enrolled.device.change_time]

    async def changed() -> bool:
        times.append((await get(world, device_id)).change_time)
        world.clock.advance(MINUTE)
        return times[-1] > times[-2]

    world.clock.advance(MINUTE)
    await world.beat(enrolled)
    assert not await changed()
    await world.beat(enrolled, client_version="2.0")
    assert await changed()
    await tag(world, device_id, site="Ulm")
    assert await changed()
    await world.enroll(machine(), "laptop")
    assert await changed()


async def test_a_registration_says_when_it_changed(world: World) -> None:
    """Revoking, restoring and a new key change it; being heard of does not."""
    enrolled = await world.enroll()
    times = [enrolled.registration.change_time]
    assert times[0] == enrolled.registration.create_time

    async def changed() -> bool:
        times.append((await world.find(name(enrolled))).change_time)
        world.clock.advance(MINUTE)
        return times[-1] > times[-2]

    world.clock.advance(MINUTE)
    await world.beat(enrolled)
    assert not await changed()
    await world.revoke(name(enrolled))
    assert await changed()
    await world.unrevoke(name(enrolled))
    assert await changed()
    await world.rotate(enrolled)
    assert await changed()


async def test_a_device_shows_which_of_its_registrations_was_heard_of_last(world: World) -> None:
    """And whose it is. Revoked ones were heard of too; deleted ones are gone."""
    holder, token = user(), machine()
    mine, tokens = await world.enroll(holder, "laptop"), await world.enroll(token, "laptop")
    device_id = mine.device.device_id
    assert tokens.device.last_seen == (await get(world, device_id)).last_seen
    assert tokens.device.last_seen.registration_id == name(tokens)
    assert tokens.device.last_seen.user_id == ""
    world.clock.advance(2 * MINUTE)
    await world.beat(mine)
    await world.revoke(name(mine))
    (listed,) = await world.listed_devices(True)
    assert (listed.last_seen.registration_id, listed.last_seen.user_id) == (name(mine), holder)
    await world.delete(name(mine), name(tokens))
    assert (await get(world, device_id)).last_seen.registration_id == ""


@pytest.mark.parametrize(
    ("key_type", "tunnel"),
    [(keys.CURVE25519, pb.TUNNEL_TYPE_WIREGUARD), (keys.SECP256R1, pb.TUNNEL_TYPE_MASQUE)],
    ids=["curve25519", "secp256r1"],
)
async def test_the_kind_of_key_says_which_tunnel_it_is_for(
    world: World, servicer: RegistryServicer, key_type: keys.KeyType, tunnel: "pb.TunnelType.ValueType"
) -> None:
    enrolled = await world.enroll(key_type=key_type)
    request = pb.GetRegistrationRequest(organization_id=world.organization, registration_id=name(enrolled))
    shown = (await servicer.GetRegistration(request, world.call())).registration
    assert shown.tunnel_type == tunnel
    assert shown.update_time == shown.create_time
    told = to_event(enrolled.registration).registration.registration
    assert (told.tunnel_type, told.HasField("update_time")) == (pb.TUNNEL_TYPE_UNSPECIFIED, False)

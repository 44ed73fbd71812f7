"""The contract's side: batches, lists and tokens, on both engines (decisions 15, 16, 22 and 36)."""

import asyncio
from typing import Any

import pytest

from guardhouse import revisions
from guardhouse.errors import CredentialsInvalid, DeviceNotFound, FieldRequired, InvalidField, PageTokenInvalid
from guardhouse.ids import DEVICE, REGISTRATION
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.credentials import hash_secret
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.usecases.callers import LEAVE
from tests.guardhouse_services.registry.world import World, machine, name, new, user


def outcomes(results: Any) -> list[tuple[str, str]]:
    return [(it.registration_id, it.WhichOneof("outcome")) for it in results]


# Batches


async def test_an_id_that_is_named_twice_is_one_item(world: World, servicer: RegistryServicer) -> None:
    first, second = await world.enroll(), await world.enroll()
    unknown = new(REGISTRATION)
    ids = [name(second), unknown, name(first), name(second), unknown]
    request = pb.RevokeRegistrationsRequest(organization_id=world.organization, registration_ids=ids)
    answer = await servicer.RevokeRegistrations(request, world.call())
    expected = [(name(second), "registration"), (unknown, "error"), (name(first), "registration")]
    assert outcomes(answer.results) == expected
    assert answer.results[0].registration.state == pb.REGISTRATION_STATE_REVOKED
    # Decision 16: two of each stay held.
    assert answer.addresses_held == 4
    again = pb.UnrevokeRegistrationsRequest(organization_id=world.organization, registration_ids=ids)
    assert outcomes((await servicer.UnrevokeRegistrations(again, world.call())).results) == expected
    last = pb.DeleteRegistrationsRequest(organization_id=world.organization, registration_ids=ids)
    deleted = await servicer.DeleteRegistrations(last, world.call())
    assert outcomes(deleted.results) == expected
    assert deleted.results[0].registration.ipv4 == second.registration.lease.ipv4
    assert len(await world.changes()) == 5


async def test_a_batch_has_1_to_1000_ids_of_registrations(world: World, servicer: RegistryServicer) -> None:
    for ids in ([], [new(REGISTRATION)] * 1001, ["dev_" + "0" * 32]):
        request = pb.DeleteRegistrationsRequest(organization_id=world.organization, registration_ids=ids)
        with pytest.raises(InvalidField):
            await servicer.DeleteRegistrations(request, world.call())
    with pytest.raises(FieldRequired):
        await servicer.DeleteRegistrations(pb.DeleteRegistrationsRequest(registration_ids=ids), world.call())


async def test_an_answer_names_the_revision_of_its_change(world: World, servicer: RegistryServicer) -> None:
    enrolled = await world.enroll()
    assert revisions.decode(enrolled.revision_token).position.revision == 1
    ids = [name(enrolled)]
    request = pb.RevokeRegistrationsRequest(organization_id=world.organization, registration_ids=ids, request_id="x")
    for _ in range(2):
        answer = await servicer.RevokeRegistrations(request, world.call("x"))
        token = revisions.decode(answer.revision_token)
        assert (token.service, token.organization_id) == ("registry", world.organization)
        assert token.position.revision == 2
    device = pb.DeleteDeviceRequest(organization_id=world.organization, device_id=enrolled.device.device_id)
    gone = await servicer.DeleteDevice(device, world.call())
    assert (gone.registrations_deleted, revisions.decode(gone.revision_token).position.revision) == (1, 3)


async def test_what_would_happen_is_answered_and_does_not(world: World, servicer: RegistryServicer) -> None:
    """AIP-163, decision 16: with the counts, and without a revision token."""
    first, second = await world.enroll(), await world.enroll()
    await world.revoke(name(second))
    ids = [name(first), name(second), new(REGISTRATION)]
    about: dict[str, Any] = {"organization_id": world.organization, "request_id": "once", "validate_only": True}
    states = {
        "Revoke": [pb.REGISTRATION_STATE_REVOKED, pb.REGISTRATION_STATE_REVOKED],
        "Unrevoke": [pb.REGISTRATION_STATE_ACTIVE, pb.REGISTRATION_STATE_ACTIVE],
        "Delete": [pb.REGISTRATION_STATE_UNSPECIFIED, pb.REGISTRATION_STATE_UNSPECIFIED],
    }
    for verb, expected in states.items():
        request = getattr(pb, f"{verb}RegistrationsRequest")(registration_ids=ids, **about)
        answer = await getattr(servicer, f"{verb}Registrations")(request, world.call("once"))
        assert [it.registration.state for it in answer.results[:2]] == expected
        assert outcomes(answer.results)[2] == (ids[2], "error")
        assert answer.revision_token == ""
        if verb != "Unrevoke":
            assert answer.addresses_held == 4 if verb == "Revoke" else answer.addresses_released == 4
    of_device: dict[str, Any] = about | {"device_id": first.device.device_id}
    revoked = await servicer.RevokeDevice(pb.RevokeDeviceRequest(**of_device), world.call("once"))
    assert (revoked.registrations_revoked, revoked.addresses_held, revoked.revision_token) == (1, 2, "")
    deleted = await servicer.DeleteDevice(pb.DeleteDeviceRequest(**of_device), world.call("once"))
    assert (deleted.registrations_deleted, deleted.addresses_released, deleted.revision_token) == (1, 2, "")
    with pytest.raises(DeviceNotFound):
        await servicer.DeleteDevice(pb.DeleteDeviceRequest(**about | {"device_id": new(DEVICE)}), world.call())
    assert await world.states(first, second) == ["ACTIVE", "REVOKED"]
    assert len(await world.changes()) == 3
    # Nothing of it is remembered: the same request_id does what it says.
    really = pb.DeleteRegistrationsRequest(organization_id=world.organization, registration_ids=ids)
    for _ in range(2):
        answer = await servicer.DeleteRegistrations(really, world.call("once"))
        assert answer.addresses_released == 4
    assert await world.states(first, second) == ["DELETED", "DELETED"]


# Lists


async def test_lists_go_through_pages_without_a_gap(world: World, servicer: RegistryServicer) -> None:
    made = [await world.enroll() for _ in range(5)]
    request = pb.ListRegistrationsRequest(organization_id=world.organization, page_size=2)
    pages = []
    while True:
        page = await servicer.ListRegistrations(request, world.call())
        pages.append([it.registration_id for it in page.registrations])
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert pages == [[name(it) for it in made[at : at + 2]] for at in (0, 2, 4)]
    devices = pb.ListDevicesRequest(organization_id=world.organization, page_size=4)
    first = await servicer.ListDevices(devices, world.call())
    devices.page_token = first.next_page_token
    second = await servicer.ListDevices(devices, world.call())
    shown = [it.device_id for it in (*first.devices, *second.devices)]
    assert shown == [it.device.device_id for it in made]
    assert (len(second.devices), second.next_page_token) == (1, "")


async def test_a_page_token_is_for_its_own_list(world: World, servicer: RegistryServicer) -> None:
    for _ in range(2):
        await world.enroll()
    request = pb.ListRegistrationsRequest(organization_id=world.organization, page_size=1)
    token = (await servicer.ListRegistrations(request, world.call())).next_page_token
    for other in (
        pb.ListRegistrationsRequest(organization_id=await world.add_organization(), page_token=token),
        pb.ListRegistrationsRequest(organization_id=world.organization, user_id=user(), page_token=token),
        pb.ListRegistrationsRequest(organization_id=world.organization, page_token=f"{token}AAAA"),
    ):
        with pytest.raises(PageTokenInvalid):
            await servicer.ListRegistrations(other, world.call())


async def test_a_list_shows_what_is_active_unless_asked_otherwise(world: World, servicer: RegistryServicer) -> None:
    """Decision 15."""
    active, revoked = await world.enroll(), await world.enroll()
    await world.revoke(name(revoked))

    async def listed(state: pb.RegistrationFilter.ValueType) -> list[str]:
        request = pb.ListRegistrationsRequest(organization_id=world.organization, state=state)
        return [it.registration_id for it in (await servicer.ListRegistrations(request, world.call())).registrations]

    assert await listed(pb.REGISTRATION_FILTER_UNSPECIFIED) == [name(active)]
    assert await listed(pb.REGISTRATION_FILTER_ACTIVE) == [name(active)]
    assert await listed(pb.REGISTRATION_FILTER_REVOKED) == [name(revoked)]
    assert await listed(pb.REGISTRATION_FILTER_ALL) == [name(active), name(revoked)]

    async def devices(which: pb.ActiveRegistrations.ValueType) -> list[str]:
        request = pb.ListDevicesRequest(organization_id=world.organization, active_registrations=which)
        return [it.device_id for it in (await servicer.ListDevices(request, world.call())).devices]

    first, second = active.device.device_id, revoked.device.device_id
    assert await devices(pb.ACTIVE_REGISTRATIONS_UNSPECIFIED) == [first]
    assert await devices(pb.ACTIVE_REGISTRATIONS_ONLY) == [first]
    assert await devices(pb.ACTIVE_REGISTRATIONS_EXCLUDE) == [second]
    assert await devices(pb.ACTIVE_REGISTRATIONS_INCLUDE) == [first, second]


async def test_a_revoked_registration_resolves_as_active(world: World, servicer: RegistryServicer) -> None:
    """Decision 16: what was reserved stays held."""
    enrolled = await world.enroll()
    request = pb.ResolveIntentRequest(organization_id=world.organization, intent_id=name(enrolled))
    for outcome, action in (
        (pb.INTENT_OUTCOME_ACTIVE, world.revoke),
        (pb.INTENT_OUTCOME_ACTIVE, world.delete),
        (pb.INTENT_OUTCOME_DELETED, world.delete),
    ):
        assert (await servicer.ResolveIntent(request, world.call())).outcome == outcome
        await action(name(enrolled))
    unknown = pb.ResolveIntentRequest(organization_id=world.organization, intent_id=new(REGISTRATION))
    assert (await servicer.ResolveIntent(unknown, world.call())).outcome == pb.INTENT_OUTCOME_ABORTED
    attempt = await world.begin()
    pending = (await world.rows(attempt.request_id))[0].registration_id
    asked = pb.ResolveIntentRequest(organization_id=world.organization, intent_id=pending)
    assert (await servicer.ResolveIntent(asked, world.call())).outcome == pb.INTENT_OUTCOME_PENDING


# Tokens of devices


async def test_a_device_is_recognised_while_its_registration_is_active(world: World) -> None:
    """Decision 22."""
    enrolled, other = await world.enroll(), await world.enroll(machine())
    caller = await world.registry.callers.device(enrolled.token)
    assert (caller.kind, caller.id, caller.organization_id) == ("device", name(enrolled), world.organization)
    assert (await world.registry.callers.device(other.token)).id == name(other)
    await world.revoke(name(enrolled))
    with pytest.raises(CredentialsInvalid):
        await world.registry.callers.device(enrolled.token)
    await world.unrevoke(name(enrolled))
    await world.registry.callers.device(enrolled.token)
    await world.delete(name(enrolled))
    assert (await world.registry.callers.device(enrolled.token)).only == LEAVE
    assert (await world.registry.callers.device(other.token)).only == ""


async def test_a_device_is_not_recognised_by_anything_else(world: World) -> None:
    enrolled, other = await world.enroll(), await world.enroll()
    secret = enrolled.token.removeprefix(f"ghr_{name(enrolled)}_")
    for bearer in (
        f"ghr_{name(other)}_{secret}",
        f"ghr_{new(REGISTRATION)}_{secret}",
        f"ghk_{name(enrolled)}_{secret}",
        enrolled.token + "=",
        enrolled.token[:-1],
        f"ghr_{name(enrolled)}_",
        "",
    ):
        with pytest.raises(CredentialsInvalid):
            await world.registry.callers.device(bearer)
    attempt = await world.begin()
    (pending,) = await world.rows(attempt.request_id)
    with pytest.raises(CredentialsInvalid):
        await world.registry.callers.device(world.registry.enrollments._token(pending))


async def test_a_token_is_stored_as_its_hash_only(world: World) -> None:
    """Decision 22, I-31."""
    enrolled = await world.enroll()
    assert (await world.find(name(enrolled))).token_hash == hash_secret(enrolled.token)
    assert (await world.snapshot())[name(enrolled)].token_hash == hash_secret(enrolled.token)
    assert enrolled.token not in str(await world.find(name(enrolled)))


# The feed


async def test_the_snapshot_is_what_the_changes_say(world: World) -> None:
    """Whatever the size of its pages."""
    holder = user()
    first = await world.enroll(holder, "laptop")
    made = [await world.enroll() for _ in range(4)]
    await world.enroll(holder, "laptop")
    await world.revoke(name(made[0]), name(made[1]))
    await world.unrevoke(name(made[1]))
    await world.delete(name(made[2]))
    await world.delete_device(made[3].device.device_id)
    await world.begin()
    pages = await asyncio.gather(*(world.snapshot(limit) for limit in (1, 2, 3, 50)))
    assert pages[1:] == pages[:-1]
    assert len(pages[0]) == 3
    assert name(first) not in pages[0]
    await world.audit()

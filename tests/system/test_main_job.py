"""Enroll, hold addresses, check, revoke, delete, remove: over four real services, on both engines."""

import asyncio

import pytest

from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from tests.plane import Plane
from tests.system.people import World


async def until(condition: object, seconds: float = 20.0) -> None:
    """Waits until an async predicate holds."""
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():  # type: ignore[operator]
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_person_enrolls_and_is_checked(world: World) -> None:
    """Decisions 2, 22, 23, 28."""
    made = await world.enroll("alice")
    registration = made.registration
    assert registration.state == registry_pb2.REGISTRATION_STATE_ACTIVE
    assert registration.ipv4.startswith("100.")
    assert await world.used_seats() == 1
    assert await world.check(registration.registration_id, await world.policy("1h30m")) == "SESSION_FRESH"
    assert await world.check(registration.registration_id, await world.policy()) == "NO_SESSION_LIMIT"
    lookup = ipam_pb2.LookupAddressRequest(organization_id=world.organization_id, address=registration.ipv6)
    assert (await world.addresses.LookupAddress(lookup)).lease.registration_id == registration.registration_id


async def test_many_devices_and_logins_take_one_seat(world: World) -> None:
    """Decision 2."""
    for machine in ("laptop", "phone", "tablet"):
        await world.enroll("alice", machine)
    assert len(await world.live()) == 3
    assert await world.used_seats() == 1


async def test_a_service_token_takes_no_seat(world: World) -> None:
    """Decision 2, and decision 20: it may come back by itself."""
    credential = await world.service_token()
    request = await world.request(credential, "builder")
    made = await world.enrollment.Register(request)
    assert made.registration.service_token_id.startswith("svt_")
    assert await world.used_seats() == 0
    policy = await world.policy("1h")
    assert await world.check(made.registration.registration_id, policy) == "SESSION_FRESH"
    ids = made.registration.registration_id
    await world.registrations.DeleteRegistrations(world.batch(registry_pb2.DeleteRegistrationsRequest, ids))
    again = await world.enrollment.Register(await world.request(credential, "builder"))
    assert again.registration.registration_id != ids


async def test_a_refused_person_leaves_nothing_behind(world: World) -> None:
    """Decision 3: no seat, no user, no device, no address."""
    with pytest.raises(errors.EnrollmentRefused):
        await world.enroll("mallory@elsewhere.test")
    assert await world.used_seats() == 0
    assert await world.live() == []
    assert await world.leases() == []
    users = await world.users.ListUsers(identity_pb2.ListUsersRequest(organization_id=world.organization_id))
    assert list(users.users) == []
    devices = await world.devices.ListDevices(
        registry_pb2.ListDevicesRequest(
            organization_id=world.organization_id,
            active_registrations=registry_pb2.ACTIVE_REGISTRATIONS_INCLUDE,
        )
    )
    assert list(devices.devices) == []


async def test_a_repeated_register_makes_one_registration(world: World) -> None:
    """I-07: the same answer, the token included."""
    request = await world.request(world.id_token("alice"), "laptop")
    first = await world.enrollment.Register(request)
    second = await world.enrollment.Register(request)
    assert second.registration == first.registration
    assert second.token == first.token
    assert len(await world.live()) == 1


async def test_a_request_id_with_another_body_is_refused(world: World) -> None:
    """I-07."""
    request = await world.request(world.id_token("alice"), "laptop", request_id="r1")
    await world.enrollment.Register(request)
    other = await world.request(world.id_token("alice"), "phone", request_id="r1")
    with pytest.raises(errors.RequestIdReused):
        await world.enrollment.Register(other)


async def test_an_id_token_enrolls_once(world: World) -> None:
    """Decision 27: another request with the same token is a replay."""
    credential = world.id_token("alice")
    await world.enrollment.Register(await world.request(credential, "laptop"))
    with pytest.raises(errors.IdTokenInvalid):
        await world.enrollment.Register(await world.request(credential, "phone"))
    assert len(await world.live()) == 1


async def test_a_key_belongs_to_one_registration(world: World) -> None:
    """Decision 21, I-09: until it is deleted."""
    request = await world.request(world.id_token("alice"), "laptop", private_key=b"\x07" * 32)
    made = await world.enrollment.Register(request)
    with pytest.raises(errors.KeyAlreadyRegistered):
        await world.enrollment.Register(await world.request(world.id_token("bob"), "other", private_key=b"\x07" * 32))
    assert await world.used_seats() == 1
    ids = made.registration.registration_id
    await world.registrations.DeleteRegistrations(world.batch(registry_pb2.DeleteRegistrationsRequest, ids))
    await world.enrollment.Register(await world.request(world.id_token("bob"), "other", private_key=b"\x07" * 32))


async def test_revoke_keeps_and_unrevoke_restores_and_delete_releases(world: World) -> None:
    """Decision 16."""
    policy = await world.policy("1h")
    made = (await world.enroll("alice")).registration
    sibling = (await world.enroll("bob")).registration
    batch = world.batch(registry_pb2.RevokeRegistrationsRequest, made.registration_id)
    revoked = await world.registrations.RevokeRegistrations(batch)
    assert revoked.addresses_held == 2
    assert await world.check(made.registration_id, policy) == "REGISTRATION_REVOKED"
    assert {lease.registration_id for lease in await world.leases()} >= {made.registration_id}
    batch = world.batch(registry_pb2.UnrevokeRegistrationsRequest, made.registration_id)
    restored = (await world.registrations.UnrevokeRegistrations(batch)).results[0].registration
    assert (restored.public_key, restored.ipv4, restored.ipv6) == (made.public_key, made.ipv4, made.ipv6)
    assert await world.check(made.registration_id, policy) == "SESSION_FRESH"
    batch = world.batch(registry_pb2.DeleteRegistrationsRequest, made.registration_id)
    await world.registrations.DeleteRegistrations(batch)
    assert await world.check(made.registration_id, policy) == "REGISTRATION_UNKNOWN"
    assert [lease.registration_id for lease in await world.leases()] == [sibling.registration_id]
    assert await world.used_seats() == 2
    again = await world.registrations.DeleteRegistrations(batch)
    assert again.results[0].error.message.startswith("no registration")


async def test_deleting_a_device_deletes_its_registrations_and_no_other(world: World) -> None:
    """Decision 16."""
    made = await world.enroll("alice", "shared")
    credential = await world.service_token()
    await world.enrollment.Register(await world.request(credential, "shared"))
    other = await world.enroll("bob", "other")
    request = registry_pb2.DeleteDeviceRequest(
        organization_id=world.organization_id, device_id=made.registration.device_id
    )
    answer = await world.devices.DeleteDevice(request)
    assert answer.registrations_deleted == 2
    assert [it.registration_id for it in await world.live()] == [other.registration.registration_id]
    again = await world.enroll("alice", "shared")
    assert again.registration.device_id != made.registration.device_id


async def test_devices_without_active_registrations_are_hidden(world: World) -> None:
    """Decision 15."""
    made = (await world.enroll("alice")).registration
    await world.enroll("bob")
    await world.registrations.RevokeRegistrations(
        world.batch(registry_pb2.RevokeRegistrationsRequest, made.registration_id)
    )

    async def shown(which: registry_pb2.ActiveRegistrations.ValueType) -> list[int]:
        request = registry_pb2.ListDevicesRequest(organization_id=world.organization_id, active_registrations=which)
        return [device.active_registrations for device in (await world.devices.ListDevices(request)).devices]

    assert await shown(registry_pb2.ACTIVE_REGISTRATIONS_UNSPECIFIED) == [1]
    assert await shown(registry_pb2.ACTIVE_REGISTRATIONS_INCLUDE) == [0, 1]
    assert await shown(registry_pb2.ACTIVE_REGISTRATIONS_EXCLUDE) == [0]


async def test_enrolling_while_revoked_makes_a_new_registration(world: World) -> None:
    """Decision 17: the revoked one keeps its addresses, and cannot come back while its place is taken."""
    first = (await world.enroll("alice")).registration
    await world.registrations.RevokeRegistrations(
        world.batch(registry_pb2.RevokeRegistrationsRequest, first.registration_id)
    )
    second = (await world.enroll("alice")).registration
    assert second.ipv4 != first.ipv4
    assert len(await world.leases()) == 2
    batch = world.batch(registry_pb2.UnrevokeRegistrationsRequest, first.registration_id)
    result = (await world.registrations.UnrevokeRegistrations(batch)).results[0]
    assert "newer active registration" in result.error.message
    assert await world.used_seats() == 1


async def test_another_user_cannot_take_a_device(world: World) -> None:
    """Decision 18: until the holder's registration is revoked or deleted."""
    first = (await world.enroll("alice", "shared")).registration
    with pytest.raises(errors.DeviceHeldByAnotherUser):
        await world.enroll("bob", "shared")
    assert await world.used_seats() == 1
    await world.registrations.RevokeRegistrations(
        world.batch(registry_pb2.RevokeRegistrationsRequest, first.registration_id)
    )
    await world.enroll("bob", "shared")
    batch = world.batch(registry_pb2.UnrevokeRegistrationsRequest, first.registration_id)
    result = (await world.registrations.UnrevokeRegistrations(batch)).results[0]
    assert "another user" in result.error.message


async def test_the_same_user_enrolling_again_keeps_the_addresses(world: World) -> None:
    """Decision 18: the lease moves, and the old registration is gone."""
    first = (await world.enroll("alice")).registration
    second = (await world.enroll("alice")).registration
    assert second.registration_id != first.registration_id
    assert (second.ipv4, second.ipv6) == (first.ipv4, first.ipv6)
    assert [it.registration_id for it in await world.live()] == [second.registration_id]
    leases = await world.leases()
    assert [(it.registration_id, it.ipv4) for it in leases] == [(second.registration_id, second.ipv4)]


async def test_removing_a_user_frees_the_seat_and_everything_else(world: World) -> None:
    """Decision 5."""
    policy = await world.policy()
    made = [(await world.enroll("alice", machine)).registration for machine in ("laptop", "phone")]
    await world.enroll("bob")
    answer = await world.remove(made[0].user_id)
    assert answer.removal.seats_freed == 1
    assert await world.used_seats() == 1
    for registration in made:
        assert await world.check(registration.registration_id, policy) in ("USER_REMOVED", "REGISTRATION_UNKNOWN")
    assert [it.user_id for it in await world.live()] != []
    assert all(it.user_id != made[0].user_id for it in await world.live())

    async def done() -> bool:
        request = identity_pb2.GetRemovalRequest(
            organization_id=world.organization_id, removal_id=answer.removal.removal_id
        )
        removal = (await world.users.GetRemoval(request)).removal
        assert removal.registrations == 2
        return bool(removal.done and removal.registrations_deleted == removal.addresses_released == 2)

    await until(done)
    assert len(await world.leases()) == 1
    again = (await world.enroll("alice", "laptop")).registration
    assert again.user_id == made[0].user_id
    assert await world.used_seats() == 2
    assert await world.check(again.registration_id, policy) == "NO_SESSION_LIMIT"


async def test_revoking_a_user_asks_for_a_new_authentication(world: World) -> None:
    """Decisions 5 and 35: seat and registration stay; policies without a limit are untouched."""
    enforced, unlimited = await world.policy("10h"), await world.policy()
    made = (await world.enroll("alice")).registration
    request = identity_pb2.RevokeUserRequest(organization_id=world.organization_id, user_id=made.user_id)
    await world.users.RevokeUser(request)
    assert await world.check(made.registration_id, enforced) == "SESSION_REVOKED"
    assert await world.check(made.registration_id, unlimited) == "NO_SESSION_LIMIT"
    assert await world.used_seats() == 1
    await world.sessions.Reauthenticate(
        session_pb2.ReauthenticateRequest(
            organization_id=world.organization_id,
            registration_id=made.registration_id,
            credential=world.id_token("alice"),
        )
    )
    assert await world.check(made.registration_id, enforced) == "SESSION_FRESH"


async def test_revoking_a_user_can_revoke_the_registrations(world: World) -> None:
    """Decision 5: once; an admin may restore them."""
    policy = await world.policy()
    made = (await world.enroll("alice")).registration
    request = identity_pb2.RevokeUserRequest(
        organization_id=world.organization_id, user_id=made.user_id, revoke_registrations=True
    )
    await world.users.RevokeUser(request)
    assert [it.state for it in await world.live()] == [registry_pb2.REGISTRATION_STATE_REVOKED]
    batch = world.batch(registry_pb2.UnrevokeRegistrationsRequest, made.registration_id)
    await world.registrations.UnrevokeRegistrations(batch)
    await world.users.RevokeUser(
        identity_pb2.RevokeUserRequest(organization_id=world.organization_id, user_id=made.user_id)
    )
    assert [it.state for it in await world.live()] == [registry_pb2.REGISTRATION_STATE_ACTIVE]
    assert await world.check(made.registration_id, policy) == "NO_SESSION_LIMIT"


async def test_only_the_same_person_may_sign_in_again(plane: Plane, world: World) -> None:
    """Decision 27: the timer of somebody else's device is untouched."""
    policy = await world.policy("1h")
    made = await world.enroll("alice")
    await plane.advance(3601)
    assert await world.check(made.registration.registration_id, policy) == "SESSION_EXPIRED"
    device = plane.stub(session_pb2_grpc.SessionServiceStub, key=made.token)
    request = session_pb2.ReauthenticateRequest(
        organization_id=world.organization_id,
        registration_id=made.registration.registration_id,
        credential=world.id_token("bob"),
    )
    with pytest.raises(errors.DifferentUser):
        await device.Reauthenticate(request)
    assert await world.check(made.registration.registration_id, policy) == "SESSION_EXPIRED"
    request.credential.CopyFrom(world.id_token("alice"))
    answer = await device.Reauthenticate(request)
    token = [answer.revision_token]
    assert await world.check(made.registration.registration_id, policy, token) == "SESSION_FRESH"


async def test_a_device_sees_its_own_registration_only(plane: Plane, world: World) -> None:
    """Decision 22."""
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    device = plane.stub(session_pb2_grpc.SessionServiceStub, key=alice.token)

    def request(made: registry_pb2.RegisterResponse) -> session_pb2.GetSessionRequest:
        return session_pb2.GetSessionRequest(
            organization_id=world.organization_id, registration_id=made.registration.registration_id
        )

    session = (await device.GetSession(request(alice))).session
    assert session.user_id == alice.registration.user_id
    with pytest.raises(errors.AccessDenied):
        await device.GetSession(request(bob))


async def test_lists_come_in_pages(world: World) -> None:
    """AIP-158: every registration once, and a token only for the list that it is of."""
    made = {(await world.enroll(f"person{number}")).registration.registration_id for number in range(5)}
    seen: list[str] = []
    request = registry_pb2.ListRegistrationsRequest(organization_id=world.organization_id, page_size=2)
    while True:
        page = await world.registrations.ListRegistrations(request)
        seen += [it.registration_id for it in page.registrations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(seen) == 5
    assert set(seen) == made
    request.state = registry_pb2.REGISTRATION_FILTER_ALL
    with pytest.raises(errors.PageTokenInvalid):
        await world.registrations.ListRegistrations(request)

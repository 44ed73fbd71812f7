"""What a device calls with its token, on a whole control plane (decisions 21, 22 and 32a)."""

import secrets
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse import errors, keys
from guardhouse.enrollment import make_request, make_rotation
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.registry.v1 import registry_pb2_grpc as rpc
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from tests.plane import Plane
from tests.system.people import World


async def test_a_device_is_told_whether_people_may_sign_in_with_a_code(plane: Plane) -> None:
    """Threat T-03: not until the organization says so."""
    world = World(plane, plane.organization)
    about: dict[str, Any] = {"organization_id": world.organization_id}
    assert not (await world.enrollment.GetEnrollmentInfo(pb.GetEnrollmentInfoRequest(**about))).device_flow
    organizations = plane.stub(identity_pb2_grpc.OrganizationServiceStub)
    allowed = identity_pb2.Organization(device_flow=True)
    update = identity_pb2.UpdateOrganizationRequest(
        **about, organization=allowed, update_mask=FieldMask(paths=["device_flow"])
    )
    await organizations.UpdateOrganization(update)
    plane.clock.advance(1)
    for follower in plane.nodes["registry"].views:
        assert await follower.fresh(plane.clock.steady(), timeout=30)
    assert (await world.enrollment.GetEnrollmentInfo(pb.GetEnrollmentInfoRequest(**about))).device_flow


async def test_the_life_of_a_device(plane: Plane) -> None:
    """It enrolls with one kind of key, changes to the other, says that it lives, and leaves for good."""
    world = World(plane, plane.organization)
    about: dict[str, Any] = {"organization_id": world.organization_id}
    info = await world.enrollment.GetEnrollmentInfo(pb.GetEnrollmentInfoRequest(**about))
    claims = pb.DeviceClaims(hardware_id="laptop", platform=pb.PLATFORM_LINUX)
    private, p256 = keys.SECP256R1.new_private_key(), keys.SECP256R1
    request = make_request(info, plane.organization, world.id_token("alice"), claims, private, "enroll", p256)
    made = await world.enrollment.Register(request)
    registration_id = made.registration.registration_id
    about["registration_id"] = registration_id
    assert made.registration.key_type == pb.KEY_TYPE_SECP256R1

    device = plane.stub(rpc.RegistrationServiceStub, made.token)
    current, private = made.registration.public_key, keys.new_private_key()
    rotation = make_rotation(info, plane.organization, registration_id, current, private, "rotate")
    rotated = await device.RotateKey(rotation)
    assert rotated.registration.public_key == keys.public_key(private)
    assert (rotated.registration.ipv4, rotated.registration.ipv6) == (made.registration.ipv4, made.registration.ipv6)
    assert (await device.RotateKey(rotation)).registration == rotated.registration
    late = make_rotation(info, plane.organization, registration_id, current, keys.new_private_key(), "late")
    with pytest.raises(errors.KeyNotCurrent):
        await device.RotateKey(late)
    policy = await world.policy()
    assert await world.check(registration_id, policy) == "NO_SESSION_LIMIT"

    await device.Heartbeat(pb.HeartbeatRequest(**about, client_version="2.0"))
    await plane.nodes["registry"].servicer.registry.heartbeats.flush()  # type: ignore[attr-defined]
    found = (await device.GetRegistration(pb.GetRegistrationRequest(**about))).registration
    assert (found.seen_time.seconds % 60, found.seen_time.nanos) == (0, 0)
    listed = await world.devices.ListDevices(pb.ListDevicesRequest(organization_id=plane.organization))
    assert (listed.devices[0].claims.client_version, listed.devices[0].seen_time) == ("2.0", found.seen_time)

    session: Any = plane.stub(session_pb2_grpc.SessionServiceStub, made.token)
    asked = session_pb2.GetSessionRequest(**about)
    await session.GetSession(asked)
    leave = pb.LeaveRequest(**about, request_id="leave")
    left = await device.Leave(leave)
    assert (await device.Leave(leave)).revision_token == left.revision_token
    with pytest.raises(errors.RegistrationNotFound):
        await device.Leave(pb.LeaveRequest(**about, request_id=secrets.token_hex(8)))
    # Its token is good for nothing else, in either service.
    for method, body in (
        (device.GetRegistration, pb.GetRegistrationRequest(**about)),
        (device.Heartbeat, pb.HeartbeatRequest(**about)),
        (device.RotateKey, rotation),
    ):
        with pytest.raises(errors.CredentialsInvalid):
            await method(body)
    assert await world.check(registration_id, policy, [left.revision_token]) == "REGISTRATION_UNKNOWN"
    with pytest.raises(errors.CredentialsInvalid):
        await session.GetSession(asked)
    assert await world.live() == []


async def test_the_last_heartbeats_survive_a_restart(plane: Plane) -> None:
    world = World(plane, plane.organization)
    made = await world.enroll("alice")
    about: dict[str, Any] = {
        "organization_id": plane.organization,
        "registration_id": made.registration.registration_id,
    }
    await plane.stub(rpc.RegistrationServiceStub, made.token).Heartbeat(pb.HeartbeatRequest(**about))
    await plane.stop("registry")
    await plane.start("registry")
    await plane.reachable("registry")
    (found,) = await world.live()
    assert found.HasField("seen_time")

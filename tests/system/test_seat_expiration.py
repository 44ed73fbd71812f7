"""The expiration of seats over real services: a device that lives keeps its user's seat, on both engines."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.plane import Plane
from tests.system.people import World

WEEK = 7 * 24 * 3600
WEEKS = 5
"""730h are a little more than four."""


async def beat(plane: Plane, made: registry_pb2.RegisterResponse) -> None:
    """A heartbeat, by the device itself."""
    of: dict[str, Any] = {"organization_id": plane.organization, "registration_id": made.registration.registration_id}
    request = registry_pb2.HeartbeatRequest(**of)
    await plane.stub(registry_pb2_grpc.RegistrationServiceStub, made.token).Heartbeat(request)


async def pass_by(plane: Plane, seconds: float) -> None:
    """Waits until every service knows of the others as of then."""
    await plane.advance(seconds)
    for node in plane.nodes.values():
        assert await node.directory.follower.fresh(plane.clock.steady(), timeout=30)


async def test_a_user_whose_device_lives_keeps_the_seat(plane: Plane, world: World) -> None:
    """Decision 6: neither has authenticated since; one device was heard of, and the other fell silent."""
    organization = identity_pb2.Organization(seat_expiration="730h")
    await plane.stub(identity_pb2_grpc.OrganizationServiceStub).UpdateOrganization(
        identity_pb2.UpdateOrganizationRequest(
            organization_id=world.organization_id,
            organization=organization,
            update_mask=FieldMask(paths=["seat_expiration"]),
        )
    )
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    registry: Any = plane.nodes["registry"].servicer
    identity: Any = plane.nodes["identity"].servicer

    async def sweep() -> int:
        await registry.registry.heartbeats.flush()
        await registry.registry.activity.report(world.organization_id)
        return int(await identity.identity.seat_expiration.sweep(world.organization_id))

    await beat(plane, bob)
    for _ in range(WEEKS - 1):
        await pass_by(plane, WEEK)
        await beat(plane, alice)
        assert await sweep() == 0
    await pass_by(plane, WEEK)
    # What the registry has not reported is not known, and nobody goes by it.
    assert await identity.identity.seat_expiration.sweep(world.organization_id) == 0
    await beat(plane, alice)
    assert await sweep() == 1
    seats = plane.stub(identity_pb2_grpc.SeatServiceStub)
    left = (await seats.ListSeats(identity_pb2.ListSeatsRequest(organization_id=world.organization_id))).seats
    assert [seat.user_id for seat in left] == [alice.registration.user_id]
    assert left[0].seen_time.ToMicroseconds() > left[0].authenticate_time.ToMicroseconds()
    explained = await seats.ExplainSeat(
        identity_pb2.ExplainSeatRequest(organization_id=world.organization_id, user_id=bob.registration.user_id)
    )
    assert [freed.cause for freed in explained.freed] == [identity_pb2.SEAT_FREE_CAUSE_EXPIRED]

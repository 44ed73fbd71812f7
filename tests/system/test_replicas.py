"""Several replicas of a service on one PostgreSQL: one plane, whichever of them answers."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.plane import Plane
from tests.system.people import World

pytestmark = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


@pytest.fixture
async def worlds(plane: Plane) -> list[World]:
    """The same organization, through three replicas of the registry."""
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    found = [World(plane, plane.organization) for _ in hosts]
    for world, host in zip(found[1:], hosts[1:], strict=True):
        await plane.start("registry", host)
        world.enrollment = plane.stub(registry_pb2_grpc.EnrollmentServiceStub, host=host)
        world.registrations = plane.stub(registry_pb2_grpc.RegistrationServiceStub, host=host)
    return found


async def test_a_retry_goes_to_any_replica(worlds: list[World]) -> None:
    """I-07: the same registration and the same token, from each of them."""
    request = await worlds[0].request(worlds[0].id_token("alice"), "laptop")
    answers = [await world.enrollment.Register(request) for world in worlds]
    assert len({(it.registration.registration_id, it.token) for it in answers}) == 1
    assert len(await worlds[0].leases()) == 1


async def test_one_request_at_all_replicas_at_once(worlds: list[World]) -> None:
    """I-07."""
    request = await worlds[0].request(worlds[0].id_token("alice"), "laptop")
    answers = await asyncio.gather(*(world.enrollment.Register(request) for world in worlds * 5))
    assert len({it.registration.registration_id for it in answers}) == 1
    assert len(await worlds[0].live()) == len(await worlds[0].leases()) == await worlds[0].used_seats() == 1


async def test_64_people_for_10_seats_over_three_replicas(plane: Plane, worlds: list[World]) -> None:
    """I-04."""
    organization_id = await plane.create_organization(seat_limit=10)
    for world in worlds:
        world.organization_id = organization_id
    calls = [worlds[number % 3].enroll(f"person{number}") for number in range(64)]
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    reasons = Counter(getattr(it, "reason", "") for it in results if isinstance(it, BaseException))
    assert reasons == {"SEATS_EXHAUSTED": 54}
    assert await worlds[0].used_seats() == len(await worlds[1].live()) == len(await worlds[2].leases()) == 10


async def test_a_revocation_by_one_replica_is_seen_through_another(worlds: list[World]) -> None:
    """I-15, I-20: session follows one replica; what another commits reaches it all the same."""
    policy = await worlds[0].policy("1h")
    for number, world in enumerate(worlds):
        made = (await world.enroll(f"person{number}")).registration
        assert await world.check(made.registration_id, policy) == "SESSION_FRESH"
        batch = world.batch(registry_pb2.RevokeRegistrationsRequest, made.registration_id)
        token = (await world.registrations.RevokeRegistrations(batch)).revision_token
        assert await worlds[0].check(made.registration_id, policy, [token]) == "REGISTRATION_REVOKED"


async def test_a_replica_takes_over_the_jobs_of_one_that_stops(plane: Plane, worlds: list[World]) -> None:
    """A removal is carried out, whichever replica held the lease."""
    made = (await worlds[1].enroll("alice")).registration
    await plane.stop("registry")
    await worlds[0].remove(made.user_id)
    request = registry_pb2.ListRegistrationsRequest(organization_id=plane.organization, at_least=[])
    for _ in range(400):
        if not (await worlds[1].registrations.ListRegistrations(request)).registrations:
            break
        await asyncio.sleep(0.05)
    assert not (await worlds[1].registrations.ListRegistrations(request)).registrations
    await plane.start("registry")

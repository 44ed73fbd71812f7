"""Where a device is, from the wire to identity's decision, and in nobody's word but a trusted proxy's (decision 12)."""

from pathlib import Path

import pytest

from guardhouse.errors import EnrollmentRefused
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from tests.clock import FakeClock
from tests.plane import Plane
from tests.system.people import World


async def test_the_registry_says_where_a_device_is(tmp_path: Path, clock: FakeClock) -> None:
    """What a device wrote in front counts for nothing; what a proxy of ours adds does."""
    settings = {"trusted_proxies": "127.0.0.0/8", "client_country_header": "x-country"}
    async with Plane(tmp_path, clock, **settings) as plane:
        world = World(plane, plane.organization)
        policies = plane.stub(identity_rpc.EnrollmentPolicyServiceStub)
        for precedence, rule in (
            (1, identity.EnrollmentRule(ip_range="198.51.100.0/24")),
            (2, identity.EnrollmentRule(country="FR")),
        ):
            policy = identity.EnrollmentPolicy(
                display_name="Not from there",
                decision=identity.ENROLLMENT_DECISION_BLOCK,
                precedence=precedence,
                include=[rule],
            )
            await policies.CreateEnrollmentPolicy(
                identity.CreateEnrollmentPolicyRequest(organization_id=plane.organization, enrollment_policy=policy)
            )
        for number, headers in enumerate([{"x-forwarded-for": "198.51.100.7"}, {"x-country": "fr"}]):
            request = await world.request(world.id_token("alice"), f"machine{number}")
            registering = world.enrollment.Register(request, metadata=tuple(headers.items()))
            with pytest.raises(EnrollmentRefused):
                await registering
        request = await world.request(world.id_token("alice"), "at home")
        await world.enrollment.Register(
            request, metadata=(("x-forwarded-for", "198.51.100.7, 192.0.2.7"), ("x-country", "DE"))
        )

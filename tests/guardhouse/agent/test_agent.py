"""An agent against a real control plane, beside an interface of ours."""

from pathlib import Path

import pytest

from guardhouse.agent.agent import Agent
from guardhouse.agent.folder import Folder
from guardhouse.agent.keeper import Means, Orders
from guardhouse.durations import DAY, SECOND
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.plane import Plane
from tests.system.people import World


@pytest.fixture
def engine() -> str:
    """An agent does not see the database: one engine is enough."""
    return "sqlite"


@pytest.fixture
def world(plane: Plane) -> World:
    return World(plane, plane.organization)


def orders_of(plane: Plane, heartbeat: int = SECOND, rotate: int | None = DAY) -> Orders:
    profile = Profile(
        registry=f"127.0.0.1:{plane.settings.public_port('registry')}",
        session=f"127.0.0.1:{plane.settings.public_port('session')}",
        ca=plane.settings.tls_path / "ca.crt",
        organization_id=plane.organization,
    )
    claims = pb.DeviceClaims(hardware_id="machine", platform=pb.PLATFORM_LINUX, client_version="1")
    return Orders(profile, claims, heartbeat, rotate)


async def test_a_service_token_enrolls_and_comes_back(plane: Plane, world: World, tmp_path: Path) -> None:
    means = Means(await world.service_token())
    folder = Folder(tmp_path / "state")
    with folder.locked():
        agent = Agent(orders_of(plane), folder, plane.clock, means)
        assert await agent.once() == []
        (made,) = await world.live()
        (keeper,) = agent.keepers.values()
        assert keeper.kept
        assert keeper.kept.registration_id == made.registration_id
        await agent.close()
        # Another process finds what the first has kept.
        agent = Agent(orders_of(plane), folder, plane.clock, means)
        assert await agent.once() == []
        assert [it.registration_id for it in await world.live()] == [made.registration_id]
        await world.registrations.DeleteRegistrations(world.batch(pb.DeleteRegistrationsRequest, made.registration_id))
        plane.clock.advance(5)
        await agent.once()
        plane.clock.advance(5)
        assert await agent.once() == []
        (again,) = await world.live()
        assert again.registration_id != made.registration_id
        await agent.close()

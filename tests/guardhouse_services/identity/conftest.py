"""Fixtures of identity's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.identity.world import World


@pytest.fixture
async def world(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[World]:
    """With an organization of unlimited seats."""
    world = World(database_url("identity"), clock)
    await world.start()
    yield world
    world.close()

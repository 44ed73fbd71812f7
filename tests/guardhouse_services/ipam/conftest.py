"""Fixtures of ipam's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.ipam.world import World


@pytest.fixture
async def world(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[World]:
    """With the default network."""
    world = World(database_url("ipam"), clock)
    await world.start()
    yield world
    world.close()


@pytest.fixture
async def small(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[World]:
    """With a network of 14 addresses."""
    world = World(database_url("ipam"), clock, network="10.9.8.0/28")
    await world.start()
    yield world
    world.close()

"""Fixtures of the registry's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.clock import FakeClock
from tests.conftest import PostgreSQL
from tests.guardhouse_services.registry.world import World, prepare


@pytest.fixture(scope="session")
def urls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One migrated database of each engine for all these tests: it takes longer to make than most of them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"
    prepare(url)
    return {"sqlite": url}


@pytest.fixture
async def world(
    engine: str, urls: dict[str, str], clock: FakeClock, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """With an organization; it is audited in the end."""
    if engine not in urls:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        urls[engine] = server.create("registry_of_all", "registry")
    world = World(urls[engine], clock)
    await world.start()
    yield world
    try:
        await world.audit()
    finally:
        await world.clear()
        world.close()

"""Fixtures of the registry's tests."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bench.postgresql import PostgreSQL
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.feed import Feed
from guardhouse_services.paging import Pages
from guardhouse_services.registry.servicer import RegistryServicer
from guardhouse_services.registry.usecases.snapshot import snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.registry.profiles import Profiles
from tests.guardhouse_services.registry.world import MASTER_KEY, World, prepare


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


@pytest.fixture
def servicer(world: World) -> RegistryServicer:
    feed = Feed(world.database, cast("Any", pb), snapshot, 1.0)
    audit = Audit(world.clock, world.database, "registry", pb, MASTER_KEY, Settings())
    return RegistryServicer(world.clock, world.registry, Pages(MASTER_KEY), feed, audit)


@pytest.fixture
def profiles(world: World, servicer: RegistryServicer) -> Profiles:
    return Profiles(world, servicer)

"""Fixtures of identity's tests."""

from collections.abc import AsyncIterator

import pytest

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.feed import Feed
from guardhouse_services.identity import store
from guardhouse_services.identity.servicer import IdentityServicer
from guardhouse_services.identity.usecases.snapshot import snapshot
from guardhouse_services.paging import Pages
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import World


@pytest.fixture
async def world(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[World]:
    """With an organization of unlimited seats."""
    world = World(database_url("identity"), clock)
    await world.start()
    yield world
    world.close()


@pytest.fixture
def desk(world: World) -> Desk:
    """The servicer of that world."""
    database, key = world.database, MasterKey(b"k" * 32)
    audit = Audit(world.clock, database, "identity", pb, key, Settings())
    servicer = IdentityServicer(world.clock, world.identity, Pages(key), Feed(database, pb, snapshot), audit)
    return Desk(pb.DESCRIPTOR, servicer, database, store.metadata)

"""What several tests of session stand on."""

from collections.abc import AsyncIterator

import pytest

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.database import Database
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.session.service import Service
from tests.guardhouse_services.session.world import World


@pytest.fixture
async def service(database_url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[Service]:
    database = Database(database_url("session"), clock, "session", pb.Change)
    migrate(database.engine, "session")
    async with World(clock) as world:
        yield Service(clock, database, world)
    database.close()

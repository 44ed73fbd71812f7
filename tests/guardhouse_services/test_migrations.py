"""The schema that the migrations make is the one that the code uses, on both engines."""

import importlib

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from guardhouse.clock import SystemClock
from guardhouse_services import audit, follower, leases, requests
from guardhouse_services.config import SERVICES
from guardhouse_services.database import Database, platform
from guardhouse_services.migrate import migrate
from tests.conftest import DatabaseUrl

# The platform's tables are defined where they are used.
defined = {follower.applied, leases.job_lease, requests.request, audit.audit_record, audit.audit_export}
assert defined <= set(platform.tables.values())


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrated_schema_is_the_codes(service: str, database_url: DatabaseUrl) -> None:
    store = importlib.import_module(f"guardhouse_services.{service}.store")
    contract = importlib.import_module(f"guardhouse.{service}.v1.{service}_pb2")
    database = Database(database_url(service), SystemClock(), service, contract.Change)
    migrate(database.engine, service)
    migrate(database.engine, service)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        wanted = sa.MetaData()
        for metadata in (platform, store.metadata):
            for table in metadata.tables.values():
                table.to_metadata(wanted)
        differences = [each for each in compare_metadata(context, wanted) if "alembic_version" not in str(each)]
    database.close()
    assert differences == []

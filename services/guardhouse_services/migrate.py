"""Schema migrations: alembic, with one history for the tables of the platform and one for each service's own."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

HERE = Path(__file__).parent
# Any number, the same in every replica.
ADVISORY_LOCK = 0x6768


def migrate(engine: Engine, service: str) -> None:
    """Brings the database to the newest schema. Replicas that start together do it one after the other."""
    config = Config()
    config.set_main_option("script_location", str(HERE / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{HERE / 'migrations' / 'versions'}\n{HERE / service / 'migrations'}")
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # A migration may take longer than a transaction of the service.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")

"""Schema migrations: alembic, with one history for the tables of the platform and one for each service's own.

A history is one line of revisions, named after it and numbered: platform_0001, platform_0002. Every migration only
expands, so that the servers of the release before go on with the schema of this one, and may be started on it again.
"""

import logging
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from guardhouse_services.config import CannotStart

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# Any number, the same in every replica.
ADVISORY_LOCK = 0x6768


def migrate(engine: Engine, service: str) -> None:
    """Brings the database to the newest schema. Replicas that start together do it one after the other.

    Leaves one that a later release made as it is. Raises CannotStart for the schema of no release.
    """
    config, scripts = _config(HERE, service), _scripts(HERE, service)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # A migration may take longer than a transaction of the service.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        if _is_there(connection, scripts, service):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")


def _config(folder: Path, service: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder / "migrations"))
    config.set_main_option("path_separator", "newline")
    histories = (folder / "migrations" / "versions", folder / service / "migrations")
    config.set_main_option("version_locations", "\n".join(map(str, histories)))
    return config


@cache
def _scripts(folder: Path, service: str) -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(folder, service))


def _is_there(connection: Connection, scripts: ScriptDirectory, service: str) -> bool:
    """Whether this release or a later one has migrated the database. Raises CannotStart when no release can have."""
    current = sorted(MigrationContext.configure(connection).get_current_heads())
    if current == sorted(scripts.get_heads()):
        return True
    known = {script.revision for script in scripts.walk_revisions()}
    if known.issuperset(current):
        return False
    ours = dict(head.rsplit("_", 1) for head in scripts.get_heads())
    for revision in current:
        history, _, number = revision.rpartition("_")
        # Each history is one line, so what has a higher number than our head has our head among its ancestors.
        if history not in ours or number < ours[history]:
            raise CannotStart(
                f"the database of {service} is at {revision}, which is no schema of this release or a later one; "
                "has another service the same database?"
            )
    log.warning(
        "the database of %s has the schema of a later release (%s); going on with it", service, ", ".join(current)
    )
    return True

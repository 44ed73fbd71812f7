"""Fixtures that every test may use: a clock, databases of both engines, a whole control plane."""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bench.postgresql import PostgreSQL
from guardhouse_services.config import SERVICES
from guardhouse_services.database import sqlite_engine
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.databases import Databases
from tests.plane import Plane

DatabaseUrl = Callable[[str], str]

_numbers = itertools.count()

# How long an example takes says nothing where other tests run beside it.
settings.register_profile("beside others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first, so that at the end no worker waits for another's last test."""
    items.sort(key=_most_seconds, reverse=True)


def _most_seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    # The socket's path may have at most 107 bytes, so the folder is not below the run's own.
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    server = PostgreSQL(folder, durable=False)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(postgresql: PostgreSQL) -> Databases:
    return Databases(postgresql)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], str]:
    """Makes a migrated database of a service at a path; answers its URL. To copy one takes less than to migrate one."""
    templates: dict[str, Path] = {}

    def create(service: str, path: Path) -> str:
        if service not in templates:
            templates[service] = tmp_path_factory.mktemp("templates") / service
            engine = sqlite_engine(f"sqlite:///{templates[service]}", "BEGIN IMMEDIATE", pool_size=1)
            migrate(engine, service)
            engine.dispose()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        shutil.copy(templates[service], path)
        return f"sqlite:///{path}"

    return create


@pytest.fixture
def database_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DatabaseUrl]:
    """Makes the URL of a fresh database for a service, which is migrated; the same service twice is two databases."""
    if engine == "sqlite":
        sqlite_file: Callable[[str, Path], str] = request.getfixturevalue("sqlite_file")
        yield lambda service: sqlite_file(service, tmp_path / f"{service}{next(_numbers)}.db")
        return
    databases: Databases = request.getfixturevalue("databases")
    taken: list[tuple[str, str]] = []

    def take(service: str) -> str:
        prefix = databases.take(service)
        taken.append((prefix, service))
        return databases.server.url(f"{prefix}_{service}")

    yield take
    for prefix, service in taken:
        databases.give_back(prefix, service)


@pytest.fixture
async def plane(engine: str, tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """A control plane of four services, on each engine. `@pytest.mark.plane(setting=value)` changes its settings."""
    marker = request.node.get_closest_marker("plane")
    databases: Databases | None = request.getfixturevalue("databases") if engine == "postgresql" else None
    prefix = databases.take(*SERVICES) if databases else ""
    template = databases.server.url(f"{prefix}_{{service}}") if databases else ""
    for service in SERVICES if databases is None else ():
        request.getfixturevalue("sqlite_file")(service, tmp_path / "var" / f"{service}.db")
    async with Plane(tmp_path, clock, template, **(marker.kwargs if marker else {})) as plane:
        yield plane
    if databases:
        databases.give_back(prefix, *SERVICES)

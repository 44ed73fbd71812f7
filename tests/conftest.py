"""Fixtures that every test may use: a clock, databases of both engines, a whole control plane."""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from bench.postgresql import PostgreSQL
from tests.clock import FakeClock
from tests.plane import Plane

DatabaseUrl = Callable[[str], str]

_numbers = itertools.count()


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

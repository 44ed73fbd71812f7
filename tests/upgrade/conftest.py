"""The release before this one, and databases that no release has seen yet."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench.postgresql import PostgreSQL
from demo.issuer import Issuer
from guardhouse_services.config import SERVICES
from tests.upgrade.releases import Installation, Release, export, previous_commit
from tests.upgrade.story import PEOPLE, Story

_numbers = itertools.count()


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Release:
    commit = previous_commit()
    release = export(commit, tmp_path_factory.mktemp("previous"))
    if release is None:
        pytest.skip(f"this clone does not have the previous release ({commit}); fetch its history and tags")
    return release


@pytest.fixture
def empty_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of four databases without a schema, with {service} where the service's name goes."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path}/{{service}}.db"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    prefix = f"upgrade{next(_numbers)}"
    admin = sa.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for service in SERVICES:
            connection.execute(sa.text(f"CREATE DATABASE {prefix}_{service} LOCALE 'C' TEMPLATE template0"))
        yield server.url(f"{prefix}_{{service}}")
        for service in SERVICES:
            connection.execute(sa.text(f"DROP DATABASE {prefix}_{service} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def installation(tmp_path: Path, empty_url: str) -> Installation:
    return Installation(tmp_path, empty_url)


@pytest.fixture
def story() -> Iterator[Story]:
    with Issuer(PEOPLE) as issuer:
        yield Story(issuer)

"""Migrations only expand, so that the servers of the release before go on with the schema of this one."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from guardhouse_services import migrate
from guardhouse_services.config import SERVICES, CannotStart
from tests.upgrade.releases import Release
from tests.upgrade.story import missing

FOLDERS = [migrate.HERE / "migrations" / "versions", *(migrate.HERE / service / "migrations" for service in SERVICES)]


@pytest.fixture
def database(empty_url: str) -> Iterator[Engine]:
    engine = sa.create_engine(empty_url.replace("{service}", "registry"))
    yield engine
    engine.dispose()


def columns(engine: Engine) -> dict[str, dict[str, str]]:
    inspector = sa.inspect(engine)
    return {
        table: {column["name"]: f"{column['type']!r}" for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }


def demands(engine: Engine, tables: Iterable[str]) -> set[tuple[str, str]]:
    """What the tables ask of those who write them: values that they must give, and rules that these must keep."""
    inspector = sa.inspect(engine)
    return {
        (table, demand)
        for table in tables
        for demand in (
            *(
                f"a value for {column['name']}"
                for column in inspector.get_columns(table)
                if not column["nullable"] and column["default"] is None
            ),
            *(f"unique {index['column_names']}" for index in inspector.get_indexes(table) if index["unique"]),
            *(f"unique {rule['column_names']}" for rule in inspector.get_unique_constraints(table)),
            *(f"check {rule['sqltext']}" for rule in inspector.get_check_constraints(table)),
            *(f"reference {rule['constrained_columns']}" for rule in inspector.get_foreign_keys(table)),
            f"key {inspector.get_pk_constraint(table)['constrained_columns']}",
        )
    }


# An index whose columns are unique with one of them left out already: whoever kept that one keeps it without knowing.
WEAKER = {
    ("registration", "unique ['organization_id', 'device_id', 'user_id']"): (
        "registration",
        "unique ['organization_id', 'device_id']",
    )
}


def follows(demand: tuple[str, str], demanded: set[tuple[str, str]]) -> bool:
    """Whether those who keep what was demanded keep this."""
    return demand in demanded or WEAKER.get(demand) in demanded


@pytest.mark.parametrize("service", SERVICES)
def test_the_schema_only_expands(
    service: str, previous: Release, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What servers of the release before write and read stays as it is: columns are added that they need not know."""
    engine = sa.create_engine(empty_url.replace("{service}", service))
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "HERE", previous.root / "services" / "guardhouse_services")
        migrate.migrate(engine, service)
    before = columns(engine)
    demanded = demands(engine, before)
    migrate.migrate(engine, service)
    now, demanding = columns(engine), demands(engine, before.keys() & columns(engine).keys())
    engine.dispose()
    assert missing(now, before) == []
    assert {it for it in demanding if not follows(it, demanded)} == set()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_a_history_is_one_line_and_numbered(folder: Path) -> None:
    """By the number a server knows a schema that is later than its own."""
    config = Config()
    config.set_main_option("script_location", str(migrate.HERE / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, FOLDERS)))
    scripts = ScriptDirectory.from_config(config)
    history = "platform" if folder == FOLDERS[0] else folder.parent.name
    before = None
    for number, path in enumerate(sorted(folder.glob("[0-9]*.py")), start=1):
        script = scripts.get_revision(f"{history}_{number:04}")
        assert script is not None
        assert Path(script.path) == path
        assert path.name.startswith(f"{number:04}_")
        assert script.down_revision == before
        before = script.revision


def later(folder: Path) -> Path:
    """The code's migrations, and one more of the platform and of the registry, as a later release has them."""
    for name in ("migrations", "registry/migrations"):
        shutil.copytree(migrate.HERE / name, folder / name)
    for history, path in (("platform", "migrations/versions"), ("registry", "registry/migrations")):
        newest = max((folder / path).glob("[0-9]*.py")).name[:4]
        (folder / path / "9999_later.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"revision, down_revision = '{history}_9999', '{history}_{newest}'\n"
            "branch_labels = depends_on = None\n\n\n"
            f"def upgrade() -> None:\n    op.create_table('{history}_later', sa.Column('id', sa.Integer))\n"
        )
    return folder


def test_a_server_starts_on_the_schema_of_the_next_release(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So an upgrade can be taken back."""
    migrate.migrate(database, "registry")
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "HERE", later(tmp_path / "later"))
        migrate.migrate(database, "registry")
    tables = columns(database)
    assert {"platform_later", "registry_later"} <= tables.keys()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=migrate.__name__):
        migrate.migrate(database, "registry")
    assert "the schema of a later release (platform_9999, registry_9999)" in caplog.text
    assert columns(database) == tables


def test_a_database_of_another_service_is_refused(database: Engine) -> None:
    """Services do not share a database, and say so before they touch it."""
    migrate.migrate(database, "registry")
    tables = columns(database)
    with pytest.raises(CannotStart, match=r"session is at registry_[0-9]+, .* another service"):
        migrate.migrate(database, "session")
    assert columns(database) == tables


def test_a_schema_that_nobody_made_is_refused(database: Engine) -> None:
    """Neither ours nor a later one, as a development branch may leave it."""
    migrate.migrate(database, "registry")
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = 'registry_0000' WHERE version_num LIKE 'registry%'")
        )
    with pytest.raises(CannotStart, match=r"registry_0000, which is no schema"):
        migrate.migrate(database, "registry")

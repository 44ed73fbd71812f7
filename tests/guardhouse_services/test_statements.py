"""Statements that are built once, run with the values of each call."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from guardhouse_services.database import Database, Transaction, head
from guardhouse_services.statements import Insert, statement, upsert
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl

built: list[str] = []


@statement
def _among(revisions: list[int], organization_id: str) -> sa.Select[Any]:
    built.append("among")
    wanted = sa.select(head.c.revision).where(head.c.organization_id == organization_id)
    return wanted.where(head.c.revision.in_(revisions))


@upsert
def _set(insert: Insert, organization_id: str, revision: int) -> sa.Executable:
    built.append("set")
    wanted = insert(head).values(organization_id=organization_id, revision=revision, compacted=0)
    return wanted.on_conflict_do_update(index_elements=["organization_id"], set_={"revision": revision})


@pytest.fixture
def database(database_url: DatabaseUrl, clock: FakeClock) -> Database:
    return Database(database_url("session"), clock, "session", None)  # type: ignore[arg-type]


async def test_every_call_has_its_own_values(database: Database) -> None:
    def work(tx: Transaction) -> list[list[int]]:
        _set(tx, "one", 7)
        _set(tx, revision=8, organization_id="two")
        _set(tx, "one", revision=9)
        found = [_among(tx, [7, 8, 9], "one"), _among(tx, organization_id="two", revisions=[8]), _among(tx, [], "one")]
        return [list(rows.scalars()) for rows in found]

    assert await database.write(work) == [[9], [8], []]
    assert await database.write(work) == [[9], [8], []]
    assert built.count("among") == 1
    database.close()


async def test_a_value_that_is_missing_is_an_error(database: Database) -> None:
    with pytest.raises(StatementError, match="the_organization_id"):
        await database.read(lambda tx: _among(tx, [1]))  # type: ignore[call-arg]
    database.close()

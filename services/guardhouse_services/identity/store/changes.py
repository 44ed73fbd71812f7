"""The history of the feed, where a person who is erased has to be taken out of it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from guardhouse_services.database import Transaction, change
from guardhouse_services.statements import statement


class _place(FunctionElement[int]):  # noqa: N801  # named as an SQL function is
    """Where bytes hold other bytes; 0: they do not."""

    type = sa.Integer()
    inherit_cache = True


@compiles(_place)
def _instr(element: _place, compiler: Any, **kwargs: Any) -> str:
    return f"instr({compiler.process(element.clauses, **kwargs)})"


@compiles(_place, "postgresql")
def _position(element: _place, compiler: Any, **kwargs: Any) -> str:
    bytes_, part = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"position({part} in {bytes_})"


def that_name(tx: Transaction, organization_id: str, user_id: str) -> Sequence[tuple[int, bytes]]:
    """(revision, payload) of the changes that name a user."""
    return [(row.revision, row.payload) for row in _that_name(tx, organization_id, user_id.encode())]


@statement
def _that_name(organization_id: str, name: bytes) -> sa.Select[Any]:
    named = sa.select(change.c.revision, change.c.payload)
    return named.where(change.c.organization_id == organization_id, _place(change.c.payload, name) > 0)


def replace(tx: Transaction, organization_id: str, revision: int, payload: bytes) -> None:
    _replace(tx, organization_id, revision, payload)


@statement
def _replace(organization_id: str, revision: int, payload: bytes) -> sa.Executable:
    one = change.update().where(change.c.organization_id == organization_id, change.c.revision == revision)
    return one.values(payload=payload)

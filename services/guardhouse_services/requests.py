"""One effect for a repeated request (AIP-155): the record of which requests were done, and with what result.

The record is written in the transaction of the effect and holds what the present state cannot tell of the answer: ids,
counts, and resources that may have changed or be gone by then. It holds no secret: those are derived again.
"""

from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from guardhouse.errors import Conflict, RequestIdReused
from guardhouse_services import audit
from guardhouse_services.access import Call, RequestKey
from guardhouse_services.clock import DAY
from guardhouse_services.credentials import equal
from guardhouse_services.database import Transaction, platform

T = TypeVar("T")

KEEP = DAY

request = sa.Table(
    "request",
    platform,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("caller", sa.String(100), primary_key=True),
    sa.Column("method", sa.String(100), primary_key=True),
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("request_time", sa.BigInteger, nullable=False),
    sa.Index("request_by_time", "request_time"),
)


def find(tx: Transaction, key: RequestKey) -> dict[str, Any] | None:
    """The result that was recorded, or None for a new request. Raises RequestIdReused for another body."""
    if not key.request_id:
        return None
    row = tx.execute(sa.select(request).where(_where(key))).one_or_none()
    if row is None or row.request_time <= tx.now - KEEP:
        tx.may_have_a_twin = True
        return None
    if not equal(row.fingerprint, key.fingerprint):
        raise RequestIdReused("request_id", "this request_id was used with another body; use a new one")
    return dict(row.result)


def record(tx: Transaction, call: Call, *objects: str, actor: str = "", **result: Any) -> None:
    """Puts a change on record: its result for a repetition, and what it changed for the audit (see audit.note).

    Raises Conflict when the same request is being done at this moment.
    """
    audit.note(tx, call, *objects, actor=actor)
    key = call.key
    if not key.request_id:
        return
    values = {"fingerprint": key.fingerprint, "result": result, "request_time": tx.now}
    wanted = tx.insert(request).values(
        organization_id=key.organization_id,
        caller=key.caller,
        method=key.method,
        request_id=key.request_id,
        **values,
    )
    wanted = wanted.on_conflict_do_update(
        index_elements=list(request.primary_key.columns), set_=values, where=request.c.request_time <= tx.now - KEEP
    )
    if tx.execute(wanted.returning(request.c.request_id)).one_or_none() is None:
        raise Conflict("the same request is being done at this moment; retry")


def remember(value: object) -> Any:
    """A value of the domain, none of it bytes, as the `value` of a result."""
    return _adapter(type(value)).dump_python(value, mode="json")  # type: ignore[arg-type]


def recall(kind: type[T], done: dict[str, Any]) -> T | None:
    """The `value` of a result again. None: it was recorded by a release that remembered none."""
    # Types can be hashed, whatever their stubs say.
    return _adapter(kind).validate_python(done["value"]) if "value" in done else None  # type: ignore[arg-type]


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _where(key: RequestKey) -> sa.ColumnElement[bool]:
    return sa.and_(
        request.c.organization_id == key.organization_id,
        request.c.caller == key.caller,
        request.c.method == key.method,
        request.c.request_id == key.request_id,
    )


def forget(tx: Transaction, limit: int = 1000) -> int:
    """Deletes records that are too old to be asked for; answers how many."""
    old = sa.select(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    old = old.where(request.c.request_time <= tx.now - KEEP).limit(limit)
    columns = sa.tuple_(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    return tx.execute(request.delete().where(columns.in_(old))).rowcount

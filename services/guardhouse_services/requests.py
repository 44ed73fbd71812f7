"""One effect for a repeated request (AIP-155): the record of which requests were done, and with what result.

The record is written in the transaction of the effect and holds what the present state cannot tell of the answer: ids,
counts, and resources that may have changed or be gone by then. It holds no secret: those are derived again.
"""

from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from guardhouse.durations import DAY
from guardhouse.errors import Conflict, RequestIdReused
from guardhouse_services import audit
from guardhouse_services.access import Call, RequestKey
from guardhouse_services.credentials import equal
from guardhouse_services.database import Transaction, platform
from guardhouse_services.statements import Insert, statement, upsert

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
    row = _find(tx, key.organization_id, key.caller, key.method, key.request_id).one_or_none()
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
    done = _record(
        tx, key.organization_id, key.caller, key.method, key.request_id, key.fingerprint, result, tx.now, tx.now - KEEP
    )
    if done.one_or_none() is None:
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


@statement
def _find(organization_id: str, caller: str, method: str, request_id: str) -> sa.Select[Any]:
    return sa.select(request).where(
        request.c.organization_id == organization_id,
        request.c.caller == caller,
        request.c.method == method,
        request.c.request_id == request_id,
    )


@upsert
def _record(
    insert: Insert,
    organization_id: str,
    caller: str,
    method: str,
    request_id: str,
    fingerprint: bytes,
    result: dict[str, Any],
    now: int,
    forgotten: int,
) -> sa.Executable:
    """Nothing is returned when the request is on record, and not as old as what is forgotten."""
    values = {"fingerprint": fingerprint, "result": result, "request_time": now}
    wanted = insert(request).values(
        organization_id=organization_id, caller=caller, method=method, request_id=request_id, **values
    )
    wanted = wanted.on_conflict_do_update(
        index_elements=list(request.primary_key.columns), set_=values, where=request.c.request_time <= forgotten
    )
    return wanted.returning(request.c.request_id)


def forget(tx: Transaction, limit: int = 1000) -> int:
    """Deletes records that are too old to be asked for; answers how many."""
    old = sa.select(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    old = old.where(request.c.request_time <= tx.now - KEEP).limit(limit)
    columns = sa.tuple_(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    return tx.execute(request.delete().where(columns.in_(old))).rowcount

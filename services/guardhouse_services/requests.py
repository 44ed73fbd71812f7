"""One effect for a repeated request (AIP-155): the record of which requests were done, and with what result.

The record is written in the transaction of the effect and holds ids and numbers, never an answer: a repeated request is
answered from the present state, and secrets are derived again.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict, RequestIdReused
from guardhouse_services.clock import DAY
from guardhouse_services.credentials import equal
from guardhouse_services.database import Transaction, platform

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


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Which request it is. `fingerprint` is SHA-256 of its body without the request_id."""

    organization_id: str
    caller: str
    method: str
    request_id: str
    fingerprint: bytes

    def _where(self) -> sa.ColumnElement[bool]:
        return sa.and_(
            request.c.organization_id == self.organization_id,
            request.c.caller == self.caller,
            request.c.method == self.method,
            request.c.request_id == self.request_id,
        )


def find(tx: Transaction, key: RequestKey) -> dict[str, Any] | None:
    """The result that was recorded, or None for a new request. Raises RequestIdReused for another body."""
    if not key.request_id:
        return None
    row = tx.execute(sa.select(request).where(key._where())).one_or_none()
    if row is None or row.request_time <= tx.now - KEEP:
        return None
    if not equal(row.fingerprint, key.fingerprint):
        raise RequestIdReused("request_id", "this request_id was used with another body; use a new one")
    return dict(row.result)


def record(tx: Transaction, key: RequestKey, **result: Any) -> None:
    """Remembers the result. Raises Conflict when the same request is being done at this moment."""
    if not key.request_id:
        return
    tx.execute(request.delete().where(key._where(), request.c.request_time <= tx.now - KEEP))
    try:
        tx.execute(
            request.insert().values(
                organization_id=key.organization_id,
                caller=key.caller,
                method=key.method,
                request_id=key.request_id,
                fingerprint=key.fingerprint,
                result=result,
                request_time=tx.now,
            )
        )
    except IntegrityError:
        raise Conflict("the same request is being done at this moment; retry") from None


def forget(tx: Transaction, limit: int = 1000) -> int:
    """Deletes records that are too old to be asked for; answers how many."""
    old = sa.select(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    old = old.where(request.c.request_time <= tx.now - KEEP).limit(limit)
    columns = sa.tuple_(request.c.organization_id, request.c.caller, request.c.method, request.c.request_id)
    return tx.execute(request.delete().where(columns.in_(old))).rowcount

"""API keys. An empty organization_id is the installation."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import ApiKeyNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import ApiKey
from guardhouse_services.identity.store import organizations
from guardhouse_services.identity.store.tables import api_key
from guardhouse_services.paging import Page


def _made(row: Any) -> ApiKey:
    return ApiKey(**row._mapping)


def _values(key: ApiKey) -> dict[str, Any]:
    return {column.name: getattr(key, column.name) for column in api_key.columns}


def check_room(tx: Transaction, organization_id: str, limit: int) -> None:
    """Raises LimitReached. Keys that are revoked stay, and do not count."""
    organizations.check_room(tx, organization_id, api_key, limit, api_key.c.revoke_time.is_(None))


def insert(tx: Transaction, made: ApiKey) -> bool:
    """False when there is one of this id already."""
    statement = tx.insert(api_key).values(_values(made)).on_conflict_do_nothing()
    return tx.execute(statement.returning(api_key.c.api_key_id)).one_or_none() is not None


def get(tx: Transaction, organization_id: str, api_key_id: str, *, lock: bool = False) -> ApiKey:
    """Raises ApiKeyNotFound."""
    query = sa.select(api_key).where(api_key.c.organization_id == organization_id, api_key.c.api_key_id == api_key_id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise ApiKeyNotFound(api_key_id)
    return _made(row)


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[ApiKey]:
    query = sa.select(api_key).where(api_key.c.organization_id == organization_id, api_key.c.api_key_id > wanted.after)
    return [_made(row) for row in tx.execute(query.order_by(api_key.c.api_key_id).limit(wanted.size + 1))]


def revoke(tx: Transaction, organization_id: str, api_key_id: str) -> None:
    tx.execute(
        api_key.update()
        .where(api_key.c.organization_id == organization_id, api_key.c.api_key_id == api_key_id)
        .values(revoke_time=tx.now)
    )

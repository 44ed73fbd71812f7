"""API keys. An empty organization_id is the installation."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import ApiKeyNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import ApiKey
from guardhouse_services.identity.store import organizations
from guardhouse_services.identity.store.tables import api_key
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, statement


def _made(row: Any) -> ApiKey:
    return ApiKey(**row._mapping)


def _values(key: ApiKey) -> dict[str, Any]:
    return {column.name: getattr(key, column.name) for column in api_key.columns}


def _key(organization_id: str, api_key_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(api_key.c.organization_id == organization_id, api_key.c.api_key_id == api_key_id)


def check_room(tx: Transaction, organization_id: str, limit: int) -> None:
    """Raises LimitReached. Keys that are revoked stay, and do not count."""
    organizations.check_room(tx, organization_id, api_key, limit, api_key.c.revoke_time.is_(None))


def insert(tx: Transaction, made: ApiKey) -> bool:
    """False when there is one of this id already."""
    return tx.execute(_insert(tx.insert), _values(made)).one_or_none() is not None


@cache
def _insert(insert: Insert) -> sa.Executable:
    """Of the values that it is run with."""
    return insert(api_key).on_conflict_do_nothing().returning(api_key.c.api_key_id)


def get(tx: Transaction, organization_id: str, api_key_id: str, *, lock: bool = False) -> ApiKey:
    """Raises ApiKeyNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, api_key_id).one_or_none()
    if row is None:
        raise ApiKeyNotFound(api_key_id)
    return _made(row)


@statement
def _get(organization_id: str, api_key_id: str) -> sa.Select[Any]:
    return sa.select(api_key).where(_key(organization_id, api_key_id))


@statement
def _get_locked(organization_id: str, api_key_id: str) -> sa.Select[Any]:
    return sa.select(api_key).where(_key(organization_id, api_key_id)).with_for_update()


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[ApiKey]:
    return [_made(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(api_key).where(api_key.c.organization_id == organization_id, api_key.c.api_key_id > after)
    return query.order_by(api_key.c.api_key_id).limit(limit)


def revoke(tx: Transaction, organization_id: str, api_key_id: str) -> None:
    _revoke(tx, organization_id, api_key_id, tx.now)


@statement
def _revoke(organization_id: str, api_key_id: str, revoke_time: int) -> sa.Executable:
    return api_key.update().where(_key(organization_id, api_key_id)).values(revoke_time=revoke_time)

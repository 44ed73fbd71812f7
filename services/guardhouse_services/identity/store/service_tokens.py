"""Service tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.durations import HOUR
from guardhouse.errors import ServiceTokenInUse, ServiceTokenNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import ServiceToken
from guardhouse_services.identity.store.tables import policy_token, service_token
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

NAMED_POLICIES = 100
SEEN_INTERVAL = HOUR
_INSERT = service_token.insert()


def _made(row: Any) -> ServiceToken:
    return ServiceToken(
        row.service_token_id,
        row.display_name,
        row.client_id,
        row.secret_hash,
        row.create_time,
        row.expire_time,
        row.disabled,
        row.last_seen_time,
        row.previous_secret_hash or b"",
        row.previous_secret_expire_time,
        row.update_time,
        row.secret_version,
        row.expire_registrations_after,
    )


def _key(organization_id: str, service_token_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        service_token.c.organization_id == organization_id, service_token.c.service_token_id == service_token_id
    )


def insert(tx: Transaction, organization_id: str, made: ServiceToken) -> None:
    tx.execute(
        _INSERT,
        {
            "organization_id": organization_id,
            "service_token_id": made.service_token_id,
            "display_name": made.display_name,
            "client_id": made.client_id,
            "secret_hash": made.secret_hash,
            "create_time": made.create_time,
            "expire_time": made.expire_time,
            "expire_registrations_after": made.expire_registrations_after,
        },
    )


def get(tx: Transaction, organization_id: str, service_token_id: str, *, lock: bool = False) -> ServiceToken:
    """Raises ServiceTokenNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, service_token_id).one_or_none()
    if row is None:
        raise ServiceTokenNotFound(service_token_id)
    return _made(row)


@statement
def _get(organization_id: str, service_token_id: str) -> sa.Select[Any]:
    return sa.select(service_token).where(_key(organization_id, service_token_id))


@statement
def _get_locked(organization_id: str, service_token_id: str) -> sa.Select[Any]:
    return sa.select(service_token).where(_key(organization_id, service_token_id)).with_for_update()


def find(tx: Transaction, organization_id: str, client_id: str) -> ServiceToken | None:
    row = _find(tx, organization_id, client_id).one_or_none()
    return _made(row) if row else None


@statement
def _find(organization_id: str, client_id: str) -> sa.Select[Any]:
    return sa.select(service_token).where(
        service_token.c.organization_id == organization_id, service_token.c.client_id == client_id
    )


def page(tx: Transaction, organization_id: str, wanted: Page, display_name: str = "") -> Sequence[ServiceToken]:
    """All of them, or those with this name, to the letter."""
    query = sa.select(service_token).where(
        service_token.c.organization_id == organization_id, service_token.c.service_token_id > wanted.after
    )
    if display_name:
        query = query.where(service_token.c.display_name == display_name)
    return [_made(row) for row in tx.execute(query.order_by(service_token.c.service_token_id).limit(wanted.size + 1))]


def update(tx: Transaction, organization_id: str, changed: ServiceToken) -> None:
    """Of one that the caller has locked; when it was last seen stays."""
    _update(
        tx,
        organization_id,
        changed.service_token_id,
        changed.display_name,
        changed.secret_hash,
        changed.expire_time,
        changed.disabled,
        changed.previous_secret_hash,
        changed.previous_secret_expire_time,
        changed.update_time,
        changed.secret_version,
        changed.expire_registrations_after,
    )


@statement
def _update(
    organization_id: str,
    service_token_id: str,
    display_name: str,
    secret_hash: bytes,
    expire_time: int,
    disabled: bool,
    previous_secret_hash: bytes,
    previous_secret_expire_time: int | None,
    update_time: int,
    secret_version: int,
    expire_registrations_after: int | None,
) -> sa.Executable:
    return (
        service_token.update()
        .where(_key(organization_id, service_token_id))
        .values(
            display_name=display_name,
            secret_hash=secret_hash,
            expire_time=expire_time,
            disabled=disabled,
            previous_secret_hash=previous_secret_hash,
            previous_secret_expire_time=previous_secret_expire_time,
            update_time=update_time,
            secret_version=secret_version,
            expire_registrations_after=expire_registrations_after,
        )
    )


def saw(tx: Transaction, organization_id: str, token: ServiceToken) -> None:
    """It has authenticated now. That is kept to an hour, so that a busy token is not written at each of its calls."""
    if token.last_seen_time is None or token.last_seen_time <= tx.now - SEEN_INTERVAL:
        _saw(tx, organization_id, token.service_token_id, tx.now)


@statement
def _saw(organization_id: str, service_token_id: str, now: int) -> sa.Executable:
    return service_token.update().where(_key(organization_id, service_token_id)).values(last_seen_time=now)


def lock(tx: Transaction, organization_id: str, service_token_ids: Iterable[str]) -> None:
    """Keeps them from being deleted before the transaction ends. Raises ServiceTokenNotFound."""
    for service_token_id in sorted(service_token_ids):
        if _lock(tx, organization_id, service_token_id).one_or_none() is None:
            raise ServiceTokenNotFound(service_token_id)


@statement
def _lock(organization_id: str, service_token_id: str) -> sa.Select[Any]:
    query = sa.select(service_token.c.service_token_id).where(_key(organization_id, service_token_id))
    return query.with_for_update()


def delete(tx: Transaction, organization_id: str, service_token_id: str) -> None:
    """Of one that the caller has locked. Raises ServiceTokenInUse while a policy names it (decision 11)."""
    policies = _naming(tx, organization_id, service_token_id).scalars().all()
    if policies:
        names = ",".join(policies)
        message = "enrollment policies name the service token; take it out of them first"
        raise ServiceTokenInUse(message, enrollment_policy_ids=names)
    _delete(tx, organization_id, service_token_id)


@statement
def _naming(organization_id: str, service_token_id: str) -> sa.Select[Any]:
    """The policies that name it."""
    query = sa.select(policy_token.c.enrollment_policy_id).where(
        policy_token.c.organization_id == organization_id, policy_token.c.service_token_id == service_token_id
    )
    return query.order_by(policy_token.c.enrollment_policy_id).limit(NAMED_POLICIES)


@statement
def _delete(organization_id: str, service_token_id: str) -> sa.Executable:
    return service_token.delete().where(_key(organization_id, service_token_id))

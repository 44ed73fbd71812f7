"""Service tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import ServiceTokenInUse, ServiceTokenNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import ServiceToken
from guardhouse_services.identity.store.tables import policy_token, service_token
from guardhouse_services.paging import Page

NAMED_POLICIES = 100


def _made(row: Any) -> ServiceToken:
    return ServiceToken(
        row.service_token_id, row.display_name, row.client_id, row.secret_hash, row.create_time, row.expire_time
    )


def insert(tx: Transaction, organization_id: str, made: ServiceToken) -> None:
    tx.execute(
        service_token.insert().values(
            organization_id=organization_id,
            service_token_id=made.service_token_id,
            display_name=made.display_name,
            client_id=made.client_id,
            secret_hash=made.secret_hash,
            create_time=made.create_time,
            expire_time=made.expire_time,
        )
    )


def get(tx: Transaction, organization_id: str, service_token_id: str, *, lock: bool = False) -> ServiceToken:
    """Raises ServiceTokenNotFound."""
    query = sa.select(service_token).where(_key(organization_id, service_token_id))
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise ServiceTokenNotFound(service_token_id)
    return _made(row)


def find(tx: Transaction, organization_id: str, client_id: str) -> ServiceToken | None:
    query = sa.select(service_token).where(
        service_token.c.organization_id == organization_id, service_token.c.client_id == client_id
    )
    row = tx.execute(query).one_or_none()
    return _made(row) if row else None


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[ServiceToken]:
    query = sa.select(service_token).where(
        service_token.c.organization_id == organization_id, service_token.c.service_token_id > wanted.after
    )
    query = query.order_by(service_token.c.service_token_id).limit(wanted.size + 1)
    return [_made(row) for row in tx.execute(query)]


def lock(tx: Transaction, organization_id: str, service_token_ids: Iterable[str]) -> None:
    """Keeps them from being deleted before the transaction ends. Raises ServiceTokenNotFound."""
    for service_token_id in sorted(service_token_ids):
        query = sa.select(service_token.c.service_token_id).where(_key(organization_id, service_token_id))
        if tx.execute(query.with_for_update()).one_or_none() is None:
            raise ServiceTokenNotFound(service_token_id)


def delete(tx: Transaction, organization_id: str, service_token_id: str) -> None:
    """Of one that the caller has locked. Raises ServiceTokenInUse while a policy names it (decision 11)."""
    query = sa.select(policy_token.c.enrollment_policy_id).where(
        policy_token.c.organization_id == organization_id, policy_token.c.service_token_id == service_token_id
    )
    policies = tx.execute(query.order_by(policy_token.c.enrollment_policy_id).limit(NAMED_POLICIES)).scalars().all()
    if policies:
        names = ",".join(policies)
        message = "enrollment policies name the service token; take it out of them first"
        raise ServiceTokenInUse(message, enrollment_policy_ids=names)
    tx.execute(service_token.delete().where(_key(organization_id, service_token_id)))


def _key(organization_id: str, service_token_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        service_token.c.organization_id == organization_id, service_token.c.service_token_id == service_token_id
    )

"""Identity providers."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import IdentityProviderExists, IdentityProviderNotFound
from guardhouse_services.database import Transaction, violated
from guardhouse_services.identity.domain.credentials import IdentityProvider
from guardhouse_services.identity.store.tables import identity_provider, provider_by_issuer
from guardhouse_services.paging import Page


def _made(row: Any) -> IdentityProvider:
    return IdentityProvider(
        row.identity_provider_id, row.display_name, row.issuer, tuple(row.client_ids), row.create_time
    )


def insert(tx: Transaction, organization_id: str, made: IdentityProvider) -> None:
    """Raises IdentityProviderExists."""
    try:
        tx.execute(
            identity_provider.insert().values(
                organization_id=organization_id,
                identity_provider_id=made.identity_provider_id,
                display_name=made.display_name,
                issuer=made.issuer,
                client_ids=list(made.client_ids),
                create_time=made.create_time,
            )
        )
    except IntegrityError as error:
        if not violated(error, provider_by_issuer):
            raise
        raise IdentityProviderExists(
            "the organization has an identity provider with this issuer", issuer=made.issuer
        ) from None


def get(tx: Transaction, organization_id: str, identity_provider_id: str, *, lock: bool = False) -> IdentityProvider:
    """Raises IdentityProviderNotFound."""
    query = sa.select(identity_provider).where(_key(organization_id, identity_provider_id))
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise IdentityProviderNotFound(identity_provider_id)
    return _made(row)


def find(tx: Transaction, organization_id: str, issuer: str) -> IdentityProvider | None:
    query = sa.select(identity_provider).where(
        identity_provider.c.organization_id == organization_id, identity_provider.c.issuer == issuer
    )
    row = tx.execute(query).one_or_none()
    return _made(row) if row else None


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[IdentityProvider]:
    query = sa.select(identity_provider).where(
        identity_provider.c.organization_id == organization_id,
        identity_provider.c.identity_provider_id > wanted.after,
    )
    query = query.order_by(identity_provider.c.identity_provider_id).limit(wanted.size + 1)
    return [_made(row) for row in tx.execute(query)]


def delete(tx: Transaction, organization_id: str, identity_provider_id: str) -> None:
    """Of one that the caller has locked."""
    tx.execute(identity_provider.delete().where(_key(organization_id, identity_provider_id)))


def _key(organization_id: str, identity_provider_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        identity_provider.c.organization_id == organization_id,
        identity_provider.c.identity_provider_id == identity_provider_id,
    )

"""Identity providers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import IdentityProviderExists, IdentityProviderNotFound, OrganizationNotFound
from guardhouse_services.database import Transaction, violated
from guardhouse_services.identity.domain.credentials import IdentityProvider
from guardhouse_services.identity.domain.scim import MatchAttribute, MatchClaim, ScimSettings, UpdateBehavior
from guardhouse_services.identity.store.tables import identity_provider, organization, provider_by_issuer
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

_INSERT = identity_provider.insert()


def _made(row: Any) -> IdentityProvider:
    return IdentityProvider(
        row.identity_provider_id,
        row.display_name,
        row.issuer,
        tuple(row.client_ids),
        row.create_time,
        row.force_interaction,
        row.update_time,
        tuple(row.oidc_claims),
        row.groups_claim,
        row.allow_unverified_email,
        row.allow_private_addresses,
        row.jwks_host,
        _scim(row.scim) if row.scim else None,
    )


def _scim(stored: dict[str, Any]) -> ScimSettings:
    return ScimSettings(
        stored["enabled"],
        stored["user_deprovision"],
        stored["seat_deprovision"],
        UpdateBehavior(stored["identity_update_behavior"]),
        MatchAttribute(stored["match_attribute"]),
        MatchClaim(stored["match_claim"]),
    )


def _key(organization_id: str, identity_provider_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        identity_provider.c.organization_id == organization_id,
        identity_provider.c.identity_provider_id == identity_provider_id,
    )


def insert(tx: Transaction, organization_id: str, made: IdentityProvider) -> None:
    """Raises IdentityProviderExists."""
    try:
        tx.execute(
            _INSERT,
            {
                "organization_id": organization_id,
                "identity_provider_id": made.identity_provider_id,
                "display_name": made.display_name,
                "issuer": made.issuer,
                "client_ids": list(made.client_ids),
                "create_time": made.create_time,
                "force_interaction": made.force_interaction,
                "oidc_claims": list(made.oidc_claims),
                "groups_claim": made.groups_claim,
                "allow_unverified_email": made.allow_unverified_email,
                "allow_private_addresses": made.allow_private_addresses,
                "jwks_host": made.jwks_host,
                "scim": asdict(made.scim) if made.scim else None,
            },
        )
    except IntegrityError as error:
        if not violated(error, provider_by_issuer):
            raise
        raise IdentityProviderExists(
            "the organization has an identity provider with this issuer", issuer=made.issuer
        ) from None


def get(tx: Transaction, organization_id: str, identity_provider_id: str, *, lock: bool = False) -> IdentityProvider:
    """Raises IdentityProviderNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, identity_provider_id).one_or_none()
    if row is None:
        raise IdentityProviderNotFound(identity_provider_id)
    return _made(row)


@statement
def _get(organization_id: str, identity_provider_id: str) -> sa.Select[Any]:
    return sa.select(identity_provider).where(_key(organization_id, identity_provider_id))


@statement
def _get_locked(organization_id: str, identity_provider_id: str) -> sa.Select[Any]:
    return sa.select(identity_provider).where(_key(organization_id, identity_provider_id)).with_for_update()


def find_in(tx: Transaction, organization_id: str, issuer: str) -> IdentityProvider | None:
    """As find, and in one go whether there is such an organization. Raises OrganizationNotFound."""
    row = _find_in(tx, organization_id, issuer).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization_id)
    return _made(row) if row.identity_provider_id is not None else None


@statement
def _find_in(organization_id: str, issuer: str) -> sa.Select[Any]:
    its = sa.and_(
        identity_provider.c.organization_id == organization.c.organization_id, identity_provider.c.issuer == issuer
    )
    query = sa.select(identity_provider).select_from(organization.outerjoin(identity_provider, its))
    return query.where(organization.c.organization_id == organization_id)


def find(tx: Transaction, organization_id: str, issuer: str) -> IdentityProvider | None:
    row = _find(tx, organization_id, issuer).one_or_none()
    return _made(row) if row else None


@statement
def _find(organization_id: str, issuer: str) -> sa.Select[Any]:
    return sa.select(identity_provider).where(
        identity_provider.c.organization_id == organization_id, identity_provider.c.issuer == issuer
    )


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[IdentityProvider]:
    return [_made(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(identity_provider).where(
        identity_provider.c.organization_id == organization_id,
        identity_provider.c.identity_provider_id > after,
    )
    return query.order_by(identity_provider.c.identity_provider_id).limit(limit)


def update(tx: Transaction, organization_id: str, changed: IdentityProvider) -> None:
    """Of one that the caller has locked."""
    _update(
        tx,
        organization_id,
        changed.identity_provider_id,
        changed.display_name,
        list(changed.client_ids),
        changed.force_interaction,
        changed.update_time,
        list(changed.oidc_claims),
        changed.groups_claim,
        changed.allow_unverified_email,
        changed.allow_private_addresses,
        changed.jwks_host,
        asdict(changed.scim) if changed.scim else None,
    )


@statement
def _update(
    organization_id: str,
    identity_provider_id: str,
    display_name: str,
    client_ids: list[str],
    force_interaction: bool,
    update_time: int,
    oidc_claims: list[str],
    groups_claim: str,
    allow_unverified_email: bool,
    allow_private_addresses: bool,
    jwks_host: str,
    scim: dict[str, Any] | None,
) -> sa.Executable:
    changed = identity_provider.update().where(_key(organization_id, identity_provider_id))
    return changed.values(
        display_name=display_name,
        client_ids=client_ids,
        force_interaction=force_interaction,
        update_time=update_time,
        oidc_claims=oidc_claims,
        groups_claim=groups_claim,
        allow_unverified_email=allow_unverified_email,
        allow_private_addresses=allow_private_addresses,
        jwks_host=jwks_host,
        scim=scim,
    )


def delete(tx: Transaction, organization_id: str, identity_provider_id: str) -> None:
    """Of one that the caller has locked."""
    _delete(tx, organization_id, identity_provider_id)


@statement
def _delete(organization_id: str, identity_provider_id: str) -> sa.Executable:
    return identity_provider.delete().where(_key(organization_id, identity_provider_id))

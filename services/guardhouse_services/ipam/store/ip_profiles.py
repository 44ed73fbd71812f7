"""IP profiles. Whoever writes one has locked the space."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import IpProfileNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.ip_profiles import IpProfile
from guardhouse_services.ipam.store.tables import ip_profile
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement


def _profiles(organization_id: str) -> sa.Select[Any]:
    columns = [ip_profile.c[field.name] for field in fields(IpProfile)]
    return sa.select(*columns).where(ip_profile.c.organization_id == organization_id)


def _key(organization_id: str, ip_profile_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(ip_profile.c.organization_id == organization_id, ip_profile.c.ip_profile_id == ip_profile_id)


def insert(tx: Transaction, organization_id: str, made: IpProfile) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **asdict(made)})


_INSERT = ip_profile.insert()


def update(tx: Transaction, organization_id: str, changed: IpProfile) -> None:
    key = {"of_organization_id": organization_id, "of_ip_profile_id": changed.ip_profile_id}
    tx.execute(_UPDATE, {**key, **asdict(changed)})


# The row comes with the values, by the names of its columns.
_UPDATE = ip_profile.update().where(
    ip_profile.c.organization_id == sa.bindparam("of_organization_id"),
    ip_profile.c.ip_profile_id == sa.bindparam("of_ip_profile_id"),
)


@statement
def delete(organization_id: str, ip_profile_id: str) -> sa.Executable:
    return ip_profile.delete().where(_key(organization_id, ip_profile_id))


def get(tx: Transaction, organization_id: str, ip_profile_id: str) -> IpProfile:
    """Raises IpProfileNotFound."""
    row = _get(tx, organization_id, ip_profile_id).one_or_none()
    if row is None:
        raise IpProfileNotFound(ip_profile_id)
    return IpProfile(*row)


@statement
def _get(organization_id: str, ip_profile_id: str) -> sa.Select[Any]:
    return _profiles(organization_id).where(ip_profile.c.ip_profile_id == ip_profile_id)


def of_organization(tx: Transaction, organization_id: str) -> Sequence[IpProfile]:
    """All of them, of which there are few, as they are asked."""
    return [IpProfile(*row) for row in _of_organization(tx, organization_id)]


@statement
def _of_organization(organization_id: str) -> sa.Select[Any]:
    return _profiles(organization_id).order_by(ip_profile.c.precedence)


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[IpProfile]:
    """The page's profiles by creation, and one more if there is one."""
    return [IpProfile(*row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    behind = _profiles(organization_id).where(ip_profile.c.ip_profile_id > after)
    return behind.order_by(ip_profile.c.ip_profile_id).limit(limit)

"""The keys that registrations had before their present ones, which nobody may register again (decision 21)."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import FormerKey, Registration
from guardhouse_services.registry.store.tables import former_key
from guardhouse_services.statements import statement

KEPT = 1000
"""Of each registration, the newest so many: one a day for years."""
_INSERT = former_key.insert()
_REGISTRATION = (former_key.c.organization_id, former_key.c.registration_id)


def _of(organization_id: str, registration_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(former_key.c.organization_id == organization_id, former_key.c.registration_id == registration_id)


def retire(tx: Transaction, replaced: Registration) -> None:
    """Puts the key of a registration, whose row is locked, among its former ones."""
    organization_id, registration_id = replaced.organization_id, replaced.registration_id
    newest = _newest(tx, organization_id, registration_id).one_or_none()
    number = newest.number + 1 if newest else 1
    row = {
        "organization_id": organization_id,
        "registration_id": registration_id,
        "number": number,
        "key_type": replaced.key_type,
        "public_key": replaced.public_key,
        "begin_time": newest.end_time if newest else replaced.create_time,
        "end_time": tx.now,
    }
    tx.execute(_INSERT, row)
    _forget(tx, organization_id, registration_id, number - KEPT)


@statement
def _newest(organization_id: str, registration_id: str) -> sa.Select[Any]:
    here = _of(organization_id, registration_id)
    return sa.select(former_key).where(here).order_by(former_key.c.number.desc()).limit(1)


@statement
def _forget(organization_id: str, registration_id: str, number: int) -> sa.Executable:
    return former_key.delete().where(_of(organization_id, registration_id), former_key.c.number <= number)


def is_former(tx: Transaction, public_key: bytes) -> bool:
    """Whether a registration of the installation had the key before."""
    return _had(tx, public_key).first() is not None


@statement
def _had(public_key: bytes) -> sa.Select[Any]:
    return sa.select(former_key.c.registration_id).where(former_key.c.public_key == public_key).limit(1)


def page(tx: Transaction, organization_id: str, registration_id: str, after: int, limit: int) -> list[FormerKey]:
    """Those behind this number, the oldest first."""
    return [_made(row) for row in _page(tx, organization_id, registration_id, after, limit)]


@statement
def _page(organization_id: str, registration_id: str, after: int, limit: int) -> sa.Select[Any]:
    behind = sa.select(former_key).where(_of(organization_id, registration_id), former_key.c.number > after)
    return behind.order_by(former_key.c.number).limit(limit)


def newest(tx: Transaction, organization_id: str, registration_id: str) -> FormerKey | None:
    row = _newest(tx, organization_id, registration_id).one_or_none()
    return _made(row) if row else None


def forget(tx: Transaction, registrations: Sequence[tuple[str, str]]) -> None:
    """Drops those of registrations, by organization and id, that are forgotten as well."""
    tx.execute(former_key.delete().where(sa.tuple_(*_REGISTRATION).in_(registrations)))


def _made(row: Any) -> FormerKey:
    return FormerKey(row.number, row.key_type, row.public_key, row.begin_time, row.end_time)

"""Pins."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.pins import Kept, Pin
from guardhouse_services.ipam.store.tables import lease, pin
from guardhouse_services.statements import statement


def _pins(organization_id: str) -> sa.Select[Any]:
    columns = [pin.c[field.name] for field in fields(Pin)]
    return sa.select(*columns).where(pin.c.organization_id == organization_id)


def all_of(tx: Transaction, organization_id: str) -> list[Pin]:
    """The organization's, which are not many."""
    return [Pin(*row) for row in _all_of(tx, organization_id)]


@statement
def _all_of(organization_id: str) -> sa.Select[Any]:
    return _pins(organization_id)


def page(tx: Transaction, organization_id: str, after: str, limit: int) -> list[Pin]:
    """By creation."""
    return [Pin(*row) for row in _page(tx, organization_id, after, limit)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    return _pins(organization_id).where(pin.c.pin_id > after).order_by(pin.c.pin_id).limit(limit)


def find(tx: Transaction, organization_id: str, pin_id: str) -> Pin | None:
    row = _find(tx, organization_id, pin_id).one_or_none()
    return Pin(*row) if row else None


@statement
def _find(organization_id: str, pin_id: str) -> sa.Select[Any]:
    return _pins(organization_id).where(pin.c.pin_id == pin_id)


def kept(tx: Transaction, organization_id: str, quarantine: int) -> list[Kept]:
    """What each pin of an organization keeps. It walks over those of its addresses that were ever given out."""
    return [Kept(*row) for row in _kept(tx, organization_id, tx.now - quarantine)]


def all_kept(tx: Transaction, quarantine: int) -> Mapping[str, Sequence[Kept]]:
    """The same of every organization that has pins."""
    found: defaultdict[str, list[Kept]] = defaultdict(list)
    for organization_id, *row in _all_kept(tx, tx.now - quarantine):
        found[organization_id].append(Kept(*row))
    return found


def _keeping(rested: int) -> list[Any]:
    """The columns of Kept."""
    # A walk of the primary key for each pin, whatever a planner thinks of joining them.
    covered = (
        lease.c.organization_id == pin.c.organization_id,
        lease.c.ipv4.between(pin.c.first_ipv4, pin.c.last_ipv4),
    )
    is_used = sa.or_(lease.c.rest_time.is_(None), lease.c.rest_time > rested)
    used = sa.select(sa.func.count()).select_from(lease).where(*covered, is_used).scalar_subquery()
    return [pin.c.first_ipv4, pin.c.last_ipv4, used]


@statement
def _kept(organization_id: str, rested: int) -> sa.Select[Any]:
    return sa.select(*_keeping(rested)).where(pin.c.organization_id == organization_id)


@statement
def _all_kept(rested: int) -> sa.Select[Any]:
    return sa.select(pin.c.organization_id, *_keeping(rested))


def insert(tx: Transaction, organization_id: str, made: Pin) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **asdict(made)})


_INSERT = pin.insert()


def delete(tx: Transaction, organization_id: str, pin_id: str) -> None:
    _delete(tx, organization_id, pin_id)


@statement
def _delete(organization_id: str, pin_id: str) -> sa.Executable:
    return pin.delete().where(pin.c.organization_id == organization_id, pin.c.pin_id == pin_id)

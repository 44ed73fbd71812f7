"""Pins."""

from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.pins import Pin
from guardhouse_services.ipam.store.tables import pin
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


def insert(tx: Transaction, organization_id: str, made: Pin) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **asdict(made)})


_INSERT = pin.insert()


def delete(tx: Transaction, organization_id: str, pin_id: str) -> None:
    _delete(tx, organization_id, pin_id)


@statement
def _delete(organization_id: str, pin_id: str) -> sa.Executable:
    return pin.delete().where(pin.c.organization_id == organization_id, pin.c.pin_id == pin_id)

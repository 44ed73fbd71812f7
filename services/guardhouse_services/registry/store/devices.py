"""Devices."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Device, DeviceFilter, Range
from guardhouse_services.registry.store.tables import (
    device,
    device_activity,
    in_range,
    is_active,
    is_enrolled,
    registration,
    to_device,
    together,
)
from guardhouse_services.statements import statement

_is_here = sa.and_(
    registration.c.organization_id == device.c.organization_id,
    registration.c.device_id == device.c.device_id,
    is_active,
)
_count = sa.select(sa.func.count()).where(_is_here).correlate(device).scalar_subquery()
_has_active = sa.exists().where(_is_here).correlate(device)
_select = sa.select(device, _count.label("active_registrations"))


def find(tx: Transaction, organization_id: str, device_id: str) -> Device | None:
    """A device on which an enrollment has succeeded."""
    row = _find(tx, organization_id, device_id).one_or_none()
    return to_device(row) if row else None


@statement
def _find(organization_id: str, device_id: str) -> sa.Select[Any]:
    return _select.where(device.c.organization_id == organization_id, device.c.device_id == device_id, is_enrolled)


def lock(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> list[str]:
    """Locks devices on which an enrollment has succeeded, in the order of their ids, which it answers."""
    return list(_lock(tx, organization_id, list(device_ids)).scalars())


@statement
def _lock(organization_id: str, device_ids: list[str]) -> sa.Select[Any]:
    wanted = sa.select(device.c.device_id).where(
        device.c.organization_id == organization_id, device.c.device_id.in_(device_ids), is_enrolled
    )
    return wanted.order_by(device.c.device_id).with_for_update()


def page(tx: Transaction, organization_id: str, wanted: DeviceFilter, page: Range) -> list[Device]:
    query = _select.where(device.c.organization_id == organization_id, is_enrolled)
    if wanted.active is not None:
        query = query.where(_has_active if wanted.active else ~_has_active)
    if wanted.platform:
        query = query.where(device.c.platform == wanted.platform)
    parts = in_range(query, page, device.c.create_time, device_activity, device.c.device_id)
    return [to_device(row) for row in tx.execute(together(parts, page))]


def delete(tx: Transaction, organization_id: str, device_id: str) -> bool:
    """False when there is none on which an enrollment has succeeded."""
    return _delete(tx, organization_id, device_id).rowcount == 1


@statement
def _delete(organization_id: str, device_id: str) -> sa.Executable:
    return device.delete().where(
        device.c.organization_id == organization_id, device.c.device_id == device_id, is_enrolled
    )

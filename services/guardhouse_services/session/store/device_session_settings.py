"""When the session of a device is enough for an application: one row of an organization, once somebody has said so."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.applications import DeviceSessionSettings
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.session.store.tables import device_session_settings
from guardhouse_services.statements import Insert, statement, upsert


def put(tx: Transaction, organization_id: str, settings: DeviceSessionSettings) -> None:
    _put(tx, organization_id, settings.session_duration, settings.apply_by_default, settings.update_time)


@upsert
def _put(
    insert: Insert, organization_id: str, duration: int | None, apply_by_default: bool, update_time: int | None
) -> sa.Executable:
    values = {"session_duration": duration, "apply_by_default": apply_by_default, "update_time": update_time}
    wanted = insert(device_session_settings).values(organization_id=organization_id, **values)
    return wanted.on_conflict_do_update(index_elements=["organization_id"], set_=values)


def get(tx: Transaction, organization_id: str) -> DeviceSessionSettings:
    """As they are while nobody has set them, too."""
    row = _find(tx, organization_id).mappings().one_or_none()
    return from_row(row) if row is not None else DeviceSessionSettings()


@statement
def _find(organization_id: str) -> sa.Select[Any]:
    return sa.select(device_session_settings).where(device_session_settings.c.organization_id == organization_id)


def page(tx: Transaction, organization_id: str, _wanted: Page) -> Sequence[DeviceSessionSettings]:
    """The only ones, if somebody has set them: no page of a snapshot ends behind them."""
    return list(map(from_row, _find(tx, organization_id).mappings()))


def to_row(of: DeviceSessionSettings) -> dict[str, Any]:
    """As the table has them, without the organization; only what JSON can hold."""
    return {
        "session_duration": of.session_duration,
        "apply_by_default": of.apply_by_default,
        "update_time": of.update_time,
    }


def from_row(row: Mapping[Any, Any]) -> DeviceSessionSettings:
    return DeviceSessionSettings(row["session_duration"], row["apply_by_default"], row["update_time"])

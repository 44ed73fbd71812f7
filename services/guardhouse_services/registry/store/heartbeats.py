"""When devices were last heard of, written for many at once."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Heartbeat
from guardhouse_services.registry.store.tables import device, is_active, registration


def write(tx: Transaction, organization_id: str, heartbeats: Sequence[Heartbeat]) -> set[str]:
    """Notes what is news of active registrations and their devices; no time goes back.

    It waits for nobody. Answers the registrations of which something was not written because somebody else is changing
    them, or their devices, at this moment.
    """
    present = _present(tx, organization_id, [it.registration_id for it in heartbeats])
    heard: dict[str, int] = {}
    seen: dict[str, int] = {}
    versions: dict[str, dict[str, Any]] = {}
    for it in sorted(heartbeats, key=lambda it: it.time):
        row = present.get(it.registration_id)
        if row is None:
            continue
        if it.time > (row.seen_time or 0):
            heard[it.registration_id] = it.time
        if it.time > (row.device_seen_time or 0):
            seen[row.device_id] = it.time
        if it.time >= (row.device_seen_time or 0):
            told = {"os_version": it.os_version, "client_version": it.client_version}
            news = {name: value for name, value in told.items() if value and value != getattr(row, name)}
            if news:
                versions[row.device_id] = {**versions.get(row.device_id, {}), **news}
    free = _see(tx, device, device.c.device_id, organization_id, seen)
    if unseen := versions.keys() - seen.keys():
        free |= set(tx.execute(_free(device, device.c.device_id, organization_id, unseen)).scalars())
    busy = (seen.keys() | versions.keys()) - free
    for device_id in sorted(versions.keys() - busy):
        of_it = (device.c.organization_id == organization_id, device.c.device_id == device_id)
        tx.execute(device.update().where(*of_it).values(**versions[device_id]))
    late = heard.keys() - _see(tx, registration, registration.c.registration_id, organization_id, heard)
    return late | {key for key, row in present.items() if row.device_id in busy}


def _present(tx: Transaction, organization_id: str, ids: Sequence[str]) -> Mapping[str, Any]:
    query = (
        sa.select(
            registration.c.registration_id,
            registration.c.device_id,
            registration.c.seen_time,
            device.c.seen_time.label("device_seen_time"),
            device.c.os_version,
            device.c.client_version,
        )
        .join(
            device,
            sa.and_(
                device.c.organization_id == registration.c.organization_id,
                device.c.device_id == registration.c.device_id,
            ),
        )
        .where(registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids), is_active)
    )
    return {row.registration_id: row for row in tx.execute(query)}


def _see(
    tx: Transaction, table: sa.Table, key: sa.Column[str], organization_id: str, times: Mapping[str, int]
) -> set[str]:
    """Sets seen_time where that is later, a statement for each minute; answers where it did."""
    done: set[str] = set()
    for time, items in groupby(sorted(times.items(), key=lambda it: it[1]), key=lambda it: it[1]):
        free = _free(table, key, organization_id, [each for each, _ in items])
        free = free.where(sa.func.coalesce(table.c.seen_time, 0) < time)
        update = table.update().where(table.c.organization_id == organization_id, key.in_(free))
        done.update(tx.execute(update.values(seen_time=time).returning(key)).scalars())
    return done


def _free(table: sa.Table, key: sa.Column[str], organization_id: str, ids: Collection[str]) -> sa.Select[Any]:
    """Locks those that nobody else is changing, and selects them."""
    return (
        sa.select(key).where(table.c.organization_id == organization_id, key.in_(ids)).with_for_update(skip_locked=True)
    )

"""When devices were last heard of, written for many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import EVENTS_PER_CHANGE, Transaction
from guardhouse_services.registry.domain import LISTED, Heartbeat, Registration
from guardhouse_services.registry.store import matchings
from guardhouse_services.registry.store.tables import device, is_active, registration, to_registration
from guardhouse_services.statements import Run, statement

MOST = EVENTS_PER_CHANGE


def write(
    tx: Transaction, organization_id: str, heartbeats: Sequence[Heartbeat]
) -> tuple[list[Registration], set[str]]:
    """Notes what is news of active registrations and their devices; no time goes back.

    It waits for nobody. Answers the registrations, locked, which another device profile may match now; and the ids of
    those of which something was not written because somebody else is changing them, or their devices, at this moment.
    What profiles match by is written together with them or not at all: it is news only once. Where it is about more
    registrations than a transaction may tell of, with those that were heard of, all of the organization are matched
    anew, in steps.
    """
    rows = _present(tx, organization_id, [it.registration_id for it in heartbeats])
    present = {row.registration_id: row for row in rows}
    heard: dict[str, int] = {}
    seen: dict[str, int] = {}
    versions: dict[str, dict[str, Any]] = {}
    networks: dict[str, str] = {}
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
        if it.network is not None and it.network != row.network and it.time >= (row.seen_time or 0):
            networks[it.registration_id] = it.network
    systems = {device_id for device_id, news in versions.items() if "os_version" in news}
    on_them = _on_devices(tx, organization_id, list(systems), MOST + 1) if systems else ()
    wanted = {row.registration_id: row.device_id for row in on_them}
    if wanted and len(wanted.keys() | present.keys()) > MOST:
        wanted = {}
        matchings.begin(tx, organization_id)
    free = _see(tx, _see_devices, organization_id, seen)
    if unseen := versions.keys() - seen.keys():
        free |= set(_free_devices(tx, organization_id, list(unseen)).scalars())
    busy = (seen.keys() | versions.keys()) - free
    wanted = {registration_id: device_id for registration_id, device_id in wanted.items() if device_id not in busy}
    matched: dict[str, Registration] = {}
    if wanted or networks:
        rows = _lock_free(tx, organization_id, [*wanted, *networks])
        matched = {row.registration_id: to_registration(row) for row in rows}
        busy |= {device_id for registration_id, device_id in wanted.items() if registration_id not in matched}
    for registration_id, network in networks.items():
        if registration_id in matched:
            matched[registration_id] = replace(matched[registration_id], network=network)
            _set_network(tx, organization_id, registration_id, network)
    for device_id in sorted(versions.keys() - busy):
        of_it = {"of_organization_id": organization_id, "of_device_id": device_id}
        tx.execute(_UPDATE, {**of_it, **versions[device_id], "update_time": tx.now})
    late = heard.keys() - _see(tx, _see_registrations, organization_id, heard)
    late |= networks.keys() - matched.keys()
    return list(matched.values()), late | {key for key, row in present.items() if row.device_id in busy}


# What is news comes with the values, by the names of its columns.
_UPDATE = device.update().where(
    device.c.organization_id == sa.bindparam("of_organization_id"), device.c.device_id == sa.bindparam("of_device_id")
)


@statement
def _present(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    return (
        sa.select(
            registration.c.registration_id,
            registration.c.device_id,
            registration.c.seen_time,
            registration.c.network,
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


@statement
def _on_devices(organization_id: str, device_ids: list[str], limit: int) -> sa.Select[Any]:
    listed = sa.select(registration.c.registration_id, registration.c.device_id).where(
        registration.c.organization_id == organization_id,
        registration.c.device_id.in_(device_ids),
        registration.c.state.in_(LISTED),
    )
    return listed.limit(limit)


@statement
def _lock_free(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    listed = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state.in_(LISTED),
    )
    return listed.with_for_update(skip_locked=True)


@statement
def _set_network(organization_id: str, registration_id: str, network: str) -> sa.Executable:
    of_it = (registration.c.organization_id == organization_id, registration.c.registration_id == registration_id)
    return registration.update().where(*of_it).values(network=network)


def _see(tx: Transaction, see: Run[str, list[str], int], organization_id: str, times: Mapping[str, int]) -> set[str]:
    """Sets seen_time where that is later, a statement for each minute; answers where it did."""
    done: set[str] = set()
    for time, items in groupby(sorted(times.items(), key=lambda it: it[1]), key=lambda it: it[1]):
        done.update(see(tx, organization_id, [each for each, _ in items], time).scalars())
    return done


def _free(table: sa.Table, key: sa.Column[str], organization_id: str, ids: list[str]) -> sa.Select[Any]:
    """Locks those that nobody else is changing, and selects them."""
    return (
        sa.select(key).where(table.c.organization_id == organization_id, key.in_(ids)).with_for_update(skip_locked=True)
    )


def _seen(table: sa.Table, key: sa.Column[str], organization_id: str, ids: list[str], time: int) -> sa.Executable:
    free = _free(table, key, organization_id, ids).where(sa.func.coalesce(table.c.seen_time, 0) < time)
    update = table.update().where(table.c.organization_id == organization_id, key.in_(free))
    return update.values(seen_time=time).returning(key)


@statement
def _free_devices(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    return _free(device, device.c.device_id, organization_id, ids)


@statement
def _see_devices(organization_id: str, ids: list[str], time: int) -> sa.Executable:
    return _seen(device, device.c.device_id, organization_id, ids, time)


@statement
def _see_registrations(organization_id: str, ids: list[str], time: int) -> sa.Executable:
    return _seen(registration, registration.c.registration_id, organization_id, ids, time)

"""What devices say of their posture checks, written for many at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Heartbeat, Registration
from guardhouse_services.registry.store.tables import is_active, posture_values, registration, to_registration
from guardhouse_services.statements import statement


def write(
    tx: Transaction, organization_id: str, heartbeats: Sequence[Heartbeat]
) -> tuple[list[Registration], list[Registration], set[str]]:
    """Notes what heartbeats say of active registrations; none takes back what a newer one said.

    It waits for nobody. Answers the registrations of which another posture is known now, those whose posture is as it
    was but followers are to be told that it is younger, and the ids of those that somebody else is changing at this
    moment, of which nothing was written.
    """
    said = {it.registration_id: it.posture for it in heartbeats if it.posture is not None}
    if not said:
        return [], [], set()
    changed: list[Registration] = []
    younger: list[Registration] = []
    again: list[dict[str, Any]] = []
    free = {row.registration_id: to_registration(row) for row in _free(tx, organization_id, list(said))}
    for registration_id, present in free.items():
        before = present.posture
        now = said[registration_id].after(before)
        if before is None or (now != before and now.time >= before.time):
            changed.append(replace(present, posture=now))
        elif now.time > before.time:
            # Its time only, by which the next heartbeat is known to be newer.
            again.append({"of_registration_id": registration_id, "posture_time": now.time})
            if now.report_time != before.report_time:
                younger.append(replace(present, posture=now))
    news = [{"of_registration_id": it.registration_id, **posture_values(it.posture)} for it in changed if it.posture]
    for rows in (news, again):
        if rows:
            tx.execute(_UPDATE, [{"of_organization_id": organization_id, **row} for row in rows])
    busy = said.keys() - free.keys()
    return changed, younger, set(_active(tx, organization_id, list(busy)).scalars()) if busy else set()


# What is news comes with the values, by the names of its columns.
_UPDATE = registration.update().where(
    registration.c.organization_id == sa.bindparam("of_organization_id"),
    registration.c.registration_id == sa.bindparam("of_registration_id"),
)


@statement
def _free(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    """Locks those that nobody else is changing, and selects them as they are then."""
    active = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids), is_active
    )
    return active.with_for_update(skip_locked=True)


@statement
def _active(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids), is_active
    )

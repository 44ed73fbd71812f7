"""Registrations that end by themselves, how many there are of all, and the lock of the breaker."""

from typing import Any

import sqlalchemy as sa

from guardhouse_services.breaker.store import HeldActions
from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Registration, State, Usage
from guardhouse_services.registry.store.tables import (
    automatic_action,
    breaker,
    held_action,
    held_registration,
    is_listed,
    is_revoked,
    may_expire,
    registration,
    registration_expiry,
    to_registration,
)
from guardhouse_services.statements import Insert, statement, upsert

held_actions = HeldActions(automatic_action, held_action, held_registration, "registration_id")


def lock(tx: Transaction, organization_id: str) -> None:
    """Keeps others from counting or holding until the transaction ends."""
    _lock(tx, organization_id)


@upsert
def _lock(insert: Insert, organization_id: str) -> sa.Executable:
    locked = insert(breaker).values(organization_id=organization_id)
    return locked.on_conflict_do_update(
        index_elements=["organization_id"], set_={"organization_id": breaker.c.organization_id}
    )


def ended(tx: Transaction, organization_id: str, revoked_before: int, after: str, limit: int) -> list[Registration]:
    """Those behind this id that were revoked at or before a time or are silent for too long now, by their ids."""
    # Which these are comes first: put together with the rest, they might be looked for among all.
    ids = list(_ended(tx, organization_id, revoked_before, tx.now, after, limit).scalars())
    return [to_registration(row) for row in _listed(tx, organization_id, ids)] if ids else []


@statement
def _ended(organization_id: str, revoked_before: int, now: int, after: str, limit: int) -> sa.Select[Any]:
    # Each of the two has an index of its own.
    here, row_id = registration.c.organization_id == organization_id, registration.c.registration_id
    revoked = sa.select(row_id).where(here, is_revoked, registration.c.revoke_time <= revoked_before)
    silent = sa.select(row_id).where(here, may_expire, registration_expiry <= now)
    found = revoked.union(silent).subquery()
    # These are few. Asked for their ids as they are, SQLite would go through all in the order of those.
    key = sa.func.coalesce(found.c.registration_id, "")
    return sa.select(found).where(key > after).order_by(key).limit(limit)


@statement
def _listed(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    row_id = registration.c.registration_id
    found = sa.select(registration).where(registration.c.organization_id == organization_id, row_id.in_(ids), is_listed)
    return found.order_by(row_id)


def usage(tx: Transaction, organization_id: str) -> Usage:
    counts = {row.state: row for row in _counts(tx, organization_id)}
    active, revoked = counts.get(State.ACTIVE), counts.get(State.REVOKED)
    return Usage(active.number if active else 0, revoked.number if revoked else 0, revoked.oldest if revoked else None)


@statement
def _counts(organization_id: str) -> sa.Select[Any]:
    oldest = sa.func.min(registration.c.revoke_time).label("oldest")
    counts = sa.select(registration.c.state, sa.func.count().label("number"), oldest)
    return counts.where(registration.c.organization_id == organization_id, is_listed).group_by(registration.c.state)


def count_to(tx: Transaction, organization_id: str, limit: int) -> int:
    """How many there are, or the limit where there are more."""
    return int(_count_to(tx, organization_id, limit).scalar_one())


@statement
def _count_to(organization_id: str, limit: int) -> sa.Select[Any]:
    some = sa.select(sa.literal(1)).where(registration.c.organization_id == organization_id, is_listed).limit(limit)
    return sa.select(sa.func.count()).select_from(some.subquery())

"""Removals of users and how far they have come."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import RemovalNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.users import Removal
from guardhouse_services.identity.store.tables import registration, removal, removal_item
from guardhouse_services.statements import chunks, statement

_same = sa.and_(
    registration.c.organization_id == removal_item.c.organization_id,
    registration.c.registration_id == removal_item.c.registration_id,
)
# A row that was made by the release of addresses alone says nothing of the registration yet.
_seen = sa.or_(registration.c.authorize_revision > 0, registration.c.delete_time.is_not(None))


def insert(tx: Transaction, organization_id: str, made: Removal, registration_ids: Collection[str]) -> None:
    """`registration_ids` are those that it deletes, and intents of which it is not known whether they became one."""
    _insert(tx, organization_id, made.removal_id, made.create_time, made.users, made.seats_freed)
    add(tx, organization_id, [(made.removal_id, registration_id) for registration_id in registration_ids])


@statement
def _insert(organization_id: str, removal_id: str, create_time: int, users: int, seats_freed: int) -> sa.Executable:
    return removal.insert().values(
        organization_id=organization_id,
        removal_id=removal_id,
        create_time=create_time,
        users=users,
        seats_freed=seats_freed,
    )


def add(tx: Transaction, organization_id: str, items: Collection[tuple[str, str]]) -> None:
    """Adds (removal_id, registration_id) pairs that are not there yet."""
    for some in chunks(sorted(items)):
        rows = [
            {"organization_id": organization_id, "removal_id": removal_id, "registration_id": registration_id}
            for removal_id, registration_id in some
        ]
        tx.execute(tx.insert(removal_item).values(rows).on_conflict_do_nothing())


def drop(tx: Transaction, organization_id: str, intent_id: str) -> None:
    """Forgets an intent, unless it became a registration."""
    _drop(tx, organization_id, intent_id)


@statement
def _drop(organization_id: str, intent_id: str) -> sa.Executable:
    registered = sa.select(registration.c.registration_id).where(_same, _seen)
    return removal_item.delete().where(
        removal_item.c.organization_id == organization_id,
        removal_item.c.registration_id == intent_id,
        ~registered.exists(),
    )


def get(tx: Transaction, organization_id: str, removal_id: str) -> Removal:
    """Raises RemovalNotFound."""
    row = _get(tx, organization_id, removal_id).one_or_none()
    if row is None:
        raise RemovalNotFound(removal_id)
    counts = _counts(tx, organization_id, removal_id).one()
    return Removal(
        removal_id=row.removal_id,
        create_time=row.create_time,
        users=row.users,
        seats_freed=row.seats_freed,
        registrations=counts.seen,
        registrations_deleted=counts.deleted,
        addresses_released=counts.released,
        undecided=counts.items - counts.seen,
    )


@statement
def _get(organization_id: str, removal_id: str) -> sa.Select[Any]:
    return sa.select(removal).where(removal.c.organization_id == organization_id, removal.c.removal_id == removal_id)


@statement
def _counts(organization_id: str, removal_id: str) -> sa.Executable:
    return (
        sa.select(
            sa.func.count().label("items"),
            sa.func.count(sa.case((_seen, 1))).label("seen"),
            sa.func.count(registration.c.delete_time).label("deleted"),
            sa.func.count(sa.case((_seen, registration.c.release_time))).label("released"),
        )
        .select_from(removal_item.outerjoin(registration, _same))
        .where(removal_item.c.organization_id == organization_id, removal_item.c.removal_id == removal_id)
    )

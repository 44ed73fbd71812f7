"""Registrations: those that are active or revoked, and a memory of those that are deleted."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict
from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import LISTED, Range, Registration, RegistrationFilter, State
from guardhouse_services.registry.store.tables import (
    in_range,
    is_active,
    is_listed,
    is_live,
    is_users,
    registration,
    registration_activity,
    spelled,
    to_registration,
    together,
)


def find(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    """In whatever state."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
    )
    row = tx.execute(query).one_or_none()
    return to_registration(row) if row else None


def of_tokens(tx: Transaction, ids: Collection[str]) -> dict[str, Registration]:
    """Active and deleted registrations whose devices may show their tokens, by id.

    A token names no organization, and an id is one of all.
    """
    query = sa.select(registration).where(
        registration.c.registration_id.in_(ids), registration.c.state.in_((State.ACTIVE, State.DELETED))
    )
    return {row.registration_id: to_registration(row) for row in tx.execute(query)}


def lock(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """Active and revoked registrations by their id, locked in the order of their ids."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state.in_(LISTED),
    )
    query = query.order_by(registration.c.registration_id).with_for_update()
    return {row.registration_id: to_registration(row) for row in tx.execute(query)}


def lock_on_device(tx: Transaction, organization_id: str, device_id: str) -> dict[str, Registration]:
    """Those of a device, which is locked itself."""
    ids = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id, registration.c.device_id == device_id
    )
    return lock(tx, organization_id, tx.execute(ids).scalars().all())


def by_id(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """In whatever state."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids)
    )
    return {row.registration_id: to_registration(row) for row in tx.execute(query)}


def active_of_users(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> dict[str, Registration]:
    """The active registration of a user on each of the devices that has one."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.device_id.in_(device_ids),
        is_active,
        is_users,
    )
    return {row.device_id: to_registration(row) for row in tx.execute(query)}


def key_is_held(tx: Transaction, public_key: bytes) -> bool:
    """Whether a live registration of the installation holds the key."""
    query = sa.select(registration.c.registration_id).where(registration.c.public_key == public_key, is_live)
    return tx.execute(query).one_or_none() is not None


def rotate(tx: Transaction, organization_id: str, registration_id: str, key_type: int, key: bytes) -> Registration:
    """An active registration, whose row is locked, gets this key.

    Raises Conflict when another one took the key a moment ago.
    """
    update = (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            is_active,
        )
        .values(key_type=key_type, public_key=key)
    )
    try:
        return to_registration(tx.execute(update.returning(registration)).one())
    except IntegrityError:
        raise Conflict("the key is being registered at this moment; retry") from None


def revoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE becomes REVOKED; answers those that did."""
    return _move(tx, organization_id, ids, (State.ACTIVE,), {"state": State.REVOKED, "revoke_time": tx.now})


def unrevoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """REVOKED becomes ACTIVE; answers those that did."""
    return _move(tx, organization_id, ids, (State.REVOKED,), {"state": State.ACTIVE, "revoke_time": None})


def delete(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE and REVOKED become DELETED; answers those that did."""
    return _move(tx, organization_id, ids, LISTED, {"state": State.DELETED, "end_time": tx.now})


def _move(
    tx: Transaction, organization_id: str, ids: Collection[str], states: Sequence[State], values: dict[str, Any]
) -> list[Registration]:
    if not ids:
        return []
    update = registration.update().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state.in_(states),
    )
    return [to_registration(row) for row in tx.execute(update.values(**values).returning(registration))]


def of_user(tx: Transaction, organization_id: str, user_id: str, upto: int, states: Sequence[State]) -> list[str]:
    """Ids of the user's registrations in these states that were authorized at or before a revision of identity."""
    query = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.user_id == user_id,
        registration.c.state.in_(states),
        registration.c.authorize_revision <= upto,
    )
    return list(tx.execute(query).scalars())


def after(tx: Transaction, organization_id: str, registration_id: str, limit: int) -> list[Registration]:
    """Active and revoked ones behind this id, by their ids."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id > registration_id,
        registration.c.state.in_(LISTED),
    )
    rows = tx.execute(query.order_by(registration.c.registration_id).limit(limit))
    return [to_registration(row) for row in rows]


def page(tx: Transaction, organization_id: str, wanted: RegistrationFilter, page: Range) -> list[Registration]:
    # Each state has its own stretch of the indexes.
    parts = [part for state in wanted.states for part in _in_state(organization_id, state, wanted, page)]
    return [to_registration(row) for row in tx.execute(together(parts, page))]


def _in_state(organization_id: str, state: State, wanted: RegistrationFilter, page: Range) -> list[sa.Select[Any]]:
    query = sa.select(registration).where(registration.c.organization_id == organization_id, spelled(state))
    if wanted.user_id:
        query = query.where(registration.c.user_id == wanted.user_id)
    if wanted.device_id:
        query = query.where(registration.c.device_id == wanted.device_id)
    if wanted.service_token_id:
        query = query.where(registration.c.service_token_id == wanted.service_token_id)
    # A user's or a device's are few, and found by that. All others lie in order in indexes, which SQLite takes only
    # when it reads their condition, although it follows from the state.
    are_few = bool(wanted.user_id or wanted.device_id)
    if not are_few:
        query = query.where(is_listed)
    create_time, row_id = registration.c.create_time, registration.c.registration_id
    return in_range(query, page, create_time, registration_activity, row_id, by_index=not are_few)

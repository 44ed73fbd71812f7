"""Registrations: those that are active or revoked, and a memory of those that are deleted."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.registry.domain import (
    LISTED,
    LIVE,
    Cursor,
    Listed,
    Order,
    Range,
    Registration,
    RegistrationFilter,
    State,
)
from guardhouse_services.registry.store.lists import contains, in_range, looking, together
from guardhouse_services.registry.store.tables import (
    device,
    device_profile,
    device_texts,
    is_active,
    is_listed,
    is_live,
    is_users,
    profile_column,
    profile_id,
    registration,
    registration_activity,
    registration_email,
    registration_user,
    spelled,
    to_registration,
)
from guardhouse_services.statements import statement


def find(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    """In whatever state."""
    row = _find(tx, organization_id, registration_id).one_or_none()
    return to_registration(row) if row else None


@statement
def _find(organization_id: str, registration_id: str) -> sa.Select[Any]:
    return sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
    )


def of_tokens(tx: Transaction, ids: Collection[str]) -> dict[str, tuple[Registration, str]]:
    """Active and deleted registrations whose devices may show their tokens, by id, each with the etag of its profile's
    settings; that is empty where the profile is not stored.

    A token names no organization, and an id is one of all.
    """
    rows = _of_tokens(tx, list(ids))
    return {row.registration_id: (to_registration(row), row.settings_etag or "") for row in rows}


@statement
def _of_tokens(ids: list[str]) -> sa.Select[Any]:
    of_profile = sa.and_(
        device_profile.c.organization_id == registration.c.organization_id,
        device_profile.c.device_profile_id == profile_id,
    )
    found = sa.select(registration, device_profile.c.settings_etag).outerjoin(device_profile, of_profile)
    return found.where(registration.c.registration_id.in_(ids), registration.c.state.in_((State.ACTIVE, State.DELETED)))


def lock(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """Active and revoked registrations by their id, locked in the order of their ids."""
    return {row.registration_id: to_registration(row) for row in _lock(tx, organization_id, list(ids))}


@statement
def _lock(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    wanted = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state.in_(LISTED),
    )
    return wanted.order_by(registration.c.registration_id).with_for_update()


def lock_on_device(tx: Transaction, organization_id: str, device_id: str) -> dict[str, Registration]:
    """Those of a device, which is locked itself."""
    return lock(tx, organization_id, _on_device(tx, organization_id, device_id).scalars().all())


@statement
def _on_device(organization_id: str, device_id: str) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id, registration.c.device_id == device_id
    )


def by_id(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """In whatever state."""
    return {row.registration_id: to_registration(row) for row in _by_id(tx, organization_id, list(ids))}


@statement
def _by_id(organization_id: str, ids: list[str]) -> sa.Select[Any]:
    return sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids)
    )


def active_of_users(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> list[Registration]:
    """The users' active registrations on the devices."""
    return [to_registration(row) for row in _active_of_users(tx, organization_id, list(device_ids))]


@statement
def _active_of_users(organization_id: str, device_ids: list[str]) -> sa.Select[Any]:
    return sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.device_id.in_(device_ids),
        is_active,
        is_users,
    )


def key_is_held(tx: Transaction, public_key: bytes) -> bool:
    """Whether a live registration of the installation holds the key."""
    return _holder(tx, public_key).one_or_none() is not None


@statement
def _holder(public_key: bytes) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(registration.c.public_key == public_key, is_live)


def rotate(tx: Transaction, organization_id: str, registration_id: str, key_type: int, key: bytes) -> Registration:
    """An active registration, whose row is locked, gets this key.

    Raises Conflict when another one took the key a moment ago.
    """
    try:
        return to_registration(_rotate(tx, organization_id, registration_id, key_type, key, tx.now).one())
    except IntegrityError:
        raise Conflict("the key is being registered at this moment; retry") from None


@statement
def _rotate(organization_id: str, registration_id: str, key_type: int, key: bytes, now: int) -> sa.Executable:
    return (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            is_active,
        )
        .values(key_type=key_type, public_key=key, update_time=now)
        .returning(registration)
    )


def revoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE becomes REVOKED; answers those that did."""
    return [to_registration(row) for row in _revoke(tx, organization_id, list(ids), tx.now)] if ids else []


def unrevoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """REVOKED becomes ACTIVE; answers those that did."""
    return [to_registration(row) for row in _unrevoke(tx, organization_id, list(ids), tx.now)] if ids else []


def delete(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE and REVOKED become DELETED; answers those that did."""
    return [to_registration(row) for row in _delete(tx, organization_id, list(ids), tx.now)] if ids else []


def _moved(organization_id: str, ids: list[str], states: Sequence[State], **values: Any) -> sa.Executable:
    moved = registration.update().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state.in_(states),
    )
    return moved.values(**values).returning(registration)


@statement
def _revoke(organization_id: str, ids: list[str], now: int) -> sa.Executable:
    return _moved(
        organization_id, ids, (State.ACTIVE,), state=State.REVOKED, revoke_time=now, update_time=now, is_current=None
    )


@statement
def _unrevoke(organization_id: str, ids: list[str], now: int) -> sa.Executable:
    return _moved(organization_id, ids, (State.REVOKED,), state=State.ACTIVE, revoke_time=None, update_time=now)


@statement
def _delete(organization_id: str, ids: list[str], now: int) -> sa.Executable:
    return _moved(organization_id, ids, LISTED, state=State.DELETED, end_time=now, is_current=None)


def of_user(tx: Transaction, organization_id: str, user_id: str, upto: int, states: Sequence[State]) -> list[str]:
    """Ids of the user's registrations in these states that were authorized at or before a revision of identity."""
    return list(_of_user(tx, organization_id, user_id, upto, list(states)).scalars())


@statement
def _of_user(organization_id: str, user_id: str, upto: int, states: list[State]) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.user_id == user_id,
        registration.c.state.in_(states),
        registration.c.authorize_revision <= upto,
    )


def after(tx: Transaction, organization_id: str, wanted: Page) -> list[Registration]:
    """Active and revoked ones by their ids, and one more if there is one."""
    return [to_registration(row) for row in _after(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _after(organization_id: str, registration_id: str, limit: int) -> sa.Select[Any]:
    behind = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id > registration_id,
        registration.c.state.in_(LISTED),
    )
    return behind.order_by(registration.c.registration_id).limit(limit)


def lock_live_after(tx: Transaction, organization_id: str, registration_id: str, limit: int) -> list[Registration]:
    """Those that hold their keys, enrollments under way among them, behind this id, by their ids; locked."""
    return [to_registration(row) for row in _lock_live_after(tx, organization_id, registration_id, limit)]


@statement
def _lock_live_after(organization_id: str, registration_id: str, limit: int) -> sa.Select[Any]:
    behind = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id > registration_id,
        registration.c.state.in_(LIVE),
    )
    return behind.order_by(registration.c.registration_id).limit(limit).with_for_update()


def of_users(tx: Transaction, organization_id: str, user_ids: Collection[str], limit: int) -> list[str]:
    """Ids of active and revoked ones of users, no more than so many."""
    return list(_of_users(tx, organization_id, list(user_ids), limit).scalars())


@statement
def _of_users(organization_id: str, user_ids: list[str], limit: int) -> sa.Select[Any]:
    wanted = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.user_id.in_(user_ids),
        registration.c.state.in_(LISTED),
    )
    return wanted.limit(limit)


def set_profiles(tx: Transaction, organization_id: str, moved: Collection[Registration]) -> None:
    """Of registrations that the caller has locked."""
    by_profile: dict[str, list[str]] = {}
    for it in moved:
        by_profile.setdefault(profile_column(organization_id, it.device_profile_id), []).append(it.registration_id)
    for device_profile_id, ids in by_profile.items():
        _set_profile(tx, organization_id, ids, device_profile_id, tx.now)


@statement
def _set_profile(organization_id: str, ids: list[str], device_profile_id: str, time: int) -> sa.Executable:
    moved = registration.update().where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids)
    )
    return moved.values(device_profile_id=device_profile_id, device_profile_time=time)


def page(tx: Transaction, organization_id: str, wanted: RegistrationFilter, page: Range) -> Listed[Registration]:
    few = _few(wanted)
    some: list[sa.ColumnElement[bool]] = []
    rare: list[sa.ColumnElement[bool]] = []
    if wanted.service_token_id:
        some.append(registration.c.service_token_id == wanted.service_token_id)
    if wanted.device_profile_id:
        of_profile = profile_column(organization_id, wanted.device_profile_id)
        some.append(registration.c.device_profile_id == of_profile)
    if wanted.search:
        rare.append(contains(wanted.search, registration.c.ipv4, registration.c.ipv6) | _of_device_with(wanted.search))
    if page.order is Order.ID and not few:
        # By their ids all lie in one order, whatever the state; not by an index of the listed ones only.
        rare += [registration.c.state.in_(wanted.states), *some]
        stretches: list[list[sa.ColumnElement[bool]]] = [[]]
    else:
        if page.order in (Order.USER_EMAIL, Order.USER_NAME) and not few:
            # By these, those of a service token or a profile have no index of their own.
            rare, some = [*rare, *some], []
        # Each state has its own stretch of the indexes, which SQLite takes only when it reads their condition, although
        # it follows from the state. A user's or a device's are few, and found by that.
        stretches = [[spelled(state), *some, *few, *([] if few else [is_listed])] for state in wanted.states]

    def select(page: Range, what: sa.Select[Any], *where: Any, upto: Cursor | None = None) -> sa.Select[Any]:
        of_organization = what.where(registration.c.organization_id == organization_id, *where)
        parts = [
            part
            for stretch in stretches
            for part in in_range(
                of_organization.where(*stretch), page, _VALUES, registration.c.registration_id, upto, by_index=not few
            )
        ]
        return together(parts, page)

    def read(page: Range, upto: Cursor | None = None) -> list[Registration]:
        return [to_registration(row) for row in tx.execute(select(page, sa.select(registration), *rare, upto=upto))]

    if few or not (rare or page.skips):
        return Listed(read(page))
    return looking(tx, page, lambda page: select(page, sa.select()), read)


def _few(wanted: RegistrationFilter) -> list[sa.ColumnElement[bool]]:
    """What leaves few registrations, which are found by it."""
    few: list[sa.ColumnElement[bool]] = []
    if wanted.ids:
        few.append(registration.c.registration_id.in_(wanted.ids))
    if wanted.user_ids:
        few.append(registration.c.user_id.in_(wanted.user_ids))
    if wanted.user_id:
        few.append(registration.c.user_id == wanted.user_id)
    if wanted.device_id:
        few.append(registration.c.device_id == wanted.device_id)
    return few


def _of_device_with(search: str) -> sa.ColumnElement[bool]:
    # A count, and not whether there is one: PostgreSQL would rather search all devices than those of a few rows.
    found = sa.select(sa.func.count()).where(
        device.c.organization_id == registration.c.organization_id,
        device.c.device_id == registration.c.device_id,
        contains(search, *device_texts),
    )
    return found.correlate(registration).scalar_subquery() > 0


_VALUES = {
    Order.CREATE: registration.c.create_time,
    Order.SEEN: registration_activity,
    Order.ID: registration.c.registration_id,
    Order.USER_EMAIL: registration_email,
    Order.USER_NAME: registration_user,
}

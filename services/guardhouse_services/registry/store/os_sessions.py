"""Who has a shared device, and which of its registrations is current. Whoever changes that has locked the device."""

from collections.abc import Collection
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import KEEP_SESSIONS, OsSession, Registration
from guardhouse_services.registry.store.tables import (
    device,
    is_active,
    is_shared,
    os_session,
    registration,
    to_os_session,
    to_registration,
)
from guardhouse_services.statements import statement

_is_open = os_session.c.end_time.is_(None)


def _of_open(organization_id: str, device_id: str) -> sa.Update:
    return os_session.update().where(
        os_session.c.organization_id == organization_id, os_session.c.device_id == device_id, _is_open
    )


def lock_devices(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """Locks the devices that these registrations are on, in the order of their ids.

    Of what is changed together the devices come first: they count their active registrations, and which of those of a
    shared one is current depends on the others.
    """
    _lock_devices(tx, organization_id, list(registration_ids)).all()


@statement
def _lock_devices(organization_id: str, registration_ids: list[str]) -> sa.Select[Any]:
    wanted = sa.select(registration.c.device_id).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(registration_ids)
    )
    locked = sa.select(device.c.device_id).where(
        device.c.organization_id == organization_id, device.c.device_id.in_(wanted)
    )
    return locked.order_by(device.c.device_id).with_for_update(of=device)


def present(tx: Transaction, organization_id: str, device_id: str) -> OsSession | None:
    """None of a device that is not shared."""
    row = _present(tx, organization_id, device_id).one_or_none()
    return to_os_session(row) if row else None


@statement
def _present(organization_id: str, device_id: str) -> sa.Select[Any]:
    return sa.select(os_session).where(
        os_session.c.organization_id == organization_id, os_session.c.device_id == device_id, _is_open
    )


def seats(tx: Transaction, organization_id: str, device_id: str) -> list[Registration]:
    """The active registrations on a shared device that may be current, in the order of time."""
    return [to_registration(row) for row in _seats(tx, organization_id, device_id)]


@statement
def _seats(organization_id: str, device_id: str) -> sa.Select[Any]:
    wanted = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.device_id == device_id, is_active, is_shared
    )
    return wanted.order_by(registration.c.create_time, registration.c.registration_id)


def set_current(tx: Transaction, organization_id: str, device_id: str, registration_id: str) -> list[Registration]:
    """Makes this one current, or with an empty id none; answers those that were or are it."""
    # One after the other, for there is no moment at which two are.
    gone = [to_registration(row) for row in _unset(tx, organization_id, device_id, registration_id)]
    if not registration_id:
        return gone
    return [*gone, *(to_registration(row) for row in _set(tx, organization_id, registration_id))]


@statement
def _unset(organization_id: str, device_id: str, registration_id: str) -> sa.Executable:
    return (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.device_id == device_id,
            registration.c.is_current.is_(sa.true()),
            registration.c.registration_id != registration_id,
        )
        .values(is_current=None)
        .returning(registration)
    )


@statement
def _set(organization_id: str, registration_id: str) -> sa.Executable:
    return (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            registration.c.is_current.is_not(sa.true()),
        )
        .values(is_current=True)
        .returning(registration)
    )


def begin(tx: Transaction, session: OsSession) -> None:
    """It ends the one before."""
    end(tx, session.organization_id, session.device_id, session.begin_time)
    row = {
        "organization_id": session.organization_id,
        "device_id": session.device_id,
        "begin_time": session.begin_time,
        "end_time": None,
        "sequence": session.sequence,
        "os_user": session.desk.os_user,
        "at_login_screen": session.desk.at_login_screen,
        "registration_id": session.registration_id or None,
        "user_id": session.holder.user_id or None,
        "service_token_id": session.holder.service_token_id or None,
    }
    tx.execute(_INSERT, row)


_INSERT = os_session.insert()


def end(tx: Transaction, organization_id: str, device_id: str, time: int) -> None:
    """Nobody has the device any more, or not as before."""
    _end(tx, organization_id, device_id, time)


@statement
def _end(organization_id: str, device_id: str, time: int) -> sa.Executable:
    return _of_open(organization_id, device_id).values(end_time=time)


def note(tx: Transaction, organization_id: str, device_id: str, sequence: int) -> None:
    """An event has come that changes nothing."""
    _note(tx, organization_id, device_id, sequence)


@statement
def _note(organization_id: str, device_id: str, sequence: int) -> sa.Executable:
    return _of_open(organization_id, device_id).values(sequence=sequence)


def page(
    tx: Transaction, organization_id: str, device_id: str, time: int | None, before: int | None, limit: int
) -> list[OsSession]:
    """Those that began before a time, the newest first; with a time only the one that was on then."""
    query = sa.select(os_session).where(
        os_session.c.organization_id == organization_id, os_session.c.device_id == device_id
    )
    if time is not None:
        query = query.where(os_session.c.begin_time <= time, sa.or_(_is_open, os_session.c.end_time > time))
    if before is not None:
        query = query.where(os_session.c.begin_time < before)
    return [to_os_session(row) for row in tx.execute(query.order_by(os_session.c.begin_time.desc()).limit(limit))]


def forget_ended(tx: Transaction, limit: int = 1000) -> None:
    """Drops what ended too long ago to be asked for."""
    tx.execute(_forget(), {"ended": tx.now - KEEP_SESSIONS, "at_most": limit})


@cache
def _forget() -> sa.Executable:
    key = (os_session.c.organization_id, os_session.c.device_id, os_session.c.begin_time)
    old = sa.select(*key).where(os_session.c.end_time <= sa.bindparam("ended", type_=sa.BigInteger))
    return os_session.delete().where(sa.tuple_(*key).in_(old.limit(sa.bindparam("at_most", type_=sa.Integer))))

"""Intents, from the beginning of an enrollment to its end."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict
from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import (
    KEEP_ENDED,
    LISTED,
    LIVE,
    Claims,
    Device,
    Grant,
    Lease,
    Registration,
    State,
)
from guardhouse_services.registry.store import former_keys
from guardhouse_services.registry.store.tables import (
    claims_values,
    device,
    is_live,
    is_pending,
    is_users,
    registration,
    to_device,
    to_registration,
)
from guardhouse_services.statements import Insert, statement


def _aborted(now: int, *where: sa.ColumnElement[bool]) -> sa.Update:
    return registration.update().where(*where, is_pending).values(state=State.ABORTED, end_time=now)


def earlier(
    tx: Transaction, organization_id: str, request_id: str, public_key: bytes
) -> tuple[Registration | None, Registration | None]:
    """The registration or intent that the request has come to, and the live one that holds the key."""
    found = [to_registration(row) for row in _earlier(tx, organization_id, request_id, public_key)]
    attempts = [it for it in found if (it.organization_id, it.request_id) == (organization_id, request_id)]
    holders = [it for it in found if it.public_key == public_key and it.state in LIVE]
    # Ids tell the time by the clocks of replicas; of the attempts that ended, one that succeeded counts.
    attempts.sort(key=lambda it: (it.state in LIVE, it.state == State.DELETED, it.registration_id))
    return attempts[-1] if attempts else None, holders[0] if holders else None


@statement
def _earlier(organization_id: str, request_id: str, public_key: bytes) -> sa.Select[Any]:
    of_request = sa.and_(registration.c.organization_id == organization_id, registration.c.request_id == request_id)
    holds_key = sa.and_(registration.c.public_key == public_key, is_live)
    return sa.select(registration).where(sa.or_(of_request, holds_key))


def claim_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> str:
    """The id of the device with this hardware id: the given one, when it is new."""
    row = {"organization_id": organization_id, "device_id": device_id, "create_time": None, **claims_values(claims)}
    return str(tx.execute(_claim_device(tx.insert), row).scalar_one())


@cache
def _claim_device(insert: Insert) -> sa.Executable:
    # A no-op update, so that the row is returned, and locked, whether it is new or not.
    claimed = insert(device).on_conflict_do_update(
        index_elements=["organization_id", "hardware_id"], set_={"hardware_id": device.c.hardware_id}
    )
    return claimed.returning(device.c.device_id)


def insert_intent(tx: Transaction, intent: Registration) -> None:
    """Raises Conflict when another enrollment took the key, the request or the id a moment ago."""
    row = {
        "organization_id": intent.organization_id,
        "registration_id": intent.registration_id,
        "device_id": intent.device_id,
        "state": intent.state,
        "key_type": intent.key_type,
        "public_key": intent.public_key,
        "request_id": intent.request_id,
        "fingerprint": intent.fingerprint,
        "deadline": intent.deadline,
        "lease_id": "",
        "ipv4": "",
        "ipv6": "",
        "authenticate_time": 0,
        "authorize_revision": 0,
        "identity_token": "",
        "token_hash": b"",
        "end_time": tx.now if intent.state == State.ABORTED else None,
        "managed": intent.managed,
    }
    try:
        tx.execute(_INSERT, row)
    except IntegrityError:
        raise Conflict("the same enrollment is being made at this moment; retry") from None


_INSERT = registration.insert()


def enroll_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> Device | None:
    """Makes the device visible with these claims, and locks it; None when it has been deleted."""
    values = {"of_organization_id": organization_id, "of_device_id": device_id, "now": tx.now, **claims_values(claims)}
    row = tx.execute(_enroll_device(), values).one_or_none()
    return to_device(row) if row else None


@cache
def _enroll_device() -> sa.Executable:
    """The claims come with the values, by the names of their columns."""
    organization_id: sa.BindParameter[str] = sa.bindparam("of_organization_id")
    device_id: sa.BindParameter[str] = sa.bindparam("of_device_id")
    now = sa.bindparam("now", type_=sa.BigInteger)
    return (
        device.update()
        .where(device.c.organization_id == organization_id, device.c.device_id == device_id)
        .values(create_time=sa.func.coalesce(device.c.create_time, now), enroll_time=now, update_time=now)
        .returning(device)
    )


def lock_places(tx: Transaction, intent: Registration) -> dict[str, Registration]:
    """The intent in whatever state, and the users' active and revoked registrations on its device; by id, locked."""
    rows = _lock_places(tx, intent.organization_id, intent.device_id, intent.registration_id)
    return {row.registration_id: to_registration(row) for row in rows}


@statement
def _lock_places(organization_id: str, device_id: str, registration_id: str) -> sa.Select[Any]:
    # Found by the device first: SQLite would go through all in the order that they are locked in.
    on_device = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id, registration.c.device_id == device_id
    )
    wanted = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(on_device),
        sa.or_(
            registration.c.registration_id == registration_id,
            sa.and_(registration.c.state.in_(LISTED), is_users),
        ),
    )
    return wanted.order_by(registration.c.registration_id).with_for_update()


def activate(
    tx: Transaction,
    organization_id: str,
    registration_id: str,
    grant: Grant,
    lease: Lease,
    token_hash: bytes,
    os_user: str | None,
) -> Registration:
    """A PENDING intent, whose row is locked, becomes ACTIVE."""
    done = _activate(
        tx,
        organization_id,
        registration_id,
        user_id=grant.holder.user_id or None,
        service_token_id=grant.holder.service_token_id or None,
        lease_id=lease.lease_id,
        ipv4=lease.ipv4,
        ipv6=lease.ipv6,
        authenticate_time=grant.authenticate_time,
        authorize_revision=grant.authorize_revision,
        identity_token=grant.identity_token,
        token_hash=token_hash,
        create_time=tx.now,
        expire_after=grant.expire_after,
        os_user=os_user,
    )
    return to_registration(done.one())


@statement
def _activate(
    organization_id: str,
    registration_id: str,
    user_id: str | None,
    service_token_id: str | None,
    lease_id: str,
    ipv4: str,
    ipv6: str,
    authenticate_time: int,
    authorize_revision: int,
    identity_token: str,
    token_hash: bytes,
    create_time: int,
    expire_after: int | None,
    os_user: str | None,
) -> sa.Executable:
    return (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            is_pending,
        )
        .values(
            state=State.ACTIVE,
            user_id=user_id,
            service_token_id=service_token_id,
            lease_id=lease_id,
            ipv4=ipv4,
            ipv6=ipv6,
            authenticate_time=authenticate_time,
            authorize_revision=authorize_revision,
            identity_token=identity_token,
            token_hash=token_hash,
            create_time=create_time,
            expire_after=expire_after,
            os_user=os_user,
        )
        .returning(registration)
    )


def drop_intent(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """Forgets a PENDING intent for which nothing was reserved; False when it was decided otherwise."""
    return _drop_intent(tx, organization_id, registration_id).rowcount == 1


@statement
def _drop_intent(organization_id: str, registration_id: str) -> sa.Executable:
    return registration.delete().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id == registration_id,
        is_pending,
    )


def abort(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """PENDING becomes ABORTED; False when it was decided otherwise."""
    return _abort(tx, organization_id, registration_id, tx.now).rowcount == 1


@statement
def _abort(organization_id: str, registration_id: str, now: int) -> sa.Executable:
    of_it = (registration.c.organization_id == organization_id, registration.c.registration_id == registration_id)
    return _aborted(now, *of_it)


def abort_on_device(tx: Transaction, organization_id: str, device_id: str) -> None:
    _abort_on_device(tx, organization_id, device_id, tx.now)


@statement
def _abort_on_device(organization_id: str, device_id: str, now: int) -> sa.Executable:
    return _aborted(now, registration.c.organization_id == organization_id, registration.c.device_id == device_id)


def abort_overdue(tx: Transaction) -> Sequence[tuple[str, str]]:
    """Aborts what is past its deadline, in every organization; answers organizations and ids."""
    return sorted((row.organization_id, row.registration_id) for row in _abort_overdue(tx, tx.now))


@statement
def _abort_overdue(now: int) -> sa.Executable:
    overdue = _aborted(now, registration.c.deadline <= now)
    return overdue.returning(registration.c.organization_id, registration.c.registration_id)


def forget_ended(tx: Transaction, limit: int = 1000) -> None:
    """Drops what ended long ago, and devices on which no enrollment ever succeeded."""
    if old := [(row.organization_id, row.registration_id) for row in _ended(tx, tx.now - KEEP_ENDED, limit)]:
        former_keys.forget(tx, old)
        tx.execute(registration.delete().where(sa.tuple_(*_KEY).in_(old)))
    _forget_devices(tx, limit)


_KEY = (registration.c.organization_id, registration.c.registration_id)


@statement
def _ended(ended: int, limit: int) -> sa.Select[Any]:
    return sa.select(*_KEY).where(registration.c.end_time <= ended).limit(limit)


@statement
def _forget_devices(limit: int) -> sa.Executable:
    is_used = sa.exists().where(
        registration.c.organization_id == device.c.organization_id, registration.c.device_id == device.c.device_id
    )
    # Who enrolls locks the device first, so one that is locked is in use.
    key = (device.c.organization_id, device.c.device_id)
    unused = sa.select(*key).where(device.c.create_time.is_(None), ~is_used).limit(limit)
    unused = unused.with_for_update(skip_locked=True, of=device)
    return device.delete().where(sa.tuple_(*key).in_(unused), device.c.create_time.is_(None), ~is_used)

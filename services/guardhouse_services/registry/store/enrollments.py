"""Intents, from the beginning of an enrollment to its end."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict
from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import (
    KEEP_ENDED,
    LIVE,
    Claims,
    Device,
    Grant,
    Lease,
    Registration,
    State,
)
from guardhouse_services.registry.store.tables import (
    claims_values,
    device,
    is_active,
    is_live,
    is_pending,
    is_users,
    registration,
    to_device,
    to_registration,
)


def earlier(
    tx: Transaction, organization_id: str, request_id: str, public_key: bytes
) -> tuple[Registration | None, Registration | None]:
    """The registration or intent that the request has come to, and the live one that holds the key."""
    of_request = sa.and_(registration.c.organization_id == organization_id, registration.c.request_id == request_id)
    holds_key = sa.and_(registration.c.public_key == public_key, is_live)
    rows = tx.execute(sa.select(registration).where(sa.or_(of_request, holds_key)))
    found = [to_registration(row) for row in rows]
    attempts = [it for it in found if (it.organization_id, it.request_id) == (organization_id, request_id)]
    holders = [it for it in found if it.public_key == public_key and it.state in LIVE]
    # Ids tell the time by the clocks of replicas; of the attempts that ended, one that succeeded counts.
    attempts.sort(key=lambda it: (it.state in LIVE, it.state == State.DELETED, it.registration_id))
    return attempts[-1] if attempts else None, holders[0] if holders else None


def claim_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> str:
    """The id of the device with this hardware id: the given one, when it is new."""
    insert = tx.insert(device).values(
        organization_id=organization_id, device_id=device_id, create_time=None, **claims_values(claims)
    )
    # A no-op update, so that the row is returned, and locked, whether it is new or not.
    insert = insert.on_conflict_do_update(
        index_elements=["organization_id", "hardware_id"], set_={"hardware_id": device.c.hardware_id}
    )
    return str(tx.execute(insert.returning(device.c.device_id)).scalar_one())


def insert_intent(tx: Transaction, intent: Registration) -> None:
    """Raises Conflict when another enrollment took the key, the request or the id a moment ago."""
    try:
        tx.execute(
            registration.insert().values(
                organization_id=intent.organization_id,
                registration_id=intent.registration_id,
                device_id=intent.device_id,
                state=intent.state,
                key_type=intent.key_type,
                public_key=intent.public_key,
                request_id=intent.request_id,
                fingerprint=intent.fingerprint,
                deadline=intent.deadline,
                lease_id="",
                ipv4="",
                ipv6="",
                authenticate_time=0,
                authorize_revision=0,
                identity_token="",
                token_hash=b"",
                end_time=tx.now if intent.state == State.ABORTED else None,
            )
        )
    except IntegrityError:
        raise Conflict("the same enrollment is being made at this moment; retry") from None


def enroll_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> Device | None:
    """Makes the device visible with these claims, and locks it; None when it has been deleted."""
    # Not correlated with the device: in what SQLite returns, SQLAlchemy leaves out whose column it is.
    active = sa.select(sa.func.count()).where(
        registration.c.organization_id == organization_id, registration.c.device_id == device_id, is_active
    )
    update = (
        device.update()
        .where(device.c.organization_id == organization_id, device.c.device_id == device_id)
        .values(create_time=sa.func.coalesce(device.c.create_time, tx.now), enroll_time=tx.now, **claims_values(claims))
        .returning(*device.c, active.scalar_subquery().label("active_registrations"))
    )
    row = tx.execute(update).one_or_none()
    return to_device(row) if row else None


def lock_places(tx: Transaction, intent: Registration) -> dict[str, Registration]:
    """The intent in whatever state, and the active registration of a user on its device; by id, locked."""
    query = (
        sa.select(registration)
        .where(
            registration.c.organization_id == intent.organization_id,
            registration.c.device_id == intent.device_id,
            sa.or_(registration.c.registration_id == intent.registration_id, sa.and_(is_active, is_users)),
        )
        .order_by(registration.c.registration_id)
        .with_for_update()
    )
    return {row.registration_id: to_registration(row) for row in tx.execute(query)}


def activate(
    tx: Transaction, organization_id: str, registration_id: str, grant: Grant, lease: Lease, token_hash: bytes
) -> Registration:
    """A PENDING intent, whose row is locked, becomes ACTIVE."""
    update = (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            is_pending,
        )
        .values(
            state=State.ACTIVE,
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
        )
        .returning(registration)
    )
    return to_registration(tx.execute(update).one())


def drop_intent(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """Forgets a PENDING intent for which nothing was reserved; False when it was decided otherwise."""
    gone = registration.delete().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id == registration_id,
        is_pending,
    )
    return tx.execute(gone).rowcount == 1


def abort(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """PENDING becomes ABORTED; False when it was decided otherwise."""
    where = (registration.c.organization_id == organization_id, registration.c.registration_id == registration_id)
    return bool(_abort(tx, *where))


def abort_on_device(tx: Transaction, organization_id: str, device_id: str) -> None:
    _abort(tx, registration.c.organization_id == organization_id, registration.c.device_id == device_id)


def abort_overdue(tx: Transaction) -> Sequence[tuple[str, str]]:
    """Aborts what is past its deadline, in every organization; answers organizations and ids."""
    return _abort(tx, registration.c.deadline <= tx.now)


def _abort(tx: Transaction, *where: sa.ColumnElement[bool]) -> Sequence[tuple[str, str]]:
    update = registration.update().where(*where, is_pending).values(state=State.ABORTED, end_time=tx.now)
    rows = tx.execute(update.returning(registration.c.organization_id, registration.c.registration_id))
    return sorted((row.organization_id, row.registration_id) for row in rows)


def forget_ended(tx: Transaction, limit: int = 1000) -> None:
    """Drops what ended long ago, and devices on which no enrollment ever succeeded."""
    key = (registration.c.organization_id, registration.c.registration_id)
    old = sa.select(*key).where(registration.c.end_time <= tx.now - KEEP_ENDED).limit(limit)
    tx.execute(registration.delete().where(sa.tuple_(*key).in_(old)))
    is_used = sa.exists().where(
        registration.c.organization_id == device.c.organization_id, registration.c.device_id == device.c.device_id
    )
    # Who enrolls locks the device first, so one that is locked is in use.
    key = (device.c.organization_id, device.c.device_id)
    unused = sa.select(*key).where(device.c.create_time.is_(None), ~is_used).limit(limit)
    unused = unused.with_for_update(skip_locked=True, of=device)
    tx.execute(device.delete().where(sa.tuple_(*key).in_(unused), device.c.create_time.is_(None), ~is_used))

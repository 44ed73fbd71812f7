"""The registry's tables. Locks are taken in the order fence, device, registration, head."""

from collections.abc import Collection, Sequence
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
    Fence,
    Grant,
    Holder,
    Lease,
    Registration,
    State,
)

metadata = sa.MetaData()

device = sa.Table(
    "device",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("device_id", sa.String(40), primary_key=True),
    sa.Column("hardware_id", sa.String(255), nullable=False),
    sa.Column("display_name", sa.String(255), nullable=False),
    sa.Column("platform", sa.Integer, nullable=False),
    sa.Column("os_version", sa.String(255), nullable=False),
    sa.Column("client_version", sa.String(255), nullable=False),
    sa.Column("serial_number", sa.String(255), nullable=False),
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("manufacturer", sa.String(255), nullable=False),
    sa.Column("create_time", sa.BigInteger),
)
device_by_hardware = sa.Index("device_by_hardware", device.c.organization_id, device.c.hardware_id, unique=True)

_never_enrolled = device.c.create_time.is_(None)
sa.Index(
    "device_never_enrolled",
    device.c.organization_id,
    device.c.device_id,
    sqlite_where=_never_enrolled,
    postgresql_where=_never_enrolled,
)

registration = sa.Table(
    "registration",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("device_id", sa.String(40), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("key_type", sa.Integer, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("deadline", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.String(40)),
    sa.Column("service_token_id", sa.String(40)),
    sa.Column("lease_id", sa.String(40), nullable=False),
    sa.Column("ipv4", sa.String(15), nullable=False),
    sa.Column("ipv6", sa.String(45), nullable=False),
    sa.Column("authenticate_time", sa.BigInteger, nullable=False),
    sa.Column("authorize_revision", sa.BigInteger, nullable=False),
    sa.Column("identity_token", sa.String(200), nullable=False),
    sa.Column("token_hash", sa.LargeBinary, nullable=False),
    sa.Column("create_time", sa.BigInteger),
    sa.Column("revoke_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
)


def _partial(name: str, *columns: sa.Column[Any], where: sa.ColumnElement[bool], unique: bool = False) -> sa.Index:
    return sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_live = registration.c.state.in_(LIVE)
# A key belongs to at most one live registration of the whole installation (I-09).
registration_key = _partial("registration_key", registration.c.public_key, where=_live, unique=True)
# One attempt of a request at a time.
registration_request = _partial(
    "registration_request",
    registration.c.organization_id,
    registration.c.request_id,
    where=_live,
    unique=True,
)
# One active registration of a user on a device (decision 18).
registration_place = _partial(
    "registration_place",
    registration.c.organization_id,
    registration.c.device_id,
    where=sa.and_(registration.c.state == State.ACTIVE, registration.c.user_id.is_not(None)),
    unique=True,
)
sa.Index("registration_by_request", registration.c.organization_id, registration.c.request_id)
sa.Index("registration_by_device", registration.c.organization_id, registration.c.device_id)
sa.Index("registration_by_user", registration.c.organization_id, registration.c.user_id)
# For recognising a device by its token, which names no organization.
sa.Index("registration_by_id", registration.c.registration_id)
_partial("registration_pending", registration.c.deadline, where=registration.c.state == State.PENDING)
_partial("registration_ended", registration.c.end_time, where=registration.c.end_time.is_not(None))

fence = sa.Table(
    "fence",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("user_id", sa.String(40), primary_key=True),
    sa.Column("removed_revision", sa.BigInteger, nullable=False),
    sa.Column("revoked_revision", sa.BigInteger, nullable=False),
)


def _registration(row: Any) -> Registration:
    return Registration(
        organization_id=row.organization_id,
        registration_id=row.registration_id,
        device_id=row.device_id,
        state=State(row.state),
        key_type=row.key_type,
        public_key=row.public_key,
        request_id=row.request_id,
        fingerprint=row.fingerprint,
        deadline=row.deadline,
        holder=Holder(row.user_id or "", row.service_token_id or ""),
        lease=Lease(row.lease_id, row.ipv4, row.ipv6),
        authenticate_time=row.authenticate_time,
        authorize_revision=row.authorize_revision,
        identity_token=row.identity_token,
        token_hash=row.token_hash,
        create_time=row.create_time,
        revoke_time=row.revoke_time,
    )


def _device(row: Any) -> Device:
    claims = Claims(
        hardware_id=row.hardware_id,
        display_name=row.display_name,
        platform=row.platform,
        os_version=row.os_version,
        client_version=row.client_version,
        serial_number=row.serial_number,
        model=row.model,
        manufacturer=row.manufacturer,
    )
    return Device(row.organization_id, row.device_id, claims, row.create_time, row.active_registrations)


_active_registrations = (
    sa.select(sa.func.count())
    .where(
        registration.c.organization_id == device.c.organization_id,
        registration.c.device_id == device.c.device_id,
        registration.c.state == State.ACTIVE,
    )
    .correlate(device)
    .scalar_subquery()
)
_is_used = sa.exists().where(
    registration.c.organization_id == device.c.organization_id, registration.c.device_id == device.c.device_id
)
_select_device = sa.select(device, _active_registrations.label("active_registrations"))


# Enrollment


def earlier(
    tx: Transaction, organization_id: str, request_id: str, public_key: bytes
) -> tuple[Registration | None, Registration | None]:
    """The registration or intent that the request has come to, and the live one that holds the key."""
    of_request = sa.and_(registration.c.organization_id == organization_id, registration.c.request_id == request_id)
    holds_key = sa.and_(registration.c.public_key == public_key, _live)
    rows = tx.execute(sa.select(registration).where(sa.or_(of_request, holds_key)))
    found = [_registration(row) for row in rows]
    attempts = [it for it in found if (it.organization_id, it.request_id) == (organization_id, request_id)]
    holders = [it for it in found if it.public_key == public_key and it.state in LIVE]
    # Ids tell the time by the clocks of replicas; of the attempts that ended, one that succeeded counts.
    attempts.sort(key=lambda it: (it.state in LIVE, it.state == State.DELETED, it.registration_id))
    return attempts[-1] if attempts else None, holders[0] if holders else None


def claim_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> str:
    """The id of the device with this hardware id: the given one, when it is new."""
    insert = tx.insert(device).values(
        organization_id=organization_id, device_id=device_id, create_time=None, **_values(claims)
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


def lock_fence(tx: Transaction, organization_id: str, user_id: str) -> Fence:
    """What is known of the user, locked until the transaction ends."""
    insert = tx.insert(fence).values(
        organization_id=organization_id, user_id=user_id, removed_revision=0, revoked_revision=0
    )
    insert = insert.on_conflict_do_update(
        index_elements=["organization_id", "user_id"], set_={"removed_revision": fence.c.removed_revision}
    )
    row = tx.execute(insert.returning(fence.c.removed_revision, fence.c.revoked_revision)).one()
    return Fence(row.removed_revision, row.revoked_revision)


def raise_fence(tx: Transaction, organization_id: str, user_id: str, known: Fence) -> None:
    tx.execute(
        fence.update()
        .where(fence.c.organization_id == organization_id, fence.c.user_id == user_id)
        .values(removed_revision=known.removed_revision, revoked_revision=known.revoked_revision)
    )


def enroll_device(tx: Transaction, organization_id: str, device_id: str, claims: Claims) -> bool:
    """Makes the device visible with these claims, and locks it; False when it has been deleted."""
    update = (
        device.update()
        .where(device.c.organization_id == organization_id, device.c.device_id == device_id)
        .values(create_time=sa.func.coalesce(device.c.create_time, tx.now), **_values(claims))
    )
    return tx.execute(update).rowcount == 1


def lock_intent(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    """In whatever state, locked."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
    )
    row = tx.execute(query.with_for_update()).one_or_none()
    return _registration(row) if row else None


def active_of_users(
    tx: Transaction, organization_id: str, device_ids: Collection[str], *, lock: bool = False
) -> dict[str, Registration]:
    """The active registration of a user on each of the devices that has one."""
    query = (
        sa.select(registration)
        .where(
            registration.c.organization_id == organization_id,
            registration.c.device_id.in_(device_ids),
            registration.c.state == State.ACTIVE,
            registration.c.user_id.is_not(None),
        )
        .order_by(registration.c.registration_id)
    )
    rows = tx.execute(query.with_for_update() if lock else query)
    return {row.device_id: _registration(row) for row in rows}


def activate(
    tx: Transaction, organization_id: str, registration_id: str, grant: Grant, lease: Lease, token_hash: bytes
) -> Registration:
    """A PENDING intent, whose row is locked, becomes ACTIVE."""
    update = (
        registration.update()
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id == registration_id,
            registration.c.state == State.PENDING,
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
    return _registration(tx.execute(update).one())


def drop_intent(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """Forgets a PENDING intent for which nothing was reserved; False when it was decided otherwise."""
    gone = registration.delete().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id == registration_id,
        registration.c.state == State.PENDING,
    )
    return tx.execute(gone).rowcount == 1


def abort(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """PENDING becomes ABORTED; False when it was decided otherwise."""
    where = (registration.c.organization_id == organization_id, registration.c.registration_id == registration_id)
    return _end(tx, State.ABORTED, *where, registration.c.state == State.PENDING) == 1


def abort_overdue(tx: Transaction) -> int:
    """Aborts what is past its deadline, in every organization."""
    return _end(tx, State.ABORTED, registration.c.state == State.PENDING, registration.c.deadline <= tx.now)


def _end(tx: Transaction, state: State, *where: sa.ColumnElement[bool]) -> int:
    return tx.execute(registration.update().where(*where).values(state=state, end_time=tx.now)).rowcount


def forget_ended(tx: Transaction, limit: int = 1000) -> None:
    """Drops what ended long ago, and devices on which no enrollment ever succeeded."""
    key = (registration.c.organization_id, registration.c.registration_id)
    old = sa.select(*key).where(registration.c.end_time <= tx.now - KEEP_ENDED).limit(limit)
    tx.execute(registration.delete().where(sa.tuple_(*key).in_(old)))
    # Who enrolls locks the device first, so one that is locked is in use.
    key = (device.c.organization_id, device.c.device_id)
    unused = sa.select(*key).where(device.c.create_time.is_(None), ~_is_used).limit(limit)
    unused = unused.with_for_update(skip_locked=True, of=device)
    tx.execute(device.delete().where(sa.tuple_(*key).in_(unused), device.c.create_time.is_(None), ~_is_used))


# Registrations


def find_registration(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    """In whatever state."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
    )
    row = tx.execute(query).one_or_none()
    return _registration(row) if row else None


def find_by_token(tx: Transaction, registration_id: str) -> Registration | None:
    """The active registration of a device that shows its token."""
    query = sa.select(registration).where(
        registration.c.registration_id == registration_id, registration.c.state == State.ACTIVE
    )
    row = tx.execute(query).one_or_none()
    return _registration(row) if row else None


def lock_registrations(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """Active and revoked registrations by their id, locked in the order of their ids."""
    query = (
        sa.select(registration)
        .where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id.in_(ids),
            registration.c.state.in_(LISTED),
        )
        .order_by(registration.c.registration_id)
        .with_for_update()
    )
    return {row.registration_id: _registration(row) for row in tx.execute(query)}


def registrations_by_id(tx: Transaction, organization_id: str, ids: Collection[str]) -> dict[str, Registration]:
    """In whatever state."""
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids)
    )
    return {row.registration_id: _registration(row) for row in tx.execute(query)}


def lock_devices(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> None:
    query = sa.select(device.c.device_id).where(
        device.c.organization_id == organization_id, device.c.device_id.in_(device_ids)
    )
    tx.execute(query.order_by(device.c.device_id).with_for_update()).all()


def revoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE becomes REVOKED; answers those that did."""
    return _move(tx, organization_id, ids, State.ACTIVE, {"state": State.REVOKED, "revoke_time": tx.now})


def unrevoke(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """REVOKED becomes ACTIVE; answers those that did."""
    return _move(tx, organization_id, ids, State.REVOKED, {"state": State.ACTIVE, "revoke_time": None})


def delete(tx: Transaction, organization_id: str, ids: Collection[str]) -> list[Registration]:
    """ACTIVE and REVOKED become DELETED; answers those that did."""
    return _move(tx, organization_id, ids, None, {"state": State.DELETED, "end_time": tx.now})


def _move(
    tx: Transaction, organization_id: str, ids: Collection[str], state: State | None, values: dict[str, Any]
) -> list[Registration]:
    update = registration.update().where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(ids),
        registration.c.state == state if state else registration.c.state.in_(LISTED),
    )
    return [_registration(row) for row in tx.execute(update.values(**values).returning(registration))]


def of_user(tx: Transaction, organization_id: str, user_id: str, upto: int, states: Sequence[State]) -> list[str]:
    """Ids of the user's registrations in these states that were authorized at or before a revision of identity."""
    query = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.user_id == user_id,
        registration.c.state.in_(states),
        registration.c.authorize_revision <= upto,
    )
    return list(tx.execute(query).scalars())


def list_registrations(
    tx: Transaction,
    organization_id: str,
    states: Sequence[State],
    user_id: str,
    device_id: str,
    after: str,
    limit: int,
) -> list[Registration]:
    query = sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id > after,
        registration.c.state.in_(states),
    )
    if user_id:
        query = query.where(registration.c.user_id == user_id)
    if device_id:
        query = query.where(registration.c.device_id == device_id)
    return [_registration(row) for row in tx.execute(query.order_by(registration.c.registration_id).limit(limit))]


# Devices


def find_device(tx: Transaction, organization_id: str, device_id: str) -> Device | None:
    """A device on which an enrollment has succeeded."""
    query = _select_device.where(
        device.c.organization_id == organization_id,
        device.c.device_id == device_id,
        device.c.create_time.is_not(None),
    )
    row = tx.execute(query).one_or_none()
    return _device(row) if row else None


def list_devices(tx: Transaction, organization_id: str, active: bool | None, after: str, limit: int) -> list[Device]:
    """`active`: only devices with an active registration, only those without, or with None all."""
    query = _select_device.where(
        device.c.organization_id == organization_id, device.c.device_id > after, device.c.create_time.is_not(None)
    )
    if active is not None:
        has_active = sa.exists().where(
            registration.c.organization_id == device.c.organization_id,
            registration.c.device_id == device.c.device_id,
            registration.c.state == State.ACTIVE,
        )
        query = query.where(has_active if active else ~has_active)
    return [_device(row) for row in tx.execute(query.order_by(device.c.device_id).limit(limit))]


def delete_device(tx: Transaction, organization_id: str, device_id: str) -> list[Registration] | None:
    """Deletes the device and its registrations, which it answers, and aborts its intents; None when there is none."""
    gone = tx.execute(
        device.delete().where(
            device.c.organization_id == organization_id,
            device.c.device_id == device_id,
            device.c.create_time.is_not(None),
        )
    )
    if gone.rowcount != 1:
        return None
    of_device = (registration.c.organization_id == organization_id, registration.c.device_id == device_id)
    _end(tx, State.ABORTED, *of_device, registration.c.state == State.PENDING)
    ids = sa.select(registration.c.registration_id).where(*of_device, registration.c.state.in_(LISTED))
    return delete(tx, organization_id, list(tx.execute(ids).scalars()))


def _values(claims: Claims) -> dict[str, Any]:
    return {name: getattr(claims, name) for name in Claims.__slots__}

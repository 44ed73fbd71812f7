"""The ledger of seats, and how far the registry has reported the activity that keeps them."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.durations import DAY
from guardhouse.rules import folded
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.enrollments import IntentState
from guardhouse_services.identity.domain.seats import FreeCause, FreedSeat, SeatFilter
from guardhouse_services.identity.domain.users import SeatEvent, User
from guardhouse_services.identity.store.tables import (
    automatic_action,
    freed_seat,
    intent,
    organization,
    seat_activity,
    users,
)
from guardhouse_services.identity.store.users import made
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, chunks, statement, upsert

KEEP_FREED = 400 * DAY
_FLAGS = {SeatEvent.ACCESS: users.c.access_seat, SeatEvent.GATEWAY: users.c.gateway_seat}
_SEE = (
    users.update()
    .where(
        users.c.organization_id == sa.bindparam("the_organization_id"),
        users.c.user_id == sa.bindparam("the_user_id"),
        sa.func.coalesce(users.c.seen_time, 0) < sa.bindparam("the_time"),
    )
    .values(seen_time=sa.bindparam("the_time"))
)


def _held(organization_id: Any) -> sa.Select[Any]:
    return sa.select(users).where(users.c.organization_id == organization_id, users.c.seat_time.is_not(None))


def _inactive_since(since: Any) -> sa.ColumnElement[bool]:
    return sa.and_(users.c.authenticate_time < since, sa.func.coalesce(users.c.seen_time, 0) < since)


def page(tx: Transaction, organization_id: str, page: Page, wanted: SeatFilter) -> Sequence[User]:
    """Users who hold a seat."""
    query = _held(organization_id).where(users.c.user_id > page.after)
    if wanted.email:
        query = query.where(users.c.email_key == folded(wanted.email))
    if wanted.taken_by:
        query = query.where(users.c.seat_event == wanted.taken_by)
    if wanted.used_for:
        query = query.where(_FLAGS[wanted.used_for])
    if wanted.active_before is not None:
        query = query.where(_inactive_since(wanted.active_before))
    return [made(row) for row in tx.execute(query.order_by(users.c.user_id).limit(page.size + 1))]


def inactive(tx: Transaction, organization_id: str, since: int, after: str, limit: int) -> Sequence[User]:
    """Users with a seat without a sign of activity since then, nor an enrollment under way; behind this id."""
    return [made(row) for row in _inactive(tx, organization_id, since, after, limit)]


@statement
def _inactive(organization_id: str, since: int, after: str, limit: int) -> sa.Select[Any]:
    enrolling = sa.select(intent.c.intent_id).where(
        intent.c.organization_id == users.c.organization_id,
        intent.c.user_id == users.c.user_id,
        intent.c.state == IntentState.RESERVED,
    )
    query = _held(organization_id).where(users.c.user_id > after, _inactive_since(since), ~enrolling.exists())
    return query.order_by(users.c.user_id).limit(limit)


def growth(tx: Transaction, organization_id: str, since: int) -> int:
    """How many more seats are held than at that time."""
    taken = int(_taken(tx, organization_id, since).scalar_one())
    return taken - int(_freed_of_before(tx, organization_id, since).scalar_one())


@statement
def _taken(organization_id: str, since: int) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(users.c.organization_id == organization_id, users.c.seat_time > since)


@statement
def _freed_of_before(organization_id: str, since: int) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(
        freed_seat.c.organization_id == organization_id,
        freed_seat.c.free_time > since,
        freed_seat.c.take_time <= since,
    )


def note_freed(tx: Transaction, organization_id: str, users: Sequence[User], removal_id: str, cause: FreeCause) -> None:
    """Notes the seats that these users hold as freed now, and forgets what is too old to matter."""
    _forget_freed(tx, organization_id, tx.now - KEEP_FREED)
    for some in chunks([user for user in users if user.seat_time is not None]):
        rows = [
            {
                "organization_id": organization_id,
                "user_id": user.user_id,
                "take_time": user.seat_time,
                "free_time": tx.now,
                "seat_event": user.seat_event.value,
                "seat_event_id": user.seat_event_id,
                "cause": cause.value,
                "removal_id": removal_id,
            }
            for user in some
        ]
        tx.execute(tx.insert(freed_seat).values(rows).on_conflict_do_nothing())


@statement
def _forget_freed(organization_id: str, before: int) -> sa.Executable:
    return freed_seat.delete().where(freed_seat.c.organization_id == organization_id, freed_seat.c.free_time < before)


def freed_of(tx: Transaction, organization_id: str, user_id: str, limit: int) -> Sequence[FreedSeat]:
    """The seats that a user held before, the newest first."""
    return [
        FreedSeat(
            row.take_time,
            SeatEvent(row.seat_event),
            row.seat_event_id,
            row.free_time,
            FreeCause(row.cause),
            row.removal_id,
        )
        for row in _freed_of(tx, organization_id, user_id, limit)
    ]


@statement
def _freed_of(organization_id: str, user_id: str, limit: int) -> sa.Select[Any]:
    query = sa.select(freed_seat).where(
        freed_seat.c.organization_id == organization_id, freed_seat.c.user_id == user_id
    )
    return query.order_by(freed_seat.c.take_time.desc()).limit(limit)


def see(tx: Transaction, organization_id: str, times: Mapping[str, int]) -> None:
    """Notes when devices of these users were last heard of; no time goes back. In the order in which all lock users."""
    if times:
        rows = [
            {"the_organization_id": organization_id, "the_user_id": user_id, "the_time": times[user_id]}
            for user_id in sorted(times)
        ]
        tx.execute(_SEE, rows)


def watermark(tx: Transaction, organization_id: str) -> int | None:
    """Up to when the activity of all devices is known; None: it never was."""
    found: int | None = _watermark(tx, organization_id).scalar()
    return found


@statement
def _watermark(organization_id: str) -> sa.Select[Any]:
    return sa.select(seat_activity.c.watermark_time).where(seat_activity.c.organization_id == organization_id)


def raise_watermark(tx: Transaction, organization_id: str, time: int) -> None:
    """It never goes back."""
    _raise_watermark(tx, organization_id, time)


@upsert
def _raise_watermark(insert: Insert, organization_id: str, time: int) -> sa.Executable:
    wanted = insert(seat_activity).values(organization_id=organization_id, watermark_time=time)
    return wanted.on_conflict_do_update(
        index_elements=["organization_id"],
        set_={"watermark_time": wanted.excluded.watermark_time},
        where=sa.func.coalesce(seat_activity.c.watermark_time, 0) < wanted.excluded.watermark_time,
    )


def due(tx: Transaction, before: int, after: str, limit: int) -> Sequence[str]:
    """Organizations whose seats expire and were last looked through before then, or never; behind this id."""
    return list(_due(tx, before, after, limit).scalars())


@statement
def _due(before: int, after: str, limit: int) -> sa.Select[Any]:
    same = organization.c.organization_id == seat_activity.c.organization_id
    query = sa.select(organization.c.organization_id).outerjoin(seat_activity, same)
    query = query.where(
        organization.c.organization_id > after,
        organization.c.seat_expiration.is_not(None),
        sa.func.coalesce(seat_activity.c.sweep_time, 0) <= before,
    )
    return query.order_by(organization.c.organization_id).limit(limit)


def swept(tx: Transaction, organization_id: str, time: int) -> None:
    """Notes that the seats were looked through."""
    _swept(tx, organization_id, time)


@upsert
def _swept(insert: Insert, organization_id: str, time: int) -> sa.Executable:
    wanted = insert(seat_activity).values(organization_id=organization_id, sweep_time=time)
    return wanted.on_conflict_do_update(
        index_elements=["organization_id"], set_={"sweep_time": wanted.excluded.sweep_time}
    )


def freed_since(tx: Transaction, organization_id: str, after: int) -> int:
    """The seats that the system has freed of its own accord after a time."""
    return int(_freed_since(tx, organization_id, after).scalar_one())


@statement
def _freed_since(organization_id: str, after: int) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(
        automatic_action.c.organization_id == organization_id,
        automatic_action.c.action_time > after,
        automatic_action.c.frees_seat,
    )

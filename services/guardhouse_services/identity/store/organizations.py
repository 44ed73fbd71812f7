"""Organizations and their seats."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import LimitReached, OrganizationNotFound, SeatLimitBelowUse, SeatsExhausted
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.organizations import Organization, SeatUsage
from guardhouse_services.identity.store.tables import organization, seat_pool
from guardhouse_services.paging import Page

_query = sa.select(organization, seat_pool.c.purchased).join(
    seat_pool, seat_pool.c.organization_id == organization.c.organization_id
)


def _made(row: Any) -> Organization:
    return Organization(row.organization_id, row.display_name, row.purchased, row.create_time, row.update_time)


def insert(tx: Transaction, made: Organization) -> None:
    """With a pool in which no seat is taken."""
    tx.execute(
        organization.insert().values(
            organization_id=made.organization_id,
            display_name=made.display_name,
            create_time=made.create_time,
            update_time=made.update_time,
        )
    )
    tx.execute(seat_pool.insert().values(organization_id=made.organization_id, purchased=made.seat_limit, used=0))


def require(tx: Transaction, organization_id: str, *, lock: bool = False) -> None:
    """With `lock` whoever else asks so waits until the transaction ends. Raises OrganizationNotFound."""
    query = sa.select(organization.c.organization_id).where(organization.c.organization_id == organization_id)
    if tx.execute(query.with_for_update() if lock else query).one_or_none() is None:
        raise OrganizationNotFound(organization_id)


def get(tx: Transaction, organization_id: str, *, lock: bool = False) -> Organization:
    """With `lock` nobody else changes it before the transaction ends. Raises OrganizationNotFound."""
    query = _query.where(organization.c.organization_id == organization_id)
    # Both rows: a row that is not locked is read as it was before the wait for the one that is.
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization_id)
    return _made(row)


def page(tx: Transaction, wanted: Page) -> Sequence[Organization]:
    query = _query.where(organization.c.organization_id > wanted.after)
    rows = tx.execute(query.order_by(organization.c.organization_id).limit(wanted.size + 1))
    return [_made(row) for row in rows]


def update(tx: Transaction, changed: Organization) -> None:
    tx.execute(
        organization.update()
        .where(organization.c.organization_id == changed.organization_id)
        .values(display_name=changed.display_name, update_time=changed.update_time)
    )


def limit_seats(tx: Transaction, organization_id: str, purchased: int | None) -> None:
    """Raises SeatLimitBelowUse (decision 4)."""
    fits = sa.true() if purchased is None else seat_pool.c.used <= purchased
    limited = seat_pool.update().where(seat_pool.c.organization_id == organization_id, fits)
    if tx.execute(limited.values(purchased=purchased)).rowcount != 1:
        used = seats(tx, organization_id).used
        raise SeatLimitBelowUse(
            f"{used} seats are in use, more than {purchased}; remove users before you lower the limit", used=str(used)
        )


def seats(tx: Transaction, organization_id: str) -> SeatUsage:
    """Raises OrganizationNotFound."""
    row = tx.execute(sa.select(seat_pool).where(seat_pool.c.organization_id == organization_id)).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization_id)
    return SeatUsage(row.purchased, row.used)


def take_seat(tx: Transaction, organization_id: str) -> None:
    """Takes one if one is free, in one statement: who counts first and takes then takes too many (invariant I-04).

    Raises SeatsExhausted.
    """
    free = sa.or_(seat_pool.c.purchased.is_(None), seat_pool.c.used < seat_pool.c.purchased)
    taken = seat_pool.update().where(seat_pool.c.organization_id == organization_id, free)
    if tx.execute(taken.values(used=seat_pool.c.used + 1)).rowcount != 1:
        raise SeatsExhausted("every purchased seat is taken; an administrator can remove users or raise the seat limit")


def free_seats(tx: Transaction, organization_id: str, count: int) -> None:
    if count:
        freed = seat_pool.update().where(seat_pool.c.organization_id == organization_id)
        tx.execute(freed.values(used=seat_pool.c.used - count))


def check_room(
    tx: Transaction, organization_id: str, table: sa.Table, limit: int, *counted: sa.ColumnElement[bool]
) -> None:
    """Raises LimitReached when the organization, which the caller has locked, has as many such rows as it may have."""
    query = sa.select(sa.func.count()).select_from(table).where(table.c.organization_id == organization_id, *counted)
    if tx.execute(query).scalar_one() >= limit:
        raise LimitReached(
            f"the organization has {limit} of these already; delete or revoke one first", limit=str(limit)
        )

"""Organizations and their seats."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import LimitReached, OrganizationNotFound, SeatLimitBelowUse, SeatsExhausted
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.organizations import (
    DefaultAction,
    Organization,
    OrganizationDeletion,
    SeatUsage,
)
from guardhouse_services.identity.store.tables import (
    deleted_organization,
    organization,
    registration,
    scim_secret,
    seat_pool,
    users,
)
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

_query = sa.select(organization, seat_pool.c.purchased).join(
    seat_pool, seat_pool.c.organization_id == organization.c.organization_id
)


def _made(row: Any) -> Organization:
    return Organization(
        row.organization_id,
        row.display_name,
        row.purchased,
        row.create_time,
        row.update_time,
        DefaultAction(row.default_action),
        device_flow=row.device_flow,
        seat_expiration=row.seat_expiration,
        delete_revoked_after=row.delete_revoked_after,
        multi_user_platforms=tuple(row.multi_user_platforms),
    )


def insert(tx: Transaction, made: Organization) -> None:
    """With a pool in which no seat is taken."""
    _insert(
        tx,
        made.organization_id,
        made.display_name,
        made.create_time,
        made.update_time,
        made.default_action,
        made.device_flow,
        made.seat_expiration,
        made.delete_revoked_after,
        list(made.multi_user_platforms),
    )
    _insert_pool(tx, made.organization_id, made.seat_limit)


@statement
def _insert(
    organization_id: str,
    display_name: str,
    create_time: int,
    update_time: int,
    default_action: int,
    device_flow: bool,
    seat_expiration: int | None,
    delete_revoked_after: int | None,
    multi_user_platforms: list[int],
) -> sa.Executable:
    return organization.insert().values(
        organization_id=organization_id,
        display_name=display_name,
        create_time=create_time,
        update_time=update_time,
        default_action=default_action,
        device_flow=device_flow,
        seat_expiration=seat_expiration,
        delete_revoked_after=delete_revoked_after,
        multi_user_platforms=multi_user_platforms,
    )


@statement
def _insert_pool(organization_id: str, purchased: int | None) -> sa.Executable:
    return seat_pool.insert().values(organization_id=organization_id, purchased=purchased, used=0)


def require(tx: Transaction, organization_id: str, *, lock: bool = False) -> None:
    """With `lock` whoever else asks so waits until the transaction ends. Raises OrganizationNotFound."""
    query = _require_locked if lock else _require
    if query(tx, organization_id).one_or_none() is None:
        raise OrganizationNotFound(organization_id)


@statement
def _require(organization_id: str) -> sa.Select[Any]:
    return sa.select(organization.c.organization_id).where(organization.c.organization_id == organization_id)


@statement
def _require_locked(organization_id: str) -> sa.Select[Any]:
    query = sa.select(organization.c.organization_id).where(organization.c.organization_id == organization_id)
    return query.with_for_update()


def get(tx: Transaction, organization_id: str, *, lock: bool = False) -> Organization:
    """With `lock` nobody else changes it before the transaction ends. Raises OrganizationNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization_id)
    return _made(row)


@statement
def _get(organization_id: str) -> sa.Select[Any]:
    return _query.where(organization.c.organization_id == organization_id)


@statement
def _get_locked(organization_id: str) -> sa.Select[Any]:
    # Both rows: a row that is not locked is read as it was before the wait for the one that is.
    return _query.where(organization.c.organization_id == organization_id).with_for_update()


def page(tx: Transaction, wanted: Page) -> Sequence[Organization]:
    return [_made(row) for row in _page(tx, wanted.after, wanted.size + 1)]


@statement
def _page(after: str, limit: int) -> sa.Select[Any]:
    query = _query.where(organization.c.organization_id > after)
    return query.order_by(organization.c.organization_id).limit(limit)


def update(tx: Transaction, changed: Organization) -> None:
    _update(
        tx,
        changed.organization_id,
        changed.display_name,
        changed.default_action,
        changed.device_flow,
        changed.seat_expiration,
        changed.delete_revoked_after,
        list(changed.multi_user_platforms),
        changed.update_time,
    )


@statement
def _update(
    organization_id: str,
    display_name: str,
    default_action: int,
    device_flow: bool,
    seat_expiration: int | None,
    delete_revoked_after: int | None,
    multi_user_platforms: list[int],
    update_time: int,
) -> sa.Executable:
    changed = organization.update().where(organization.c.organization_id == organization_id)
    return changed.values(
        display_name=display_name,
        default_action=default_action,
        device_flow=device_flow,
        seat_expiration=seat_expiration,
        delete_revoked_after=delete_revoked_after,
        multi_user_platforms=multi_user_platforms,
        update_time=update_time,
    )


def delete(tx: Transaction, of: Organization) -> OrganizationDeletion:
    """Leaves nothing by which the organization, whose lock the caller holds, could be called; the rest goes later."""
    organization_id = of.organization_id
    used = seats(tx, organization_id).used
    counts = _counts(tx, organization_id).one()
    for drop in (_delete, _delete_pool, _delete_secrets):
        drop(tx, organization_id)
    _note_deletion(tx, organization_id, tx.now)
    # Each registration holds an address of either family.
    return OrganizationDeletion(of, counts.users, used, counts.registrations, 2 * counts.unreleased)


@statement
def _counts(organization_id: str) -> sa.Select[Any]:
    seen = sa.select(sa.func.count()).where(
        registration.c.organization_id == organization_id, registration.c.authorize_revision > 0
    )
    live = seen.where(registration.c.delete_time.is_(None)).scalar_subquery().label("registrations")
    unreleased = seen.where(registration.c.release_time.is_(None)).scalar_subquery().label("unreleased")
    known = sa.select(sa.func.count()).where(
        users.c.organization_id == organization_id, users.c.authenticate_time.is_not(None)
    )
    return sa.select(known.scalar_subquery().label("users"), live, unreleased)


@statement
def _delete(organization_id: str) -> sa.Executable:
    return organization.delete().where(organization.c.organization_id == organization_id)


@statement
def _delete_pool(organization_id: str) -> sa.Executable:
    return seat_pool.delete().where(seat_pool.c.organization_id == organization_id)


@statement
def _delete_secrets(organization_id: str) -> sa.Executable:
    return scim_secret.delete().where(scim_secret.c.organization_id == organization_id)


@statement
def _note_deletion(organization_id: str, delete_time: int) -> sa.Executable:
    return deleted_organization.insert().values(organization_id=organization_id, delete_time=delete_time)


def page_of_deleted(tx: Transaction, wanted: Page) -> Sequence[str]:
    """The ids of those that are gone."""
    return _page_of_deleted(tx, wanted.after, wanted.size + 1).scalars().all()


@statement
def _page_of_deleted(after: str, limit: int) -> sa.Select[Any]:
    gone = sa.select(deleted_organization.c.organization_id).where(deleted_organization.c.organization_id > after)
    return gone.order_by(deleted_organization.c.organization_id).limit(limit)


def limit_seats(tx: Transaction, organization_id: str, purchased: int | None) -> None:
    """Raises SeatLimitBelowUse (decision 4)."""
    limited = _unlimit(tx, organization_id) if purchased is None else _limit(tx, organization_id, purchased)
    if limited.rowcount != 1:
        used = seats(tx, organization_id).used
        raise SeatLimitBelowUse(
            f"{used} seats are in use, more than {purchased}; remove users before you lower the limit", used=str(used)
        )


@statement
def _limit(organization_id: str, purchased: int) -> sa.Executable:
    fits = seat_pool.c.used <= purchased
    limited = seat_pool.update().where(seat_pool.c.organization_id == organization_id, fits)
    return limited.values(purchased=purchased)


@statement
def _unlimit(organization_id: str) -> sa.Executable:
    return seat_pool.update().where(seat_pool.c.organization_id == organization_id).values(purchased=None)


def seats(tx: Transaction, organization_id: str) -> SeatUsage:
    """Raises OrganizationNotFound."""
    row = _seats(tx, organization_id).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization_id)
    return SeatUsage(row.purchased, row.used)


@statement
def _seats(organization_id: str) -> sa.Select[Any]:
    return sa.select(seat_pool).where(seat_pool.c.organization_id == organization_id)


def take_seat(tx: Transaction, organization_id: str) -> None:
    """Takes one if one is free, in one statement: who counts first and takes then takes too many (invariant I-04).

    Raises SeatsExhausted, and OrganizationNotFound for one that was deleted a moment ago.
    """
    if _take_seat(tx, organization_id).rowcount != 1:
        seats(tx, organization_id)
        raise SeatsExhausted("every purchased seat is taken; an administrator can remove users or raise the seat limit")


@statement
def _take_seat(organization_id: str) -> sa.Executable:
    free = sa.or_(seat_pool.c.purchased.is_(None), seat_pool.c.used < seat_pool.c.purchased)
    taken = seat_pool.update().where(seat_pool.c.organization_id == organization_id, free)
    return taken.values(used=seat_pool.c.used + 1)


def free_seats(tx: Transaction, organization_id: str, count: int) -> None:
    if count:
        _free_seats(tx, organization_id, count)


@statement
def _free_seats(organization_id: str, count: int) -> sa.Executable:
    freed = seat_pool.update().where(seat_pool.c.organization_id == organization_id)
    return freed.values(used=seat_pool.c.used - count)


def check_room(
    tx: Transaction, organization_id: str, table: sa.Table, limit: int, *counted: sa.ColumnElement[bool]
) -> None:
    """Raises LimitReached when the organization, which the caller has locked, has as many such rows as it may have."""
    query = sa.select(sa.func.count()).select_from(table).where(table.c.organization_id == organization_id, *counted)
    if tx.execute(query).scalar_one() >= limit:
        raise LimitReached(
            f"the organization has {limit} of these already; delete or revoke one first", limit=str(limit)
        )

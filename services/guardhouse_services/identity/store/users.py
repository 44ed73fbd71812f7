"""Users. Whoever changes a user, or what the user's seat depends on, holds the user's lock."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import UserNotFound
from guardhouse.rules import folded
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import Person, Profile
from guardhouse_services.identity.domain.enrollments import IntentState
from guardhouse_services.identity.domain.users import SeatEvent, User
from guardhouse_services.identity.store.tables import intent, users
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, chunks, statement

_PLAIN = tuple(field.name for field in fields(User) if field.name != "profile")
_SAVE = users.update().where(
    users.c.organization_id == sa.bindparam("the_organization_id"), users.c.user_id == sa.bindparam("the_user_id")
)


def made(row: Any) -> User:
    profile = Profile(row.email, row.display_name, tuple(row.groups), tuple(row.oidc_claims), tuple(row.methods))
    plain = {name: getattr(row, name) for name in _PLAIN}
    return User(profile=profile, **{**plain, "seat_event": SeatEvent(row.seat_event)})


def _values(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in _PLAIN} | {
        "email": user.profile.email,
        "email_key": folded(user.profile.email),
        "display_name": user.profile.display_name,
        "groups": list(user.profile.groups),
        "oidc_claims": list(user.profile.claims),
        "methods": list(user.profile.methods),
    }


def get(tx: Transaction, organization_id: str, user_id: str) -> User:
    """Authenticated or not. Raises UserNotFound."""
    if (row := _get(tx, organization_id, user_id).one_or_none()) is None:
        raise UserNotFound(user_id)
    return made(row)


@statement
def _get(organization_id: str, user_id: str) -> sa.Select[Any]:
    return sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id == user_id)


def find(tx: Transaction, organization_id: str, person: Person, *, lock: bool = False) -> User | None:
    """Whoever has the person's issuer and subject, bytewise (decision 1), authenticated before or not."""
    query = _find_locked if lock else _find
    row = query(tx, organization_id, person.issuer, person.subject).one_or_none()
    return made(row) if row else None


def _of_person(organization_id: str, issuer: str, subject: str) -> sa.Select[Any]:
    return sa.select(users).where(
        users.c.organization_id == organization_id, users.c.issuer == issuer, users.c.subject == subject
    )


@statement
def _find(organization_id: str, issuer: str, subject: str) -> sa.Select[Any]:
    return _of_person(organization_id, issuer, subject)


@statement
def _find_locked(organization_id: str, issuer: str, subject: str) -> sa.Select[Any]:
    return _of_person(organization_id, issuer, subject).with_for_update()


def lock_or_create(tx: Transaction, organization_id: str, person: Person, user_id: str) -> tuple[User, bool]:
    """The person's user, locked, and whether it was made now, with this id."""
    new = User(user_id, person.issuer, person.subject, person.profile)
    values = {"organization_id": organization_id, **_values(new)}
    if tx.execute(_create(tx.insert), values).one_or_none() is not None:
        # Nobody else sees the row before the transaction ends.
        return new, True
    user = find(tx, organization_id, person, lock=True)
    if user is None:
        raise AssertionError("unreachable: nobody deletes users")
    return user, False


@cache
def _create(insert: Insert) -> sa.Executable:
    """Of the values that it is run with."""
    return insert(users).on_conflict_do_nothing().returning(users.c.user_id)


def lock(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> list[User]:
    """Those there are of these ids, authenticated or not, locked in the order in which everybody locks them."""
    found = []
    for ids in chunks(sorted(set(user_ids))):
        found += [made(row) for row in _lock(tx, organization_id, ids)]
    return found


@statement
def _lock(organization_id: str, user_ids: Sequence[str]) -> sa.Select[Any]:
    query = sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id.in_(user_ids))
    return query.order_by(users.c.user_id).with_for_update()


def count_of_issuer(tx: Transaction, organization_id: str, issuer: str) -> int:
    """Those who have authenticated at an identity provider."""
    return int(_count_of_issuer(tx, organization_id, issuer).scalar_one())


@statement
def _count_of_issuer(organization_id: str, issuer: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(
        users.c.organization_id == organization_id, users.c.issuer == issuer, users.c.authenticate_time.is_not(None)
    )


def lock_everybody(tx: Transaction, organization_id: str) -> list[User]:
    """Everybody who has authenticated or is enrolling for the first time, locked."""
    return [made(row) for row in _lock_everybody(tx, organization_id)]


@statement
def _lock_everybody(organization_id: str) -> sa.Select[Any]:
    enrolling = sa.select(intent.c.user_id).where(
        intent.c.organization_id == organization_id, intent.c.state == IntentState.RESERVED
    )
    query = sa.select(users).where(
        users.c.organization_id == organization_id,
        sa.or_(users.c.authenticate_time.is_not(None), users.c.user_id.in_(enrolling)),
    )
    return query.order_by(users.c.user_id).with_for_update()


def page(
    tx: Transaction, organization_id: str, wanted: Page, email: str = "", has_seat: bool | None = None
) -> Sequence[User]:
    """Users who have authenticated; of this address, whatever the case of its letters; with or without a seat."""
    query = sa.select(users).where(
        users.c.organization_id == organization_id,
        users.c.user_id > wanted.after,
        users.c.authenticate_time.is_not(None),
    )
    if email:
        query = query.where(users.c.email_key == folded(email))
    if has_seat is not None:
        query = query.where(users.c.seat_time.is_not(None) if has_seat else users.c.seat_time.is_(None))
    return [made(row) for row in tx.execute(query.order_by(users.c.user_id).limit(wanted.size + 1))]


def page_of_all(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[User]:
    """For the feed: followers know a user before the enrollment that made it has succeeded."""
    return [made(row) for row in _page_of_all(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page_of_all(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id > after)
    return query.order_by(users.c.user_id).limit(limit)


def save(tx: Transaction, organization_id: str, changed: Iterable[User]) -> None:
    rows = [{"the_organization_id": organization_id, "the_user_id": user.user_id, **_values(user)} for user in changed]
    if rows:
        tx.execute(_SAVE, rows)

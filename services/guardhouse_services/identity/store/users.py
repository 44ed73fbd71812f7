"""Users. Whoever changes a user, or what the user's seat depends on, holds the user's lock."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import UserNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import Person, Profile
from guardhouse_services.identity.domain.enrollment_policies import folded
from guardhouse_services.identity.domain.enrollments import IntentState
from guardhouse_services.identity.domain.users import User
from guardhouse_services.identity.store.tables import chunks, intent, users
from guardhouse_services.paging import Page

_PLAIN = tuple(field.name for field in fields(User) if field.name != "profile")


def _made(row: Any) -> User:
    profile = Profile(row.email, row.display_name, tuple(row.groups))
    return User(profile=profile, **{name: getattr(row, name) for name in _PLAIN})


def _values(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in _PLAIN} | {
        "email": user.profile.email,
        "email_key": folded(user.profile.email),
        "display_name": user.profile.display_name,
        "groups": list(user.profile.groups),
    }


def get(tx: Transaction, organization_id: str, user_id: str) -> User:
    """Authenticated or not. Raises UserNotFound."""
    query = sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id == user_id)
    if (row := tx.execute(query).one_or_none()) is None:
        raise UserNotFound(user_id)
    return _made(row)


def find(tx: Transaction, organization_id: str, person: Person, *, lock: bool = False) -> User | None:
    """Whoever has the person's issuer and subject, bytewise (decision 1), authenticated before or not."""
    query = sa.select(users).where(
        users.c.organization_id == organization_id,
        users.c.issuer == person.issuer,
        users.c.subject == person.subject,
    )
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return _made(row) if row else None


def lock_or_create(tx: Transaction, organization_id: str, person: Person, user_id: str) -> tuple[User, bool]:
    """The person's user, locked, and whether it was made now, with this id."""
    new = User(user_id, person.issuer, person.subject, person.profile)
    values = {"organization_id": organization_id, **_values(new)}
    statement = tx.insert(users).values(values).on_conflict_do_nothing()
    is_new = tx.execute(statement.returning(users.c.user_id)).one_or_none() is not None
    user = find(tx, organization_id, person, lock=True)
    if user is None:
        raise AssertionError("unreachable: nobody deletes users")
    return user, is_new


def lock(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> list[User]:
    """Those there are of these ids, authenticated or not, locked in the order in which everybody locks them."""
    found = []
    for ids in chunks(sorted(set(user_ids))):
        query = sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id.in_(ids))
        found += [_made(row) for row in tx.execute(query.order_by(users.c.user_id).with_for_update())]
    return found


def count_of_issuer(tx: Transaction, organization_id: str, issuer: str) -> int:
    """Those who have authenticated at an identity provider."""
    query = sa.select(sa.func.count()).where(
        users.c.organization_id == organization_id, users.c.issuer == issuer, users.c.authenticate_time.is_not(None)
    )
    return int(tx.execute(query).scalar_one())


def lock_everybody(tx: Transaction, organization_id: str) -> list[User]:
    """Everybody who has authenticated or is enrolling for the first time, locked."""
    enrolling = sa.select(intent.c.user_id).where(
        intent.c.organization_id == organization_id, intent.c.state == IntentState.RESERVED
    )
    query = sa.select(users).where(
        users.c.organization_id == organization_id,
        sa.or_(users.c.authenticate_time.is_not(None), users.c.user_id.in_(enrolling)),
    )
    return [_made(row) for row in tx.execute(query.order_by(users.c.user_id).with_for_update())]


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
    return [_made(row) for row in tx.execute(query.order_by(users.c.user_id).limit(wanted.size + 1))]


def page_of_all(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[User]:
    """For the feed: followers know a user before the enrollment that made it has succeeded."""
    query = sa.select(users).where(users.c.organization_id == organization_id, users.c.user_id > wanted.after)
    return [_made(row) for row in tx.execute(query.order_by(users.c.user_id).limit(wanted.size + 1))]


def save(tx: Transaction, organization_id: str, changed: Iterable[User]) -> None:
    rows = [{"key": user.user_id, **_values(user)} for user in changed]
    if rows:
        statement = users.update().where(
            users.c.organization_id == organization_id, users.c.user_id == sa.bindparam("key")
        )
        tx.execute(statement.values({name: sa.bindparam(name) for name in rows[0] if name != "key"}), rows)

"""What the system did to users of its own accord, and what of it waits for approval.

Whoever counts or adds here holds the organization's lock.
"""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import HeldActionNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.held_actions import Effect, HeldAction, HeldState
from guardhouse_services.identity.store.tables import automatic_action, chunks, held_action, held_user
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, statement, upsert

LISTED = 100
"""How many users, and how many removals, of a held action are named."""
_ENDED = (HeldState.REJECTED, HeldState.DONE)


def passed(tx: Transaction, organization_id: str, after: int) -> dict[str, bool]:
    """To whom something was done after a time, and whether it freed their seats."""
    return {row.user_id: row.frees_seat for row in _passed(tx, organization_id, after)}


@statement
def _passed(organization_id: str, after: int) -> sa.Select[Any]:
    return sa.select(automatic_action.c.user_id, automatic_action.c.frees_seat).where(
        automatic_action.c.organization_id == organization_id, automatic_action.c.action_time > after
    )


def note(tx: Transaction, organization_id: str, user_ids: Collection[str], *, frees_seat: bool) -> None:
    """Notes that something is done to these users now."""
    for user_id in sorted(set(user_ids)):
        _note(tx, organization_id, user_id, tx.now, frees_seat)


@upsert
def _note(insert: Insert, organization_id: str, user_id: str, action_time: int, frees_seat: bool) -> sa.Executable:
    values = {"action_time": action_time, "frees_seat": frees_seat}
    noted = insert(automatic_action).values(organization_id=organization_id, user_id=user_id, **values)
    return noted.on_conflict_do_update(index_elements=["organization_id", "user_id"], set_=values)


def waiting(tx: Transaction, organization_id: str, source: str, effect: Effect) -> str:
    """The id of what of this source waits already; empty: nothing does."""
    return str(_waiting(tx, organization_id, source, effect.value).scalar() or "")


@statement
def _waiting(organization_id: str, source: str, effect: int) -> sa.Select[Any]:
    return sa.select(held_action.c.held_action_id).where(
        held_action.c.organization_id == organization_id,
        held_action.c.source == source,
        held_action.c.effect == effect,
        held_action.c.state == HeldState.WAITING,
    )


def insert(tx: Transaction, organization_id: str, made: HeldAction) -> None:
    _insert(tx, organization_id, made.held_action_id, made.source, made.effect.value, made.state.value, tx.now)


@statement
def _insert(
    organization_id: str, held_action_id: str, source: str, effect: int, state: int, create_time: int
) -> sa.Executable:
    return held_action.insert().values(
        organization_id=organization_id,
        held_action_id=held_action_id,
        source=source,
        effect=effect,
        state=state,
        create_time=create_time,
    )


def add(tx: Transaction, organization_id: str, held_action_id: str, user_ids: Collection[str]) -> list[str]:
    """Adds users; answers those who were not there yet."""
    added: list[str] = []
    for ids in chunks(sorted(set(user_ids))):
        rows = [
            {
                "organization_id": organization_id,
                "held_action_id": held_action_id,
                "user_id": user_id,
                "hold_time": tx.now,
                "removal_id": "",
            }
            for user_id in ids
        ]
        insert_rows = tx.insert(held_user).values(rows).on_conflict_do_nothing().returning(held_user.c.user_id)
        added += tx.execute(insert_rows).scalars()
    return added


def drop(tx: Transaction, organization_id: str, source: str, user_ids: Collection[str]) -> None:
    """Takes users out of what of this source waits."""
    for ids in chunks(sorted(set(user_ids))):
        _drop(tx, organization_id, source, ids)


@statement
def _drop(organization_id: str, source: str, user_ids: Sequence[str]) -> sa.Executable:
    waits = sa.select(held_action.c.held_action_id).where(
        held_action.c.organization_id == organization_id,
        held_action.c.source == source,
        held_action.c.state == HeldState.WAITING,
    )
    return held_user.delete().where(
        held_user.c.organization_id == organization_id,
        held_user.c.held_action_id.in_(waits),
        held_user.c.user_id.in_(user_ids),
    )


def get(tx: Transaction, organization_id: str, held_action_id: str, *, lock: bool = False) -> HeldAction:
    """With `lock` nobody else decides about it meanwhile. Raises HeldActionNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, held_action_id).one_or_none()
    if row is None:
        raise HeldActionNotFound(held_action_id)
    return _made(tx, row)


@statement
def _get(organization_id: str, held_action_id: str) -> sa.Select[Any]:
    return sa.select(held_action).where(
        held_action.c.organization_id == organization_id, held_action.c.held_action_id == held_action_id
    )


@statement
def _get_locked(organization_id: str, held_action_id: str) -> sa.Select[Any]:
    query = sa.select(held_action).where(
        held_action.c.organization_id == organization_id, held_action.c.held_action_id == held_action_id
    )
    return query.with_for_update()


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[HeldAction]:
    return [_made(tx, row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1).all()]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(held_action).where(
        held_action.c.organization_id == organization_id, held_action.c.held_action_id > after
    )
    return query.order_by(held_action.c.held_action_id).limit(limit)


def _made(tx: Transaction, row: Any) -> HeldAction:
    key = row.organization_id, row.held_action_id
    counts = _counts(tx, *key).one()
    return HeldAction(
        held_action_id=row.held_action_id,
        source=row.source,
        effect=Effect(row.effect),
        state=HeldState(row.state),
        create_time=row.create_time,
        decide_time=row.decide_time,
        users=counts.users,
        users_done=counts.done,
        user_ids=tuple(_users(tx, *key, LISTED).scalars()),
        removal_ids=tuple(_removals(tx, *key, LISTED).scalars()),
    )


def _of(organization_id: str, held_action_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(held_user.c.organization_id == organization_id, held_user.c.held_action_id == held_action_id)


@statement
def _counts(organization_id: str, held_action_id: str) -> sa.Executable:
    counts = sa.select(sa.func.count().label("users"), sa.func.count(held_user.c.done_time).label("done"))
    return counts.where(_of(organization_id, held_action_id))


@statement
def _users(organization_id: str, held_action_id: str, limit: int) -> sa.Select[Any]:
    query = sa.select(held_user.c.user_id).where(_of(organization_id, held_action_id))
    return query.order_by(held_user.c.user_id).limit(limit)


@statement
def _removals(organization_id: str, held_action_id: str, limit: int) -> sa.Select[Any]:
    query = sa.select(held_user.c.removal_id).where(_of(organization_id, held_action_id), held_user.c.removal_id != "")
    return query.distinct().order_by(held_user.c.removal_id).limit(limit)


def move(tx: Transaction, organization_id: str, held_action_id: str, to: HeldState) -> None:
    if to is HeldState.DONE:
        _end(tx, organization_id, held_action_id, to.value)
    else:
        _decide(tx, organization_id, held_action_id, to.value, tx.now)


@statement
def _decide(organization_id: str, held_action_id: str, state: int, decide_time: int) -> sa.Executable:
    decided = held_action.update().where(
        held_action.c.organization_id == organization_id, held_action.c.held_action_id == held_action_id
    )
    return decided.values(state=state, decide_time=decide_time)


@statement
def _end(organization_id: str, held_action_id: str, state: int) -> sa.Executable:
    ended = held_action.update().where(
        held_action.c.organization_id == organization_id, held_action.c.held_action_id == held_action_id
    )
    return ended.values(state=state)


def approved(tx: Transaction, limit: int) -> Sequence[tuple[str, str]]:
    """(organization_id, held_action_id) of what is to be carried out, of every organization."""
    return [(row.organization_id, row.held_action_id) for row in _approved(tx, limit)]


@statement
def _approved(limit: int) -> sa.Select[Any]:
    query = sa.select(held_action.c.organization_id, held_action.c.held_action_id)
    query = query.where(held_action.c.state == HeldState.APPROVED)
    return query.order_by(held_action.c.decide_time, held_action.c.held_action_id).limit(limit)


def left(tx: Transaction, organization_id: str, held_action_id: str, limit: int) -> dict[str, int]:
    """Users to whom it is still to be done, and since when they are held."""
    return {row.user_id: row.hold_time for row in _left(tx, organization_id, held_action_id, limit)}


@statement
def _left(organization_id: str, held_action_id: str, limit: int) -> sa.Select[Any]:
    query = sa.select(held_user.c.user_id, held_user.c.hold_time)
    query = query.where(_of(organization_id, held_action_id), held_user.c.done_time.is_(None))
    return query.order_by(held_user.c.user_id).limit(limit)


def finish(
    tx: Transaction, organization_id: str, held_action_id: str, user_ids: Sequence[str], removal_id: str
) -> None:
    """Notes that it is done to these users, by this removal if it was one."""
    for ids in chunks(user_ids):
        _finish(tx, organization_id, held_action_id, ids, removal_id, tx.now)


@statement
def _finish(
    organization_id: str, held_action_id: str, user_ids: Sequence[str], removal_id: str, done_time: int
) -> sa.Executable:
    finished = held_user.update().where(_of(organization_id, held_action_id), held_user.c.user_id.in_(user_ids))
    return finished.values(done_time=done_time, removal_id=removal_id)


def forget(tx: Transaction, passed_before: int, ended_before: int, limit: int) -> int:
    """Deletes what is too old to matter, in every organization; answers how many rows of one kind at most."""
    return max(
        _forget_passed(tx, passed_before, limit).rowcount,
        _forget_users(tx, ended_before, limit).rowcount,
        _forget_ended(tx, ended_before, limit).rowcount,
    )


@statement
def _forget_passed(before: int, limit: int) -> sa.Executable:
    old = sa.select(automatic_action.c.organization_id, automatic_action.c.user_id)
    key = sa.tuple_(automatic_action.c.organization_id, automatic_action.c.user_id)
    return automatic_action.delete().where(key.in_(old.where(automatic_action.c.action_time < before).limit(limit)))


@statement
def _forget_users(before: int, limit: int) -> sa.Executable:
    of_ended = sa.and_(
        held_action.c.organization_id == held_user.c.organization_id,
        held_action.c.held_action_id == held_user.c.held_action_id,
        held_action.c.state.in_(_ENDED),
        held_action.c.decide_time < before,
    )
    old = sa.select(held_user.c.organization_id, held_user.c.held_action_id, held_user.c.user_id)
    key = sa.tuple_(held_user.c.organization_id, held_user.c.held_action_id, held_user.c.user_id)
    return held_user.delete().where(key.in_(old.join(held_action, of_ended).limit(limit)))


@statement
def _forget_ended(before: int, limit: int) -> sa.Executable:
    users_left = sa.select(held_user.c.user_id).where(
        held_user.c.organization_id == held_action.c.organization_id,
        held_user.c.held_action_id == held_action.c.held_action_id,
    )
    old = sa.select(held_action.c.organization_id, held_action.c.held_action_id).where(
        held_action.c.state.in_(_ENDED), held_action.c.decide_time < before, ~users_left.exists()
    )
    key = sa.tuple_(held_action.c.organization_id, held_action.c.held_action_id)
    return held_action.delete().where(key.in_(old.limit(limit)))

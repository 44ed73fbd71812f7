"""What enrollments under way have reserved, what became of them, and the ID tokens that were used up."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import Conflict, IdTokenInvalid
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.credentials import Profile
from guardhouse_services.identity.domain.enrollments import UNDECIDED, Intent, IntentState
from guardhouse_services.identity.store.tables import intent, used_token
from guardhouse_services.statements import Insert, chunks, statement, upsert

_INSERT = intent.insert()


def _made(row: Any) -> Intent:
    return Intent(
        intent_id=row.intent_id,
        state=IntentState(row.state),
        create_time=row.create_time,
        ask_time=row.ask_time,
        user_id=row.user_id,
        service_token_id=row.service_token_id,
        enrollment_policy_id=row.enrollment_policy_id,
        profile=Profile(row.email, row.display_name, tuple(row.groups), tuple(row.oidc_claims), tuple(row.methods)),
        authenticate_time=row.authenticate_time,
        authorize_revision=row.authorize_revision,
        expire_after=row.expire_after,
    )


def insert(tx: Transaction, organization_id: str, made: Intent) -> None:
    """Raises Conflict when the same intent is being dealt with at this moment: done again, it is found."""
    try:
        tx.execute(
            _INSERT,
            {
                "organization_id": organization_id,
                "intent_id": made.intent_id,
                "state": made.state.value,
                "user_id": made.user_id,
                "service_token_id": made.service_token_id,
                "enrollment_policy_id": made.enrollment_policy_id,
                "email": made.profile.email,
                "display_name": made.profile.display_name,
                "groups": list(made.profile.groups),
                "oidc_claims": list(made.profile.claims),
                "methods": list(made.profile.methods),
                "authenticate_time": made.authenticate_time,
                "authorize_revision": made.authorize_revision,
                "create_time": made.create_time,
                "ask_time": made.ask_time,
                "end_time": tx.now if made.ask_time is None else None,
                "expire_after": made.expire_after,
            },
        )
    except IntegrityError:
        raise Conflict("the same enrollment is being dealt with at this moment; retry") from None


def get(tx: Transaction, organization_id: str, intent_id: str) -> Intent | None:
    row = _get(tx, organization_id, intent_id).one_or_none()
    return _made(row) if row else None


@statement
def _get(organization_id: str, intent_id: str) -> sa.Select[Any]:
    return sa.select(intent).where(intent.c.organization_id == organization_id, intent.c.intent_id == intent_id)


def named(tx: Transaction, organization_id: str, intent_ids: Collection[str]) -> list[Intent]:
    """Those there are of these ids."""
    found = []
    for ids in chunks(sorted(intent_ids)):
        found += [_made(row) for row in _named(tx, organization_id, ids)]
    return found


@statement
def _named(organization_id: str, intent_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(intent).where(intent.c.organization_id == organization_id, intent.c.intent_id.in_(intent_ids))


def undecided(tx: Transaction, organization_id: str, intent_ids: Collection[str]) -> list[Intent]:
    """Those of these intents whose outcome is still the registry's to tell."""
    return [intent for intent in named(tx, organization_id, intent_ids) if intent.is_undecided]


def reserved_by(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> list[Intent]:
    """The intents for which seats of these users, whom the caller has locked, are reserved."""
    found = []
    for ids in chunks(sorted(user_ids)):
        found += [_made(row) for row in _reserved_by(tx, organization_id, ids)]
    return found


@statement
def _reserved_by(organization_id: str, user_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(intent).where(
        intent.c.organization_id == organization_id,
        intent.c.user_id.in_(user_ids),
        intent.c.state == IntentState.RESERVED,
    )


def undecided_of(tx: Transaction, organization_id: str, user_id: str) -> bool:
    """Whether an enrollment of the user may still become a registration."""
    return _undecided_of(tx, organization_id, user_id).first() is not None


@statement
def _undecided_of(organization_id: str, user_id: str) -> sa.Select[Any]:
    return sa.select(intent.c.intent_id).where(
        intent.c.organization_id == organization_id, intent.c.user_id == user_id, intent.c.state.in_(UNDECIDED)
    )


def erase(tx: Transaction, organization_id: str, user_id: str) -> None:
    """Forgets who it was that enrolled."""
    _erase(tx, organization_id, user_id)


@statement
def _erase(organization_id: str, user_id: str) -> sa.Executable:
    of_user = intent.update().where(intent.c.organization_id == organization_id, intent.c.user_id == user_id)
    return of_user.values(email="", display_name="", groups=[], oidc_claims=[], methods=[])


def _update(organization_id: str, intent_ids: Sequence[str]) -> sa.Update:
    """Of the undecided ones among them."""
    return intent.update().where(
        intent.c.organization_id == organization_id,
        intent.c.intent_id.in_(intent_ids),
        intent.c.state.in_(UNDECIDED),
    )


def move(tx: Transaction, organization_id: str, intent_ids: Collection[str], to: IntentState) -> list[str]:
    """Moves the undecided ones among them; answers which (invariant I-12)."""
    moved: list[str] = []
    for ids in chunks(sorted(intent_ids)):
        # A removed one is still asked about.
        if to in UNDECIDED:
            moved += _move(tx, organization_id, ids, to.value).scalars()
        else:
            moved += _end(tx, organization_id, ids, to.value, tx.now).scalars()
    return moved


@statement
def _move(organization_id: str, intent_ids: Sequence[str], to: int) -> sa.Executable:
    return _update(organization_id, intent_ids).values(state=to).returning(intent.c.intent_id)


@statement
def _end(organization_id: str, intent_ids: Sequence[str], to: int, end_time: int) -> sa.Executable:
    ended = _update(organization_id, intent_ids).values(state=to, ask_time=None, end_time=end_time)
    return ended.returning(intent.c.intent_id)


def to_ask(tx: Transaction, limit: int) -> Sequence[tuple[str, str]]:
    """(organization_id, intent_id) of undecided intents that have waited long enough, of every organization."""
    return [(row.organization_id, row.intent_id) for row in _to_ask(tx, tx.now, limit)]


@statement
def _to_ask(now: int, limit: int) -> sa.Select[Any]:
    waited = sa.select(intent.c.organization_id, intent.c.intent_id).where(intent.c.ask_time <= now)
    return waited.order_by(intent.c.ask_time).limit(limit)


def ask_later(tx: Transaction, organization_id: str, intent_id: str, ask_time: int) -> None:
    _ask_later(tx, organization_id, intent_id, ask_time)


@statement
def _ask_later(organization_id: str, intent_id: str, ask_time: int) -> sa.Executable:
    undecided = intent.update().where(
        intent.c.organization_id == organization_id,
        intent.c.intent_id == intent_id,
        intent.c.ask_time.is_not(None),
    )
    return undecided.values(ask_time=ask_time)


def use_token(tx: Transaction, organization_id: str, token_hash: bytes, use: str) -> None:
    """Uses up an ID token for one request; the same one may use it again (decision 27). Raises IdTokenInvalid."""
    is_new = _use_token(tx, organization_id, token_hash, use, tx.now).one_or_none() is not None
    if not is_new and _use_of(tx, organization_id, token_hash).scalar_one() != use:
        raise IdTokenInvalid(detail="replayed: the ID token was used for another request")


@upsert
def _use_token(insert: Insert, organization_id: str, token_hash: bytes, use: str, use_time: int) -> sa.Executable:
    wanted = insert(used_token).values(
        organization_id=organization_id, token_hash=token_hash, use=use, use_time=use_time
    )
    return wanted.on_conflict_do_nothing().returning(used_token.c.use_time)


@statement
def _use_of(organization_id: str, token_hash: bytes) -> sa.Select[Any]:
    return sa.select(used_token.c.use).where(
        used_token.c.organization_id == organization_id, used_token.c.token_hash == token_hash
    )


def forget(tx: Transaction, ended_before: int, used_before: int, limit: int) -> int:
    """Deletes what is too old to matter, in every organization; answers how many rows of one kind at most."""
    return max(_forget_ended(tx, ended_before, limit).rowcount, _forget_used(tx, used_before, limit).rowcount)


@statement
def _forget_ended(before: int, limit: int) -> sa.Executable:
    ended = sa.select(intent.c.organization_id, intent.c.intent_id).where(intent.c.end_time < before)
    key = sa.tuple_(intent.c.organization_id, intent.c.intent_id)
    return intent.delete().where(key.in_(ended.limit(limit)))


@statement
def _forget_used(before: int, limit: int) -> sa.Executable:
    used = sa.select(used_token.c.organization_id, used_token.c.token_hash).where(used_token.c.use_time < before)
    key = sa.tuple_(used_token.c.organization_id, used_token.c.token_hash)
    return used_token.delete().where(key.in_(used.limit(limit)))

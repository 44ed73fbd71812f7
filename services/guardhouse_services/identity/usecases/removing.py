"""Removing and revoking users (decision 5), whoever asks for it: a person, a SCIM client, the expiration of seats.

Between the two steps of a removal the caller puts the change on record: the head comes last.
"""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.ids import REMOVAL, new_id
from guardhouse_services.database import Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.enrollments import IntentState
from guardhouse_services.identity.domain.seats import FreeCause
from guardhouse_services.identity.domain.users import Removal, User
from guardhouse_services.identity.usecases.history import publish


def begin(
    tx: Transaction, organization_id: str, users: Sequence[User], cause: FreeCause = FreeCause.REMOVED
) -> Removal:
    """Frees the seats of these users, whom the caller has locked, and refuses their enrollments under way."""
    ids = [user.user_id for user in users]
    reserved = store.intents.reserved_by(tx, organization_id, ids)
    intents = [intent.intent_id for intent in reserved]
    seated = {user.user_id for user in users if user.seat_time is not None}
    seated.update(intent.user_id for intent in reserved)
    store.intents.move(tx, organization_id, intents, IntentState.REMOVED)
    store.organizations.free_seats(tx, organization_id, len(seated))
    removal = Removal(new_id(REMOVAL, tx.now), tx.now, len(users), len(seated))
    store.seats.note_freed(tx, organization_id, users, removal.removal_id, cause)
    registrations = store.registrations.live_of(tx, organization_id, ids)
    store.removals.insert(tx, organization_id, removal, {*registrations, *intents})
    return store.removals.get(tx, organization_id, removal.removal_id)


def finish(
    tx: Transaction, organization_id: str, users: Sequence[User], removal_id: str, *, block: bool = False
) -> tuple[list[User], str]:
    """Tells everybody: sessions end, and the registrations go. The users, blocked if wanted, and the revision token."""
    failpoint("identity.removing")
    revision = tx.advance(organization_id)
    removed = [
        replace(user.removed(revision, removal_id), block_time=tx.now if block else user.block_time) for user in users
    ]
    store.users.save(tx, organization_id, removed)
    return removed, publish(tx, organization_id, [messages.user_event(user) for user in removed], revision)


def revoke(
    tx: Transaction, organization_id: str, users: Sequence[User], *, revoke_registrations: bool = False
) -> tuple[list[User], str]:
    """Ends the sessions of these users, whom the caller has locked; their seats stay. The users and the token."""
    revision = tx.advance(organization_id)
    revoked = [
        replace(
            user,
            revoked_revision=revision,
            registrations_revoked_revision=revision if revoke_registrations else user.registrations_revoked_revision,
        )
        for user in users
    ]
    store.users.save(tx, organization_id, revoked)
    return revoked, publish(tx, organization_id, [messages.user_event(user) for user in revoked], revision)

"""One seat a user (decision 2, invariant I-05).

A user's seat is counted once: while it is held for good, or while an undecided enrollment reserves it. Everything here
is done under the user's lock.
"""

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.enrollments import Intent, IntentState
from guardhouse_services.identity.domain.users import SeatEvent, User


def has_seat(tx: Transaction, organization_id: str, user: User) -> bool:
    """Whether the user's seat is counted."""
    return user.seat_time is not None or bool(store.intents.reserved_by(tx, organization_id, [user.user_id]))


def take(tx: Transaction, organization_id: str, user: User, *, is_new: bool = False) -> None:
    """Counts the user's seat, unless it is counted, which nobody's is who was made in this transaction.

    Raises SeatsExhausted (decision 3).
    """
    if is_new or not has_seat(tx, organization_id, user):
        store.organizations.take_seat(tx, organization_id)


def cancel(tx: Transaction, organization_id: str, intent_id: str) -> bool:
    """Ends an intent for good; its user's seat goes, unless something else keeps it. Whether that changed anything.

    Called for nothing but an outcome that the registry has made durable: a timer, or what a snapshot lacks, frees
    nothing.
    """
    intent = store.intents.get(tx, organization_id, intent_id)
    if intent is None:
        # It may still be on its way here.
        ended = Intent(intent_id, IntentState.CANCELLED, create_time=tx.now)
        store.intents.insert(tx, organization_id, ended)
        return True
    users = store.users.lock(tx, organization_id, [intent.user_id]) if intent.user_id else []
    changed = False
    for undecided in store.intents.undecided(tx, organization_id, [intent_id]):
        if store.intents.move(tx, organization_id, [intent_id], IntentState.CANCELLED):
            changed = True
            store.removals.drop(tx, organization_id, intent_id)
            reserved = undecided.state is IntentState.RESERVED
            if reserved and not any(has_seat(tx, organization_id, user) for user in users):
                store.organizations.free_seats(tx, organization_id, len(users))
    return changed


def hold(tx: Transaction, organization_id: str, intent_ids: list[str], users: dict[str, User]) -> list[pb.Event]:
    """Turns what these intents, whose users are locked, have reserved into what is held; answers the events.

    An enrollment counts as an authentication when it becomes a registration (decision 2); one whose user was removed
    meanwhile counts as well, and holds nothing.
    """
    undecided = store.intents.undecided(tx, organization_id, intent_ids)
    held = [intent.intent_id for intent in undecided if intent.state is IntentState.RESERVED]
    removed = [intent.intent_id for intent in undecided if intent.state is IntentState.REMOVED]
    store.intents.move(tx, organization_id, held, IntentState.HELD)
    store.intents.move(tx, organization_id, removed, IntentState.CANCELLED)
    changed: dict[str, User] = {}
    for intent in undecided:
        if intent.user_id:
            user = changed.get(intent.user_id, users[intent.user_id])
            user = user.authenticated(intent.profile, intent.authenticate_time)
            seated = intent.state is IntentState.RESERVED
            if seated:
                user = user.seated(intent.create_time, SeatEvent.GATEWAY, intent.intent_id)
            changed[intent.user_id] = user
    store.users.save(tx, organization_id, changed.values())
    return [messages.user_event(user) for user in changed.values()]

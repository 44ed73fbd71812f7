"""The breaker: one for every mass action that no person asked for (SCIM, the expiration of seats)."""

from collections.abc import Collection, Sequence

from guardhouse.ids import HELD_ACTION, new_id
from guardhouse_services import audit
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.held_actions import WINDOW, Effect, HeldAction, HeldState, is_mass


def passes(
    tx: Transaction, organization_id: str, source: str, user_ids: Sequence[str], effect: Effect = Effect.REMOVE
) -> bool:
    """Whether a source may do this to these users now. If not, all of them wait for approval and nothing is to be done.

    What one source asks for while something of its own waits, waits with it. The caller has not locked the users yet,
    and does what passed in this transaction. `source` is a name such as "seat expiration" or "scim idp_...", of at most
    100 characters.
    """
    if not user_ids:
        return True
    store.organizations.require(tx, organization_id, lock=True)
    held_action_id = store.held_actions.waiting(tx, organization_id, source, effect)
    if not held_action_id:
        passed = store.held_actions.passed(tx, organization_id, tx.now - WINDOW)
        seats_before = store.organizations.seats(tx, organization_id).used + sum(passed.values())
        if not is_mass(len({*passed, *user_ids}), seats_before):
            store.held_actions.note(tx, organization_id, user_ids, frees_seat=effect is Effect.REMOVE)
            return True
        held_action_id = new_id(HELD_ACTION, tx.now)
        held = HeldAction(held_action_id, source, effect, HeldState.WAITING, tx.now)
        store.held_actions.insert(tx, organization_id, held)
    if added := store.held_actions.add(tx, organization_id, held_action_id, user_ids):
        audit.note_entry(tx, audit.Entry(organization_id, f"job:hold {source}", "", [held_action_id, *sorted(added)]))
    return False


def forgo(tx: Transaction, organization_id: str, source: str, user_ids: Collection[str]) -> None:
    """Takes users out of what of this source waits: the reason has gone, as when SCIM activates somebody again."""
    store.held_actions.drop(tx, organization_id, source, user_ids)

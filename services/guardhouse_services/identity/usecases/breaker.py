"""The breaker: one for every mass action that no person asked for (SCIM, the expiration of seats)."""

from collections.abc import Collection, Sequence

from guardhouse_services.breaker.usecases import Breaker
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.held_actions import Effect


def _lock(tx: Transaction, organization_id: str) -> None:
    store.organizations.require(tx, organization_id, lock=True)


def _seats_before(tx: Transaction, organization_id: str, after: int) -> int:
    return store.organizations.seats(tx, organization_id).used + store.seats.freed_since(tx, organization_id, after)


BREAKER = Breaker(store.held_actions, _lock, _seats_before)


def passes(
    tx: Transaction, organization_id: str, source: str, user_ids: Sequence[str], effect: Effect = Effect.REMOVE
) -> bool:
    """Whether a source may do this to these users now. If not, all of them wait for approval and nothing is to be done.

    `source` is a name such as "seat expiration" or "scim idp_...".
    """
    return BREAKER.passes(tx, organization_id, source, user_ids, effect, frees_seat=effect is Effect.REMOVE)


def forgo(tx: Transaction, organization_id: str, source: str, user_ids: Collection[str]) -> None:
    """Takes users out of what of this source waits, as when SCIM activates somebody again."""
    BREAKER.forgo(tx, organization_id, source, user_ids)

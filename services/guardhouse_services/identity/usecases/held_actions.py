"""Carrying out automatic actions that were approved."""

from collections.abc import Mapping

from guardhouse_services import audit
from guardhouse_services.breaker.domain import HeldAction
from guardhouse_services.breaker.usecases import Done
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.domain.seats import FreeCause
from guardhouse_services.identity.usecases import removing, seat_expiration


def carry_out(tx: Transaction, organization_id: str, held: HeldAction, user_ids: Mapping[str, int], done: Done) -> None:
    """Removes or revokes these users, but for those who have been here since."""
    by_time, removes = held.source == seat_expiration.SOURCE, held.effect == Effect.REMOVE
    # Whoever has been here since is no ghost; and removed now, they would be back at the next sign-in (decision 5).
    users = [
        user
        for user in store.users.lock(tx, organization_id, user_ids)
        if max(user.authenticate_time or 0, (user.seen_time or 0) if by_time else 0) <= user_ids[user.user_id]
    ]
    removal_id = ""
    if users and removes:
        cause = FreeCause.EXPIRED if by_time else FreeCause.DEPROVISIONED
        removal_id = removing.begin(tx, organization_id, users, cause).removal_id
    done(removal_id)
    if users:
        objects = [held.held_action_id, *filter(None, [removal_id]), *(user.user_id for user in users)]
        audit.note_entry(tx, audit.Entry(organization_id, "job:carry out held actions", "", objects))
        if removes:
            removing.finish(tx, organization_id, users, removal_id)
        else:
            removing.revoke(tx, organization_id, users)

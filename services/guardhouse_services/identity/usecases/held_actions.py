"""Deciding about automatic actions that wait, and carrying out those that were approved."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from guardhouse.errors import GuardhouseError, HeldActionDecided
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.held_actions import Effect, HeldAction, HeldState
from guardhouse_services.identity.domain.seats import FreeCause
from guardhouse_services.identity.usecases import removing, seat_expiration
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
PART = 500
"""How many users one transaction deals with."""
AT_ONCE = 100


class HeldActions:
    """What administrators do with what the breaker holds, and the job that follows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, organization_id: str, page: Page) -> Sequence[HeldAction]:
        return await self._database.read(lambda tx: store.held_actions.page(tx, organization_id, page))

    async def decide(
        self,
        call: Call,
        organization_id: str,
        held_action_id: str,
        decision: HeldState,
        *,
        validate_only: bool = False,
    ) -> tuple[HeldAction, str]:
        """Approves or rejects it; a second time changes nothing. What it is now, and the revision token.

        Raises HeldActionNotFound, and HeldActionDecided when the other was decided before.
        """

        def work(tx: Transaction) -> tuple[HeldAction, str]:
            is_new = requests.find(tx, call.key) is None
            # Whoever adds users to it holds this lock.
            store.organizations.require(tx, organization_id, lock=True)
            held = store.held_actions.get(tx, organization_id, held_action_id, lock=True)
            if is_new:
                requests.record(tx, call, held_action_id)
            if held.state is not HeldState.WAITING:
                if (held.state is HeldState.REJECTED) is not (decision is HeldState.REJECTED):
                    before = "rejected" if held.state is HeldState.REJECTED else "approved"
                    raise HeldActionDecided(f"the action was {before} before", held_action_id=held_action_id)
                return held, present(tx, organization_id)
            store.held_actions.move(tx, organization_id, held_action_id, decision)
            return replace(held, state=decision, decide_time=tx.now), publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)

    async def run(self) -> None:
        """For ever, carries out what was approved."""
        while True:
            try:
                while await self.carry_out_once():
                    pass
            except GuardhouseError as error:
                log.warning("cannot carry out what was approved: %s", error.message)
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def carry_out_once(self) -> int:
        """A part of each approved action; answers to how many users something was done, or would have been."""
        dealt = 0
        for organization_id, held_action_id in await self._database.read(
            lambda tx: store.held_actions.approved(tx, AT_ONCE)
        ):
            dealt += await self._database.write(lambda tx: _carry_out(tx, organization_id, held_action_id))  # noqa: B023
        return dealt


def _carry_out(tx: Transaction, organization_id: str, held_action_id: str) -> int:
    held = store.held_actions.get(tx, organization_id, held_action_id, lock=True)
    if held.state is not HeldState.APPROVED:
        return 0
    left = store.held_actions.left(tx, organization_id, held_action_id, PART)
    if not left:
        store.held_actions.move(tx, organization_id, held_action_id, HeldState.DONE)
        return 0
    by_time = held.source == seat_expiration.SOURCE
    # Whoever has been here since is no ghost; and removed now, they would be back at the next sign-in (decision 5).
    users = [
        user
        for user in store.users.lock(tx, organization_id, left)
        if max(user.authenticate_time or 0, (user.seen_time or 0) if by_time else 0) <= left[user.user_id]
    ]
    removal_id = ""
    if users and held.effect is Effect.REMOVE:
        cause = FreeCause.EXPIRED if by_time else FreeCause.DEPROVISIONED
        removal_id = removing.begin(tx, organization_id, users, cause).removal_id
    store.held_actions.finish(tx, organization_id, held_action_id, list(left), removal_id)
    if users:
        objects = [held_action_id, *filter(None, [removal_id]), *(user.user_id for user in users)]
        audit.note_entry(tx, audit.Entry(organization_id, "job:carry out held actions", "", objects))
        if held.effect is Effect.REMOVE:
            removing.finish(tx, organization_id, users, removal_id)
        else:
            removing.revoke(tx, organization_id, users)
    return len(left)

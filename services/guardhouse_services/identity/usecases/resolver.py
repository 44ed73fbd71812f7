"""Asks the registry what became of enrollments that stayed undecided, and forgets what is long decided."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from guardhouse.durations import DAY, HOUR, SECOND
from guardhouse.errors import GuardhouseError, Unavailable
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services import audit
from guardhouse_services.breaker.domain import WINDOW
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.usecases import seats
from guardhouse_services.identity.usecases.effects import gone
from guardhouse_services.identity.usecases.history import publish
from guardhouse_services.leases import for_each

log = logging.getLogger(__name__)

ResolveIntent = Callable[[str, str], Awaitable[int]]
"""The registry's word on (organization_id, intent_id): a registry_pb2.IntentOutcome."""

ASK_SECONDS = 5.0
ASK_AGAIN = 5 * SECOND
AT_ONCE = 100
# An answer may still be on its way to a caller that retries (invariant I-12).
KEEP_ENDED = DAY
# An ID token is accepted for at most six minutes; clocks may be set.
KEEP_USED = HOUR
# What was decided about automatic actions; the audit log has it for longer.
KEEP_DECIDED = 30 * DAY
FORGET_SECONDS = 600.0
FORGET_ROWS = 1000


class Resolver:
    """Only what the registry has durably decided frees a seat; a timer makes it ask, and nothing more."""

    def __init__(self, database: Database, resolve_intent: ResolveIntent) -> None:
        self._database = database
        self._resolve_intent = resolve_intent

    async def run(self) -> None:
        """For ever, every five seconds; replicas do not ask in step."""
        while True:
            try:
                await self.resolve_once()
            except GuardhouseError as error:
                log.info("cannot resolve enrollments now: %s", error.message)
            await asyncio.sleep(ASK_SECONDS * random.uniform(0.8, 1.2))

    async def resolve_once(self) -> int:
        """Deals with what has waited long enough; answers how many were decided.

        Raises Unavailable when the registry cannot be asked. What it cannot answer for one intent holds up no other,
        and neither does one that cannot be dealt with here.
        """
        answers: list[tuple[str, str, int]] = []
        try:
            for organization_id, intent_id in await self._database.read(lambda tx: store.intents.to_ask(tx, AT_ONCE)):
                answers.append((organization_id, intent_id, await self._ask(organization_id, intent_id)))
        finally:
            # What was answered before the registry went away is not asked again.
            decided = await for_each(answers, self._settle, "resolve the enrollment")
        return decided

    async def _ask(self, organization_id: str, intent_id: str) -> int:
        """The registry's word. Raises Unavailable."""
        try:
            return await self._resolve_intent(organization_id, intent_id)
        except Unavailable:
            raise
        except GuardhouseError as error:
            log.warning("the registry has no answer for %s: %s", intent_id, error.message)
            return registry_pb2.INTENT_OUTCOME_PENDING

    async def _settle(self, answer: tuple[str, str, int]) -> bool:
        """Whether the answer decides its intent."""
        organization_id, intent_id, outcome = answer
        try:
            return await self._database.write(lambda tx: _apply(tx, organization_id, intent_id, outcome))
        except Exception:
            # Or it would be among the first again, and with many such nobody else's would ever be.
            await self._database.write(lambda tx: _put_off(tx, organization_id, intent_id))
            raise

    async def forget(self) -> None:
        """For ever, drops what nobody can ask for any more."""
        while True:
            while await self.forget_once() >= FORGET_ROWS:
                pass
            await asyncio.sleep(FORGET_SECONDS)

    async def forget_once(self) -> int:
        """The most rows of one kind that were dropped: with FORGET_ROWS there may be more."""
        return await self._database.write(_forget)


def _apply(tx: Transaction, organization_id: str, intent_id: str, outcome: int) -> bool:
    """Whether the outcome decides the intent."""
    news: list[pb.Event] = []
    ended = False
    if outcome in (registry_pb2.INTENT_OUTCOME_ACTIVE, registry_pb2.INTENT_OUTCOME_DELETED):
        intent = store.intents.get(tx, organization_id, intent_id)
        holders = {intent.user_id} - {""} if intent is not None else set()
        users = {user.user_id: user for user in store.users.lock(tx, organization_id, holders)}
        news += seats.hold(tx, organization_id, [intent_id], users)
        # It was a registration before it was deleted, and that frees no seat (decisions 2 and 16).
        if outcome == registry_pb2.INTENT_OUTCOME_DELETED and (dropped := gone(tx, organization_id, [intent_id])):
            news += dropped
            ended = True
    elif outcome == registry_pb2.INTENT_OUTCOME_ABORTED:
        ended = seats.cancel(tx, organization_id, intent_id)
    else:
        _put_off(tx, organization_id, intent_id)
        return False
    if ended:
        audit.note_entry(tx, audit.Entry(organization_id, "job:resolve intents", "", [intent_id]))
    if news:
        publish(tx, organization_id, news)
    return True


def _put_off(tx: Transaction, organization_id: str, intent_id: str) -> None:
    store.intents.ask_later(tx, organization_id, intent_id, tx.now + ASK_AGAIN)


def _forget(tx: Transaction) -> int:
    return max(
        store.intents.forget(tx, tx.now - KEEP_ENDED, tx.now - KEEP_USED, FORGET_ROWS),
        store.registrations.forget(tx, tx.now - KEEP_ENDED, FORGET_ROWS),
        store.held_actions.forget(tx, tx.now - WINDOW, tx.now - KEEP_DECIDED, FORGET_ROWS),
    )

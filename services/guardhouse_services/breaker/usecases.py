"""Letting pass what is little, holding what is much, deciding about it, and carrying out what was approved."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guardhouse.errors import GuardhouseError, HeldActionDecided
from guardhouse.ids import HELD_ACTION, new_id
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.breaker.domain import WINDOW, HeldAction, HeldState, is_mass
from guardhouse_services.breaker.store import HeldActions
from guardhouse_services.database import Database, Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.leases import for_each
from guardhouse_services.paging import Page

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
PART = 500
"""How many subjects one transaction deals with."""
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Breaker:
    """One for everything that a service does of its own accord.

    `lock` is held by whoever counts or adds, until the transaction ends; `population` says how many there were of what
    it is done to, before what was done after a time.
    """

    store: HeldActions
    lock: Callable[[Transaction, str], object]
    population: Callable[[Transaction, str, int], int]

    def passes(
        self, tx: Transaction, organization_id: str, source: str, ids: Sequence[str], effect: int, **noted: Any
    ) -> bool:
        """Whether a source may do this to these now. If not, all of them wait for approval and nothing is to be done.

        What one source asks for while something of its own waits, waits with it. The caller has not locked the subjects
        yet, and does what passed in this transaction. `source` has at most 100 characters.
        """
        if not ids:
            return True
        self.lock(tx, organization_id)
        held_action_id = self.store.waiting(tx, organization_id, source, effect)
        if not held_action_id:
            passed = self.store.passed(tx, organization_id, tx.now - WINDOW)
            if not is_mass(len(passed.union(ids)), lambda: self.population(tx, organization_id, tx.now - WINDOW)):
                self.store.note(tx, organization_id, ids, **noted)
                return True
            held_action_id = new_id(HELD_ACTION, tx.now)
            held = HeldAction(held_action_id, source, effect, HeldState.WAITING, tx.now)
            self.store.insert(tx, organization_id, held)
        if added := self.store.add(tx, organization_id, held_action_id, ids):
            objects = [held_action_id, *sorted(added)]
            audit.note_entry(tx, audit.Entry(organization_id, f"job:hold {source}", "", objects))
        return False

    def forgo(self, tx: Transaction, organization_id: str, source: str, ids: Collection[str]) -> None:
        """Takes subjects out of what of this source waits: the reason has gone."""
        self.store.drop(tx, organization_id, source, ids)


Done = Callable[[str], None]
CarryOut = Callable[[Transaction, str, HeldAction, Mapping[str, int], Done], None]
"""Does to these subjects, each with the time since when it is held, what was approved.

It calls the last argument once, before it publishes anything, with the name of what carries it out, if that has one.
"""


class Decisions:
    """What administrators do with what a breaker holds, and the job that follows."""

    def __init__(self, database: Database, breaker: Breaker, carry_out: CarryOut) -> None:
        self._database = database
        self._breaker = breaker
        self._store = breaker.store
        self._carry_out = carry_out

    async def page(self, organization_id: str, page: Page) -> Sequence[HeldAction]:
        return await self._database.read(lambda tx: self._store.page(tx, organization_id, page))

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
            # Whoever adds subjects to it holds this lock.
            self._breaker.lock(tx, organization_id)
            held = self._store.get(tx, organization_id, held_action_id, lock=True)
            if is_new:
                requests.record(tx, call, held_action_id)
            if held.state is not HeldState.WAITING:
                if (held.state is HeldState.REJECTED) is not (decision is HeldState.REJECTED):
                    before = "rejected" if held.state is HeldState.REJECTED else "approved"
                    raise HeldActionDecided(f"the action was {before} before", held_action_id=held_action_id)
                return held, tx.token(organization_id, tx.revision(organization_id))
            self._store.move(tx, organization_id, held_action_id, decision)
            failpoint(f"{tx.service}.decide")
            decided = replace(held, state=decision, decide_time=tx.now)
            return decided, tx.token(organization_id, tx.publish(organization_id, []))

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
        """A part of each approved action; answers to how many subjects something was done, or would have been."""

        def part(approved: tuple[str, str]) -> Awaitable[int]:
            return self._database.write(lambda tx: self._part(tx, *approved))

        approved = await self._database.read(lambda tx: self._store.approved(tx, AT_ONCE))
        return await for_each(approved, part, "carry out what was approved")

    def _part(self, tx: Transaction, organization_id: str, held_action_id: str) -> int:
        held = self._store.get(tx, organization_id, held_action_id, lock=True)
        if held.state is not HeldState.APPROVED:
            return 0
        left = self._store.left(tx, organization_id, held_action_id, PART)
        if not left:
            self._store.move(tx, organization_id, held_action_id, HeldState.DONE)
            return 0

        def done(receipt: str) -> None:
            self._store.finish(tx, organization_id, held_action_id, list(left), receipt)

        self._carry_out(tx, organization_id, held, left, done)
        failpoint(f"{tx.service}.carry_out")
        return len(left)

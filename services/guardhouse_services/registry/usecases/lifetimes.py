"""Deletes registrations that end by themselves: revoked or silent for too long (decisions 15 and 17)."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence

from guardhouse.durations import DAY, parse_duration
from guardhouse.errors import GuardhouseError, OrganizationNotFound
from guardhouse_services import audit
from guardhouse_services.breaker.domain import ENOUGH, WINDOW, HeldAction
from guardhouse_services.breaker.usecases import AT_ONCE, Breaker, Done
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.leases import for_each
from guardhouse_services.paging import Page
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import End, Registration, Usage, end_of
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.usecases.os_sessions import settle

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
PART = 500
"""Of a page, and so of a deletion."""
FORGET_ROWS = 1000
# What was decided about held deletions; the audit log has it for longer.
KEEP_DECIDED = 30 * DAY
DELETE = 1
"""The only effect that there is."""


def _registrations_before(tx: Transaction, organization_id: str, after: int) -> int:
    """As far as it matters: with those that were deleted since."""
    deleted = len(store.lifetimes.held_actions.passed(tx, organization_id, after))
    return deleted + store.lifetimes.count_to(tx, organization_id, ENOUGH)


BREAKER = Breaker(store.lifetimes.held_actions, store.lifetimes.lock, _registrations_before)


class Lifetimes:
    """One replica at a time looks through the organizations; what is done twice changes nothing."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory
        self.deleted = dict.fromkeys(End, 0)
        """How many this replica has deleted, for either reason."""

    async def run(self) -> None:
        """For ever, every ten minutes."""
        await self._directory.follower.loaded()
        while True:
            try:
                await self.sweep()
                while await self._database.write(_forget) >= FORGET_ROWS:
                    pass
            except GuardhouseError as error:
                log.warning("cannot delete registrations that have ended now: %s", error.message)
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def sweep(self) -> None:
        """Of every organization, but for those of which an approved deletion is being carried out."""
        approved = await self._database.read(lambda tx: store.lifetimes.held_actions.approved(tx, AT_ONCE))
        busy = {organization_id for organization_id, _ in approved}
        others = [each for each in self._directory.organization_ids() if each not in busy]
        await for_each(others, self.sweep_one, "delete registrations that have ended")

    async def sweep_one(self, organization_id: str) -> int:
        """Deletes what has ended, page by page; answers how many, of those that need no approval."""
        deleted, after, more = 0, "", True
        try:
            keeps = await self._keeps(organization_id)
        except OrganizationNotFound:
            return 0
        while more:
            found = await self._database.read(lambda tx: _ended(tx, organization_id, keeps, after, PART))  # noqa: B023
            for end in End:
                if ids := [it.registration_id for it, why in found if why is end]:
                    deleted += await self._database.write(
                        lambda tx: self._delete(tx, organization_id, end, ids, keeps)  # noqa: B023
                    )
            more = len(found) == PART
            after = found[-1][0].registration_id if found else ""
        return deleted

    async def usage(self, organization_id: str) -> tuple[Usage, int | None]:
        """How many there are, and how long revoked ones stay. Raises OrganizationNotFound."""
        keeps = await self._keeps(organization_id)
        return await self._database.read(lambda tx: store.lifetimes.usage(tx, organization_id)), keeps

    async def preview(
        self, organization_id: str, page: Page, delete_revoked_after: int | None
    ) -> Sequence[tuple[Registration, End]]:
        """What would be deleted now, and why, if revoked ones stayed so long or as long as they do.

        Raises OrganizationNotFound.
        """
        keeps = await self._keeps(organization_id)
        keeps = keeps if delete_revoked_after is None else delete_revoked_after
        return await self._database.read(lambda tx: _ended(tx, organization_id, keeps, page.after, page.size + 1))

    async def _keeps(self, organization_id: str) -> int | None:
        organization = await self._directory.organization(organization_id)
        text = organization.delete_revoked_after
        return parse_duration(text, "delete_revoked_after") if text else None

    def _delete(self, tx: Transaction, organization_id: str, end: End, ids: Sequence[str], keeps: int | None) -> int:
        """Deletes those of them that have still ended, if so many may be deleted now."""
        if not BREAKER.passes(tx, organization_id, end, ids, DELETE):
            return 0
        before = _revoked_before(tx, keeps)
        store.os_sessions.lock_devices(tx, organization_id, ids)
        present = store.registrations.lock(tx, organization_id, ids)
        gone = [key for key, registration in present.items() if end_of(registration, before, tx.now) is end]
        return self._end(tx, organization_id, end, gone)

    def carry_out(
        self, tx: Transaction, organization_id: str, held: HeldAction, since: Mapping[str, int], done: Done
    ) -> None:
        """Deletes these, but for those that were restored or heard of since they are held."""
        end = End(held.source)
        store.os_sessions.lock_devices(tx, organization_id, since.keys())
        present = store.registrations.lock(tx, organization_id, since)
        gone = [key for key, registration in present.items() if end.holds(registration, since[key])]
        done("")
        self._end(tx, organization_id, end, gone, held.held_action_id)

    def _end(self, tx: Transaction, organization_id: str, end: End, ids: Sequence[str], *objects: str) -> int:
        """Deletes registrations, which the caller has locked, and has it on record why."""
        gone = store.registrations.delete(tx, organization_id, ids)
        if gone:
            entry = audit.Entry(organization_id, f"job:delete {end}", "", [*objects, *ids])
            audit.note_entry(tx, entry)
            tx.publish(organization_id, [to_event(it) for it in settle(tx, organization_id, gone)])
            tx.before_commit.append(lambda _tx: self._count(end, len(gone)))
        return len(gone)

    def _count(self, end: End, number: int) -> None:
        self.deleted[end] += number


def _revoked_before(tx: Transaction, keeps: int | None) -> int:
    """The times of revocations that are too long ago; none is before the epoch."""
    return -1 if keeps is None else tx.now - keeps


def _ended(
    tx: Transaction, organization_id: str, keeps: int | None, after: str, limit: int
) -> list[tuple[Registration, End]]:
    before = _revoked_before(tx, keeps)
    found = store.lifetimes.ended(tx, organization_id, before, after, limit)
    return [(it, end) for it in found if (end := end_of(it, before, tx.now)) is not None]


def _forget(tx: Transaction) -> int:
    return store.lifetimes.held_actions.forget(tx, tx.now - WINDOW, tx.now - KEEP_DECIDED, FORGET_ROWS)

"""What goes once an organization is gone: every row of it, in every service, but its audit logs and the heads of feeds.

Identity says in its feed which organizations are gone. From then on nothing is answered for them, so nothing new comes
but from calls that were under way, and from what one service follows of another. That is why each is looked at again.
"""

import asyncio
import logging
from functools import partial

import sqlalchemy as sa

from guardhouse.clock import Clock
from guardhouse.durations import HOUR, MINUTE
from guardhouse_services.audit import audit_export, audit_record
from guardhouse_services.database import Database, Transaction, change, head, platform
from guardhouse_services.directory import Directory
from guardhouse_services.failpoint import failpoint
from guardhouse_services.follower import applied
from guardhouse_services.leases import for_each

log = logging.getLogger(__name__)

ROWS = 1000
"""How many are deleted in one transaction."""
PAUSE_SECONDS = 1.0
# Longer than a call may take that began before anybody had heard of it.
AGAIN = MINUTE
LATER = HOUR

KEPT = frozenset({"deleted_organization", *(table.name for table in (audit_record, audit_export, head, applied))})
"""The logs, without which a checkpoint could not be verified; how far feeds have come, which no later change may fall
behind; and that the organization is gone. There is no person in any of it."""


class Deletion:
    """The job of one service, of whose tables it need not know more than that they have an organization_id."""

    def __init__(self, clock: Clock, database: Database, directory: Directory, tables: sa.MetaData) -> None:
        self._clock = clock
        self._database = database
        self._directory = directory
        # What refers to others goes before them.
        ordered = [*reversed(tables.sorted_tables), *platform.sorted_tables]
        self._tables = [it for it in ordered if "organization_id" in it.columns and it.name not in {*KEPT, change.name}]
        self._next: dict[str, int] = {}

    async def run(self) -> None:
        """Looks at each organization when it is gone, a minute later, and then every hour; for ever."""
        while True:
            now = self._clock.steady()
            due = [each for each in self._directory.deleted() if self._next.get(each, 0) <= now]
            await for_each(due, self._look, "delete the rest")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self, organization_id: str) -> None:
        deleted = await self.delete(organization_id)
        self._next[organization_id] = self._clock.steady() + (AGAIN if deleted else LATER)

    async def delete(self, organization_id: str) -> int:
        """Deletes what there is, and answers how many rows. What a crash interrupts the next look finishes."""
        deleted = 0
        for table in self._tables:
            deleted += await self._empty(table, organization_id)
        await self._database.write(partial(_close, organization_id=organization_id))
        deleted += await self._empty(change, organization_id)
        if deleted:
            log.info("deleted %d rows of %s, which is gone", deleted, organization_id)
        return deleted

    async def _empty(self, table: sa.Table, organization_id: str) -> int:
        of = table.c.organization_id == organization_id
        key = sa.tuple_(*table.primary_key.columns)
        some = sa.select(*table.primary_key.columns).where(of).limit(ROWS)
        step = table.delete().where(key.in_(some))
        deleted = 0
        while await self._database.read(lambda tx: tx.execute(some.limit(1)).first()) is not None:
            deleted += await self._database.write(lambda tx: tx.execute(step).rowcount)
            failpoint("deletion.step")
        return deleted


def _close(tx: Transaction, organization_id: str) -> None:
    """Has whoever follows load what is left in place of what it holds: nothing.

    To be closed is to keep no change, so one that comes later opens the feed again, and the next look closes it.
    """
    at = tx.execute(sa.select(head).where(head.c.organization_id == organization_id)).one_or_none()
    if at is not None and at.compacted < at.revision:
        revision = tx.advance(organization_id)
        tx.execute(head.update().where(head.c.organization_id == organization_id).values(compacted=revision))

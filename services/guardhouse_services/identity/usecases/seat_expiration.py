"""Once a day, removes those who have been inactive for longer than their organization keeps a seat (decision 6)."""

import asyncio
import logging
import random

from guardhouse.durations import DAY
from guardhouse.errors import GuardhouseError, OrganizationNotFound
from guardhouse_services import audit
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.seats import FreeCause, has_expired, held_up
from guardhouse_services.identity.usecases import breaker, removing
from guardhouse_services.leases import for_each

log = logging.getLogger(__name__)

SOURCE = "seat expiration"
LOOK_SECONDS = 600.0
EVERY = DAY
USERS = 500
"""Of a page, and so of a removal."""
ORGANIZATIONS = 100


class SeatExpiration:
    """One replica at a time looks through the organizations; what is done twice changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """For ever, every ten minutes: an organization whose sweep was held up does not wait for another day."""
        while True:
            try:
                await self.sweep_due()
            except GuardhouseError as error:
                log.warning("cannot look for expired seats now: %s", error.message)
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def sweep_due(self) -> int:
        """Sweeps every organization whose day has come; answers how many users were removed."""
        removed, after = 0, ""
        while True:
            due = await self._database.read(
                lambda tx: store.seats.due(tx, tx.now - EVERY, after, ORGANIZATIONS)  # noqa: B023
            )
            removed += await for_each(due, self.sweep, "remove inactive users")
            if len(due) < ORGANIZATIONS:
                return removed
            after = due[-1]

    async def sweep(self, organization_id: str) -> int:
        """Removes whoever has expired, page by page; answers how many, of those who need no approval."""
        if await self._database.read(lambda tx: _window(tx, organization_id)) is None:
            return 0
        removed, after, more = 0, "", True
        while more:
            expired = await self._database.read(lambda tx: _expired(tx, organization_id, after))  # noqa: B023
            if expired:
                removed += await self._database.write(lambda tx: _remove(tx, organization_id, expired))  # noqa: B023
                after = expired[-1]
            more = len(expired) == USERS
        await self._database.write(lambda tx: store.seats.swept(tx, organization_id, tx.now))
        if removed:
            log.info("removed %d inactive users of %s", removed, organization_id)
        return removed


def _window(tx: Transaction, organization_id: str) -> int | None:
    """How long an inactive user keeps the seat; None: nobody may be removed now."""
    try:
        expiration = store.organizations.get(tx, organization_id).seat_expiration
    except OrganizationNotFound:
        return None
    if expiration is not None and (why := held_up(store.seats.watermark(tx, organization_id), tx.now)):
        log.warning("no seats of %s expire: %s", organization_id, why)
        return None
    return expiration


def _expired(tx: Transaction, organization_id: str, after: str) -> list[str]:
    """The next page of them."""
    window = _window(tx, organization_id)
    if window is None:
        return []
    found = store.seats.inactive(tx, organization_id, tx.now - window, after, USERS)
    return [user.user_id for user in found]


def _remove(tx: Transaction, organization_id: str, user_ids: list[str]) -> int:
    """Removes those of them who have not been active since they were looked for."""
    window = _window(tx, organization_id)
    if window is None or not breaker.passes(tx, organization_id, SOURCE, user_ids):
        return 0
    users = store.users.lock(tx, organization_id, user_ids)
    enrolling = {intent.user_id for intent in store.intents.reserved_by(tx, organization_id, user_ids)}
    gone = [user for user in users if user.user_id not in enrolling and has_expired(user, window, tx.now)]
    if not gone:
        return 0
    removal = removing.begin(tx, organization_id, gone, FreeCause.EXPIRED)
    ids = [user.user_id for user in gone]
    audit.note_entry(tx, audit.Entry(organization_id, "job:expire seats", "", [removal.removal_id, *ids]))
    removing.finish(tx, organization_id, gone, removal.removal_id)
    return len(gone)

"""Whether a replica should be sent calls: its database answers, or what it serves from memory is loaded and fresh."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from guardhouse.clock import Clock
from guardhouse.durations import SECOND
from guardhouse.following import Follower
from guardhouse_services.database import Database

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
DATABASE_SECONDS = 5.0


class Readiness:
    """Looks once a second. It needs the followers, if there are any, and else the database.

    `max_staleness` says how old, in microseconds, what the followers know may be; None: any age.
    """

    def __init__(
        self,
        clock: Clock,
        database: Database,
        followers: Sequence[Follower],
        max_staleness: Callable[[], int] | None,
    ) -> None:
        self.reasons = ["the service has only begun to start"]
        """Why it is not ready; empty when it is."""
        self._clock = clock
        self._database = database
        self._followers = followers
        self._max_staleness = max_staleness

    async def look(self) -> None:
        self.reasons = self._behind() if self._followers else await self._without_database()

    def stop(self) -> None:
        self.reasons = ["the service is stopping"]

    def _behind(self) -> list[str]:
        reasons = []
        for follower in self._followers:
            age = self._clock.steady() - follower.fresh_as_of
            if not follower.fresh_as_of:
                reasons.append(f"{follower.name}: not loaded")
            elif self._max_staleness is not None and age > self._max_staleness():
                reasons.append(f"{follower.name}: stale for {age // SECOND} s")
        return reasons

    async def _without_database(self) -> list[str]:
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                await self._database.read(lambda tx: tx.execute(sa.select(1)).scalar_one())
        except Exception as error:
            log.info("the database does not answer", exc_info=error)
            return ["the database does not answer"]
        return []

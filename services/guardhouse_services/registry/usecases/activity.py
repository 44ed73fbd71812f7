"""Tells identity when the devices of users were last heard of, which keeps their seats (decision 6)."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardhouse.clock import Clock
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2
from guardhouse.times import from_timestamp, to_timestamp
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.leases import for_each
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import HOUR, LISTED, MINUTE, Order, Range, Registration, RegistrationFilter

if TYPE_CHECKING:
    from guardhouse.identity.v1.identity_pb2_grpc import AuthenticationServiceAsyncStub

log = logging.getLogger(__name__)

REPORT_SECONDS = 3600.0
BATCH = 1000
MARGIN = 5 * MINUTE
"""What is not written yet is younger: a heartbeat waits for ten seconds, and says the minute."""
OVERLAP = HOUR
"""What was written later than that, because the database was away, comes with the next report."""


class Activity:
    """Reports from where the last report ended, which identity knows. `identity` is a stub of it."""

    def __init__(
        self, clock: Clock, database: Database, directory: Directory, identity: "AuthenticationServiceAsyncStub"
    ) -> None:
        self._clock = clock
        self._database = database
        self._directory = directory
        self._identity = identity

    async def run(self) -> None:
        """For ever, every hour, of every organization."""
        await self._directory.follower.loaded()
        while True:
            try:
                await for_each(list(self._directory.organization_ids()), self.report, "report the activity")
            except GuardhouseError as error:
                log.warning("activity is not reported now: %s", error.message)
            await asyncio.sleep(REPORT_SECONDS * random.uniform(0.8, 1.2))

    async def report(self, organization_id: str) -> None:
        """Reports what is new; with the last part goes up to when that is everything."""
        upto = self._clock.now() - MARGIN
        request = identity_pb2.ReportActivityRequest(organization_id=organization_id)
        known = await self._identity.ReportActivity(request)
        since = from_timestamp(known.watermark_time) - OVERLAP if known.HasField("watermark_time") else None
        wanted, last = RegistrationFilter(LISTED), None
        while True:
            page = Range(BATCH, Order.SEEN, seen_after=since, after=last)
            listed = await self._database.read(
                lambda tx: store.registrations.page(tx, organization_id, wanted, page)  # noqa: B023
            )
            found = listed.rows
            request = identity_pb2.ReportActivityRequest(organization_id=organization_id, activity=_of_users(found))
            if len(found) < BATCH:
                request.watermark_time.CopyFrom(to_timestamp(upto))
            await self._identity.ReportActivity(request)
            if len(found) < BATCH:
                return
            last = found[-1].place(Order.SEEN)


def _of_users(registrations: Sequence[Registration]) -> list[identity_pb2.UserActivity]:
    times: dict[str, int] = {}
    for it in registrations:
        if user_id := it.holder.user_id:
            times[user_id] = max(it.activity, times.get(user_id, 0))
    return [identity_pb2.UserActivity(user_id=user_id, seen_time=to_timestamp(time)) for user_id, time in times.items()]

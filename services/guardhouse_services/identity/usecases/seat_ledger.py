"""The ledger of seats: who holds one, since when, by what, and until when (decision 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardhouse.errors import FieldRequired, UserNotFound
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.organizations import SeatUsage
from guardhouse_services.identity.domain.seats import (
    FORECAST_FROM,
    Forecast,
    FreedSeat,
    SeatFilter,
    explanation,
    forecast,
    held_up,
)
from guardhouse_services.identity.domain.users import User
from guardhouse_services.paging import Page

FREED = 100


@dataclass(frozen=True, slots=True)
class Ledger:
    """A page of users with a seat, and how long an inactive one keeps it: microseconds, or None for ever."""

    users: Sequence[User]
    expiration: int | None


@dataclass(frozen=True, slots=True)
class Explained:
    """What is known of a user's seat and of those before it."""

    user: User
    expiration: int | None
    explanation: str
    freed: Sequence[FreedSeat]


@dataclass(frozen=True, slots=True)
class Preview:
    """A page of users whom a sweep would remove, what it goes by, and why it would not; empty: it would."""

    users: Sequence[User]
    expiration: int
    watermark_time: int | None
    held_up: str


class SeatLedger:
    """What administrators are told of seats, and what the registry reports for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def usage(self, organization_id: str) -> tuple[SeatUsage, Forecast]:
        """Raises OrganizationNotFound."""

        def read(tx: Transaction) -> tuple[SeatUsage, Forecast]:
            created = store.organizations.get(tx, organization_id).create_time
            since = max(created, tx.now - FORECAST_FROM)
            usage = store.organizations.seats(tx, organization_id)
            return usage, forecast(usage, store.seats.growth(tx, organization_id, since), since, tx.now)

        return await self._database.read(read)

    async def page(self, organization_id: str, page: Page, wanted: SeatFilter) -> Ledger:
        """Raises OrganizationNotFound."""

        def read(tx: Transaction) -> Ledger:
            expiration = store.organizations.get(tx, organization_id).seat_expiration
            return Ledger(store.seats.page(tx, organization_id, page, wanted), expiration)

        return await self._database.read(read)

    async def explain(self, organization_id: str, user_id: str) -> Explained:
        """Raises UserNotFound."""

        def read(tx: Transaction) -> Explained:
            user = store.users.get(tx, organization_id, user_id)
            if user.authenticate_time is None:
                raise UserNotFound(user_id)
            expiration = store.organizations.get(tx, organization_id).seat_expiration
            freed = store.seats.freed_of(tx, organization_id, user_id, FREED)
            return Explained(user, expiration, explanation(user, expiration), freed)

        return await self._database.read(read)

    async def preview(self, organization_id: str, page: Page, expiration: int | None) -> Preview:
        """Whom a sweep would remove now: with the organization's own expiration, or with this one.

        Raises OrganizationNotFound, and FieldRequired when there is neither.
        """

        def read(tx: Transaction) -> Preview:
            window = expiration or store.organizations.get(tx, organization_id).seat_expiration
            if window is None:
                raise FieldRequired("seat_expiration", "the organization has none: say which one to try, such as 2160h")
            found = store.seats.inactive(tx, organization_id, tx.now - window, page.after, page.size + 1)
            reported = store.seats.watermark(tx, organization_id)
            return Preview(found, window, reported, held_up(reported, tx.now))

        return await self._database.read(read)

    async def report(self, organization_id: str, times: Mapping[str, int], watermark_time: int | None) -> int | None:
        """Notes when devices of these users were last heard of, and up to when that is all; answers up to when.

        A time that is ahead of this clock counts as now: it would keep a seat, or the sweeps going, for as long as it
        is ahead. Raises OrganizationNotFound.
        """

        def work(tx: Transaction) -> int | None:
            store.organizations.require(tx, organization_id)
            store.seats.see(tx, organization_id, {user_id: min(time, tx.now) for user_id, time in times.items()})
            if watermark_time is not None:
                store.seats.raise_watermark(tx, organization_id, min(watermark_time, tx.now))
            return store.seats.watermark(tx, organization_id)

        return await self._database.write(work)

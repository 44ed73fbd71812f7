"""What the ledger of seats and the daily sweep cost when there are many users.

A page is timed in the transaction that reads it, each at its own place while the ledger is walked. Everybody whom the
sweep looks at has expired, which is the most that it can have to do: so many at once wait for an approval, so each page
is read, and noted by the breaker. Its memory is Python's own, of a sweep of its own, as counting it takes time.
"""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.figure import Figure, Sample, Target, ratios, summary, take_rounds
from bench.loaders import Row, chunks, insert
from bench.run import Bench
from guardhouse import ids
from guardhouse.clock import SystemClock
from guardhouse.durations import DAY, HOUR
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.config import Settings
from guardhouse_services.database import Database
from guardhouse_services.identity.domain.seats import SeatFilter
from guardhouse_services.identity.domain.users import SeatEvent
from guardhouse_services.identity.store import tables
from guardhouse_services.identity.usecases.seat_expiration import SeatExpiration
from guardhouse_services.identity.usecases.seat_ledger import SeatLedger
from guardhouse_services.paging import Page
from guardhouse_services.run import prepare

PAGE = 100
PAGES = 20
"""Of a sample."""
WINDOW = 730 * HOUR
NAMES = ("ledger_page_flatness", "seat_sweep", "seat_sweep_memory")


async def measure(bench: Bench) -> list[Figure]:
    server, clock = bench.server(), SystemClock()
    settings = Settings(var=bench.folder() / "var", database_url=server.create("seats_identity", "identity"))
    prepare(settings, clock)
    database = Database(settings.database("identity"), clock, "identity", pb.Change)
    try:
        bench.say("loading seats", 2)
        sizes = {"large": bench.large, "small": bench.small}
        places = {side: _load(database, count, bench.tick) for side, count in sizes.items()}
        server.tidy("seats_identity")
        bench.say("pages of the ledger", bench.pairs(15))
        sides = {side: Walk(database, place).take for side, place in places.items()}
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
        bench.say("sweeps", 3)
        seconds = await _sweep(database, places["large"], bench.tick)
        peaks = {side: await _peak(database, place, bench.tick) for side, place in places.items()}
    finally:
        database.close()
    median, quartiles = summary(ratios(rounds, "large", "small", lambda sample: sample.seconds))
    absolute = {
        f"of {count:,}": f"{summary([each[side].seconds / PAGES for each in rounds])[0] * 1e3:.2f} ms"
        for side, count in sizes.items()
    }
    memory = {f"of {count:,}": f"{peaks[side] / (1 << 20):.1f} MiB" for side, count in sizes.items()}
    ratio = peaks["large"] / peaks["small"]
    return [
        Figure("ledger_page_flatness", median, quartiles, Target("≤", 1.3), "", absolute),
        Figure("seat_sweep", seconds * 1e3, (seconds * 1e3, seconds * 1e3), None, "ms", memory),
        Figure("seat_sweep_memory", ratio, (ratio, ratio), Target("≤", 1.5), "", memory),
    ]


@dataclass
class Walk:
    """Reads the ledger page by page, and begins again behind the last."""

    database: Database
    organization_id: str
    _after: str = field(default="", init=False)

    async def take(self) -> Sample:
        ledger, seconds = SeatLedger(self.database), 0.0
        for _ in range(PAGES):
            began = time.perf_counter()
            page = await ledger.page(self.organization_id, Page(self._after, PAGE), SeatFilter())
            seconds += time.perf_counter() - began
            self._after = page.users[-2].user_id if len(page.users) > PAGE else ""
        return Sample(PAGES, seconds)


async def _sweep(database: Database, organization_id: str, tick: Callable[[], None]) -> float:
    """The seconds it takes."""
    began = time.perf_counter()
    await SeatExpiration(database).sweep(organization_id)
    tick()
    return time.perf_counter() - began


async def _peak(database: Database, organization_id: str, tick: Callable[[], None]) -> int:
    """The most bytes that a sweep holds at a time."""
    tracemalloc.start()
    try:
        await _sweep(database, organization_id, tick)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _load(database: Database, count: int, tick: Callable[[], None]) -> str:
    """An organization with so many users, all of whom were active last when they took their seats; answers its id."""
    now = SystemClock().now()
    long_ago = now - WINDOW - DAY
    organization_id = ids.new_id(ids.ORGANIZATION, now)
    of: Row = {"organization_id": organization_id}
    times = {"create_time": now, "update_time": now}
    rows = [of | _user(number, long_ago) for number in range(count)]
    with database.engine.begin() as connection:
        organization = {"display_name": "Example", "seat_expiration": WINDOW}
        connection.execute(tables.organization.insert().values(**of, **times, **organization))
        connection.execute(tables.seat_pool.insert().values(**of, purchased=None, used=count))
        connection.execute(tables.seat_activity.insert().values(**of, watermark_time=now))
        for part in chunks(rows):
            insert(connection, tables.users, part)
    tick()
    return organization_id


def _user(number: int, time: int) -> Row:
    email = f"person{number}@example.com"
    return {
        "user_id": ids.new_id(ids.USER, time + number),
        "issuer": "https://idp.example.com",
        "subject": email,
        "email": email,
        "email_key": email,
        "display_name": f"Person {number}",
        "groups": ["staff", "engineering"],
        "create_time": time,
        "authenticate_time": time,
        "seat_time": time,
        "seat_event": SeatEvent.ACCESS.value,
        "seat_event_id": f"request-{number}",
        "access_seat": True,
        "removed_revision": 0,
        "revoked_revision": 0,
        "registrations_revoked_revision": 0,
        "removal_id": "",
    }

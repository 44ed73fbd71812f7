"""What a leased job does for each organization: one that fails holds up no other."""

import asyncio
import logging

import pytest

from guardhouse.errors import Internal
from guardhouse.session.v1 import session_pb2
from guardhouse_services import leases
from guardhouse_services.database import Database
from guardhouse_services.leases import IN_A_ROW, Leases, for_each
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl


class Work:
    """Fails for some."""

    def __init__(self, *bad: int, error: Exception | None = None) -> None:
        self.tried: list[int] = []
        self._bad = bad
        self._error = error or RuntimeError("broken")

    async def do(self, it: int) -> int:
        self.tried.append(it)
        if it in self._bad:
            raise self._error
        return it


async def test_what_fails_for_one_is_logged_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(2, 4)
    assert await for_each(range(1, 6), work.do, "sweep") == 1 + 3 + 5
    assert work.tried == [1, 2, 3, 4, 5]
    logged = [it for it in caplog.records if it.name == leases.__name__]
    assert [it.getMessage() for it in logged] == ["cannot sweep of 2 now: broken", "cannot sweep of 4 now: broken"]
    assert all(it.levelno == logging.WARNING and it.exc_info for it in logged)


async def test_a_refusal_is_logged_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    await for_each([1], Work(1, error=Internal("no")).do, "sweep")
    assert [it.exc_info for it in caplog.records if it.name == leases.__name__] == [None]


async def test_many_failures_in_a_row_end_the_round() -> None:
    """A database that is away is not asked for each of a thousand organizations."""
    work = Work(*range(3, 1000))
    with pytest.raises(RuntimeError):
        await for_each(range(1000), work.do, "sweep")
    assert work.tried == list(range(3 + IN_A_ROW))
    # As many, but not in a row.
    spread = Work(*range(0, 100, 2))
    assert await for_each(range(100), spread.do, "sweep") == sum(range(1, 100, 2))


async def test_failures_are_counted_of_the_job_that_runs(database_url: DatabaseUrl, clock: FakeClock) -> None:
    """The metric guardhouse_job_failures_total, and the alert on it, are about them too."""
    database = Database(database_url("session"), clock, "session", session_pb2.Change)
    migrate(database.engine, "session")
    held, done = Leases(database), asyncio.Event()

    async def job() -> None:
        await for_each(range(5), Work(1, 2).do, "sweep")
        done.set()
        await asyncio.Event().wait()

    async def fine() -> None:
        await for_each(range(5), Work().do, "sweep")
        await asyncio.Event().wait()

    running = [asyncio.create_task(held.run(name, it)) for name, it in (("sweep", job), ("fine", fine))]
    async with asyncio.timeout(30):
        await done.wait()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert (held.jobs["sweep"].failures, held.jobs["fine"].failures) == (2, 0)
    database.close()

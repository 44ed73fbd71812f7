"""Jobs of which at most one replica runs each: a lease in the database, renewed while the job runs."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from guardhouse.durations import SECOND
from guardhouse.errors import DatabaseUnavailable, GuardhouseError
from guardhouse_services.database import Database, Transaction, platform
from guardhouse_services.statements import Insert, upsert

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE = 6 * SECOND
RENEW_SECONDS = 2.0
IN_A_ROW = 10
"""So many failures one after the other are not about those that they hit."""

job_lease = sa.Table(
    "job_lease",
    platform,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("expire_time", sa.BigInteger, nullable=False),
)


@dataclass(slots=True)
class Job:
    """What this replica has to do with a job. Times are microseconds since the Unix epoch; 0 is never."""

    held: bool = False
    last_run: int = 0
    failures: int = 0


_running: ContextVar[Job | None] = ContextVar("running", default=None)


async def for_each(of: Iterable[T], work: Callable[[T], Awaitable[int | None]], doing: str) -> int:
    """A job's work for each of many organizations, or of what they have; answers the sum of what that answers.

    What fails for one is logged and counted as a failure of the job, and the others have their turn: whoever is to do
    something about it sees it, and nobody waits for that. Raises the error when many in a row have failed, for then it
    is the database or a peer that does, and to try the others as well would help none.
    """
    done = failed = 0
    for each in of:
        try:
            done += await work(each) or 0
            failed = 0
        except Exception as error:
            if (job := _running.get()) is not None:
                job.failures += 1
            failed += 1
            if failed == IN_A_ROW:
                raise
            trace = None if isinstance(error, GuardhouseError) else error
            log.warning("cannot %s of %s now: %s", doing, each, error, exc_info=trace)
    return done


@upsert
def _take(insert: Insert, name: str, holder: str, now: int, expire_time: int) -> sa.Executable:
    """The name is returned, as PostgreSQL's driver does not count the rows of an INSERT."""
    values = {"holder": holder, "expire_time": expire_time}
    free = sa.or_(job_lease.c.holder == holder, job_lease.c.expire_time <= now)
    wanted = insert(job_lease).values(name=name, **values)
    return wanted.on_conflict_do_update(index_elements=["name"], set_=values, where=free).returning(job_lease.c.name)


class Leases:
    """This replica's leases. `jobs` is what became of each so far."""

    def __init__(self, database: Database) -> None:
        self.jobs: dict[str, Job] = {}
        self._database = database
        # A SQLite file has one process, so what a killed one held is ours at once.
        self._holder = "sqlite" if database.is_sqlite else uuid.uuid4().hex

    async def run(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Runs the job whenever this replica holds the lease of that name; for ever.

        The lease only keeps replicas from doing the work twice. What a job does is safe without it.
        """
        known = self.jobs.setdefault(name, Job())
        while True:
            try:
                if await self._take(name):
                    await self._hold(name, job)
            except Exception as error:
                known.failures += 1
                log.warning("job %s failed", name, exc_info=error)
            await asyncio.sleep(RENEW_SECONDS)

    async def _hold(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        _running.set(self.jobs[name])
        running = asyncio.ensure_future(job())
        try:
            while not running.done():
                await asyncio.wait([running], timeout=RENEW_SECONDS)
                if not await self._take(name):
                    return
            running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self.jobs[name].held = False
            # One that is not given back expires, and whoever stops us must not wait for a database that is gone.
            with contextlib.suppress(DatabaseUnavailable):
                await self._database.write(lambda tx: self._give_back(tx, name))

    async def _take(self, name: str) -> bool:
        def take(tx: Transaction) -> int:
            done = _take(tx, name, self._holder, tx.now, tx.now + LEASE)
            return tx.now if done.one_or_none() is not None else 0

        job = self.jobs[name]
        taken = await self._database.write(take)
        job.held, job.last_run = bool(taken), taken or job.last_run
        return job.held

    def _give_back(self, tx: Transaction, name: str) -> None:
        tx.execute(job_lease.delete().where(job_lease.c.name == name, job_lease.c.holder == self._holder))

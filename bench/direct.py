"""Complete enrollments through the services, and the same statements run directly on the same PostgreSQL.

The statements are those that real enrollments make, recorded in a control plane that runs in this process; what the
services do behind an enrollment to follow one another is recorded as well. They are run with psycopg, in the same
transactions, in as many threads as there were clients, on copies of the databases as they were before: so the very same
statements, values and commits succeed again.
"""

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from bench.crowd import Crowd, Newcomer
from bench.figure import Figure, Sample, Take, Target, ratios, summary, take_rounds
from bench.plane import POSTGRESQL, Plane
from bench.run import Bench
from guardhouse.clock import SystemClock
from guardhouse_services.config import SERVICES
from guardhouse_services.database import Database, Run, Transaction
from guardhouse_services.identity.__main__ import build as build_identity
from guardhouse_services.ipam.__main__ import build as build_ipam
from guardhouse_services.log import trace_id
from guardhouse_services.registry.__main__ import build as build_registry
from guardhouse_services.session.__main__ import build as build_session

CLIENTS = 16
# Four services in one process answer fewer at a time before locks are waited for too long.
RECORDED_CLIENTS = 4
BURST = 64
PAIRS = 9
CHANGING = ("INSERT", "UPDATE", "DELETE")
# Renewed by a clock, whether anybody enrolls or not.
OF_NO_ENROLLMENT = "job_lease"
NAMES = ("enroll_vs_direct",)


@dataclass(slots=True)
class Recorded:
    """A transaction that was committed. `label` is of the enrollment that it belongs to, or empty."""

    service: str
    label: str
    statements: list[tuple[str, Any, bool]] = field(default_factory=list)
    """Text, values, and whether it is run once for each of many values."""

    @property
    def changes(self) -> bool:
        return any(text.startswith(CHANGING) for text, _, _ in self.statements)

    @property
    def of_a_clock(self) -> bool:
        return all(OF_NO_ENROLLMENT in text for text, _, _ in self.statements)


class Recorder:
    """Listens to the databases of a control plane in this process."""

    def __init__(self) -> None:
        self.committed: list[Recorded] = []
        self._here = threading.local()

    def listen(self, service: str, database: Database) -> None:
        engine = database.engine
        sa.event.listen(engine, "begin", partial(self._begin, service))
        sa.event.listen(engine, "before_cursor_execute", self._execute)
        sa.event.listen(engine, "commit", self._commit)
        # A transaction runs in a thread of its own, which does not know for which call.
        database.run = self._labelled(database.run)

    def _labelled(self, run: Run) -> Run:
        async def labelled(kind: str, function: Callable[[Transaction], Any], validate_only: bool) -> Any:
            label = trace_id.get()

            def work(tx: Transaction) -> Any:
                self._here.transaction.label = label
                return function(tx)

            return await run(kind, work, validate_only)

        return labelled

    def _begin(self, service: str, _connection: Connection) -> None:
        self._here.transaction = Recorded(service, "")

    def _execute(
        self, _connection: Connection, _cursor: Any, statement: str, values: Any, _context: Any, many: bool
    ) -> None:
        self._here.transaction.statements.append((statement, values, many))

    def _commit(self, _connection: Connection) -> None:
        self.committed.append(self._here.transaction)


@dataclass(frozen=True, slots=True)
class Script:
    """What a burst of enrollments did: of each its own transactions, and those of what followed from all of them."""

    enrollments: Sequence[Sequence[Recorded]]
    effects: Sequence[Recorded]

    @property
    def counts(self) -> dict[str, str]:
        """What an enrollment makes, in the median, and its share of what follows."""
        median = statistics.median_low
        own = median([sum(len(each.statements) for each in one) for one in self.enrollments])
        transactions = median([len(one) for one in self.enrollments])
        commits = median([sum(each.changes for each in one) for one in self.enrollments])
        count = len(self.enrollments)
        after = sum(len(each.statements) for each in self.effects) / count
        return {
            "statements": f"{own} and {after:.1f} behind it",
            "transactions": f"{transactions}, {commits} of which change something",
            "commits": f"{commits} and {len(self.effects) / count:.2f} behind it",
        }


async def measure(bench: Bench) -> list[Figure]:
    plane, _ = await bench.loaded(POSTGRESQL, bench.large)
    server = plane.server
    if server is None:
        raise AssertionError("unreachable: the plane is on PostgreSQL")
    bursts = 2 * bench.pairs(PAIRS) + 1
    copies = {service: f"{name}_direct" for service, name in plane.databases.items()}
    for service, name in copies.items():
        server.copy(plane.databases[service], name)
    bench.say("recording enrollments", bursts)
    scripts = await record(plane, bursts, bench.size(BURST), bench.tick)
    bench.say("enrollments and their statements", bench.pairs(PAIRS))
    url = make_url(server.url(""))
    where = f"host={url.query['host']} user=postgres"
    async with plane:
        crowd = Crowd(plane)
        with Direct({service: f"{where} dbname={name}" for service, name in copies.items()}) as direct:
            waiting = iter(scripts)
            sides: dict[str, Take] = {
                "services": partial(_through_services, plane, crowd, bench.size(BURST)),
                "direct": lambda: _direct(plane, direct, next(waiting)),
            }
            for warm_up in sides.values():
                await warm_up()
            rounds = await take_rounds(sides, bench.pairs(PAIRS), bench.tick)
    median, quartiles = summary(ratios(rounds, "services", "direct", lambda sample: sample.rate))
    absolute = {
        side: f"{summary([each[side].rate for each in rounds])[0]:.0f}/s, "
        f"{summary([each[side].cost for each in rounds])[0] * 1e3:.1f} ms CPU each"
        for side in sides
    }
    return [
        Figure("enroll_vs_direct", median, quartiles, Target("≥", 0.5), "", absolute | scripts[0].counts),
    ]


async def _through_services(plane: Plane, crowd: Crowd, count: int) -> Sample:
    people = crowd.newcomers(count)
    cpu, began = plane.cpu(), time.perf_counter()
    await crowd.enroll_all(people, CLIENTS)
    return Sample(count, time.perf_counter() - began, plane.cpu() - cpu)


async def _direct(plane: Plane, direct: "Direct", what: Script) -> Sample:
    """The CPU is that of the database, and of this process, which runs the statements."""
    with plane.paused():
        cpu = plane.cpu() + time.process_time()
        sample = await asyncio.to_thread(direct.take, what)
        return replace(sample, cpu=plane.cpu() + time.process_time() - cpu)


async def record(plane: Plane, bursts: int, size: int, tick: Callable[[], None]) -> list[Script]:
    """What so many bursts of enrollments do."""
    builds = dict(zip(SERVICES, (build_identity, build_registry, build_ipam, build_session), strict=True))
    recorder, scripts = Recorder(), []
    async with contextlib.AsyncExitStack() as stack:
        for service, build in builds.items():
            node = build(plane.settings, SystemClock())
            recorder.listen(service, node.database)
            await stack.enter_async_context(node)
            await node.loaded()
        stack.push_async_callback(plane.hang_up)
        crowd = Crowd(plane)
        await crowd.enroll_all(crowd.newcomers(RECORDED_CLIENTS), RECORDED_CLIENTS)
        for _ in range(bursts):
            people = crowd.newcomers(size)
            recorder.committed.clear()
            await crowd.enroll_all(people, RECORDED_CLIENTS)
            scripts.append(script(people, recorder.committed))
            tick()
    return scripts


def script(people: Sequence[Newcomer], committed: Sequence[Recorded]) -> Script:
    """The transactions by enrollment, in their order. What only reads for a feed is not counted among the rest."""
    of: dict[str, list[Recorded]] = {one.label: [] for one in people}
    effects = []
    for each in committed:
        if each.label in of:
            of[each.label].append(each)
        elif each.changes and not each.of_a_clock:
            effects.append(each)
    return Script(list(of.values()), effects)


class Direct:
    """Runs scripts on databases, each thread on connections of its own."""

    def __init__(self, databases: dict[str, str]) -> None:
        self._databases = databases
        self._threads = ThreadPoolExecutor(CLIENTS + len(databases), initializer=self._connect)
        self._here = threading.local()
        self._all: list[psycopg.Connection[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        for connection in self._all:
            connection.close()

    def take(self, what: Script) -> Sample:
        waiting = iter(what.enrollments)
        began = time.perf_counter()
        running = [self._threads.submit(self._run_all, waiting) for _ in range(CLIENTS)]
        # Each service applies what it follows one after the other.
        for service in self._databases:
            effects = [each for each in what.effects if each.service == service]
            running.append(self._threads.submit(self._run_all, iter([effects])))
        for each in running:
            each.result()
        return Sample(len(what.enrollments), time.perf_counter() - began)

    def _connect(self) -> None:
        self._here.connections = {name: psycopg.connect(info) for name, info in self._databases.items()}
        self._all += self._here.connections.values()

    def _run_all(self, waiting: Iterator[Sequence[Recorded]]) -> None:
        for transactions in waiting:
            for transaction in transactions:
                self._run(transaction)

    def _run(self, transaction: Recorded) -> None:
        connection = self._here.connections[transaction.service]
        with connection.cursor() as cursor:
            for text, values, many in transaction.statements:
                if many:
                    cursor.executemany(text, values)
                    continue
                cursor.execute(text, values)
                if cursor.description is not None:
                    cursor.fetchall()
        connection.commit()

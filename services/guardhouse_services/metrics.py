"""What Prometheus is told of a replica. docs/metrics.md is the list.

Nothing is counted twice: figures that the service keeps anyway are read when somebody asks. Labels are the names of our
own methods, followers, jobs and states, never anything that callers choose.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from guardhouse.clock import Clock
from guardhouse.durations import SECOND
from guardhouse.errors import DatabaseUnavailable
from guardhouse.following import Follower
from guardhouse_services import journal
from guardhouse_services.database import Database, Transaction
from guardhouse_services.feed import Feed
from guardhouse_services.journal import Journal
from guardhouse_services.leases import Leases

log = logging.getLogger(__name__)

FIGURES_SECONDS = 5.0
# Reading the figures may take one part in so many of the time.
FIGURES_SHARE = 100
TRANSACTION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure of a service's own. `samples` is its values by those of its labels.

    One that only ever grows is a counter; the text format ends its name in `_total`.
    """

    name: str
    documentation: str
    samples: Mapping[tuple[str, ...], float]
    labels: tuple[str, ...] = ()
    is_counter: bool = False


Figures = Callable[[Transaction, bool], Sequence[Gauge]]
"""Reads gauges in a transaction, of the installation or, with True, of each organization."""


def grouped(
    tx: Transaction, organization_id: sa.ColumnElement[str], each: bool, *aggregates: sa.ColumnElement[Any]
) -> tuple[tuple[str, ...], dict[tuple[str, ...], Sequence[Any]]]:
    """Reads aggregates over a table, or over each organization's part: the labels, and the values by those of them."""
    if not each:
        return (), {(): tuple(tx.execute(sa.select(*aggregates)).one())}
    rows = tx.execute(sa.select(organization_id, *aggregates).group_by(organization_id))
    return ("organization_id",), {(key,): tuple(values) for key, *values in rows}


class Metrics:
    """The registry of one replica; several in a process share nothing."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        calls: Journal,
        feed: Feed,
        leases: Leases,
        followers: Callable[[], Sequence[Follower]],
        is_ready: Callable[[], bool],
        state: Callable[[], Iterable[Gauge]] | None,
        figures: Figures | None,
        per_organization: bool,
    ) -> None:
        self._database = database
        self._figures = figures
        self._per_organization = per_organization
        self._read_figures: Sequence[Gauge] = ()
        self._read_again = 0.0
        self._reading = asyncio.Lock()
        self._registry = CollectorRegistry()
        # A series beside each of the library's own, which says when it began, is of no use to anybody here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        for make in (ProcessCollector, PlatformCollector, GCCollector):
            make(registry=self._registry)
        transactions = Histogram(
            "guardhouse_database_transaction_seconds",
            "How long transactions took, from the first statement to the commit, by what they may do.",
            ["kind"],
            buckets=TRANSACTION_BUCKETS,
            registry=self._registry,
        )
        queued = Histogram(
            "guardhouse_database_queue_seconds",
            "How long transactions waited for a thread and a connection.",
            ["kind"],
            buckets=TRANSACTION_BUCKETS,
            registry=self._registry,
        )
        children = {kind: (queued.labels(kind), transactions.labels(kind)) for kind in ("read", "write")}

        def observe(kind: str, waited: float, took: float) -> None:
            for child, seconds in zip(children[kind], (waited, took), strict=True):
                child.observe(seconds)

        database.observe = observe
        for collect in (
            lambda: _calls(calls),
            lambda: _followers(clock, followers()),
            lambda: _feed(feed),
            lambda: _jobs(leases),
            lambda: _database(database),
            lambda: [_one("guardhouse_ready", "Whether /readyz says yes.", float(is_ready()))],
            lambda: map(_family, state() if state is not None else ()),
            lambda: map(_family, self._read_figures),
        ):
            self._registry.register(_Collector(collect))

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        if self._figures is not None:
            async with self._reading:
                await self._refresh(self._figures)
        return generate_latest(self._registry)

    async def _refresh(self, figures: Figures) -> None:
        began = time.monotonic()
        if began < self._read_again:
            return
        try:
            async with asyncio.timeout(FIGURES_SECONDS):
                self._read_figures = await self._database.read(lambda tx: figures(tx, self._per_organization))
        except (DatabaseUnavailable, TimeoutError):
            # What is old would be taken for true.
            self._read_figures = ()
        now = time.monotonic()
        self._read_again = now + max(FIGURES_SECONDS, FIGURES_SHARE * (now - began))


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()


def _one(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value)


def _family(of: Gauge) -> Metric:
    kind = CounterMetricFamily if of.is_counter else GaugeMetricFamily
    family = kind(of.name, of.documentation, labels=of.labels)
    for labels, value in of.samples.items():
        family.add_metric(labels, value)
    return family


def _calls(calls: Journal) -> Iterator[Metric]:
    """By the names that Prometheus libraries for gRPC have in common, so that existing dashboards fit."""
    calls.flush()
    names = ["grpc_service", "grpc_method"]
    started = CounterMetricFamily("grpc_server_started", "Calls that began.", labels=names)
    handled = CounterMetricFamily("grpc_server_handled", "Calls that ended.", labels=[*names, "grpc_code"])
    in_flight = GaugeMetricFamily("grpc_server_in_flight", "Calls under way.", labels=names)
    seconds = HistogramMetricFamily(
        "grpc_server_handling_seconds", "How long calls took, but for streams, which last.", labels=names
    )
    for tally in calls.tallies.values():
        labels = tally.path[1:].split("/")
        started.add_metric(labels, tally.begun)
        in_flight.add_metric(labels, tally.in_flight)
        for code, count in tally.codes.items():
            handled.add_metric([*labels, code], count)
        if not tally.is_stream:
            bounds = [*map(str, journal.BUCKETS), "+Inf"]
            seconds.add_metric(labels, list(zip(bounds, accumulate(tally.buckets), strict=True)), tally.seconds)
    yield from (started, handled, in_flight, seconds)


def _followers(clock: Clock, followers: Sequence[Follower]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "guardhouse_follower_lag_seconds",
        "How long ago it was proven that everything of another service's feed is applied; +Inf before the first time.",
        labels=["follower"],
    )
    resyncs = CounterMetricFamily(
        "guardhouse_follower_resyncs", "Snapshots that were needed again, after gaps and restores.", labels=["follower"]
    )
    for follower in followers:
        ago = (clock.steady() - follower.fresh_as_of) / SECOND if follower.fresh_as_of else float("inf")
        lag.add_metric([follower.name], ago)
        resyncs.add_metric([follower.name], follower.resyncs)
    yield from (lag, resyncs)


def _feed(feed: Feed) -> Iterator[Metric]:
    yield _one("guardhouse_feed_followers", "Followers that are connected to this replica's feed.", feed.followers)


def _jobs(leases: Leases) -> Iterator[Metric]:
    """Their label is not `job`, which Prometheus gives to what it scrapes: it would rename ours."""
    held = GaugeMetricFamily("guardhouse_job_held", "Whether this replica holds the job's lease.", labels=["task"])
    last = GaugeMetricFamily(
        "guardhouse_job_last_run_timestamp_seconds", "When this replica was last seen to run the job.", labels=["task"]
    )
    failures = CounterMetricFamily(
        "guardhouse_job_failures",
        "Runs that ended with an error, and organizations that a run has left out for one.",
        labels=["task"],
    )
    for name, job in leases.jobs.items():
        held.add_metric([name], float(job.held))
        last.add_metric([name], job.last_run / SECOND)
        failures.add_metric([name], job.failures)
    yield from (held, last, failures)


def _database(database: Database) -> Iterator[Metric]:
    queue = GaugeMetricFamily(
        "guardhouse_database_queue_length", "Transactions that wait for a thread.", labels=["kind"]
    )
    for kind, waiting in database.waiting().items():
        queue.add_metric([kind], waiting)
    yield queue

"""One replica of one service: its database, feeds, jobs and listeners, started and stopped in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import sqlalchemy as sa
from google.protobuf.descriptor import FileDescriptor
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guardhouse.clock import Clock
from guardhouse.following import Follower
from guardhouse_services import feed, requests
from guardhouse_services.access import PUBLIC, SERVICE
from guardhouse_services.audit import Audit
from guardhouse_services.calls import Authenticate, Callers, Handlers, methods
from guardhouse_services.config import Settings
from guardhouse_services.database import Database
from guardhouse_services.deletion import Deletion
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Freshness
from guardhouse_services.http import HttpServer
from guardhouse_services.journal import Journal
from guardhouse_services.leases import Leases
from guardhouse_services.metrics import Figures, Gauge, Metrics
from guardhouse_services.peers import Peers
from guardhouse_services.proxies import Proxies
from guardhouse_services.rate_limit import RateLimit
from guardhouse_services.readiness import CHECK_SECONDS, Readiness
from guardhouse_services.server import PUBLIC_MESSAGE_BYTES, SERVICE_MESSAGE_BYTES, Listener
from guardhouse_services.tls import public_credentials, service_credentials

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
HOUSEKEEPING_SECONDS = 3600.0

Task = Callable[[], Awaitable[None]]


@dataclass
class Node:
    """What a service's __main__ puts together. `async with node:` serves."""

    service: str
    settings: Settings
    clock: Clock
    database: Database
    peers: Peers
    directory: Directory
    feed: Feed
    audit: Audit
    freshness: Freshness
    tables: sa.MetaData
    """The service's own tables."""
    contract: FileDescriptor
    servicer: object
    views: Sequence[Follower]
    """Followers that every replica runs."""
    effects: Mapping[str, Follower] = field(default_factory=dict)
    """Followers that write, by the service that they follow, and what for where several follow one. One replica at a
    time runs each."""
    jobs: Mapping[str, Task] = field(default_factory=dict)
    """What else one replica at a time runs, by the name of its lease. `follow <service>` runs that follower as well."""
    devices: Authenticate | None = None
    """Recognises registration tokens, where the service serves devices."""
    ready: Sequence[Follower] = ()
    """What must be loaded before the service says that it is serving. Empty: it serves while its database does."""
    max_staleness: Callable[[], int] | None = None
    """How old what is in `ready` may be for the service to go on saying so, in microseconds. None: any age."""
    figures: Figures | None = None
    """Metrics of what is in the database."""
    gauges: Callable[[], Iterable[Gauge]] | None = None
    """Metrics of what is in memory."""
    guests: Sequence[tuple[FileDescriptor, object]] = ()
    """Contracts of others that it serves beside its own, with their servicers; their methods have rules as ours do."""
    routes: Sequence[BaseRoute] = ()
    """What the HTTP port serves besides /metrics, /healthz and /readyz."""
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _listeners: list[Listener] = field(default_factory=list)
    _journal: Journal = field(init=False)
    _leases: Leases = field(init=False)
    _readiness: Readiness = field(init=False)
    _http: HttpServer = field(init=False)

    async def __aenter__(self) -> Self:
        rate, burst = self.settings.anonymous_rate, self.settings.anonymous_burst
        callers = Callers(self.directory, self.devices, strangers=RateLimit(rate, burst))
        anonymous = RateLimit(rate, burst)
        proxies = Proxies.of(self.settings)
        self._journal = Journal(self.settings.log_calls)
        self._leases = Leases(self.database)
        self._readiness = Readiness(self.clock, self.database, self.ready, self.max_staleness)
        self._http = HttpServer(
            self.settings.http_host, self.settings.http_port(self.service), [*self._own_routes(), *self.routes]
        )
        await self._http.start()
        tracing = self.peers.tracing
        if tracing is not None:
            self.database.run = tracing.around_transaction(self.database.run)
        served = ((self.contract, self.servicer), *self.guests)
        found = [method for contract, servicer in served for method in methods(contract, servicer)]
        names = [service.full_name for contract, _ in served for service in contract.services_by_name.values()]
        for kind in (PUBLIC, SERVICE):
            handlers = Handlers(
                kind,
                found,
                callers,
                self.freshness.wait,
                anonymous,
                self.settings.trust_domain,
                self._journal,
                self.audit.refused,
                around=tracing.around_call if tracing is not None else None,
                proxies=proxies,
            )
            self._listeners.append(self._listener(kind, handlers, names))
        for listener in self._listeners:
            await listener.start()
        runs = [self.feed.run(), *(follower.run() for follower in self.views)]
        jobs: dict[str, Task] = {f"follow {source}": follower.run for source, follower in self.effects.items()}
        deletion = Deletion(self.clock, self.database, self.directory, self.tables)
        jobs |= {**self.jobs, "delete organizations": deletion.run}
        jobs |= {"housekeeping": self._keep_house, "audit checkpoints": self.audit.export}
        runs += [self._leases.run(name, job) for name, job in jobs.items()]
        self._tasks = [asyncio.create_task(run) for run in runs]
        self._tasks.append(asyncio.create_task(self._watch_readiness()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        watching = self._tasks.pop()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self._readiness.stop()
        for listener in self._listeners:
            await listener.serving(False)
        await asyncio.sleep(self.settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.feed.stop()
        await asyncio.gather(*(listener.stop(STOP_SECONDS) for listener in self._listeners))
        self._journal.flush()
        await self._http.stop()
        await self.peers.close()
        for close in self.close:
            await close()
        self.database.close()

    async def loaded(self) -> None:
        """Waits until every follower has loaded what there is."""
        for follower in self.views:
            await follower.loaded()

    def _listener(self, kind: str, handlers: Handlers, names: Sequence[str]) -> Listener:
        settings, service = self.settings, self.service
        if kind == PUBLIC:
            address = f"{settings.host}:{settings.public_port(service)}"
            credentials = public_credentials(settings.tls_path, service)
            return Listener(handlers, names, address, credentials, settings.reflects, PUBLIC_MESSAGE_BYTES)
        address = f"{settings.service_host}:{settings.service_port(service)}"
        credentials = service_credentials(settings.tls_path, service)
        return Listener(handlers, names, address, credentials, False, SERVICE_MESSAGE_BYTES)

    async def _watch_readiness(self) -> None:
        """Says by gRPC health what /readyz says."""
        for follower in self.ready:
            await follower.loaded()
        serving = False
        while True:
            await self._readiness.look()
            if serving != (not self._readiness.reasons):
                serving = not serving
                for listener in self._listeners:
                    await listener.serving(serving)
                if serving:
                    log.info("%s is serving", self.service)
                else:
                    log.warning("%s is not serving: %s", self.service, "; ".join(self._readiness.reasons))
            await asyncio.sleep(CHECK_SECONDS)

    def _own_routes(self) -> Sequence[BaseRoute]:
        metrics = Metrics(
            self.clock,
            self.database,
            self._journal,
            self.feed,
            self._leases,
            self._followers,
            lambda: not self._readiness.reasons,
            self.gauges,
            self.figures,
            self.settings.metrics_per_organization,
        )

        async def show_metrics(_request: Request) -> Response:
            return Response(await metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        async def show_health(_request: Request) -> Response:
            return JSONResponse({"service": self.service})

        async def show_readiness(_request: Request) -> Response:
            reasons = self._readiness.reasons
            return JSONResponse({"service": self.service, "reasons": reasons}, 503 if reasons else 200)

        return [
            Route("/metrics", show_metrics),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
        ]

    def _followers(self) -> Sequence[Follower]:
        """Those that this replica runs at the moment."""
        held = {name for name, job in self._leases.jobs.items() if job.held}
        return [*self.views, *(follower for source, follower in self.effects.items() if f"follow {source}" in held)]

    async def _keep_house(self) -> None:
        """Drops what is too old to be asked for."""
        while True:
            for drop in (requests.forget, feed.compact):
                while await self.database.write(drop):
                    log.debug("dropped what is too old")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

"""One replica of one service: its database, feeds, jobs and listeners, started and stopped in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from google.protobuf.descriptor import FileDescriptor

from guardhouse_services import feed, requests
from guardhouse_services.access import PUBLIC, SERVICE
from guardhouse_services.clock import Clock
from guardhouse_services.config import Settings
from guardhouse_services.database import Database
from guardhouse_services.directory import Directory
from guardhouse_services.feed import Feed
from guardhouse_services.follower import Follower, Freshness
from guardhouse_services.leases import Leases
from guardhouse_services.peers import Peers
from guardhouse_services.server import (
    PUBLIC_MESSAGE_BYTES,
    SERVICE_MESSAGE_BYTES,
    Authenticate,
    Handlers,
    Listener,
    RateLimit,
    authenticate_keys,
    methods,
)
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
    freshness: Freshness
    contract: FileDescriptor
    servicer: object
    views: Sequence[Follower]
    """Followers that every replica runs."""
    effects: Mapping[str, Follower] = field(default_factory=dict)
    """Followers that write, by the service that they follow. One replica at a time runs each."""
    jobs: Mapping[str, Task] = field(default_factory=dict)
    """What else one replica at a time runs, by the name of its lease. `follow <service>` runs that follower as well."""
    devices: Authenticate | None = None
    """Recognises registration tokens, where the service serves devices."""
    ready: Sequence[Follower] = ()
    """What must be loaded before the service says that it is serving. Empty: it serves as soon as its database does."""
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _listeners: list[Listener] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        authenticate = partial(authenticate_keys, keys=self.directory.caller, devices=self.devices)
        rate_limit = RateLimit(self.settings.anonymous_rate, self.settings.anonymous_burst)
        found = methods(self.contract, self.servicer)
        names = [service.full_name for service in self.contract.services_by_name.values()]
        for kind in (PUBLIC, SERVICE):
            handlers = Handlers(
                kind,
                found,
                authenticate,
                self.freshness.wait,
                rate_limit,
                self.settings.trust_domain,
                self.settings.log_calls,
            )
            self._listeners.append(self._listener(kind, handlers, names))
        for listener in self._listeners:
            await listener.start()
        leases = Leases(self.database)
        runs = [self.feed.run(), *(follower.run() for follower in self.views)]
        jobs: dict[str, Task] = {f"follow {source}": follower.run for source, follower in self.effects.items()}
        jobs |= {**self.jobs, "housekeeping": self._keep_house}
        runs += [leases.run(name, job) for name, job in jobs.items()]
        self._tasks = [asyncio.create_task(run) for run in runs]
        self._tasks.append(asyncio.create_task(self._say_ready()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for listener in self._listeners:
            await listener.serving(False)
        await asyncio.sleep(self.settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.feed.stop()
        await asyncio.gather(*(listener.stop(STOP_SECONDS) for listener in self._listeners))
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

    async def _say_ready(self) -> None:
        for follower in self.ready:
            await follower.loaded()
        for listener in self._listeners:
            await listener.serving(True)
        log.info("%s is serving", self.service)

    async def _keep_house(self) -> None:
        """Drops what is too old to be asked for."""
        while True:
            for drop in (requests.forget, feed.compact):
                while await self.database.write(drop):
                    log.debug("dropped what is too old")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

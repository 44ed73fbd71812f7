"""How far the gateways have come: whoever revokes may wait until every one of them has applied it."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from contextvars import Context
from itertools import groupby

from guardhouse.clock import Clock
from guardhouse.durations import DAY
from guardhouse.errors import GuardhouseError
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LIVE_FOR, MINUTE, NOWHERE, SECOND, Gateway, Heartbeat, Position

log = logging.getLogger(__name__)

BATCH = 500
"""Handshakes that are written in one transaction."""
WRITE_SECONDS = 1.0
SEEN = 10 * SECOND
"""How often it is written that a gateway lives which has nothing new to say."""
FORGOTTEN = DAY
"""How long one is shown that is not heard of."""
FORGET_SECONDS = 3600.0


class Gateways:
    """What they acknowledge goes into the database, at most once a second for all of them: every replica is asked, and
    each hears of some only. But one that is new is written at once, or nobody would wait for it."""

    def __init__(self, clock: Clock, database: Database) -> None:
        self._clock = clock
        self._database = database
        # Of each process, so that each has its say where several have one name.
        self._waiting: dict[tuple[str, str, str], Gateway] = {}
        self._written: dict[tuple[str, str, str], Gateway] = {}
        self._task: asyncio.Task[None] | None = None
        self._new = asyncio.Event()

    def acknowledge(
        self, organization_id: str, name: str, api_key_id: str, applied: Position | None, instance: str = ""
    ) -> None:
        """Notes how far a gateway says it has come."""
        it = Gateway(organization_id, name, api_key_id, applied or NOWHERE, self._clock.now(), instance)
        key = (organization_id, name, instance)
        before = self._written.get(key)
        if before is not None and it.says_nothing_new(before, SEEN) and key not in self._waiting:
            return
        self._waiting[key] = it
        if self._task is None:
            # It is nobody's: not of the stream that happens to be the first.
            self._task = asyncio.create_task(self._run(), context=Context())
        elif before is None:
            self._new.set()

    async def page(self, organization_id: str) -> tuple[list[Gateway], Position]:
        """The gateways of an organization, and where its history stands."""

        def read(tx: Transaction) -> tuple[list[Gateway], Position]:
            # The head comes first: what a gateway has applied is then no less than it was.
            head = (tx.epoch(), tx.revision(organization_id))
            return store.gateways.page(tx, organization_id), head

        return await self._database.read(read)

    async def report(self, organization_id: str, handshakes: Mapping[str, int]) -> None:
        """Notes when registrations were last heard of by a gateway, as their heartbeats would.

        It does not wait among those: whoever makes ids up would take the room of devices that exist. What somebody else
        is changing at this moment the next handshake makes up for.
        """
        now = self._clock.now()
        heard = [
            Heartbeat(organization_id, registration_id, (at := min(time, now)) - at % MINUTE)
            for registration_id, time in handshakes.items()
        ]
        for start in range(0, len(heard), BATCH):
            part = heard[start : start + BATCH]
            await self._database.write(lambda tx: store.heartbeats.write(tx, organization_id, part))  # noqa: B023

    async def forget(self) -> None:
        """Forgets those that have not been heard of for a day, every hour; for ever."""
        while True:
            while await self._database.write(lambda tx: store.gateways.forget(tx, tx.now - FORGOTTEN)):
                pass
            await asyncio.sleep(FORGET_SECONDS)

    async def flush(self) -> None:
        """Writes what waits."""
        waiting, self._waiting = self._waiting, {}
        now = self._clock.now()
        self._written = {key: it for key, it in self._written.items() if now - it.seen_time < LIVE_FOR} | waiting
        in_order = sorted(waiting.values(), key=lambda it: it.organization_id)
        for organization_id, items in groupby(in_order, key=lambda it: it.organization_id):
            await self._write(organization_id, list(items))

    async def close(self) -> None:
        """Writes what waits, once."""
        if self._task is not None:
            # Not by cancelling it: what it is about to write would be lost.
            self._new.set()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self.flush()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WRITE_SECONDS):
                        await self._new.wait()
                self._new.clear()
        finally:
            self._task = None

    async def _write(self, organization_id: str, said: Sequence[Gateway]) -> None:
        def write(tx: Transaction) -> tuple[list[str], list[str]]:
            epoch = tx.epoch()
            return store.gateways.write(tx, organization_id, [it.of(epoch) for it in said])

        try:
            refused, shared = await self._database.write(write)
        except GuardhouseError as error:
            log.warning("what %d gateways acknowledge is not written yet: %s", len(said), error)
            # They say it again within the second.
            for it in said:
                self._written.pop((organization_id, it.name, it.instance), None)
        else:
            for name in refused:
                log.warning("%s has too many gateways; %r is not among them", organization_id, name)
            for name in shared:
                log.warning("%s has several gateways with the name %r; give each its own", organization_id, name)

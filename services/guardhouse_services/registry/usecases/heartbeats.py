"""Heartbeats: kept in memory, and written for many devices at once."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context
from itertools import groupby

from guardhouse.clock import Clock
from guardhouse.errors import GuardhouseError
from guardhouse_services import audit
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import MINUTE, Heartbeat, Posture, PostureChecks
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.usecases.profile_matching import assign

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
BATCH = 500
CAPACITY = 20_000
"""Of registrations that wait to be written: some MB, some ten with postures, and what a minute brings while the
database is away."""


class Heartbeats:
    """The last one of each registration waits until enough do, or for ten seconds.

    Nothing waits for the write. While the database is away they wait for it; what does not fit is dropped and counted,
    and the device's next one makes up for it.
    """

    def __init__(self, clock: Clock, database: Database) -> None:
        self._clock = clock
        self._database = database
        self._waiting: dict[str, Heartbeat] = {}
        self._enough = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.dropped = 0
        """How many did not fit."""

    def take(
        self,
        organization_id: str,
        registration_id: str,
        os_version: str,
        client_version: str,
        checks: PostureChecks | None = None,
        network: str | None = None,
    ) -> None:
        """Notes that a device lives. An empty version is unchanged, and so are no checks and no network."""
        now = self._clock.now()
        before = self._waiting.get(registration_id)
        if before is None and len(self._waiting) >= CAPACITY:
            self.dropped += 1
            return
        posture = Posture(checks, now, now) if checks is not None else None
        minute = now - now % MINUTE
        heartbeat = Heartbeat(organization_id, registration_id, minute, os_version, client_version, posture, network)
        self._waiting[registration_id] = heartbeat.after(before) if before is not None else heartbeat
        # When it becomes enough, and not while it stays so because the database is away.
        if len(self._waiting) == BATCH:
            self._enough.set()
        if self._task is None:
            # It is nobody's: not of the call that happens to be the first.
            self._task = asyncio.create_task(self._run(), context=Context())

    async def flush(self) -> None:
        """Writes what waits."""
        async with self._one_at_a_time:
            waiting, self._waiting = self._waiting, {}
            self._enough.clear()
            by_organization = sorted(waiting.values(), key=lambda it: (it.organization_id, it.registration_id))
            for organization_id, items in groupby(by_organization, key=lambda it: it.organization_id):
                these = list(items)
                for start in range(0, len(these), BATCH):
                    await self._write(organization_id, these[start : start + BATCH])

    async def close(self) -> None:
        """Writes what waits, once."""
        self._closed = True
        self._enough.set()
        if self._task is not None:
            await self._task
        await self.flush()

    async def _run(self) -> None:
        try:
            while self._waiting and not self._closed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_SECONDS):
                        await self._enough.wait()
                await self.flush()
        finally:
            self._task = None

    async def _write(self, organization_id: str, part: Sequence[Heartbeat]) -> None:
        def write(tx: Transaction) -> set[str]:
            matched, late = store.heartbeats.write(tx, organization_id, part)
            # Before their postures, so that what is told of those has the profile as well.
            moved = assign(tx, organization_id, matched)
            changed, younger, busy = store.postures.write(tx, organization_id, part)
            if news := {it.registration_id: it for it in (*moved, *changed)}:
                # That a device says the same again, every hour, is no change that anybody made.
                audit.note_entry(tx, audit.Entry(organization_id, "job:write heartbeats", "", list(news)))
            if told := news | {it.registration_id: it for it in younger}:
                tx.publish(organization_id, [to_event(it) for it in told.values()])
            return late | busy

        try:
            late = await self._database.write(write)
        except GuardhouseError as error:
            log.warning("%d heartbeats are not written yet: %s", len(part), error)
            late = {it.registration_id for it in part}
        for it in part:
            if it.registration_id not in late:
                continue
            if (newer := self._waiting.get(it.registration_id)) is not None:
                self._waiting[it.registration_id] = newer.after(it)
            elif len(self._waiting) < CAPACITY:
                self._waiting[it.registration_id] = it
            else:
                self.dropped += 1

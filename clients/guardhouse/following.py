"""The other end of a feed: follows a service's Watch, and knows how fresh what it made of it is.

A View keeps a read model in memory; a snapshot is authoritative for it.
"""

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grpc

from guardhouse.clock import Clock
from guardhouse.common.v1 import feed_pb2
from guardhouse.errors import EpochChanged

log = logging.getLogger(__name__)

PING_SECONDS = 1.0
# A link on which nothing comes back is dead, even if it is not closed.
SILENCE_SECONDS = 15.0
# How many messages may wait to be applied; the link holds the others back.
WAITING_MESSAGES = 100
# How many events of several changes are applied in one go: a sink that writes them holds locks meanwhile.
APPLIED_EVENTS = 1000
WAIT_SECONDS = 3.0
# Whoever is not admitted may be later on, but not for asking often.
REFUSED_SECONDS = 5.0

Position = tuple[str, int]
"""Epoch and revision."""


class GapFound(Exception):
    """A change did not follow the one before it; only a snapshot helps."""


class Sink(Protocol):
    """What a follower feeds. Every method names the organization; an empty id is the installation."""

    async def positions(self) -> dict[str, Position]:
        """Where to resume."""

    async def begin(self, organization_id: str) -> None:
        """A snapshot begins."""

    async def page(self, organization_id: str, events: Sequence[Any]) -> None:
        """A part of the state, or a change since the snapshot began."""

    async def end(self, organization_id: str, position: Position) -> None:
        """The snapshot is whole, and exact at this position."""

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        """What happened between two positions, in order."""


class View:
    """A read model: one state an organization, made by `new_state`, changed by its `apply(event)`."""

    def __init__(self, new_state: Callable[[str], Any]) -> None:
        self._new_state = new_state
        self._loading: dict[str, Any] = {}
        self._positions: dict[str, Position] = {}
        self.states: dict[str, Any] = {}
        self.version = 0
        """Grows with every change, for what is cached of the states."""

    async def positions(self) -> dict[str, Position]:
        return dict(self._positions)

    def position(self, organization_id: str) -> Position | None:
        return self._positions.get(organization_id)

    async def begin(self, organization_id: str) -> None:
        self._loading[organization_id] = self._new_state(organization_id)

    async def page(self, organization_id: str, events: Sequence[Any]) -> None:
        for event in events:
            self._loading[organization_id].apply(event)

    async def end(self, organization_id: str, position: Position) -> None:
        self.states[organization_id] = self._loading.pop(organization_id)
        self._positions[organization_id] = position
        self.version += 1

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        state = self.states[organization_id]
        for event in events:
            state.apply(event)
        self._positions[organization_id] = after
        self.version += 1


class Follower:
    """Follows one service's feed into a sink, for ever: of the organizations that are named, else of all."""

    def __init__(
        self,
        name: str,
        watch: Callable[..., Any],
        request: Any,
        sink: Sink,
        clock: Clock,
        organization_ids: Sequence[str] = (),
        gateway: str = "",
        applied: Callable[[], Mapping[str, Position]] | None = None,
    ) -> None:
        """A gateway acknowledges under its name; `applied` says how far it has come, where that is not as far as the
        sink: see `acknowledge`."""
        self.name = name
        self.fresh_as_of = 0
        """The steady time as of which the sink is proven to hold everything. 0: never."""
        self.resyncs = 0
        self.snapshots = 0
        """How many it was sent: what can be resumed needs none."""
        self._organization_ids = organization_ids
        self._gateway = gateway
        self._instance = uuid.uuid4().hex if gateway else ""
        self._applied = applied
        self._watch = watch
        self._request = request
        self._sink = sink
        self._clock = clock
        self._positions: dict[str, Position] = {}
        self._epoch = ""
        self._loading: set[str] = set()
        self._news = asyncio.Event()
        self._ping_now = asyncio.Event()

    async def run(self) -> None:
        """Connects, and connects again when the link breaks."""
        said: tuple[int, str] | None = None
        while True:
            try:
                await self._follow()
            except GapFound as error:
                self.resyncs += 1
                log.error("%s: %s", self.name, error)
            except grpc.RpcError as error:
                # Once for each time and each reason: it tries several times a second.
                before, said = said, (self.fresh_as_of, _reason(error))
                log.log(logging.INFO if said != before else logging.DEBUG, "%s: lost its feed: %s", self.name, said[1])
                if _is_refusal(error):
                    await asyncio.sleep(REFUSED_SECONDS)
            except asyncio.CancelledError:
                # gRPC says so, too, of a call whose channel was closed.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            except Exception as error:
                log.exception("%s: cannot apply its feed", self.name, exc_info=error)
                await asyncio.sleep(1)
            await asyncio.sleep(random.uniform(0.05, 0.5) if self.fresh_as_of else random.uniform(0.02, 0.2))

    def restore(self, positions: Mapping[str, Position], fresh_as_of: int) -> None:
        """Takes a sink for one that was followed up to these positions, and proven to be whole at that steady time."""
        self._positions = dict(positions)
        self._epoch = next((epoch for epoch, _ in positions.values()), "")
        self.fresh_as_of = fresh_as_of

    async def loaded(self) -> None:
        """Waits until the sink holds everything for the first time."""
        while not self.fresh_as_of:
            await self._news.wait()

    async def fresh(self, since: int, timeout: float = WAIT_SECONDS) -> bool:
        """Waits until the sink holds everything as of the steady time `since`; False when it takes too long."""
        return await self._until(lambda: self.fresh_as_of >= since, timeout, ping=True)

    async def reached(
        self, service: str, organization_id: str, position: Position, timeout: float = WAIT_SECONDS
    ) -> bool:
        """Waits until the sink has applied that service's position. Raises EpochChanged for one of another history."""

        def there() -> bool:
            at = self._positions.get(organization_id)
            if at is not None and at[0] != position[0]:
                raise EpochChanged("the revision token is from before a restore; drop it", service=service)
            return at is not None and at[1] >= position[1]

        return await self._until(there, timeout)

    def acknowledge(self) -> None:
        """Tells the service at once how far the sink has come, not within the second."""
        self._ping_now.set()

    def is_current(self, organization_id: str) -> bool:
        """Whether what the sink holds of an organization is of the history that the service was last heard to be in."""
        at = self._positions.get(organization_id)
        return at is not None and at[0] == self._epoch

    async def _until(self, condition: Callable[[], bool], timeout: float, ping: bool = False) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    if ping:
                        self._ping_now.set()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        self._positions = await self._sink.positions()
        self._loading = set()
        start = feed_pb2.Start(
            follower=self.name,
            all=not self._organization_ids,
            organization_ids=self._organization_ids,
            gateway=self._gateway,
            gateway_instance=self._instance,
        )
        for organization_id, (at_epoch, revision) in self._positions.items():
            position = feed_pb2.Position(epoch=at_epoch, revision=revision)
            start.positions.add(organization_id=organization_id, position=position)
        call = self._watch(self._requests(start))
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        room = asyncio.Semaphore(WAITING_MESSAGES)
        receiving = asyncio.create_task(self._receive(call, arrived, room))
        try:
            while True:
                messages = [await arrived.get()]
                while not arrived.empty():
                    messages.append(arrived.get_nowait())
                for _ in messages:
                    room.release()
                await self._take([message for message in messages if message is not None])
                if messages[-1] is None:
                    return await receiving
        finally:
            receiving.cancel()
            call.cancel()

    async def _receive(self, call: Any, arrived: asyncio.Queue[Any], room: asyncio.Semaphore) -> None:
        """Puts what comes into the queue, and None behind the last.

        It has a task of its own, for gRPC loses a cancellation of whoever waits for a stream that fails in that moment.
        """
        try:
            messages = aiter(call)
            while True:
                await room.acquire()
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await anext(messages, None)
                if message is None:
                    return
                arrived.put_nowait(message)
        finally:
            arrived.put_nowait(None)

    async def _requests(self, start: feed_pb2.Start) -> AsyncIterator[Any]:
        """The Start, then a Ping a second, or as soon as somebody waits for one."""
        yield self._request(start=start)
        told: dict[str, Position] = {}
        while True:
            ping = feed_pb2.Ping(nonce=self._clock.steady())
            for organization_id, at in (self._applied() if self._applied is not None else self._positions).items():
                if told.get(organization_id) != at:
                    told[organization_id] = at
                    ping.applied.add(
                        organization_id=organization_id, position=feed_pb2.Position(epoch=at[0], revision=at[1])
                    )
            self._ping_now.clear()
            yield self._request(ping=ping)
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._ping_now.wait()
            except TimeoutError:
                pass

    async def _take(self, messages: Sequence[Any]) -> None:
        """Applies messages in order; changes with nothing else between them in one go, or a slow sink would stay
        behind."""
        for changes, some in itertools.groupby(messages, lambda message: message.HasField("changes")):
            if changes:
                by_organization: dict[str, list[Any]] = {}
                for message in some:
                    by_organization.setdefault(message.organization_id, []).extend(message.changes.changes)
                for organization_id, its in by_organization.items():
                    for part in _parts(its):
                        await self._take_changes(organization_id, part)
                        await self._taken()
            else:
                for message in some:
                    await self._take_other(message)
                    await self._taken()

    async def _taken(self) -> None:
        self._tell()
        # A sink in memory waits for nothing, and between two parts everybody else has a turn.
        await asyncio.sleep(0)

    async def _take_other(self, message: Any) -> None:
        organization_id, kind = message.organization_id, message.WhichOneof("message")
        if kind == "pong":
            # The nonce is the steady time at which the ping was sent, so no delay of the network can hide in it.
            self.fresh_as_of = max(self.fresh_as_of, message.pong.nonce)
        elif kind == "snapshot":
            if organization_id in self._positions or organization_id not in self._loading:
                self._positions.pop(organization_id, None)
                self._loading.add(organization_id)
                self.snapshots += 1
                await self._sink.begin(organization_id)
            await self._sink.page(organization_id, message.snapshot.events)
        elif kind == "snapshot_end":
            position = message.snapshot_end.position
            self._epoch = position.epoch
            self._loading.discard(organization_id)
            await self._sink.end(organization_id, (position.epoch, position.revision))
            self._positions[organization_id] = (position.epoch, position.revision)
        elif kind in ("compacted", "epoch_changed"):
            self.resyncs += 1
            self._epoch = message.epoch_changed.epoch or self._epoch
            log.warning("%s: %s for %r; loading a snapshot", self.name, kind, organization_id)

    async def _take_changes(self, organization_id: str, changes: Sequence[Any]) -> None:
        before = self._positions.get(organization_id)
        events: list[Any] = []
        for change in changes:
            events += change.events
        if before is None:
            # Changes inside a snapshot: what happened while its pages were read.
            await self._sink.page(organization_id, events)
            return
        if [change.revision for change in changes] != list(range(before[1] + 1, before[1] + 1 + len(changes))):
            raise GapFound(f"revision {changes[0].revision} of {organization_id!r} came behind {before[1]}")
        after = (before[0], changes[-1].revision)
        await self._sink.change(organization_id, events, before, after)
        self._positions[organization_id] = after


def _parts(changes: Sequence[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    filled = 0
    for change in changes:
        count = len(change.events)
        if part and filled + count > APPLIED_EVENTS:
            yield part
            part, filled = [], 0
        part.append(change)
        filled += count
    yield part


def _is_refusal(error: grpc.RpcError) -> bool:
    code = getattr(error, "code", None)
    return callable(code) and code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def _reason(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return str(details()) if callable(details) else repr(error)

"""The feed of a service: what its Watch method sends to each follower.

A follower is served from the change table, at its own pace: it costs the server one position and one message under way.
Changes are read and serialised once for all followers that are at the same place.

A gateway follows as well, but sees one organization only, and of that only what it decides by.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa
from google.protobuf.message import Message

from guardhouse.common.v1 import feed_pb2
from guardhouse.durations import DAY
from guardhouse.errors import AccessDenied, FieldRequired, FollowerTooSlow
from guardhouse.ids import ORGANIZATION, check_id
from guardhouse_services import checks
from guardhouse_services.calls import Send, Stream
from guardhouse_services.database import MESSAGE_BYTES, Database, Transaction, change, chunks, head
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

log = logging.getLogger(__name__)

PAGE_EVENTS = 1000
READ_CHANGES = 1000
CACHED_MESSAGES = 64
SEND_SECONDS = 10.0
WAITING_PINGS = 100
# A gateway's key is judged at every message, and as often as this while there is none.
JUDGE_SECONDS = 1.0
# How long a change can be resumed from.
HISTORY = 7 * DAY


class Contract(Protocol):
    """The part of a service's generated module that its feed needs."""

    WatchResponse: Any
    Snapshot: Any
    Changes: Any


Source = Callable[[Transaction, str, str, int], tuple[Sequence[Message], str]]
"""A page of the present state: (transaction, organization_id, after, limit) → (events, the next `after` or "")."""
Show = Callable[[Any, str], Any]
"""What a gateway sees of an event: (event, the gateway's organization_id) → an event of its own, or None."""
Acknowledge = Callable[[str, str, str, tuple[str, int] | None, str], None]
"""Is told how far a gateway has come: (organization_id, its name, the id of its key, a position or None, which process
it is)."""
GATEWAY_LIMIT = 64
"""Characters of a gateway's name."""


def _nothing(_event: Any, _organization_id: str) -> None:
    return None


def _unheard(
    _organization_id: str, _name: str, _api_key_id: str, _applied: tuple[str, int] | None, _instance: str
) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Viewer:
    """A gateway, which belongs to one organization."""

    organization_id: str
    api_key_id: str
    method: str
    judge: Callable[[], Awaitable[Any]]
    """Raises when its key is none any more."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Where each organization's history stands."""

    epoch: str
    revisions: dict[str, int]
    compacted: dict[str, int]


@dataclass(slots=True, eq=False)
class Watcher:
    """One follower."""

    name: str
    all: bool
    organization_ids: frozenset[str]
    positions: dict[str, tuple[str, int]]
    viewer: Viewer | None = None
    gateway: str = ""
    """The name under which it acknowledges, if it does."""
    instance: str = ""
    """What tells it from another of that name, if it says so."""
    applied: tuple[str, int] | None = None
    """What it has acknowledged."""
    pings: list[feed_pb2.Ping] = field(default_factory=list)
    reported: dict[str, int] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False

    def wanted(self, heads: Heads) -> list[str]:
        # What the installation has comes first: it says which organizations there are.
        # One that the follower knows and a restored database does not ends with an empty snapshot.
        known = heads.revisions.keys() | self.positions.keys()
        return ["", *sorted(known - {""})] if self.all else sorted(self.organization_ids)

    def sees(self, organization_id: str) -> bool:
        """Whether it may know that there is such an organization."""
        return self.viewer is None or organization_id in ("", self.viewer.organization_id)


Section = tuple[Callable[[Transaction, str, Page], Sequence[Any]], Callable[[Any], Any], Callable[[Any], str]]
"""Things of one kind: how a page of them is read, with one more if there is one; the event of each; and its id."""


def read_sections(
    sections: Mapping[str, Section], tx: Transaction, organization_id: str, after: str, limit: int
) -> tuple[list[Any], str]:
    """A page of the state behind `after`, and the next `after`. It is "section:id", or empty at either end."""
    section, _, last = after.partition(":")
    events: list[Any] = []
    names = list(sections)
    for name in names[names.index(section) if section else 0 :]:
        read, event, id_of = sections[name]
        size = limit - len(events)
        rows = read(tx, organization_id, Page(last, size))
        events += map(event, rows[:size])
        if len(rows) > size:
            return events, f"{name}:{id_of(rows[size - 1])}" if size else f"{name}:{last}"
        last = ""
    return events, ""


class Feed:
    """The Watch method of one service. `poll_seconds` is how often it looks for the commits of other replicas.

    `show` says what gateways see, if they may follow it, and `acknowledge` is told how far they have come.
    """

    def __init__(
        self,
        database: Database,
        contract: Contract,
        source: Source,
        poll_seconds: float = 0.1,
        show: Show = _nothing,
        acknowledge: Acknowledge = _unheard,
    ) -> None:
        self._database = database
        self._contract = contract
        self._source = source
        self._poll_seconds = poll_seconds
        self._show = show
        self._acknowledge = acknowledge
        self._watchers: set[Watcher] = set()
        self._reading: asyncio.Task[Heads] | None = None
        self._next_read: asyncio.Task[Heads] | None = None
        self._messages: OrderedDict[tuple[str, str, int, int, str], asyncio.Task[tuple[int, bytes]]] = OrderedDict()
        database.on_commit(self._wake)

    async def run(self) -> None:
        """Notices what other replicas commit. A SQLite database has none."""
        seen: Heads | None = None
        while not self._database.is_sqlite:
            await asyncio.sleep(self._poll_seconds)
            if not self._watchers:
                continue
            try:
                heads = await self._heads()
            except Exception as error:
                log.warning("feed cannot read its heads", exc_info=error)
                continue
            if heads != seen:
                seen = heads
                self._wake()

    async def serve(self, requests: AsyncIterator[Any], stream: Stream) -> None:
        """As `watch`, for whoever the access rule admits. A key's Watch ends with the key.

        Raises AccessDenied for a key of the installation: what a gateway follows is one organization.
        """
        viewer = None
        if stream.caller.kind != "service":
            if not stream.caller.organization_id:
                raise AccessDenied("a feed is for services and for gateways of one organization", method=stream.path)
            viewer = Viewer(stream.caller.organization_id, stream.caller.id, stream.path, stream.judge)
        await self.watch(requests, stream, viewer)

    async def watch(self, requests: AsyncIterator[Any], send: Send, viewer: Viewer | None = None) -> None:
        """Serves one follower until it leaves. Raises FollowerTooSlow when a message is not taken in 10 s."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise FieldRequired("start", "the first message of a Watch is a Start")
        _check_ids(first.start)
        checks.text(first.start.gateway, "start.gateway", GATEWAY_LIMIT, required=False)
        checks.text(first.start.gateway_instance, "start.gateway_instance", GATEWAY_LIMIT, required=False)
        if viewer is not None:
            _check_scope(first.start, viewer)
        watcher = Watcher(
            first.start.follower,
            first.start.all,
            frozenset(first.start.organization_ids),
            {at.organization_id: (at.position.epoch, at.position.revision) for at in first.start.positions},
            viewer,
            first.start.gateway,
            first.start.gateway_instance,
        )
        self._watchers.add(watcher)
        pings = asyncio.create_task(self._read_pings(watcher, requests))
        try:
            await self._serve(watcher, send)
            if pings.done():
                # What came behind the Start may have been no message.
                pings.result()
        finally:
            pings.cancel()
            self._watchers.discard(watcher)

    @property
    def followers(self) -> int:
        """How many are connected."""
        return len(self._watchers)

    def stop(self) -> None:
        """Lets every follower go; it finds another replica and resumes there."""
        for watcher in self._watchers:
            watcher.left = True
        self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake.set()

    async def _read_pings(self, watcher: Watcher, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                if request.HasField("ping"):
                    self._note(watcher, request.ping)
                    watcher.pings.append(request.ping)
                    # Of many that wait the newest prove the most.
                    del watcher.pings[:-WAITING_PINGS]
                    watcher.wake.set()
        finally:
            watcher.left = True
            watcher.wake.set()

    def _note(self, watcher: Watcher, ping: feed_pb2.Ping) -> None:
        """A gateway says how far it has come, or that it lives."""
        if (viewer := watcher.viewer) is None or not watcher.gateway:
            return
        for at in ping.applied:
            if at.organization_id == viewer.organization_id:
                watcher.applied = (at.position.epoch, at.position.revision)
        self._acknowledge(viewer.organization_id, watcher.gateway, viewer.api_key_id, watcher.applied, watcher.instance)

    async def _serve(self, watcher: Watcher, send: Send) -> None:
        while not watcher.left:
            watcher.wake.clear()
            if watcher.viewer is not None:
                await watcher.viewer.judge()
            # Only pings that came before the heads are read may be answered with them.
            pings, watcher.pings = watcher.pings, []
            heads = await self._heads()
            for organization_id in watcher.wanted(heads):
                await self._catch_up(watcher, organization_id, heads, send)
            for ping in pings:
                await self._send(watcher, send, self._pong(watcher, ping, heads))
            await self._woken(watcher)

    @staticmethod
    async def _woken(watcher: Watcher) -> None:
        """Waits until there is something to look at."""
        while not watcher.wake.is_set():
            try:
                async with asyncio.timeout(None if watcher.viewer is None else JUDGE_SECONDS):
                    await watcher.wake.wait()
            except TimeoutError:
                if watcher.viewer is not None:
                    await watcher.viewer.judge()

    def _pong(self, watcher: Watcher, ping: feed_pb2.Ping, heads: Heads) -> bytes:
        news = {
            key: value
            for key, value in heads.revisions.items()
            if watcher.reported.get(key) != value and watcher.sees(key)
        }
        watcher.reported.update(news)
        pong = feed_pb2.Pong(nonce=ping.nonce)
        for organization_id, revision in news.items():
            position = feed_pb2.Position(epoch=heads.epoch, revision=revision)
            pong.heads.add(organization_id=organization_id, position=position)
        return self._message("", pong=pong)

    async def _catch_up(self, watcher: Watcher, organization_id: str, heads: Heads, send: Send) -> None:
        revision = heads.revisions.get(organization_id, 0)
        compacted = heads.compacted.get(organization_id, 0)
        at = watcher.positions.get(organization_id)
        if at is not None and (at[0] != heads.epoch or at[1] > revision):
            epoch_changed = feed_pb2.EpochChanged(epoch=heads.epoch)
            await self._send(watcher, send, self._message(organization_id, epoch_changed=epoch_changed))
            at = None
        elif at is not None and at[1] < compacted:
            oldest = feed_pb2.Position(epoch=heads.epoch, revision=compacted)
            await self._send(watcher, send, self._message(organization_id, compacted=feed_pb2.Compacted(oldest=oldest)))
            at = None
        if at is None:
            revision = await self._send_snapshot(watcher, organization_id, heads, send)
        else:
            await self._send_changes(watcher, organization_id, heads.epoch, at[1], revision, send)
        watcher.positions[organization_id] = (heads.epoch, revision)

    async def _send_snapshot(self, watcher: Watcher, organization_id: str, heads: Heads, send: Send) -> int:
        """Pages that are read one after the other, then what changed meanwhile: exact at the revision it answers."""
        began, after = heads.revisions.get(organization_id, 0), ""
        while True:
            events, after = await self._read_page(organization_id, after)
            if watcher.viewer is not None:
                events = self._shown(events, watcher.viewer)
            for part in chunks(events, PAGE_EVENTS, MESSAGE_BYTES):
                snapshot = self._contract.Snapshot(events=part)
                await self._send(watcher, send, self._message(organization_id, snapshot=snapshot))
            if not after:
                break
        revision = (await self._heads()).revisions.get(organization_id, 0)
        await self._send_changes(watcher, organization_id, heads.epoch, began, revision, send)
        position = feed_pb2.Position(epoch=heads.epoch, revision=revision)
        end = feed_pb2.SnapshotEnd(position=position)
        await self._send(watcher, send, self._message(organization_id, snapshot_end=end))
        return revision

    async def _read_page(self, organization_id: str, after: str) -> tuple[Sequence[Message], str]:
        return await self._database.read(lambda tx: self._source(tx, organization_id, after, PAGE_EVENTS))

    async def _send_changes(
        self, watcher: Watcher, organization_id: str, epoch: str, after: int, upto: int, send: Send
    ) -> None:
        while after < upto:
            after, message = await self._changes(epoch, organization_id, after, upto, watcher.viewer)
            await self._send(watcher, send, message)

    async def _changes(
        self, epoch: str, organization_id: str, after: int, upto: int, viewer: Viewer | None
    ) -> tuple[int, bytes]:
        """As _read_changes, read once for all followers, who are woken at the same moment; for gateways of one
        organization made once of that."""
        key = (epoch, organization_id, after, upto, viewer.organization_id if viewer is not None else "")
        reading = self._messages.get(key)
        if reading is None:
            if viewer is None:
                work = self._read_changes(organization_id, after, upto)
            else:
                work = self._show_changes(epoch, organization_id, after, upto, viewer)
            reading = self._messages[key] = asyncio.create_task(work)
            if len(self._messages) > CACHED_MESSAGES:
                self._messages.popitem(last=False)
        try:
            return await asyncio.shield(reading)
        except Exception:
            # The next one asks the database again.
            self._messages.pop(key, None)
            raise

    async def _read_changes(self, organization_id: str, after: int, upto: int) -> tuple[int, bytes]:
        """Serialised changes behind `after`, as many as fit a message, and the last revision among them."""
        rows = await self._database.read(lambda tx: _changes(tx, organization_id, after, upto).all())
        changes, size = self._contract.Changes(), 0
        for revision, payload in rows:
            if size and size + len(payload) > MESSAGE_BYTES:
                break
            if revision != after + 1:
                raise RuntimeError(f"the feed of {organization_id!r} has a gap behind revision {after}")
            changes.changes.add().MergeFromString(payload)
            after, size = revision, size + len(payload)
        if not size:
            raise RuntimeError(f"the feed of {organization_id!r} lacks revision {after + 1}")
        return after, self._message(organization_id, changes=changes)

    async def _show_changes(
        self, epoch: str, organization_id: str, after: int, upto: int, viewer: Viewer
    ) -> tuple[int, bytes]:
        """What a gateway sees of changes. Their revisions stay, for they are what it counts by."""
        upto, serialised = await self._changes(epoch, organization_id, after, upto, None)
        message = self._contract.WatchResponse.FromString(serialised)
        for its in message.changes.changes:
            shown = self._shown(its.events, viewer)
            del its.events[:]
            its.events.extend(shown)
        return upto, message.SerializeToString()

    def _shown(self, events: Iterable[Any], viewer: Viewer) -> list[Any]:
        shown = (self._show(event, viewer.organization_id) for event in events)
        return [event for event in shown if event is not None]

    def _message(self, organization_id: str, **content: Message) -> bytes:
        serialised: bytes = self._contract.WatchResponse(organization_id=organization_id, **content).SerializeToString()
        return serialised

    @staticmethod
    async def _send(watcher: Watcher, send: Send, message: bytes) -> None:
        if watcher.viewer is not None:
            await watcher.viewer.judge()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)
        except TimeoutError:
            raise FollowerTooSlow("the follower takes too long to read; start again with a snapshot") from None

    async def _heads(self) -> Heads:
        """The heads as of now or later: callers share a read that begins after they asked, never one under way."""
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read_after(self._reading))
        return await asyncio.shield(self._next_read)

    async def _read_after(self, reading: asyncio.Task[Heads] | None) -> Heads:
        if reading is not None:
            await asyncio.wait([reading])
        self._reading, self._next_read = self._next_read, None
        return await self._database.read(read_heads)


def _check_ids(start: feed_pb2.Start) -> None:
    """Raises InvalidField. An empty id is the installation."""
    for place, organization_id in enumerate(start.organization_ids):
        if organization_id:
            check_id(organization_id, ORGANIZATION, f"start.organization_ids[{place}]")
    for place, at in enumerate(start.positions):
        if at.organization_id:
            check_id(at.organization_id, ORGANIZATION, f"start.positions[{place}].organization_id")


def _check_scope(start: feed_pb2.Start, viewer: Viewer) -> None:
    """Raises AccessDenied. Whether another organization exists, nobody is told."""
    if start.all or not {"", viewer.organization_id}.issuperset(start.organization_ids):
        raise AccessDenied(
            "a gateway follows its own organization: name it in start.organization_ids", method=viewer.method
        )


def read_heads(tx: Transaction) -> Heads:
    rows = _heads(tx).all()
    return Heads(
        epoch=tx.epoch(),
        revisions={row.organization_id: row.revision for row in rows},
        compacted={row.organization_id: row.compacted for row in rows if row.compacted},
    )


@statement
def _heads() -> sa.Select[Any]:
    return sa.select(head)


@statement
def _changes(organization_id: str, after: int, upto: int) -> sa.Select[Any]:
    """The first changes behind a revision."""
    changes = sa.select(change.c.revision, change.c.payload)
    changes = changes.where(
        change.c.organization_id == organization_id, change.c.revision > after, change.c.revision <= upto
    )
    return changes.order_by(change.c.revision).limit(READ_CHANGES)


def compact(tx: Transaction, limit: int = 1000) -> int:
    """Drops changes that are older than the history that is kept, and answers how many; the newest always stays.

    At most `limit` of each of at most 100 organizations: what is left is for the next call.
    """
    oldest = (
        sa.select(head.c.organization_id, sa.func.max(change.c.revision).label("revision"))
        .join(change, sa.and_(head.c.organization_id == change.c.organization_id, change.c.revision < head.c.revision))
        .where(change.c.change_time < tx.now - HISTORY, change.c.revision <= head.c.compacted + limit)
        .group_by(head.c.organization_id)
        .limit(100)
    )
    dropped = 0
    for organization_id, revision in tx.execute(oldest).all():
        tx.execute(head.update().where(head.c.organization_id == organization_id).values(compacted=revision))
        old = change.delete().where(change.c.organization_id == organization_id, change.c.revision <= revision)
        dropped += tx.execute(old).rowcount
    return dropped

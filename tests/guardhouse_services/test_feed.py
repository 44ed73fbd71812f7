"""Feeds and followers, on both engines: dense, in order, exact, resumable (I-20 to I-26)."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self

import pytest
import sqlalchemy as sa

from guardhouse import following as following_module
from guardhouse.common.v1 import feed_pb2
from guardhouse.durations import SECOND
from guardhouse.errors import EpochChanged, FieldRequired, FollowerTooSlow, RevisionTokenInvalid, StateStale
from guardhouse.following import Follower, View
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import feed as feed_module
from guardhouse_services import follower as follower_module
from guardhouse_services.database import Database, Transaction, change, epoch, head
from guardhouse_services.feed import HISTORY, Feed, compact
from guardhouse_services.follower import Effects, Freshness, applied
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl

A = "org_0000000000000000000000000000000a"
B = "org_0000000000000000000000000000000b"

metadata = sa.MetaData()
thing = sa.Table(
    "thing",
    metadata,
    sa.Column("organization_id", sa.String(60), primary_key=True),
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("text", sa.String(40), nullable=False),
)
"""What the feed of these tests is of."""


def put(tx: Transaction, organization_id: str, name: str, text: str) -> int:
    insert = tx.insert(thing).values(organization_id=organization_id, name=name, text=text)
    tx.execute(insert.on_conflict_do_update(index_elements=["organization_id", "name"], set_={"text": text}))
    return tx.publish(organization_id, [pb.Event(policy=pb.Policy(policy_id=name, display_name=text))])


def drop(tx: Transaction, organization_id: str, name: str) -> int:
    tx.execute(thing.delete().where(thing.c.organization_id == organization_id, thing.c.name == name))
    return tx.publish(organization_id, [pb.Event(policy_deleted=name)])


def source(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    limit = min(limit, 3)
    query = sa.select(thing).where(thing.c.organization_id == organization_id, thing.c.name > after)
    rows = tx.execute(query.order_by(thing.c.name).limit(limit)).all()
    events = [pb.Event(policy=pb.Policy(policy_id=row.name, display_name=row.text)) for row in rows]
    return events, rows[-1].name if len(rows) == limit else ""


class State:
    def __init__(self, _organization_id: str) -> None:
        self.things: dict[str, str] = {}

    def apply(self, event: pb.Event) -> None:
        if event.HasField("policy"):
            self.things[event.policy.policy_id] = event.policy.display_name
        else:
            self.things.pop(event.policy_deleted, None)


class Link:
    """A Watch call without a network: what the stub of a follower would return."""

    def __init__(self, feed: Feed, requests: AsyncIterator[pb.WatchRequest], size: int = 10_000) -> None:
        self._messages: asyncio.Queue[pb.WatchResponse] = asyncio.Queue(size)
        self.sent: list[pb.WatchResponse] = []
        self.held = asyncio.Event()
        self.held.set()
        self._server = asyncio.create_task(feed.watch(requests, self._send))

    async def _send(self, raw: bytes) -> None:
        message = pb.WatchResponse.FromString(raw)
        self.sent.append(message)
        await self._messages.put(message)

    async def __aiter__(self) -> AsyncIterator[pb.WatchResponse]:
        while True:
            await self.held.wait()
            get = asyncio.ensure_future(self._messages.get())
            await asyncio.wait([get, self._server], return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                self._server.result()
                return
            # What was waited for when the link was held is held as well.
            await self.held.wait()
            yield get.result()

    def cancel(self) -> None:
        self._server.cancel()


class Following:
    """A follower of a feed into a View, that can be stopped and started."""

    def __init__(self, feed: Feed, clock: FakeClock, sink: Any = None) -> None:
        self.links: list[Link] = []
        self.view = View(State)
        self.follower = Follower("test", self._watch, pb.WatchRequest, sink or self.view, clock)
        self._feed = feed
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def _watch(self, requests: AsyncIterator[pb.WatchRequest]) -> Link:
        self.links.append(Link(self._feed, requests))
        return self.links[-1]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.follower.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def caught_up(self) -> None:
        assert await self.follower.fresh(self._clock.steady(), timeout=30)

    def things(self, organization_id: str) -> dict[str, str]:
        state = self.view.states.get(organization_id)
        return dict(state.things) if state else {}


@pytest.fixture
def database(database_url: DatabaseUrl, clock: FakeClock) -> Iterator[Database]:
    database = Database(database_url("session"), clock, "session", pb.Change)
    migrate(database.engine, "session")
    metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
async def feed(database: Database) -> AsyncIterator[Feed]:
    feed = Feed(database, pb, source, 0.02)
    task = asyncio.create_task(feed.run())
    yield feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def stored(database: Database, organization_id: str) -> dict[str, str]:
    query = sa.select(thing.c.name, thing.c.text).where(thing.c.organization_id == organization_id)
    rows = await database.read(lambda tx: tx.execute(query).all())
    return {row.name: row.text for row in rows}


async def test_a_follower_has_the_state_after_a_snapshot_and_after_changes(
    database: Database, feed: Feed, clock: FakeClock
) -> None:
    """I-22: the snapshot and what follows it are the database."""
    for number in range(10):
        await database.write(partial(put, organization_id=A, name=f"t{number}", text="old"))
    async with Following(feed, clock) as following:
        await following.caught_up()
        assert following.things(A) == await stored(database, A)
        await database.write(lambda tx: put(tx, A, "t3", "new"))
        await database.write(lambda tx: drop(tx, A, "t4"))
        await database.write(lambda tx: put(tx, B, "t0", "other"))
        await following.caught_up()
        assert following.things(A) == await stored(database, A)
        assert following.things(B) == {"t0": "other"}


async def test_a_snapshot_under_writers_is_exact(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-22: pages are read one after the other while 32 writers go on."""

    async def write(number: int) -> None:
        for turn in range(8):
            await database.write(partial(put, organization_id=A, name=f"t{number}", text=str(turn)))
            if turn % 3 == 2:
                await database.write(partial(drop, organization_id=A, name=f"t{(number + turn) % 32}"))

    writers = asyncio.gather(*(write(number) for number in range(32)))
    await asyncio.sleep(0.02)
    async with Following(feed, clock) as following:
        await following.caught_up()
        await writers
        await following.caught_up()
        assert following.things(A) == await stored(database, A)
        assert following.follower.resyncs == 0
        revisions = [
            each.revision
            for message in following.links[0].sent
            if message.HasField("changes")
            for each in message.changes.changes
        ]
        assert revisions == list(range(revisions[0], revisions[0] + len(revisions)))


async def test_a_follower_resumes_where_it_was(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-24: every later change, once, and no snapshot."""
    await database.write(lambda tx: put(tx, A, "t0", "old"))
    following = Following(feed, clock)
    async with following:
        await following.caught_up()
    await database.write(lambda tx: put(tx, A, "t1", "new"))
    async with following:
        await following.caught_up()
        assert following.things(A) == {"t0": "old", "t1": "new"}
    kinds = {message.WhichOneof("message") for message in following.links[1].sent if message.organization_id == A}
    assert kinds == {"changes"}


async def test_a_position_that_is_compacted_gets_a_snapshot_that_is_authoritative(
    database: Database, feed: Feed, clock: FakeClock
) -> None:
    """I-22, I-24: what the snapshot lacks is gone from a read model."""
    await database.write(lambda tx: put(tx, A, "t0", "old"))
    following = Following(feed, clock)
    async with following:
        await following.caught_up()
    await database.write(lambda tx: drop(tx, A, "t0"))
    await database.write(lambda tx: put(tx, A, "t1", "new"))
    clock.advance(HISTORY / SECOND + 1)
    await database.write(compact)
    async with following:
        await following.caught_up()
        assert following.things(A) == {"t1": "new"}
        assert following.follower.resyncs == 1


async def test_another_epoch_gets_a_snapshot(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-25: a restored database has another history, and an organization that it lacks is gone."""
    await database.write(lambda tx: put(tx, B, "t0", "lost"))
    for text in ("one", "two"):
        await database.write(partial(put, organization_id=A, name="t0", text=text))
    following = Following(feed, clock)
    async with following:
        await following.caught_up()
        at = (await following.view.positions())[A]

    def restore(tx: Transaction) -> None:
        tx.execute(epoch.update().values(epoch="another"))
        tx.execute(thing.update().values(text="restored"))
        tx.execute(thing.delete().where(thing.c.organization_id == B))
        tx.execute(head.delete().where(head.c.organization_id == B))

    await database.write(restore)
    async with following:
        await following.caught_up()
        assert following.things(A) == {"t0": "restored"}
        assert following.things(B) == {}
        with pytest.raises(EpochChanged):
            await following.follower.reached("session", A, at)


async def test_a_pong_proves_freshness_as_of_the_ping(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-23: what was committed before the ping is there when its pong is."""
    async with Following(feed, clock) as following:
        await following.caught_up()
        for number in range(20):
            await database.write(partial(put, organization_id=A, name="t", text=str(number)))
            asked = clock.steady()
            assert await following.follower.fresh(asked)
            assert following.follower.fresh_as_of >= asked
            assert following.things(A) == {"t": str(number)}


async def test_a_link_on_which_nothing_comes_makes_nothing_fresh(
    database: Database, feed: Feed, clock: FakeClock
) -> None:
    """I-16: a black hole is not a fresh feed."""
    async with Following(feed, clock) as following:
        await following.caught_up()
        following.links[-1].held.clear()
        await asyncio.sleep(0.05)
        asked = clock.steady()
        assert not await following.follower.fresh(asked, timeout=0.2)
        following.links[-1].held.set()
        assert await following.follower.fresh(asked)


async def test_a_change_that_does_not_follow_is_noticed(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-20: a gap makes the follower connect again instead of going on."""
    async with Following(feed, clock) as following:
        await following.caught_up()
        await database.write(lambda tx: put(tx, A, "t0", "one"))
        await following.caught_up()
        lost = pb.WatchResponse(organization_id=A, changes=pb.Changes(changes=[pb.Change(revision=7)]))
        await following.links[-1]._send(lost.SerializeToString())
        await database.write(lambda tx: put(tx, A, "t0", "two"))
        async with asyncio.timeout(30):
            while not following.follower.resyncs:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        await following.caught_up()
        assert following.follower.resyncs == 1
        assert following.things(A) == {"t0": "two"}


async def test_a_follower_that_does_not_read_is_dropped(
    database: Database, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-26: it costs one message, and delays nobody."""
    monkeypatch.setattr(feed_module, "SEND_SECONDS", 0.1)
    await database.write(lambda tx: put(tx, A, "t0", "one"))

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield pb.WatchRequest(start=feed_pb2.Start(all=True))
        await asyncio.sleep(10)

    async def never(_message: bytes) -> None:
        await asyncio.sleep(10)

    with pytest.raises(FollowerTooSlow):
        await feed.watch(requests(), never)


async def test_a_watch_begins_with_a_start(feed: Feed) -> None:
    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield pb.WatchRequest(ping=feed_pb2.Ping(nonce=1))

    async def send(_message: bytes) -> None:
        raise AssertionError

    with pytest.raises(FieldRequired):
        await feed.watch(requests(), send)


async def test_changes_that_wait_come_in_one_message(database: Database, feed: Feed, clock: FakeClock) -> None:
    following = Following(feed, clock)
    async with following:
        await following.caught_up()
    await database.write(lambda tx: put(tx, A, "t", "first"))
    async with following:
        await following.caught_up()
    for number in range(100):
        await database.write(partial(put, organization_id=A, name="t", text=str(number)))
    async with following:
        await following.caught_up()
    messages = [message for message in following.links[2].sent if message.HasField("changes")]
    assert [len(message.changes.changes) for message in messages] == [100]


async def test_a_change_is_read_once_for_all_followers(
    database: Database, feed: Feed, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are woken at the same moment. A read that failed is not what the next one gets."""
    reads = []
    read_changes = feed._read_changes

    async def read(organization_id: str, after: int, upto: int) -> tuple[int, bytes]:
        reads.append(upto)
        await asyncio.sleep(0)
        if len(reads) == 1:
            raise RuntimeError("the database was away")
        return await read_changes(organization_id, after, upto)

    monkeypatch.setattr(feed, "_read_changes", read)
    async with AsyncExitStack() as stack:
        all_following = [await stack.enter_async_context(Following(feed, clock)) for _ in range(3)]
        for following in all_following:
            await following.caught_up()
        for text in ("lost", "first", "second"):
            await database.write(lambda tx, text=text: put(tx, A, "t", text))  # type: ignore[misc]
            for following in all_following:
                await following.caught_up()
        assert [following.things(A) for following in all_following] == [{"t": "second"}] * 3
    # The first organization comes with a snapshot, so the first change is read by nobody.
    assert reads == [2, 2, 3]


@pytest.mark.parametrize(("at_most", "calls"), [(1000, 4), (5, 7)])
async def test_a_slow_sink_applies_what_came_meanwhile_in_one_go(
    database: Database, feed: Feed, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, at_most: int, calls: int
) -> None:
    """But no more than a database may be held up by."""
    monkeypatch.setattr(following_module, "APPLIED_EVENTS", at_most)
    await database.write(lambda tx: put(tx, A, "t", "first"))
    following = Following(feed, clock)
    sizes, slow = [], asyncio.Event()
    change_now = following.view.change

    async def change(organization_id: str, events: Sequence[pb.Event], before: Any, after: Any) -> None:
        sizes.append(len(events))
        await slow.wait()
        await change_now(organization_id, events, before, after)

    following.view.change = change  # type: ignore[method-assign]
    async with following:
        await following.caught_up()
        for number in range(20):
            await database.write(partial(put, organization_id=A, name=f"t{number}", text="one"))
            # Each is sent in a message of its own.
            while sum(it.HasField("changes") for it in following.links[0].sent) <= number:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        slow.set()
        await following.caught_up()
        assert following.view.states[A].things == await stored(database, A)
    assert sum(sizes) == 20
    assert max(sizes) <= at_most
    assert len(sizes) <= calls


class Counting:
    """An effect that counts what it was told, in the database."""

    def __init__(self, database: Database) -> None:
        self.missing: list[set[str]] = []
        self.sink = Effects(database, "session", self.effect, lambda event: event.policy.policy_id, self.omitted)

    def effect(self, tx: Transaction, organization_id: str, events: Sequence[pb.Event]) -> None:
        for event in events:
            insert = tx.insert(thing).values(
                organization_id=f"{organization_id}-copy", name=event.policy.policy_id, text="1"
            )
            again = {"text": thing.c.text + "1"}
            tx.execute(insert.on_conflict_do_update(index_elements=["organization_id", "name"], set_=again))

    def omitted(self, _tx: Transaction, organization_id: str, seen: set[str]) -> None:
        if organization_id == A:
            self.missing.append(seen)


async def test_effects_are_written_once_with_their_position(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-21: a change that comes again after a restart has no second effect."""
    await database.write(lambda tx: put(tx, A, "t0", "one"))
    counting = Counting(database)
    following = Following(feed, clock, counting.sink)
    async with following:
        await following.caught_up()
    await database.write(lambda tx: put(tx, A, "t1", "one"))
    async with following:
        await following.caught_up()
        await following.caught_up()
    assert counting.missing == [{"t0"}]
    copies = await stored(database, f"{A}-copy")
    assert copies == {"t0": "1", "t1": "1"}
    position = sa.select(applied.c.revision).where(applied.c.organization_id == A)
    assert await database.read(lambda tx: tx.execute(position).scalar_one()) == 2


async def test_two_replicas_that_apply_the_same_feed_have_one_effect(
    database: Database, feed: Feed, clock: FakeClock
) -> None:
    """I-12: the position is compared and moved in the transaction of the effect, with or without a lease."""
    await database.write(lambda tx: put(tx, A, "t0", "one"))
    async with Following(feed, clock, Counting(database).sink) as first:
        await first.caught_up()
        async with Following(feed, clock, Counting(database).sink) as second:
            await second.caught_up()
            for number in range(1, 20):
                await database.write(partial(put, organization_id=A, name=f"t{number}", text="one"))
            await first.caught_up()
            await second.caught_up()
    copies = await stored(database, f"{A}-copy")
    assert {name: text for name, text in copies.items() if name != "t0"} == {f"t{n}": "1" for n in range(1, 20)}


async def test_a_call_is_answered_as_fresh_as_its_tokens(database: Database, feed: Feed, clock: FakeClock) -> None:
    """I-35: own tokens by the database, others' by what has been applied."""
    revision = await database.write(lambda tx: put(tx, A, "t0", "one"))
    token = await database.read(lambda tx: tx.token(A, revision))
    async with Following(feed, clock) as following:
        freshness = Freshness(database, "session", [("session", following.follower)], [])
        await freshness.wait([token], A)
        assert following.things(A) == {"t0": "one"}
        with pytest.raises(RevisionTokenInvalid):
            await freshness.wait([token], B)
        with pytest.raises(RevisionTokenInvalid):
            await freshness.wait(["nonsense"], A)


async def test_a_token_that_is_not_reached_is_refused(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-35: never answered older than asked, and never waited for without end."""
    monkeypatch.setattr(follower_module, "WAIT_SECONDS", 0.2)
    await database.write(lambda tx: put(tx, A, "t0", "one"))
    future = await database.read(lambda tx: tx.token(A, 99))
    freshness = Freshness(database, "session", [], [])
    with pytest.raises(StateStale):
        await freshness.wait([future], A)
    # Who has less time than that is told in time.
    monkeypatch.setattr(follower_module, "WAIT_SECONDS", 60)
    with pytest.raises(StateStale):
        async with asyncio.timeout(5):
            await freshness.wait([future], A, left=0.3)
    await database.write(lambda tx: tx.execute(epoch.update().values(epoch="another")))
    with pytest.raises(EpochChanged):
        await Freshness(database, "session", [], []).wait([future], A)


async def test_the_feed_has_no_gap_in_its_table(database: Database) -> None:
    """I-20, as the invariant's own query has it."""
    await asyncio.gather(*(database.write(lambda tx: put(tx, A, "t", "x")) for _ in range(50)))
    query = sa.select(sa.func.max(change.c.revision), sa.func.count()).where(change.c.organization_id == A)
    newest, count = await database.read(lambda tx: tx.execute(query).one())
    assert newest == count == 50

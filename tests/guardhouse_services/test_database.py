"""The platform's database layer, on both engines."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from bench.postgresql import PostgreSQL
from guardhouse.durations import DAY, SECOND
from guardhouse.errors import Conflict, DatabaseUnavailable, RequestIdReused
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.config import CannotStart
from guardhouse_services.database import Database, Transaction, change, chunks, head, new_epoch
from guardhouse_services.feed import HISTORY, compact
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl

ORGANIZATION = "org_0123456789abcdef0123456789abcdef"


@pytest.fixture
def database(database_url: DatabaseUrl, clock: FakeClock) -> Iterator[Database]:
    database = Database(database_url("session"), clock, "session", pb.Change)
    migrate(database.engine, "session")
    yield database
    database.close()


def call(body: bytes = b"body") -> Call:
    key = RequestKey(ORGANIZATION, "key:a", "CreatePolicy", "r1", body)
    return Call(Caller("key", "a", ORGANIZATION), "/guardhouse.session.v1.PolicyService/CreatePolicy", "trace", key)


def revisions(tx: Transaction) -> list[int]:
    query = sa.select(change.c.revision).where(change.c.organization_id == ORGANIZATION).order_by(change.c.revision)
    return list(tx.execute(query).scalars())


async def test_revisions_are_dense_and_in_commit_order_under_64_writers(database: Database) -> None:
    """I-20: every commit gets the next number, and nobody else's."""
    events = [pb.Event(policy_deleted="x")]
    got = await asyncio.gather(*(database.write(lambda tx: tx.publish(ORGANIZATION, events)) for _ in range(64)))
    assert sorted(got) == list(range(1, 65))
    assert await database.read(revisions) == list(range(1, 65))


async def test_a_failed_transaction_takes_no_revision(database: Database) -> None:
    def fail(tx: Transaction) -> None:
        tx.publish(ORGANIZATION, [])
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(fail)
    assert await database.write(lambda tx: tx.publish(ORGANIZATION, [])) == 1


async def test_more_than_500_events_are_several_revisions_of_one_transaction(database: Database) -> None:
    events = [pb.Event(policy_deleted=str(number)) for number in range(1001)]
    assert await database.write(lambda tx: tx.publish(ORGANIZATION, events)) == 3

    def sizes(tx: Transaction) -> list[int]:
        payloads = tx.execute(sa.select(change.c.payload).order_by(change.c.revision)).scalars()
        return [len(pb.Change.FromString(payload).events) for payload in payloads]

    assert await database.read(sizes) == [500, 500, 1]


async def test_a_megabyte_of_events_is_several_revisions(database: Database) -> None:
    """A change that no follower could take would stop them all."""
    events = [pb.Event(policy=pb.Policy(policy_id=str(number), description="x" * 400_000)) for number in range(5)]
    assert await database.write(lambda tx: tx.publish(ORGANIZATION, events)) == 3
    sizes = [sum(event.ByteSize() for event in part) for part in chunks(events, 500, 1 << 20)]
    assert max(sizes) <= 1 << 20
    assert [len(part) for part in chunks(events, 500, 1)] == [1] * 5
    assert [list(part) for part in chunks([], 500, 1)] == [[]]


async def test_a_new_epoch_is_another_history(database: Database) -> None:
    """I-25: tokens and positions of the old one are told apart."""
    before = await database.read(lambda tx: tx.epoch())
    await database.write(new_epoch)
    assert await database.read(lambda tx: tx.epoch()) != before


async def test_a_conflict_is_tried_again(database: Database) -> None:
    tries = []

    def work(_tx: Transaction) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise Conflict("again")
        return len(tries)

    assert await database.write(work) == 3


async def test_a_dead_database_is_unavailable_and_not_the_callers_fault(clock: FakeClock) -> None:
    database = Database("postgresql://nobody@/none?host=/nonexistent", clock, "session", pb.Change)
    with pytest.raises(DatabaseUnavailable):
        await database.read(revisions)
    database.close()


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_connections_that_the_server_ended_are_made_anew(database: Database, postgresql: PostgreSQL) -> None:
    """A server that was restarted while nobody asked costs nobody an answer."""

    def session(tx: Transaction) -> int:
        return int(tx.execute(sa.text("SELECT pg_backend_pid() FROM pg_sleep(0.05)")).scalar_one())

    async def sessions() -> set[int]:
        return set(await asyncio.gather(*(database.read(session) for _ in range(40))))

    before = await sessions()
    assert len(before) > 10
    for ended in before:
        postgresql._execute(f"SELECT pg_terminate_backend({ended}, 5000)")
    assert before.isdisjoint(await sessions())


def test_a_second_process_cannot_open_a_sqlite_file(tmp_path: object, clock: FakeClock) -> None:
    url = f"sqlite:///{tmp_path}/one.db"
    first = Database(url, clock, "session", pb.Change)
    with pytest.raises(CannotStart, match="in use by another process"):
        Database(url, clock, "session", pb.Change)
    first.close()
    Database(url, clock, "session", pb.Change).close()


async def test_a_repeated_request_finds_its_result_for_a_day(database: Database, clock: FakeClock) -> None:
    await database.write(lambda tx: requests.record(tx, call(), policy_id="pol_1"))
    assert await database.read(lambda tx: requests.find(tx, call().key)) == {"policy_id": "pol_1"}
    clock.advance(DAY / SECOND)
    assert await database.read(lambda tx: requests.find(tx, call().key)) is None
    assert await database.write(requests.forget) == 1


async def test_a_request_id_with_another_body_is_refused(database: Database) -> None:
    await database.write(lambda tx: requests.record(tx, call()))
    with pytest.raises(RequestIdReused):
        await database.read(lambda tx: requests.find(tx, call(b"another body").key))


async def test_64_equal_requests_have_one_effect(database: Database) -> None:
    """I-07: two at once, one executes."""

    def work(tx: Transaction) -> int:
        if (done := requests.find(tx, call().key)) is not None:
            return int(done["revision"])
        requests.record(tx, call(), revision=1)
        return tx.publish(ORGANIZATION, [])

    got = await asyncio.gather(*(database.write(work) for _ in range(64)))
    assert set(got) == {1}
    assert await database.read(revisions) == [1]


async def test_compaction_drops_what_is_old_and_keeps_the_newest(database: Database, clock: FakeClock) -> None:
    for _ in range(3):
        await database.write(lambda tx: tx.publish(ORGANIZATION, []))
    clock.advance(HISTORY / SECOND + 1)
    assert await database.write(compact) == 2
    assert await database.read(revisions) == [3]
    assert await database.read(lambda tx: tx.execute(sa.select(head.c.compacted)).scalar_one()) == 2


async def test_compaction_goes_on_where_it_stopped(database: Database, clock: FakeClock) -> None:
    """It never locks the head of an organization for long."""
    for _ in range(6):
        await database.write(lambda tx: tx.publish(ORGANIZATION, []))
    clock.advance(HISTORY / SECOND + 1)
    dropped = [await database.write(lambda tx: compact(tx, limit=2)) for _ in range(4)]
    assert dropped == [2, 2, 1, 0]
    assert await database.read(revisions) == [6]


async def test_writers_of_one_turn_begin_in_the_order_in_which_they_came(database: Database) -> None:
    """Waiting for a row in the database has no order, takes a thread each, and ends with an error after a while."""
    began, running, most = [], 0, 0

    def work(number: int) -> Callable[[Transaction], None]:
        def write(_tx: Transaction) -> None:
            nonlocal running, most
            began.append(number)
            running += 1
            most = max(most, running)
            time.sleep(0.005)
            running -= 1

        return write

    await asyncio.gather(*(database.write(work(number), turn="org") for number in range(20)))
    assert (began, most) == (list(range(20)), 1)


async def test_a_turn_goes_on_when_one_fails_or_leaves(database: Database) -> None:
    def fail(_tx: Transaction) -> None:
        raise Conflict("once")

    leaving = asyncio.create_task(database.write(lambda _tx: time.sleep(0.05), turn="org"))
    failing = asyncio.create_task(database.write(fail, turn="org"))
    last = asyncio.create_task(database.write(lambda tx: tx.now, turn="org"))
    await asyncio.sleep(0.01)
    leaving.cancel()
    with pytest.raises(Conflict):
        await failing
    assert await last > 0

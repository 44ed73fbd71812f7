"""The audit log on the real tables, and its export, on both engines."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvloop
from google.protobuf.json_format import ParseDict

from guardhouse.audit import FIRST, is_signed, record_hash, verify
from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.errors import AccessDenied, InvalidField, PrecedenceTaken
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.access import Call, Caller, RequestKey
from guardhouse_services.audit import Audit, Entry, audit_record, note_entry
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database, Transaction
from guardhouse_services.leases import Leases
from guardhouse_services.migrate import migrate
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl

ORGANIZATION = "org_0123456789abcdef0123456789abcdef"
OTHER = "org_ffffffffffffffffffffffffffffffff"
METHOD = "/guardhouse.session.v1.PolicyService/CreatePolicy"
MASTER = MasterKey(b"k" * 32)

Work = Callable[[Transaction], Any]


@pytest.fixture
def url(database_url: DatabaseUrl) -> str:
    return database_url("session")


@pytest.fixture
def database(url: str, clock: FakeClock) -> Iterator[Database]:
    database = Database(url, clock, "session", pb.Change)
    migrate(database.engine, "session")
    yield database
    database.close()


def audit_of(database: Database, clock: FakeClock, **settings: Any) -> Audit:
    return Audit(clock, database, "session", pb, MASTER, Settings(**settings))


def call(request_id: str = "", caller: str = "a", body: bytes = b"") -> Call:
    who = Caller("key", caller, ORGANIZATION)
    return Call(who, METHOD, "trace", RequestKey(ORGANIZATION, who.name, "CreatePolicy", request_id, body))


def changing(number: int = 0, request_id: str = "") -> Work:
    """A mutation."""

    def work(tx: Transaction) -> int:
        requests.record(tx, call(request_id), f"pol_{number}")
        return tx.publish(ORGANIZATION, [pb.Event(policy_deleted=f"pol_{number}")])

    return work


async def log(audit: Audit, organization_id: str = ORGANIZATION, size: int = 0) -> list[AuditRecord]:
    """The whole of it, as the service lists it."""
    request = pb.ListAuditRecordsRequest(organization_id=organization_id, page_size=size)
    found: list[AuditRecord] = []
    while True:
        page = await audit.list_records(request)
        found += page.records
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def faults(audit: Audit, *checkpoints: AuditCheckpoint) -> list[int]:
    key = (await audit.get_checkpoint(pb.GetAuditCheckpointRequest())).public_key
    found = verify("session", ORGANIZATION, await log(audit), checkpoints, key)
    return [fault.sequence for fault in found]


async def checkpoint(audit: Audit, organization_id: str = ORGANIZATION) -> AuditCheckpoint:
    answer = await audit.get_checkpoint(pb.GetAuditCheckpointRequest(organization_id=organization_id))
    made: AuditCheckpoint = answer.checkpoint
    return made


# Writing


async def test_the_log_is_dense_and_whole_under_64_writers(database: Database, clock: FakeClock) -> None:
    """I-33: in the order of the commits, with calls that publish, that publish nothing, and that fail."""

    def quietly(tx: Transaction) -> None:
        requests.record(tx, call())

    def failing(tx: Transaction) -> None:
        changing()(tx)
        raise PrecedenceTaken("taken")

    works = [(changing(number), quietly, failing)[number % 3] for number in range(64)]
    await asyncio.gather(*map(database.write, works), return_exceptions=True)
    records = await log(audit_of(database, clock), size=7)
    assert [record.sequence for record in records] == list(range(1, 44))
    assert await faults(audit_of(database, clock)) == []
    # Each revision is one record's, and the next record begins where it ended.
    assert [record.before_revision for record in records[1:]] == [record.after_revision for record in records[:-1]]
    changes = [record for record in records if record.after_revision != record.before_revision]
    assert [record.after_revision for record in changes] == list(range(1, 23))


async def test_a_record_says_who_did_what_to_which(database: Database, clock: FakeClock) -> None:
    clock.stop()
    await database.write(changing())
    await database.write(changing(1, "r1"))
    first, second = await log(audit_of(database, clock))
    assert second.record_time.ToMicroseconds() == clock.now()
    assert (second.actor, second.method, list(second.objects)) == ("key:a", METHOD, ["pol_1"])
    assert (second.before_revision, second.after_revision) == (1, 2)
    assert (second.request_id, second.trace_id, second.reason) == ("r1", "trace", 0)
    assert second.hash == record_hash("session", ORGANIZATION, second, first.hash)
    assert first.hash == record_hash("session", ORGANIZATION, first, FIRST)


async def test_a_change_of_many_revisions_is_one_record(database: Database, clock: FakeClock) -> None:
    """And names no more objects than a record holds."""

    def work(tx: Transaction) -> None:
        requests.record(tx, call(), *(f"pol_{number}" for number in range(1500)))
        tx.publish(ORGANIZATION, [pb.Event(policy_deleted=str(number)) for number in range(1001)])

    await database.write(work)
    (record,) = await log(audit_of(database, clock))
    assert (record.before_revision, record.after_revision) == (0, 3)
    assert (len(record.objects), record.objects[999]) == (1000, "pol_999")


async def test_what_a_job_does_to_many_is_on_record_as_a_whole(database: Database, clock: FakeClock) -> None:
    """I-33: a record holds so many ids, so there are several."""
    ids = [f"pol_{number}" for number in range(2500)]

    def work(tx: Transaction) -> None:
        note_entry(tx, Entry(ORGANIZATION, "job:x", "", ids))
        note_entry(tx, Entry(ORGANIZATION, "job:y", ""))
        tx.publish(ORGANIZATION, [pb.Event(policy_deleted=each) for each in ids])

    await database.write(work)
    records = await log(audit_of(database, clock))
    assert [(record.actor, len(record.objects)) for record in records] == [
        ("job:x", 1000),
        ("job:x", 1000),
        ("job:x", 500),
        ("job:y", 0),
    ]
    assert [each for record in records for each in record.objects] == ids
    assert {(record.before_revision, record.after_revision) for record in records} == {(0, 5)}
    assert await faults(audit_of(database, clock)) == []


async def test_what_is_only_asked_and_what_is_repeated_leaves_no_record(database: Database, clock: FakeClock) -> None:
    """AIP-163, I-07."""

    def work(tx: Transaction) -> None:
        if requests.find(tx, call("r").key) is None:
            changing(1, "r")(tx)

    await database.write(work, validate_only=True)
    assert await log(audit_of(database, clock)) == []
    await asyncio.gather(*(database.write(work) for _ in range(8)))
    assert len(await log(audit_of(database, clock))) == 1


async def test_whoever_loses_to_the_same_request_gets_its_answer(database: Database, engine: str) -> None:
    """I-07: though the winner has left a state in which the loser would be refused, and the loser has waited for it."""
    attempts = 0

    def work(tx: Transaction) -> str:
        nonlocal attempts
        attempts += 1
        if (done := requests.find(tx, call("r").key)) is not None:
            return str(done["answer"])
        if tx.lock(ORGANIZATION) == 1:
            raise PrecedenceTaken("taken by the same request")
        time.sleep(0.1)
        requests.record(tx, call("r"), answer="made")
        tx.advance(ORGANIZATION)
        return "made"

    answers = await asyncio.gather(*(database.write(work) for _ in range(4)))
    assert answers == ["made"] * 4
    # Where there is one writer, nobody is late to find it.
    assert attempts == 4 if engine == "sqlite" else attempts in range(4, 8)


async def test_what_is_refused_by_itself_is_tried_once_more_and_no_oftener(database: Database) -> None:
    attempts = 0

    def refused(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        requests.find(tx, call("r").key)
        raise PrecedenceTaken("taken")

    for expected in (2, 4):
        with pytest.raises(PrecedenceTaken):
            await database.write(refused)
        assert attempts == expected


async def test_a_refused_call_is_in_the_log_of_whom_the_caller_belongs_to(database: Database, clock: FakeClock) -> None:
    """I-33 and I-27: whatever organization the call named."""
    audit, error = audit_of(database, clock), AccessDenied("no")
    await audit.refused(Caller("key", "key_1", ORGANIZATION), METHOD, OTHER, "trace", error)
    await audit.refused(Caller("key", "key_2"), METHOD, "", "trace", error)
    await audit.refused(Caller("service", "ipam"), METHOD, ORGANIZATION, "trace", error)
    (record,) = await log(audit)
    assert (record.actor, record.method, list(record.objects)) == ("key:key_1", METHOD, [OTHER])
    assert ErrorReason.Name(record.reason) == "ERROR_REASON_ACCESS_DENIED"
    assert await log(audit, OTHER) == []
    assert [(it.actor, list(it.objects)) for it in await log(audit, "")] == [
        ("key:key_2", []),
        ("service:ipam", [ORGANIZATION]),
    ]


async def test_a_release_that_writes_no_log_leaves_one_that_verifies(database: Database, clock: FakeClock) -> None:
    """Rolled back for a while: what it changed shows as revisions of no record."""
    await database.write(changing())
    await database.write(lambda tx: tx.publish(ORGANIZATION, []))
    await database.write(changing())
    records = await log(audit_of(database, clock))
    assert [(record.before_revision, record.after_revision) for record in records] == [(0, 1), (2, 3)]
    assert await faults(audit_of(database, clock)) == []


# Listing


async def test_a_log_is_listed_in_order_behind_a_record_and_in_pages_that_fit(
    database: Database, clock: FakeClock
) -> None:
    """I-34."""
    audit = audit_of(database, clock)

    def many(tx: Transaction) -> None:
        for number in range(120):
            ids = [f"pol_{number:04}{place:028}" for place in range(1000)]
            note_entry(tx, Entry(ORGANIZATION, "job:x", "", ids))

    await database.write(many)
    request = pb.ListAuditRecordsRequest(organization_id=ORGANIZATION, page_size=1000)
    page = await audit.list_records(request)
    assert 50 < len(page.records) < 120
    assert page.ByteSize() < 4 << 20
    assert [record.sequence for record in await log(audit, size=1000)] == list(range(1, 121))
    behind = pb.ListAuditRecordsRequest(organization_id=ORGANIZATION, after_sequence=118)
    assert [record.sequence for record in (await audit.list_records(behind)).records] == [119, 120]
    assert not (await audit.list_records(pb.ListAuditRecordsRequest(organization_id=OTHER))).records
    with pytest.raises(InvalidField):
        await audit.list_records(pb.ListAuditRecordsRequest(after_sequence=-1))


# Tampering, by whoever may write to the database


class Vandal:
    """Changes the table behind the service's back."""

    def __init__(self, connection: sa.Connection) -> None:
        self._execute = connection.execute
        self._mine = audit_record.c.organization_id == ORGANIZATION

    def rows(self) -> list[Any]:
        return list(self._execute(sa.select(audit_record).where(self._mine).order_by(audit_record.c.sequence)))

    def delete(self, first: int, last: int) -> None:
        self._execute(audit_record.delete().where(self._mine, audit_record.c.sequence.between(first, last)))

    def put(self, sequence: int, payload: bytes, chained: bytes) -> None:
        self.delete(sequence, sequence)
        values = {"organization_id": ORGANIZATION, "sequence": sequence, "payload": payload, "hash": chained}
        self._execute(audit_record.insert().values(values))

    def remove(self) -> None:
        self.delete(4, 4)

    def change(self) -> None:
        row = self.rows()[3]
        self.put(4, _blaming_another(row.payload), row.hash)

    def change_with_its_hash(self) -> None:
        before, row = self.rows()[2:4]
        record = AuditRecord.FromString(_blaming_another(row.payload))
        self.put(4, record.SerializeToString(), record_hash("session", ORGANIZATION, record, before.hash))

    def spoil(self) -> None:
        self.put(4, b"\xff", self.rows()[3].hash)

    def insert(self) -> None:
        rows = self.rows()
        for row in rows[3:]:
            self.put(row.sequence + 1, row.payload, row.hash)
        self.put(4, _blaming_another(rows[3].payload), rows[3].hash)

    def reorder(self) -> None:
        fourth, fifth = self.rows()[3:5]
        self.put(4, fifth.payload, fifth.hash)
        self.put(5, fourth.payload, fourth.hash)

    def truncate(self) -> None:
        self.delete(7, 9)

    def empty(self) -> None:
        self.delete(1, 9)

    def rewrite(self) -> None:
        """The whole chain from the fourth record on, with hashes that fit."""
        rows = self.rows()
        previous = rows[2].hash
        for row in rows[3:]:
            record = AuditRecord.FromString(_blaming_another(row.payload))
            previous = record_hash("session", ORGANIZATION, record, previous)
            self.put(row.sequence, record.SerializeToString(), previous)


def _blaming_another(payload: bytes) -> bytes:
    record = AuditRecord.FromString(payload)
    record.actor = "key:b"
    return record.SerializeToString()


@pytest.mark.parametrize(
    ("tamper", "by_chain", "by_checkpoint"),
    [
        (Vandal.remove, 4, 4),
        (Vandal.change, 4, 4),
        (Vandal.change_with_its_hash, 5, 5),
        (Vandal.spoil, 4, 4),
        (Vandal.insert, 4, 4),
        (Vandal.reorder, 4, 4),
        (Vandal.truncate, None, 7),
        (Vandal.empty, None, 1),
        (Vandal.rewrite, None, 9),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
async def test_tampering_is_found(
    database: Database,
    clock: FakeClock,
    tamper: Callable[[Vandal], None],
    by_chain: int | None,
    by_checkpoint: int,
) -> None:
    """I-33: by the records alone, or with a checkpoint that was kept elsewhere."""
    audit = audit_of(database, clock)
    for number in range(9):
        await database.write(changing(number))
    kept = await checkpoint(audit)
    assert await faults(audit, kept) == []
    with database.engine.begin() as connection:
        tamper(Vandal(connection))
    assert next(iter(await faults(audit)), None) == by_chain
    assert next(iter(await faults(audit, kept))) == by_checkpoint


async def test_a_checkpoint_of_another_installation_proves_nothing(database: Database, clock: FakeClock) -> None:
    await database.write(changing())
    forger = Audit(clock, database, "session", pb, MasterKey(b"l" * 32), Settings())
    assert await faults(audit_of(database, clock), await checkpoint(forger)) == [1]


async def test_a_checkpoint_says_how_far_the_log_has_come(database: Database, clock: FakeClock) -> None:
    clock.stop()
    audit = audit_of(database, clock)
    none = await checkpoint(audit)
    assert (none.sequence, none.hash) == (0, FIRST)
    await database.write(changing())
    (record,) = await log(audit)
    made = await checkpoint(audit)
    assert (made.service, made.organization_id, made.sequence) == ("session", ORGANIZATION, 1)
    assert (made.hash, made.checkpoint_time.ToMicroseconds()) == (record.hash, clock.now())
    assert made.epoch == await database.read(lambda tx: tx.epoch())
    # One from before is a part of the same log.
    assert await faults(audit, none, made) == []


# Export


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():  # noqa: ASYNC110  # it is a file of another process
            await asyncio.sleep(0.02)


def exported(folder: Path) -> list[tuple[str, int]]:
    """Which checkpoints are in the file: each is signed by the key beside it."""
    found = []
    for line in (folder / "session.jsonl").read_text().splitlines():
        fields = json.loads(line)
        key = bytes.fromhex(fields.pop("public_key"))
        made = ParseDict(fields, AuditCheckpoint())
        assert is_signed(made, key)
        found.append((made.organization_id, made.sequence))
    return found


async def test_checkpoints_of_logs_that_have_grown_go_to_a_folder(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    """I-33: also after a restart, and behind a line that a crash has cut off."""
    folder = tmp_path / "elsewhere"
    audit = audit_of(database, clock, audit_folder=folder)
    await audit.export_once()
    assert not folder.exists()
    await database.write(changing())
    await database.write(lambda tx: note_entry(tx, Entry("", "job:x", "")))
    await audit.export_once()
    await audit.export_once()
    assert sorted(exported(folder)) == [("", 1), (ORGANIZATION, 1)]
    with (folder / "session.jsonl").open("a") as file:
        file.write('{"service": "sess')
    await database.write(changing())
    await database.write(changing())
    again = audit_of(database, clock, audit_folder=folder)
    await again.export_once()
    await again.export_once()
    lines = (folder / "session.jsonl").read_text().splitlines()
    assert (len(lines), lines[2]) == (4, '{"service": "sess')
    (folder / "session.jsonl").write_text("\n".join(lines[:2] + lines[3:]))
    assert exported(folder)[-1] == (ORGANIZATION, 3)


async def test_the_command_is_given_the_checkpoint_and_no_secret(
    database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-31: what it inherits holds none of our settings."""
    for name in ("GUARDHOUSE_DATABASE_URL", "GUARDHOUSE_KEY_FILE", "PGPASSWORD"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("FOR_THE_COMMAND", "yes")
    await database.write(changing())
    command = f"sh -c 'cat >> {tmp_path}/session.jsonl; env > {tmp_path}/env; ls /proc/self/fd > {tmp_path}/fds'"
    await audit_of(database, clock, audit_command=command).export_once()
    assert exported(tmp_path) == [(ORGANIZATION, 1)]
    environment = (tmp_path / "env").read_text()
    assert "FOR_THE_COMMAND=yes" in environment
    assert "canary" not in environment
    # Its three streams, and the listing's own: no database, no socket.
    assert len((tmp_path / "fds").read_text().split()) == 4


async def test_what_the_command_refuses_is_given_to_it_again(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    """At least once; and one organization's failure keeps no other's back."""
    await database.write(changing())
    await database.write(lambda tx: note_entry(tx, Entry("", "job:x", "")))
    refuse = f"sh -c 'read line; echo \"$line\" >> {tmp_path}/session.jsonl; test -e {tmp_path}/well'"
    audit = audit_of(database, clock, audit_command=refuse)
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as raised:
            await audit.export_once()
        assert len(raised.value.exceptions) == 2
    assert sorted(exported(tmp_path)) == [("", 1), ("", 1), (ORGANIZATION, 1), (ORGANIZATION, 1)]
    (tmp_path / "well").touch()
    for _ in range(3):
        await audit.export_once()
    assert len(exported(tmp_path)) == 6
    missing = audit_of(database, clock, audit_command=f"{tmp_path}/nowhere")
    await database.write(changing())
    with pytest.raises(ExceptionGroup):
        await missing.export_once()
    await audit.export_once()
    assert exported(tmp_path)[-1] == (ORGANIZATION, 2)


async def test_the_folder_is_given_once_what_only_the_command_refuses(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    audit = audit_of(database, clock, audit_folder=tmp_path, audit_command=f"test -e {tmp_path}/well")
    await database.write(changing())
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await audit.export_once()
    assert exported(tmp_path) == [(ORGANIZATION, 1)]
    await database.write(changing())
    (tmp_path / "well").touch()
    for _ in range(2):
        await audit.export_once()
    assert exported(tmp_path) == [(ORGANIZATION, 1), (ORGANIZATION, 2)]


async def test_an_export_that_fails_is_counted_and_tried_again(
    database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-33: whoever watches the failures of jobs learns that nothing is exported any more."""
    monkeypatch.setattr("guardhouse_services.leases.RENEW_SECONDS", 0.05)
    await database.write(changing())
    (tmp_path / "elsewhere").touch()
    leases = Leases(database)
    audit = audit_of(database, clock, audit_folder=tmp_path / "elsewhere")
    exporting = asyncio.create_task(leases.run("audit checkpoints", audit.export))
    await until(lambda: "audit checkpoints" in leases.jobs and leases.jobs["audit checkpoints"].failures >= 2)
    (tmp_path / "elsewhere").unlink()
    file = tmp_path / "elsewhere" / "session.jsonl"
    await until(lambda: file.exists() and file.read_text().endswith("\n"))
    exporting.cancel()
    await asyncio.wait([exporting])
    assert exported(tmp_path / "elsewhere") == [(ORGANIZATION, 1)]


async def grown(database: Database, audit: Audit) -> bool:
    """Whether something is left to export after it was tried."""
    await database.write(changing())
    with contextlib.suppress(ExceptionGroup):
        await audit.export_once()
    return bool(await database.read(audit._grown))


def test_a_command_need_not_read(database: Database, clock: FakeClock) -> None:
    """In the event loop that serves, which is not the one of the other tests."""
    for command, is_left in (("true", False), ("false", True)):
        audit = audit_of(database, clock, audit_command=command)
        assert uvloop.run(grown(database, audit)) is is_left


@pytest.mark.parametrize("is_slow", [True, False], ids=["too slow", "lease lost"])
async def test_a_command_ends_with_its_time_and_with_its_job(
    database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    """And whatever it has started ends with it."""
    await database.write(changing())
    command = f"sh -c 'sleep 60 & echo $! > {tmp_path}/child; mv {tmp_path}/child {tmp_path}/began; wait'"
    monkeypatch.setattr("guardhouse_services.audit.COMMAND_SECONDS", 2 if is_slow else 30)
    exporting = asyncio.ensure_future(audit_of(database, clock, audit_command=command).export_once())
    await until((tmp_path / "began").exists)
    if not is_slow:
        exporting.cancel()
    await asyncio.wait([exporting])
    assert exporting.cancelled() is not is_slow
    if is_slow:
        assert exporting.exception() is not None
    status = Path("/proc", (tmp_path / "began").read_text().strip(), "status")
    await until(lambda: not status.exists() or "zombie" in status.read_text())


async def test_of_two_replicas_one_exports_and_the_other_takes_over(
    database: Database, url: str, engine: str, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each other only where the one is cut off after it has told of a checkpoint and before it knows so."""
    if engine == "sqlite":
        pytest.skip("its file has one process, and so one replica")
    monkeypatch.setattr("guardhouse_services.leases.RENEW_SECONDS", 0.1)

    def newest(name: str) -> int:
        told = exported(tmp_path / name) if (tmp_path / name / "session.jsonl").exists() else []
        return told[-1][1] if told else 0

    async with contextlib.AsyncExitStack() as stack:
        jobs = {}
        for name, replica in (("one", database), ("two", Database(url, clock, "session", pb.Change))):
            stack.callback(replica.close)
            audit = audit_of(replica, clock, audit_folder=tmp_path / name, audit_seconds=0.05)
            jobs[name] = asyncio.create_task(Leases(replica).run("audit checkpoints", audit.export))
            stack.push_async_callback(asyncio.wait, [jobs[name]])
            stack.callback(jobs[name].cancel)
        await database.write(changing())
        await until(lambda: newest("one") + newest("two") > 0)
        first, other = ("one", "two") if newest("one") else ("two", "one")
        for number in range(2, 6):
            await database.write(changing())
            await until(lambda: newest(first) == number)  # noqa: B023
        assert newest(other) == 0
        assert exported(tmp_path / first) == [(ORGANIZATION, number) for number in range(1, 6)]
        jobs[first].cancel()
        await asyncio.wait([jobs[first]])
        await database.write(changing())
        await until(lambda: newest(other) == 6)
        assert newest(first) == 5

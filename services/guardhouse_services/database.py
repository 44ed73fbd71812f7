"""One code path for SQLite and PostgreSQL: engines, transactions, revisions.

A transaction is a plain synchronous function that runs in a thread, so it cannot stay open across a call: it cannot
await one. It commits when the function returns and rolls back when it raises.
"""

import asyncio
import fcntl
import importlib
import logging
import os
import random
import select
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError

from guardhouse import revisions
from guardhouse.clock import Clock
from guardhouse.errors import Conflict, DatabaseUnavailable, GuardhouseError
from guardhouse_services.config import CannotStart
from guardhouse_services.statements import Insert, statement, upsert

T = TypeVar("T")
log = logging.getLogger(__name__)

EVENTS_PER_CHANGE = 500
# What a message of a feed holds, well below what a follower takes.
MESSAGE_BYTES = 1 << 20
POSTGRESQL_THREADS = 16
SQLITE_READERS = 4
ATTEMPTS = 5
# The oldest SQLite whose WAL is free of the WAL-reset bug (https://sqlite.org/wal.html).
WAL_SQLITE = (3, 51, 3)
INSERTS: dict[str, Insert] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}  # type: ignore[dict-item]
# SQLSTATEs after which the same transaction may succeed: serialization failure, deadlock, lock timeout.
TRANSIENT_STATES = {"40001", "40P01", "55P03"}

platform = sa.MetaData()
"""The tables that every service's database has."""

epoch = sa.Table("epoch", platform, sa.Column("epoch", sa.String(32), primary_key=True))
"""One row: the name of this database's history. It is replaced when the database is restored from a backup."""

head = sa.Table(
    "head",
    platform,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("compacted", sa.BigInteger, nullable=False),
)
"""The newest revision of each organization, and the newest that is no longer kept. An empty id is the installation."""

change = sa.Table(
    "change",
    platform,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("change_time", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)
"""The feed: a serialised Change for each revision."""


@statement
def _epoch() -> sa.Select[Any]:
    return sa.select(epoch.c.epoch)


@statement
def _revision(organization_id: str) -> sa.Select[Any]:
    return sa.select(head.c.revision).where(head.c.organization_id == organization_id)


@statement
def _advance(organization_id: str) -> sa.Executable:
    taken = head.update().where(head.c.organization_id == organization_id)
    # With what a revision token needs besides.
    named = sa.select(epoch.c.epoch).scalar_subquery()
    return taken.values(revision=head.c.revision + 1).returning(head.c.revision, named.label("epoch"))


@upsert
def _begin(insert: Insert, organization_id: str) -> sa.Executable:
    """The first revision, unless somebody else was faster."""
    first = insert(head).values(organization_id=organization_id, revision=1, compacted=0)
    again = {"revision": head.c.revision + 1}
    return first.on_conflict_do_update(index_elements=["organization_id"], set_=again).returning(head.c.revision)


@upsert
def _lock(insert: Insert, organization_id: str) -> sa.Executable:
    first = insert(head).values(organization_id=organization_id, revision=0, compacted=0)
    same = {"revision": head.c.revision}
    return first.on_conflict_do_update(index_elements=["organization_id"], set_=same).returning(head.c.revision)


@statement
def _add_change(organization_id: str, revision: int, change_time: int, payload: bytes) -> sa.Executable:
    return change.insert().values(
        organization_id=organization_id, revision=revision, change_time=change_time, payload=payload
    )


class ChangeType(Protocol):
    """The Change message of a service's contract."""

    def __call__(self, *, revision: int, events: Sequence[Any]) -> Message: ...


class Transaction:
    """What a transaction's function is given. `now` is the time at which it began."""

    def __init__(
        self, connection: Connection, now: int, service: str, change_type: ChangeType, validate_only: bool
    ) -> None:
        self.execute = connection.execute
        self.insert = INSERTS[connection.dialect.name]
        self.now = now
        self.validate_only = validate_only
        """Whether it will be rolled back, for an answer that says what would happen (AIP-163)."""
        self.changed: dict[str, tuple[int, int]] = {}
        """The revisions before and after, of each organization whose head was taken."""
        self.may_have_a_twin = False
        """Whether the same request may be done at this moment by another call."""
        self.on_record: dict[str, list[Any]] = {}
        """What is put on the audit log of each organization when it commits."""
        self.before_commit: list[Callable[[Transaction], None]] = []
        """What comes after everything else, in this transaction."""
        self.service = service
        self._change_type = change_type
        self._epoch = ""

    def advance(self, organization_id: str) -> int:
        """Takes the organization's head and answers the new revision.

        Whoever holds the head commits next, so revisions are dense and in commit order. It comes after every other lock
        and read: only the rows that carry the revision follow.
        """
        row = _advance(self, organization_id).one_or_none()
        if row is not None:
            taken, self._epoch = row
        else:
            taken = _begin(self, organization_id).scalar_one()
        before, _ = self.changed.get(organization_id, (int(taken) - 1, 0))
        self.changed[organization_id] = before, int(taken)
        return int(taken)

    def lock(self, organization_id: str) -> int:
        """Takes the organization's head without a new revision, and answers the newest."""
        if organization_id in self.changed:
            return self.changed[organization_id][1]
        return int(_lock(self, organization_id).scalar_one())

    def publish(self, organization_id: str, events: Sequence[Message], revision: int = 0) -> int:
        """Writes the events as the change of `revision`, or of the next one, and answers the newest revision.

        More than 500 events, or a megabyte of them, become several consecutive revisions of the same transaction.
        """
        revision = revision or self.advance(organization_id)
        for number, part in enumerate(chunks(events, EVENTS_PER_CHANGE, MESSAGE_BYTES)):
            if number:
                revision = self.advance(organization_id)
            message = self._change_type(revision=revision, events=part)
            _add_change(self, organization_id, revision, self.now, message.SerializeToString())
        return revision

    def revision(self, organization_id: str) -> int:
        """The newest revision, without taking the head."""
        return int(_revision(self, organization_id).scalar() or 0)

    def token(self, organization_id: str, revision: int) -> str:
        """The revision token of a revision of this database; empty where nothing is going to be changed."""
        return "" if self.validate_only else revisions.encode(self.service, organization_id, self.epoch(), revision)

    def epoch(self) -> str:
        return self._epoch or str(_epoch(self).scalar_one())


def new_epoch(tx: Transaction) -> None:
    """Begins another history: followers load everything anew, and revision tokens of the old one are refused."""
    tx.execute(epoch.update().values(epoch=uuid.uuid4().hex))


def chunks(events: Sequence[Message], count: int, size: int) -> Iterator[list[Message]]:
    """The events in parts of at most so many and about so many bytes; one empty part when there are none."""
    part: list[Message] = []
    filled = 0
    for event in events:
        if part and (len(part) == count or filled + event.ByteSize() > size):
            yield part
            part, filled = [], 0
        part.append(event)
        filled += event.ByteSize()
    yield part


class Run(Protocol):
    """Runs a transaction; `kind` is "read" or "write"."""

    async def __call__(self, kind: str, function: Callable[[Transaction], T], validate_only: bool) -> T: ...


class Database:
    """A service's own database. Every transaction goes through `write` or `read`."""

    def __init__(self, url: str, clock: Clock, service: str, change_type: ChangeType) -> None:
        self._clock = clock
        self._service = service
        self._change_type = change_type
        self._on_commit: list[Callable[[], None]] = []
        self._lock_file: int | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.run: Run = self._run
        """What every transaction goes through; it may be replaced by something around it."""
        self.observe: Callable[[str, float, float], None] = lambda _kind, _waited, _took: None
        """Is told, in its thread, of each transaction: "read" or "write", the seconds it waited and those it took."""
        self.is_sqlite = _backend(url) == "sqlite"
        if self.is_sqlite:
            self._take_file(url)
            self._writer = sqlite_engine(url, "BEGIN IMMEDIATE", pool_size=1)
            self._reader = sqlite_engine(url, "BEGIN", pool_size=SQLITE_READERS)
            # SQLite has one writer at a time: a queue in front of one thread is fair, and never finds the file locked.
            self._write_threads = ThreadPoolExecutor(1, f"{service}-write")
            self._read_threads = ThreadPoolExecutor(SQLITE_READERS, f"{service}-read")
        else:
            self._writer = self._reader = postgresql_engine(url)
            self._write_threads = self._read_threads = ThreadPoolExecutor(POSTGRESQL_THREADS, f"{service}-database")

    @property
    def engine(self) -> Engine:
        """For migrations and bulk loading."""
        return self._writer

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Registers what is called in the event loop after a commit that wrote a change."""
        self._on_commit.append(callback)

    async def write(self, function: Callable[[Transaction], T], *, validate_only: bool = False, turn: str = "") -> T:
        """Runs the function in a transaction that may write.

        It may run more than once, when the engine, a Conflict or a repeated request asks for it. Once begun it
        finishes, even when the caller goes away. With validate_only all of it is done, checks and all, and undone.

        Those that name the same `turn` begin one behind the other, in the order in which they came. It is for what
        would wait for the same row: there they would wait in no order, with a thread each, and not for long.
        """
        # SQLite has one writer at a time anyway.
        if not turn or self.is_sqlite:
            return await self.run("write", function, validate_only)
        lock = self._turns.setdefault(turn, asyncio.Lock())
        async with lock:
            return await self.run("write", function, validate_only)

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """Runs the function in a transaction that only reads, on the primary."""
        return await self.run("read", function, False)

    def waiting(self) -> dict[str, int]:
        """How many transactions wait for a thread, by what they may do."""
        pools = {"write": self._write_threads, "read": self._read_threads}
        return {kind: pool._work_queue.qsize() for kind, pool in pools.items()}

    async def _run(self, kind: str, function: Callable[[Transaction], T], validate_only: bool) -> T:
        loop = asyncio.get_running_loop()
        asked = time.perf_counter()
        writes = kind == "write"

        def work() -> T:
            began = time.perf_counter()
            try:
                result, changed = self._transact(self._writer if writes else self._reader, function, validate_only)
            finally:
                self.observe(kind, began - asked, time.perf_counter() - began)
            if changed:
                for callback in self._on_commit:
                    loop.call_soon_threadsafe(callback)
            return result

        return await loop.run_in_executor(self._write_threads if writes else self._read_threads, work)

    def _transact(self, engine: Engine, function: Callable[[Transaction], T], validate_only: bool) -> tuple[T, bool]:
        alone = False
        for attempt in range(1, ATTEMPTS + 1):
            transaction = None
            try:
                with engine.connect() as connection, connection.begin() as scope:
                    now = self._clock.now()
                    transaction = Transaction(connection, now, self._service, self._change_type, validate_only)
                    result = function(transaction)
                    if validate_only:
                        scope.rollback()
                        return result, False
                    for last in transaction.before_commit:
                        last(transaction)
            except IntegrityError:
                raise
            except Conflict:
                if attempt == ATTEMPTS:
                    raise
            except GuardhouseError:
                # Whatever the twin left to be refused, its answer is this call's too: the next attempt finds it.
                if alone or transaction is None or not transaction.may_have_a_twin or attempt == ATTEMPTS:
                    raise
                alone = True
                continue
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in TRANSIENT_STATES or attempt == ATTEMPTS:
                    log.warning("database failed", exc_info=error)
                    raise DatabaseUnavailable("the database did not answer; try again") from error
            else:
                return result, bool(transaction.changed)
            # Contenders that wait equally long meet again.
            time.sleep(random.uniform(0, 0.02 * attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _take_file(self, url: str) -> None:
        """Refuses a second process on a SQLite file: it has one writer, and its replicas would not see each other."""
        name = make_url(url).database
        if name is None or name == ":memory:":
            raise CannotStart("a SQLite database is a file: sqlite:////path/to/file.db")
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"{name} is in use by another process; stop it, or use PostgreSQL to run several replicas"
            ) from None

    def close(self) -> None:
        """Waits for running transactions."""
        self._write_threads.shutdown()
        self._read_threads.shutdown()
        self._writer.dispose()
        self._reader.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)


def _backend(url: str) -> str:
    """Raises CannotStart, which does not show the URL: it may hold a password."""
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        backend = ""
    if backend not in ("sqlite", "postgresql"):
        raise CannotStart("GUARDHOUSE_DATABASE_URL is neither postgresql://user@host/name nor sqlite:////path/to/file")
    return backend


def sqlite_driver() -> Any:
    """The SQLite that the platform's package brings, else the interpreter's own."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return importlib.import_module("sqlite3.dbapi2")


def sqlite_engine(url: str, begin: str, pool_size: int) -> Engine:
    driver = sqlite_driver()
    # The driver binds threads to connections of its own accord; the pool gives a connection to one thread at a time.
    options = {"check_same_thread": False, "timeout": 5}
    engine = sa.create_engine(
        url, module=driver, pool_size=pool_size, max_overflow=0, connect_args=options, hide_parameters=True
    )
    journal = "WAL" if driver.sqlite_version_info >= WAL_SQLITE else "DELETE"
    if journal == "DELETE":
        log.warning("SQLite %s can corrupt a WAL; using the slower DELETE journal", driver.sqlite_version)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (f"journal_mode={journal}", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def postgresql_engine(url: str) -> Engine:
    # A transaction never waits for a person or a call, so these bounds are far above what a sound one takes.
    bounds = "-c statement_timeout=3000 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=5000"
    where = make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(
        where,
        pool_size=POSTGRESQL_THREADS,
        max_overflow=0,
        hide_parameters=True,
        connect_args={
            # The last of two settings counts, so the URL may name others.
            "options": f"{bounds} {where.query.get('options', '')}",
            "connect_timeout": 5,
            # A server that vanished without a word must not hold every thread until TCP gives up.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        },
    )

    @sa.event.listens_for(engine, "checkout")
    def checked_out(connection: Any, _record: object, _fairy: object) -> None:
        if connection.closed or _has_news(connection):
            raise DisconnectionError("the server has ended the connection")

    return engine


def _has_news(connection: Any) -> bool:
    """Whether the server said something of its own accord: that it ends the connection. It takes no round trip."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def violated(error: IntegrityError, index: sa.Index | sa.UniqueConstraint) -> bool:
    """Whether the error is of this unique index."""
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is not None:
        return bool(diagnosis.constraint_name == index.name)
    columns = ", ".join(f"{column.table.name}.{column.name}" for column in index.columns)
    return str(error.orig) in (
        f"UNIQUE constraint failed: {columns}",
        f"UNIQUE constraint failed: index '{index.name}'",
    )

"""The audit log: who did what to which object, written in the transaction of the change, and chained.

A chain belongs to an organization. Its records are made under the organization's head, so they come in the order of
their commits and without a gap; each carries the hash of all before it (see audit.proto and guardhouse.audit).
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from guardhouse.audit import FIRST, public_key, record_hash, sign
from guardhouse.clock import Clock
from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord
from guardhouse.common.v1.errors_pb2 import ErrorReason
from guardhouse.errors import GuardhouseError, InvalidField
from guardhouse.times import set_time
from guardhouse_services.access import Call, Caller
from guardhouse_services.config import PREFIX, Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database, Transaction, head, platform
from guardhouse_services.paging import Pages
from guardhouse_services.statements import Insert, statement, upsert

OBJECTS = 1000
COMMAND_SECONDS = 30.0
# Of variables that hold our settings, a database's password among them, and those of PostgreSQL's clients.
SECRET_PREFIXES = (PREFIX, "PG")

audit_record = sa.Table(
    "audit_record",
    platform,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
"""A serialised AuditRecord without its hash."""

audit_export = sa.Table(
    "audit_export",
    platform,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
"""Up to where each organization's checkpoints have been exported."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be put on record. See AuditRecord for the fields."""

    organization_id: str
    actor: str
    method: str
    objects: Sequence[str] = ()
    request_id: str = ""
    trace_id: str = ""
    reason: str = ""
    """A reason's name without its prefix, for a call that was refused."""


def note(tx: Transaction, call: Call, *objects: str, actor: str = "", reason: str = "") -> None:
    """Puts a call on record when its transaction commits. `actor` is who did it, where that is not the caller."""
    key = call.key
    entry = Entry(
        key.organization_id, actor or call.caller.name, call.method, objects, key.request_id, call.trace_id, reason
    )
    _put(tx, entry)


def note_entry(tx: Transaction, entry: Entry) -> None:
    """Puts what no call asked for on record when its transaction commits: a record for every so many objects."""
    for start in range(0, len(entry.objects) or 1, OBJECTS):
        _put(tx, replace(entry, objects=entry.objects[start : start + OBJECTS]))


def _put(tx: Transaction, entry: Entry) -> None:
    """What a transaction does to an organization is written together."""
    entries = tx.on_record.setdefault(entry.organization_id, [])
    if not entries:
        tx.before_commit.append(partial(_append, organization_id=entry.organization_id, entries=entries))
    entries.append(entry)


def _append(tx: Transaction, organization_id: str, entries: Sequence[Entry]) -> None:
    after = tx.lock(organization_id)
    before, _ = tx.changed.get(organization_id, (after, after))
    sequence, chained = _last(tx, organization_id)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        sequence += 1
        record = AuditRecord(
            sequence=sequence,
            actor=entry.actor,
            method=entry.method,
            objects=entry.objects[:OBJECTS],
            before_revision=before,
            after_revision=after,
            request_id=entry.request_id,
            trace_id=entry.trace_id,
            reason=ErrorReason.Value(f"ERROR_REASON_{entry.reason or 'UNSPECIFIED'}"),
        )
        set_time(record.record_time, tx.now)
        chained = record_hash(tx.service, organization_id, record, chained)
        row = {"sequence": sequence, "payload": record.SerializeToString(), "hash": chained}
        rows.append({"organization_id": organization_id, **row})
    tx.execute(_ADD, rows)


_ADD = audit_record.insert()


def _last(tx: Transaction, organization_id: str) -> tuple[int, bytes]:
    """The newest sequence and hash."""
    row = _newest(tx, organization_id).one_or_none()
    return (row.sequence, row.hash) if row else (0, FIRST)


@statement
def _newest(organization_id: str) -> sa.Select[Any]:
    newest = sa.select(audit_record.c.sequence, audit_record.c.hash)
    newest = newest.where(audit_record.c.organization_id == organization_id)
    return newest.order_by(audit_record.c.sequence.desc()).limit(1)


@statement
def _behind(organization_id: str, sequence: int, limit: int) -> sa.Select[Any]:
    behind = sa.select(audit_record.c.sequence, audit_record.c.payload, audit_record.c.hash)
    behind = behind.where(audit_record.c.organization_id == organization_id, audit_record.c.sequence > sequence)
    return behind.order_by(audit_record.c.sequence).limit(limit)


@statement
def _grown() -> sa.Select[Any]:
    """The organizations whose logs have grown since their last export."""
    newest = sa.select(sa.func.max(audit_record.c.sequence))
    newest_sequence = newest.where(audit_record.c.organization_id == head.c.organization_id).scalar_subquery()
    return (
        sa.select(head.c.organization_id)
        .outerjoin(audit_export, audit_export.c.organization_id == head.c.organization_id)
        .where(newest_sequence > sa.func.coalesce(audit_export.c.sequence, 0))
    )


@upsert
def _exported(insert: Insert, organization_id: str, sequence: int) -> sa.Executable:
    done = insert(audit_export).values(organization_id=organization_id, sequence=sequence)
    return done.on_conflict_do_update(index_elements=["organization_id"], set_={"sequence": sequence})


class Audit:
    """Reads the log, signs and exports checkpoints, and records refusals."""

    def __init__(
        self,
        clock: Clock,
        database: Database,
        service: str,
        contract: Any,
        master_key: MasterKey,
        settings: Settings,
    ) -> None:
        self._clock = clock
        self._database = database
        self._service = service
        self._contract = contract
        self._pages = Pages(master_key)
        self._private = master_key.derive("audit checkpoint")
        self._settings = settings
        self._in_folder: dict[str, int] = {}

    async def list_records(self, request: Any) -> Any:
        """Answers ListAuditRecords. Raises InvalidField and PageTokenInvalid."""
        if request.after_sequence < 0:
            raise InvalidField("after_sequence", "after_sequence cannot be negative")
        now = self._clock.now()
        page = self._pages.read(request, now)
        after = int(page.after or request.after_sequence)

        def read(tx: Transaction) -> Sequence[Any]:
            return _behind(tx, request.organization_id, after, page.size + 1).all()

        rows = await self._database.read(read)
        shown, token = self._pages.cut(request, page, rows, lambda row: str(row.sequence), now, _size)
        return self._contract.ListAuditRecordsResponse(records=map(_record, shown), next_page_token=token)

    async def get_checkpoint(self, request: Any) -> Any:
        """Answers GetAuditCheckpoint."""
        checkpoint = await self._database.read(lambda tx: self._checkpoint(tx, request.organization_id))
        return self._contract.GetAuditCheckpointResponse(checkpoint=checkpoint, public_key=public_key(self._private))

    def _checkpoint(self, tx: Transaction, organization_id: str) -> AuditCheckpoint:
        sequence, chained = _last(tx, organization_id)
        checkpoint = AuditCheckpoint(
            service=self._service, organization_id=organization_id, epoch=tx.epoch(), sequence=sequence, hash=chained
        )
        set_time(checkpoint.checkpoint_time, tx.now)
        sign(checkpoint, self._private)
        return checkpoint

    async def refused(
        self, caller: Caller, method: str, organization_id: str, trace_id: str, error: GuardhouseError
    ) -> None:
        """Records a call that the caller may not make, in the log of whom the caller belongs to."""
        named = [organization_id] if organization_id else []
        entry = Entry(caller.organization_id, caller.name, method, named, trace_id=trace_id, reason=error.reason)
        await self._database.write(lambda tx: note_entry(tx, entry))

    async def export(self) -> None:
        """A job: hands a checkpoint of each log that has grown to the folder and the command of the settings.

        Each at least once: one that cannot be handed over is a newer one in the next round. Raises what export_once
        does, and is to be begun again then.
        """
        while self._settings.audit_folder or self._settings.audit_command:
            await self.export_once()
            await asyncio.sleep(self._settings.audit_seconds)
        await asyncio.Event().wait()

    async def export_once(self) -> None:
        """A round of the job. Raises an ExceptionGroup when something could not be handed over."""
        failures: list[Exception] = []
        for checkpoint in await self._database.read(self._grown):
            try:
                await self._hand_over(checkpoint)
            except Exception as error:  # noqa: BLE001  # it is raised below
                # What fails for one organization must not keep back the others.
                error.add_note(f"no checkpoint of {checkpoint.organization_id!r} is exported")
                failures.append(error)
            else:
                await self._database.write(partial(_note_export, checkpoint=checkpoint))
        if failures:
            raise ExceptionGroup("checkpoints could not be exported", failures)

    def _grown(self, tx: Transaction) -> list[AuditCheckpoint]:
        return [self._checkpoint(tx, organization_id) for organization_id in _grown(tx).scalars()]

    async def _hand_over(self, checkpoint: AuditCheckpoint) -> None:
        fields = MessageToDict(checkpoint, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        line = json.dumps(fields | {"public_key": public_key(self._private).hex()}) + "\n"
        folder, organization_id = self._settings.audit_folder, checkpoint.organization_id
        # Not once more in each round in which only the command fails.
        if folder and self._in_folder.get(organization_id) != checkpoint.sequence:
            await asyncio.to_thread(_write_line, folder / f"{self._service}.jsonl", line)
            self._in_folder[organization_id] = checkpoint.sequence
        if command := self._settings.audit_command:
            await _run(command, line)


def _record(row: Any) -> AuditRecord:
    """As it is stored, whatever somebody has made of it: the verifier is to see that."""
    try:
        record = AuditRecord.FromString(row.payload)
    except DecodeError:
        record = AuditRecord(sequence=row.sequence)
    record.hash = row.hash
    return record


def _size(row: Any) -> int:
    return len(row.payload) + len(row.hash)


def _note_export(tx: Transaction, checkpoint: AuditCheckpoint) -> None:
    _exported(tx, checkpoint.organization_id, checkpoint.sequence)


def _write_line(path: Path, line: str) -> None:
    """Appended, and on the disk when this returns; behind what a crash has left of another line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


async def _run(command: str, line: str) -> None:
    """Gives the line to the command, and nothing of ours besides. Raises RuntimeError when that fails."""
    # A file, because a pipe to a command that does not read is an error, and another one in each event loop.
    with tempfile.TemporaryFile() as file:
        file.write(line.encode())
        file.seek(0)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *shlex.split(command),
                stdin=file,
                stdout=asyncio.subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIXES)},
                start_new_session=True,
            )
        )
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await (await asyncio.shield(starting)).wait()
        except TimeoutError:
            raise RuntimeError(f"the audit command took longer than {COMMAND_SECONDS:g} s") from None
        finally:
            process = await starting
            if process.returncode is None:
                # With whatever it has started.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    if process.returncode:
        raise RuntimeError(f"the audit command ended with {process.returncode}")

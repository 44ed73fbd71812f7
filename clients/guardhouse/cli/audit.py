"""Audit logs: what was done, and whether the log still is what was written."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from google.protobuf.json_format import Parse, ParseError

from guardhouse.audit import verify
from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation, pages
from guardhouse.cli.options import Installation
from guardhouse.cli.output import count
from guardhouse.cli.problems import describe
from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord
from guardhouse.errors import Unavailable
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

app = typer.Typer(no_args_is_help=True)

CONTRACTS: Final[dict[str, Any]] = {"identity": identity, "registry": registry, "ipam": ipam, "session": session}
PAGE_SIZE: Final = 1000
POLL_SECONDS: Final = 1.0
HEADINGS: Final = ("time", "service", "actor", "method", "refused", "objects")
WIDTHS: Final = (23, 8, 43, 22, 13, 0)
"""Of lines that follow: a time, a service, a device, a method, and a reason as most are."""
OBJECTS: Final = 4


class Service(StrEnum):
    """Whose log."""

    IDENTITY = "identity"
    REGISTRY = "registry"
    IPAM = "ipam"
    SESSION = "session"


Services = Annotated[
    list[Service] | None,
    typer.Option("--service", help="Only this service's log; may be repeated. Default: all four."),
]


class Line(NamedTuple):
    """A record of one of the logs."""

    service: str
    record: AuditRecord

    def as_dict(self) -> dict[str, Any]:
        return {"service": self.service, **output.as_dict(self.record)}

    def cells(self) -> tuple[str, ...]:
        record = self.record
        seconds = output.local_time(record.record_time)
        more = len(record.objects) - OBJECTS
        objects = ", ".join(record.objects[:OBJECTS]) + (f" and {more} more" if more > 0 else "")
        return (
            f"{seconds}.{record.record_time.nanos // 1_000_000:03}",
            self.service,
            record.actor,
            record.method.rpartition("/")[2] or output.NOTHING,
            output.cell(record, "reason") if record.reason else output.NOTHING,
            objects or output.NOTHING,
        )


@dataclass(slots=True)
class Log:
    """An organization's log in one service, and how much of it has been seen."""

    it: Invocation
    service: str
    organization_id: str
    after: int = 0

    def checkpoint(self) -> Any:
        """The GetAuditCheckpointResponse of the service."""
        request = CONTRACTS[self.service].GetAuditCheckpointRequest(organization_id=self.organization_id)
        return self._stub.GetAuditCheckpoint(request)

    def records(self, after: int, limit: int | None = None) -> Iterator[AuditRecord]:
        """What stands behind the sequence `after`, in order."""
        request = CONTRACTS[self.service].ListAuditRecordsRequest(
            organization_id=self.organization_id, after_sequence=after
        )
        for page in pages(self._stub.ListAuditRecords, request, limit, PAGE_SIZE):
            yield from page.records

    def newest(self, number: int, wanted: Callable[[AuditRecord], bool]) -> list[Line]:
        """The newest that are wanted, in order. It reads backwards, so that the length of the log does not matter."""
        found: deque[AuditRecord] = deque()
        end = self.after = self.checkpoint().checkpoint.sequence
        size = number
        while end and len(found) < number:
            size, start = min(2 * size, PAGE_SIZE), max(end - size, 0)
            found.extendleft(record for record in reversed([*self.records(start, end - start)]) if wanted(record))
            end = start
        return [Line(self.service, record) for record in list(found)[-number:]]

    def since(self, wanted: Callable[[AuditRecord], bool]) -> tuple[list[Line], Unavailable | None]:
        """What has come since the last look, and is wanted; and why that is perhaps not all."""
        found = []
        try:
            for record in self.records(self.after):
                self.after = record.sequence
                if wanted(record):
                    found.append(Line(self.service, record))
        except Unavailable as error:  # It may come back, and nothing is lost meanwhile.
            return found, error
        return found, None

    @property
    def _stub(self) -> Any:
        return getattr(self.it.client, f"{self.service}_audit")


@app.command("tail")
def tail(
    ctx: Context,
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    services: Services = None,
    actor: Annotated[str, typer.Option(help="Only whose actor has this in it, such as an id, or `key:`.")] = "",
    method: Annotated[str, typer.Option(help="Only whose method has this in it, such as RevokeUser.")] = "",
    about: Annotated[str, typer.Option("--object", metavar="ID", help="Only what changed this.")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    installation: Installation = False,
) -> None:
    """Show who did what: the newest records of the four services, in the order of their times. --json: JSON lines."""
    it = ctx.obj
    logs = _logs(it, services, installation)

    def wanted(record: AuditRecord) -> bool:
        return (
            actor in record.actor
            and method.lower() in record.method.lower()
            and (not about or about in record.objects)
            and (not refused or record.reason != 0)
        )

    with ThreadPoolExecutor(len(logs)) as pool:
        with output.waiting("Reading ..."):
            lines = _merged(pool.map(lambda log: log.newest(number, wanted), logs))[-number:]
        if follow and not it.as_json:
            _print_columns([heading.upper() for heading in HEADINGS])
        if follow or it.as_json:
            _print(it, lines)
        else:
            output.print_rows(HEADINGS, [line.cells() for line in lines])
        try:
            while follow:
                pause()
                found, errors = zip(*pool.map(lambda log: log.since(wanted), logs), strict=True)
                _print(it, _merged(found))
                for error in filter(None, errors):
                    output.error(describe(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def pause() -> None:
    time.sleep(POLL_SECONDS)


@app.command("checkpoint")
def checkpoint(ctx: Context, services: Services = None, installation: Installation = False) -> None:
    """Print a signed checkpoint of each log as a line of JSON, for a place that the servers cannot write to."""
    it = ctx.obj
    for log in _logs(it, services, installation):
        response = log.checkpoint()
        output.print_json_line({**output.as_dict(response.checkpoint), "public_key": response.public_key.hex()})


@dataclass(slots=True)
class Verified:
    """What became of one log."""

    service: str
    records: int = 0
    checkpoints: int = 0
    """Those that were kept."""
    restored: bool = False
    """A checkpoint is of another epoch."""
    faults: list[tuple[int, str]] = field(default_factory=list)


@app.command("verify")
def verify_logs(
    ctx: Context,
    services: Services = None,
    kept: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoints",
            metavar="FILE|FOLDER",
            help="Checkpoints that were kept elsewhere, or a folder of *.jsonl; may be repeated.",
        ),
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(metavar="HEX", help="The key that checkpoints are signed with, as it was noted once.")
    ] = None,
    installation: Installation = False,
) -> None:
    """Read whole logs, and say whether they are what was written; exits with 1 if not."""
    it = ctx.obj
    pinned = _key(public_key) if public_key is not None else None
    # Read before the servers are asked: the present checkpoint is then the newest.
    known = [line for path in kept or () for line in _checkpoints(path)]
    logs = _logs(it, services, installation)
    present = [log.checkpoint() for log in logs]
    # An installation has one key.
    key = pinned or present[0].public_key
    results = []
    with output.progress() as bars:
        for log, now in zip(logs, present, strict=True):
            task = bars.add_task(log.service, total=now.checkpoint.sequence)
            mine = [found for found in known if found.service == log.service]
            results.append(_verify(log, now.checkpoint, mine, key, partial(bars.advance, task)))
    _report(it, results, key, pinned is not None)


def _verify(
    log: Log, present: AuditCheckpoint, known: list[AuditCheckpoint], key: bytes, step: Callable[[], None]
) -> Verified:
    mine = [one for one in known if one.organization_id == log.organization_id]
    result = Verified(log.service, checkpoints=len(mine))

    def records() -> Iterator[AuditRecord]:
        for record in log.records(0, present.sequence or None) if present.sequence else ():
            result.records += 1
            step()
            yield record

    for epoch in {one.epoch for one in mine} - {present.epoch}:
        result.restored = True
        newest = max(one.sequence for one in mine if one.epoch == epoch)
        result.faults.append((newest, f"a checkpoint is of the epoch {epoch}, and the server is in {present.epoch}"))
    found = verify(log.service, log.organization_id, records(), [*known, present], key)
    result.faults += [(fault.sequence, fault.message) for fault in found]
    return result


def _report(it: Invocation, results: Sequence[Verified], key: bytes, pinned: bool) -> None:
    faults = [(result.service, str(sequence), what) for result in results for sequence, what in result.faults]
    if it.as_json:
        services = [
            {
                "service": result.service,
                "records": result.records,
                "checkpoints": result.checkpoints,
                "faults": [{"sequence": sequence, "message": message} for sequence, message in result.faults],
            }
            for result in results
        ]
        output.print_json({"public_key": key.hex(), "public_key_pinned": pinned, "services": services})
    else:
        rows = [
            (
                one.service,
                str(one.records),
                str(one.checkpoints),
                count(len(one.faults), "fault") if one.faults else "whole",
            )
            for one in results
        ]
        output.print_rows(("service", "records", "checkpoints", "log"), rows)
        if faults:
            print()
            output.print_rows(("service", "sequence", "what"), faults)
    if any(result.restored for result in results):
        output.note(
            "Another epoch means that a database was restored from a backup, or replaced: what was written after that"
            " backup is lost. If that was you, put the checkpoints of before aside, and keep those made since."
        )
    if alone := [result.service for result in results if not result.checkpoints]:
        output.note(
            f"No checkpoint was kept of {', '.join(alone)}: what was cut off at the end, or written anew, looks whole."
        )
    if not pinned:
        output.note(
            "The signing key was taken on trust from the server, which could have made all of this anew. Note it where"
            " the server cannot write, and pass it from now on:"
        )
        output.note(f"  guardhouse audit verify --public-key {key.hex()}")
    if faults:
        raise typer.Exit(1)


def _logs(it: Invocation, services: Sequence[Service] | None, installation: bool) -> list[Log]:
    organization_id = "" if installation else it.organization_id
    return [Log(it, service, organization_id) for service in services or Service]


def _merged(found: Iterable[list[Line]]) -> list[Line]:
    """By time; the records of one log keep their order."""
    lines = [line for lines in found for line in lines]
    return sorted(lines, key=lambda line: line.record.record_time.ToMicroseconds())


def _print(it: Invocation, lines: Sequence[Line]) -> None:
    """Each at once, for whoever follows."""
    for line in lines:
        if it.as_json:
            output.print_json_line(line.as_dict())
        else:
            _print_columns(line.cells())


def _print_columns(cells: Sequence[str]) -> None:
    output.print_line("  ".join(text.ljust(width) for text, width in zip(cells, WIDTHS, strict=True)).rstrip())
    sys.stdout.flush()


def _key(text: str) -> bytes:
    """The key that is given in hex."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise typer.BadParameter("a public key is 64 hexadecimal digits", param_hint="--public-key")
    return key


def _checkpoints(path: Path) -> Iterator[AuditCheckpoint]:
    """What a file holds, or the files of a folder, as the services export it. There is one at least."""
    none = True
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            where = f"line {number} of {file}"
            try:
                checkpoint = Parse(line, AuditCheckpoint(), ignore_unknown_fields=True)
            except (ValueError, ParseError):  # A crash while it was exported has left the rest of the file readable.
                output.note(f"{where} is no checkpoint, perhaps a part of one: it is passed over")
                continue
            if checkpoint.service not in CONTRACTS:
                raise typer.BadParameter(f"{where} is of no service", param_hint="--checkpoints")
            none = False
            yield checkpoint
    if none:
        raise typer.BadParameter(f"{path} holds no checkpoint", param_hint="--checkpoints")

"""Calls of a servicer as its listeners make them, without a network between; and all that a database holds."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from google.protobuf.descriptor import FileDescriptor

from guardhouse.audit import verify
from guardhouse.common.v1 import access_pb2
from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.errors import RequestIdReused
from guardhouse_services.access import Call, Caller
from guardhouse_services.audit import audit_record
from guardhouse_services.calls import _request_key, methods
from guardhouse_services.database import Database, Transaction, platform

ADMIN = Caller("key", "key_" + "0" * 32, role=access_pb2.ROLE_ADMIN)

REPORTS = {"ReportActivity"}
"""What is no change that anybody made, and is not on record: when devices were heard of."""

Story = AsyncGenerator[Any, Any]
"""Requests; it is sent each one's answer."""


@dataclass(frozen=True)
class Expected:
    """Of a mutation: which ids are to be on record for a (request, answer), by whom, and how its body is changed."""

    objects: Callable[[Any, Any], Sequence[str]]
    actor: Callable[[Any, Any], str] = lambda _request, _answer: ADMIN.name
    change: Callable[[Any], Any] | None = None
    """None: it is repeated by an id of its own, and its request_id is for something else."""
    of_installation: bool = False
    """Whether it is on record there, whatever organization it names."""


class Desk:
    """A service's methods. Callers are whoever the contract lets call: services, or an ADMIN key of everything."""

    def __init__(self, contract: FileDescriptor, servicer: object, database: Database, tables: sa.MetaData) -> None:
        self.database = database
        self._service = contract.package.split(".")[1]
        self._tables = [*tables.sorted_tables, *platform.sorted_tables]
        self._methods = {method.request_type: method for method in methods(contract, servicer)}

    @property
    def mutations(self) -> set[str]:
        return {method.name for method in self._methods.values() if method.rule.is_mutation} - REPORTS

    def path(self, request: Any) -> str:
        return self._methods[type(request)].path

    async def send(self, request: Any) -> Any:
        method = self._methods[type(request)]
        caller = Caller("service", min(method.rule.services)) if method.rule.services else ADMIN
        organization_id = getattr(request, "organization_id", "")
        key = _request_key(method, request, caller, organization_id)
        return await method.function(request, Call(caller, method.path, "trace", key))

    async def dump(self) -> dict[str, list[str]]:
        """Every row of every table."""

        def read(tx: Transaction) -> dict[str, list[str]]:
            return {table.name: sorted(map(str, tx.execute(sa.select(table)))) for table in self._tables}

        return await self.database.read(read)

    async def records(self, organization_id: str = "") -> list[AuditRecord]:
        """An organization's audit log, which is in order."""
        query = sa.select(audit_record).where(audit_record.c.organization_id == organization_id)
        rows = await self.database.read(lambda tx: tx.execute(query.order_by(audit_record.c.sequence)).all())
        found = [AuditRecord.FromString(row.payload) for row in rows]
        for record, row in zip(found, rows, strict=True):
            record.hash = row.hash
        assert list(verify(self._service, organization_id, found, [], b"")) == []
        return found

    async def tell(self, story: Story, table: dict[str, Expected]) -> None:
        """Every mutation, twice at once and again: one effect, one answer, and one record in the same transaction."""
        assert table.keys() == self.mutations
        told: list[tuple[Any, Any]] = []
        answer = None
        while (request := await _next(story, answer)) is not None:
            expected = table[self._methods[type(request)].name]
            answer = await self._once(request, expected)
            told.append((request, answer))
        assert {self._methods[type(request)].name for request, _ in told} == self.mutations
        after = await self.dump()
        for request, answer in told:
            again = await self.send(request)
            assert _comparable(again) == _comparable(answer), self.path(request)
        assert await self.dump() == after

    async def _once(self, request: Any, expected: Expected) -> Any:
        path = self.path(request)
        if expected.change is not None and "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = secrets.token_hex(8)
        log = "" if expected.of_installation else getattr(request, "organization_id", "")
        before, since = await self._revision(log), len(await self.records(log))
        answer, other = await asyncio.gather(self.send(request), self.send(request))
        assert answer == other, path
        (record,) = (await self.records(log))[since:]
        assert record.method == path
        assert list(record.objects) == list(expected.objects(request, answer)), path
        assert record.actor == expected.actor(request, answer), path
        assert (record.request_id, record.trace_id) == (getattr(request, "request_id", ""), "trace")
        assert (record.before_revision, record.after_revision) == (before, await self._revision(log)), path
        assert not record.reason
        after = await self.dump()
        assert await self.send(request) == answer, path
        if expected.change is not None:
            await self._refused(request, expected.change)
        assert await self.dump() == after, path
        return answer

    async def _refused(self, request: Any, change: Callable[[Any], Any]) -> None:
        another = type(request)()
        another.CopyFrom(request)
        change(another)
        assert another != request
        try:
            await self.send(another)
        except RequestIdReused:
            return
        raise AssertionError(f"{self.path(request)} takes another body under the same request_id")

    async def _revision(self, organization_id: str) -> int:
        return await self.database.read(lambda tx: tx.revision(organization_id))


async def _next(story: Story, answer: Any) -> Any:
    try:
        return await story.asend(answer)
    except StopAsyncIteration:
        return None


def _comparable(answer: Any) -> Any:
    """Without what an equivalent answer may have otherwise: a later token, and how somebody is now."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    for field in ("revision_token", "user"):
        if field in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(field)
    return copy


def only(records: Iterable[AuditRecord], method: str) -> AuditRecord:
    """The one record of a method, or of what the service did of its own accord."""
    (found,) = (record for record in records if record.method.endswith(f"/{method}") or record.actor == method)
    return found

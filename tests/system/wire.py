"""Calls as they stand on the wire: bytes in, a status with its details out, without anything that a client adds."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from guardhouse.status import DETAILS_KEY
from tests.plane import Plane
from tests.system.contract import Method

SECONDS = 20.0


@dataclass(frozen=True)
class Caller:
    """Who calls, and on which listener: a bearer value, "" for none, on the public one; a service on the other."""

    who: str
    listener: str = "public"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.who}"),) if self.who and self.listener == "public" else ()


@dataclass(frozen=True)
class Outcome:
    """What became of a call. `answers` is one, or those of a stream."""

    code: str
    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    """The fields of BadRequest."""
    details: frozenset[str] = frozenset()
    """The names of google.rpc's messages that came with it."""
    answers: tuple[bytes, ...] = ()
    seconds: float = 0.0

    @property
    def field(self) -> str:
        return self.metadata.get("field", "")

    def __str__(self) -> str:
        return f"{self.code} {self.reason or self.message[:80]} {self.field}".strip()


async def send(plane: Plane, method: Method, caller: Caller, *raws: bytes, host: str = "127.0.0.1") -> Outcome:
    """Sends the request, or those of a stream, which then ends."""
    # One connection serves all who call on the public listener.
    peer = caller.who if caller.listener == "service" else ""
    channel = plane.raw(method.service, caller.listener, peer, host)
    return await send_to(channel, method.path, method.is_stream, caller.metadata, *raws)


async def send_to(
    channel: grpc.aio.Channel,
    path: str,
    is_stream: bool,
    metadata: tuple[tuple[str, str], ...],
    *raws: bytes,
    seconds: float = SECONDS,
) -> Outcome:
    """As send, by path alone."""
    outcome = await _send_once(channel, path, is_stream, metadata, raws, seconds)
    if is_stream and outcome.code == "INTERNAL" and not outcome.details:
        # A stream that is refused while its request is under way may be reset by HTTP/2, before its status is read. A
        # fault of ours has details.
        outcome = await _send_once(channel, path, is_stream, metadata, raws, seconds)
    return outcome


async def _send_once(
    channel: grpc.aio.Channel,
    path: str,
    is_stream: bool,
    metadata: tuple[tuple[str, str], ...],
    raws: tuple[bytes, ...],
    seconds: float,
) -> Outcome:
    began = time.perf_counter()
    answers: list[bytes] = []
    try:
        if is_stream:
            stream: Any = channel.stream_stream(path)
            answers.extend([each async for each in stream(_each(raws), timeout=seconds, metadata=metadata)])
        else:
            unary: Any = channel.unary_unary(path)
            answers.append(await unary(raws[0], timeout=seconds, metadata=metadata))
    except grpc.aio.AioRpcError as error:
        return _failure(error, answers, time.perf_counter() - began)
    return Outcome("OK", answers=tuple(answers), seconds=time.perf_counter() - began)


async def _each(raws: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for raw in raws:
        yield raw
        await asyncio.sleep(0)


async def ended(call: Any) -> Outcome:
    """What becomes of a call that was begun by hand."""
    began = time.perf_counter()
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return _failure(error, [], time.perf_counter() - began)
    return Outcome("OK")


def _failure(error: grpc.aio.AioRpcError, answers: list[bytes], seconds: float) -> Outcome:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b""))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return Outcome(
        error.code().name,
        error.details() or "",
        info.reason,
        info.domain,
        dict(info.metadata),
        tuple(violation.field for violation in bad.field_violations),
        frozenset(detail.TypeName().rpartition(".")[2] for detail in status.details),
        tuple(answers),
        seconds,
    )

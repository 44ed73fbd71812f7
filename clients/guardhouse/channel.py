"""A channel that a generated stub takes like any other, and that adds what every call of ours has.

It adds the caller's credential and request id, a deadline, a request_id to every mutation that has none and the
revision tokens seen so far to every call that takes them; it retries where that is safe, and raises GuardhouseError. One policy
serves the blocking and the asyncio channel.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from guardhouse.errors import EpochChanged, GuardhouseError
from guardhouse.revisions import Tokens
from guardhouse.status import from_rpc_error, is_transient

Metadata = tuple[tuple[str, str], ...]

DEADLINE = 10.0
ATTEMPTS = 3
TOKEN_FIELDS = ("revision_token", "identity_revision_token")


class Policy:
    """What is added to each call. `metadata` is asked once a call, so that a server can hand its request id on."""

    def __init__(self, metadata: Callable[[], Metadata], deadline: float = DEADLINE, keep_tokens: bool = True) -> None:
        self.metadata = metadata
        self.deadline = deadline
        self.tokens = Tokens() if keep_tokens else None

    def prepare(self, method: MethodDescriptor, request: Message) -> Message:
        """The request with what the caller may leave out; the caller's own message stays as it is."""
        fields = method.input_type.fields_by_name
        added: dict[str, Any] = {}
        if "request_id" in fields and not request.request_id:  # type: ignore[attr-defined]
            added["request_id"] = uuid.uuid4().hex
        if self.tokens is not None and "at_least" in fields and not request.at_least:  # type: ignore[attr-defined]
            added["at_least"] = self.tokens.of(getattr(request, "organization_id", ""))
        if not added:
            return request
        copy = type(request)()
        copy.CopyFrom(request)
        copy.MergeFrom(type(request)(**added))
        return copy

    def learn(self, response: Message) -> None:
        if self.tokens is None:
            return
        for field in TOKEN_FIELDS:
            if text := getattr(response, field, ""):
                self.tokens.keep(text)

    def failed(self, error: GuardhouseError, attempt: int, retryable: bool, time_left: float) -> float:
        """How long to wait before the next attempt; raises the error when there is none."""
        if isinstance(error, EpochChanged) and self.tokens is not None:
            self.tokens.forget()
        pause = error.retry_after or random.uniform(0.05, min(1.0, 0.1 * 2**attempt))
        if not (retryable and is_transient(error) and attempt < ATTEMPTS and pause < time_left):
            raise error
        return pause


def _method(path: str) -> MethodDescriptor:
    return descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))


def _is_retryable(method: MethodDescriptor) -> bool:
    # A mutation carries a request_id by the time it is sent, so repeating it has one effect.
    return method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN


class BlockingChannel(grpc.Channel):
    """For stubs that block."""

    def __init__(self, channel: grpc.Channel, policy: Policy) -> None:
        self._channel = channel
        self._policy = policy

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        inner = self._channel.unary_unary(method, *args, **options)
        descriptor = _method(method)
        retryable = _is_retryable(descriptor)
        policy = self._policy

        def call(request: Message, timeout: float | None = None, metadata: Iterable[tuple[str, str]] = ()) -> Message:
            request = policy.prepare(descriptor, request)
            end = time.monotonic() + (timeout or policy.deadline)
            attempt = 1
            while True:
                left = max(end - time.monotonic(), 0.001)
                try:
                    response: Message = inner(request, timeout=left, metadata=(*policy.metadata(), *metadata))
                except grpc.RpcError as error:
                    pause = policy.failed(from_rpc_error(error), attempt, retryable, end - time.monotonic())
                else:
                    policy.learn(response)
                    return response
                time.sleep(pause)
                attempt += 1

        return call

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._channel.stream_stream(method, *args, **options)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._channel.unary_stream(method, *args, **options)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._channel.stream_unary(method, *args, **options)

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AioChannel:
    """For stubs that are awaited. Streams keep gRPC's own errors and get the metadata only."""

    def __init__(self, channel: grpc.aio.Channel, policy: Policy) -> None:
        self._channel = channel
        self._policy = policy

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Callable[..., Awaitable[Message]]:
        inner = self._channel.unary_unary(method, *args, **options)
        descriptor = _method(method)
        retryable = _is_retryable(descriptor)
        policy = self._policy

        async def call(
            request: Message, timeout: float | None = None, metadata: Iterable[tuple[str, str]] = ()
        ) -> Message:
            request = policy.prepare(descriptor, request)
            end = time.monotonic() + (timeout or policy.deadline)
            attempt = 1
            while True:
                left = max(end - time.monotonic(), 0.001)
                try:
                    response: Message = await inner(request, timeout=left, metadata=(*policy.metadata(), *metadata))
                except grpc.RpcError as error:
                    pause = policy.failed(from_rpc_error(error), attempt, retryable, end - time.monotonic())
                else:
                    policy.learn(response)
                    return response
                await asyncio.sleep(pause)
                attempt += 1

        return call

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        inner = self._channel.stream_stream(method, *args, **options)
        return lambda requests=None, **call: inner(requests, **{"metadata": self._policy.metadata(), **call})

    async def close(self) -> None:
        await self._channel.close(None)

"""A channel that a generated stub takes like any other, and that adds what every call of ours has.

It adds the caller's credential and request id, a deadline, a request_id to every mutation that has none, and the
revision tokens seen so far to every call that takes them; it retries where that is safe, and raises GuardhouseError.
One policy serves the blocking and the asyncio channel.

A call is made by calling, which answers the response; `with_call` and `future` of gRPC's own are not offered. Streams
get the metadata only and raise gRPC's own errors.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from guardhouse.errors import EpochChanged, GuardhouseError, RevisionTokenInvalid
from guardhouse.revisions import Tokens
from guardhouse.status import from_rpc_error, is_transient

Metadata = tuple[tuple[str, str], ...]

DEADLINE = 10.0
ATTEMPTS = 3
TOKEN_FIELDS = ("revision_token", "identity_revision_token")


class Policy:
    """What is added to each call. `metadata` is asked at every attempt, so that a server can hand its request id on."""

    def __init__(
        self,
        metadata: Callable[[], Metadata],
        deadline: float = DEADLINE,
        keep_tokens: bool = True,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.metadata = metadata
        self.deadline = deadline
        self.attempts = attempts
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
                # The change is done; a token in a newer form than ours is no reason to say that it failed.
                with contextlib.suppress(RevisionTokenInvalid):
                    self.tokens.keep(text)

    def failed(self, error: GuardhouseError, attempt: int, retryable: bool, time_left: float) -> float:
        """How long to wait before the next attempt; raises the error when there is none."""
        if isinstance(error, EpochChanged) and self.tokens is not None:
            self.tokens.forget(error.metadata.get("service", ""))
        pause = error.retry_after or random.uniform(0.05, min(1.0, 0.1 * 2**attempt))
        if not (retryable and is_transient(error) and attempt < self.attempts and pause < time_left):
            raise error
        return pause


def _method(path: str) -> MethodDescriptor:
    return descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))


def _is_retryable(method: MethodDescriptor) -> bool:
    # A mutation carries a request_id by the time it is sent, so repeating it has one effect.
    return method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN


def _with_metadata(inner: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    def call(requests: Any = None, *args: Any, metadata: Iterable[tuple[str, str]] = (), **options: Any) -> Any:
        return inner(requests, *args, metadata=(*policy.metadata(), *metadata), **options)

    return call


class BlockingChannel(grpc.Channel):
    """For stubs that block. `peer` is what error messages call the other side."""

    def __init__(self, channel: grpc.Channel, policy: Policy, peer: str = "the service") -> None:
        self._channel = channel
        self._policy = policy
        self._peer = peer

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        inner = self._channel.unary_unary(method, *args, **options)
        descriptor = _method(method)
        retryable = _is_retryable(descriptor)
        policy, peer = self._policy, self._peer

        def call(
            request: Message,
            timeout: float | None = None,
            metadata: Iterable[tuple[str, str]] = (),
            **options: Any,
        ) -> Message:
            request = policy.prepare(descriptor, request)
            end = time.monotonic() + (timeout or policy.deadline)
            attempt = 1
            while True:
                left = max(end - time.monotonic(), 0.001)
                added = (*policy.metadata(), *metadata)
                try:
                    response: Message = inner(request, timeout=left, metadata=added, **options)
                except grpc.RpcError as error:
                    failure = from_rpc_error(error, peer)
                    pause = policy.failed(failure, attempt, retryable, end - time.monotonic())
                else:
                    policy.learn(response)
                    return response
                time.sleep(pause)
                attempt += 1

        return call

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.unary_stream(method, *args, **options), self._policy)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.stream_unary(method, *args, **options), self._policy)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.stream_stream(method, *args, **options), self._policy)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AioChannel(grpc.aio.Channel):
    """For stubs that are awaited. `peer` is what error messages call the other side."""

    def __init__(self, channel: grpc.aio.Channel, policy: Policy, peer: str = "the service") -> None:
        self._channel = channel
        self._policy = policy
        self._peer = peer

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        inner = self._channel.unary_unary(method, *args, **options)
        descriptor = _method(method)
        retryable = _is_retryable(descriptor)
        policy, peer = self._policy, self._peer

        async def call(
            request: Message,
            timeout: float | None = None,
            metadata: Iterable[tuple[str, str]] = (),
            **options: Any,
        ) -> Message:
            request = policy.prepare(descriptor, request)
            end = time.monotonic() + (timeout or policy.deadline)
            attempt = 1
            while True:
                left = max(end - time.monotonic(), 0.001)
                added = (*policy.metadata(), *metadata)
                try:
                    response: Message = await inner(request, timeout=left, metadata=added, **options)
                except grpc.RpcError as error:
                    failure = from_rpc_error(error, peer)
                    pause = policy.failed(failure, attempt, retryable, end - time.monotonic())
                else:
                    policy.learn(response)
                    return response
                await asyncio.sleep(pause)
                attempt += 1

        return call

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.unary_stream(method, *args, **options), self._policy)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.stream_unary(method, *args, **options), self._policy)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _with_metadata(self._channel.stream_stream(method, *args, **options), self._policy)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

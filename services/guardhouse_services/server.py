"""The gRPC side of a service: two listeners and one wrapper around every method.

The wrapper is one function for what would else be a chain of interceptors: it finds the caller, applies the method's
rule, bounds the time, waits for the freshness that is asked for, calls the method, maps its errors and writes one line.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_channelz.v1 import channelz
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from guardhouse.errors import (
    AccessDenied,
    CredentialsInvalid,
    CredentialsMissing,
    DeadlineTooShort,
    GuardhouseError,
    IdTokenInvalid,
    Internal,
    MessageInvalid,
    RateLimited,
)
from guardhouse.ids import ORGANIZATION, check_id
from guardhouse.status import DETAILS_KEY, to_status
from guardhouse_services import checks
from guardhouse_services.access import ANONYMOUS, SERVICE, Call, Caller, Rule, check_scope
from guardhouse_services.credentials import API_KEY_PREFIX, REGISTRATION_PREFIX
from guardhouse_services.log import trace_id
from guardhouse_services.requests import RequestKey

log = logging.getLogger(__name__)

UNARY_SECONDS = 30.0
MUTATION_SECONDS = 0.1
PUBLIC_MESSAGE_BYTES = 256 << 10
SERVICE_MESSAGE_BYTES = 4 << 20
TRACE_ID_KEY = "x-request-id"
LIMITED_PEERS = 10_000

Authenticate = Callable[[str], Awaitable[Caller]]
"""Recognises a bearer value, or raises CredentialsInvalid."""
Wait = Callable[[Sequence[str], str], Awaitable[None]]
"""Waits until revision tokens are reached: (tokens, organization_id)."""


class RateLimit:
    """A bucket of calls for each address; it fills at `rate` a second up to `burst`."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Raises RateLimited."""
        now = time.monotonic()
        left, at = self._buckets.pop(address, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._buckets[address] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._buckets) > LIMITED_PEERS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = (1 - left) / self._rate
            raise RateLimited("too many calls from this address; wait a moment", retry_after=wait)


class Method:
    """One method of a servicer, with what the wrapper needs to know of it."""

    def __init__(self, descriptor: MethodDescriptor, function: Callable[..., Any]) -> None:
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.name = descriptor.name
        self.function = function
        self.rule = Rule.of(descriptor)
        self.request_type: type[Message] = GetMessageClass(descriptor.input_type)
        self.is_stream = descriptor.client_streaming
        fields = descriptor.input_type.fields_by_name
        self.takes_request_id = "request_id" in fields
        self.takes_at_least = "at_least" in fields
        self.takes_organization = "organization_id" in fields


def methods(file: FileDescriptor, servicer: object) -> list[Method]:
    """The methods of every service in a contract. Raises LookupError when one lacks its rule or its implementation."""
    found = []
    for service in file.services_by_name.values():
        for descriptor in service.methods:
            function = getattr(servicer, descriptor.name, None)
            if function is None:
                raise LookupError(f"{type(servicer).__name__} lacks {descriptor.full_name}")
            found.append(Method(descriptor, function))
    return found


class Handlers(grpc.GenericRpcHandler):
    """The wrapped methods of one listener. Names are looked up exactly; any other is UNIMPLEMENTED."""

    def __init__(
        self,
        listener: str,
        methods: Iterable[Method],
        authenticate: Authenticate,
        wait: Wait,
        rate_limit: RateLimit,
        trust_domain: str,
        log_calls: bool,
    ) -> None:
        self._listener = listener
        self._authenticate = authenticate
        self._wait = wait
        self._rate_limit = rate_limit
        self._spiffe_prefix = f"spiffe://{trust_domain}/"
        self._log_calls = log_calls
        self._handlers = {method.path: self._handler(method) for method in methods}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
        if method.is_stream:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def serve(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            return await self._serve(method, context, lambda caller: self._call(method, raw, caller, context))

        return serve

    def _stream(self, method: Method) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
        async def serve(raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            async def run(caller: Caller) -> bytes:
                requests = (_parse(method, raw) async for raw in raws)
                await method.function(requests, context.write)
                return b""

            return await self._serve(method, context, run)

        return serve

    async def _serve(self, method: Method, context: Any, run: Callable[[Caller], Awaitable[bytes]]) -> bytes:
        """Runs a call and maps its errors, once."""
        started = time.perf_counter()
        metadata = dict(context.invocation_metadata())
        trace = metadata.get(TRACE_ID_KEY, "")
        if not checks.REQUEST_ID.fullmatch(trace):
            trace = secrets.token_hex(8)
        trace_id.set(trace)
        caller, failure, code = ANONYMOUS, None, "OK"
        try:
            caller = await self._caller(method, metadata, context)
            method.rule.check(caller, method.path)
            return await run(caller)
        except GuardhouseError as error:
            failure = error
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            log.exception("%s failed", method.path, exc_info=error)
            failure = Internal("the server failed; its log has more under this request id")
        finally:
            if failure is not None:
                code = failure.code
            if self._log_calls:
                self._write_line(method, caller, code, failure, started)
        status = to_status(failure, trace)
        await _abort(context, failure, status)
        raise AssertionError("unreachable: abort raises")

    async def _caller(self, method: Method, metadata: dict[str, Any], context: Any) -> Caller:
        if self._listener == SERVICE:
            return self._peer(context)
        if method.rule.listener == SERVICE:
            raise AccessDenied("this method is served to services only, on the service listener", method=method.path)
        authorization = metadata.get("authorization", "")
        if method.rule.anonymous:
            self._rate_limit.take(_address(context.peer()))
            return ANONYMOUS
        if not authorization:
            return ANONYMOUS
        scheme, _, bearer = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise CredentialsInvalid("the authorization header must be `Bearer <key>`")
        return await self._authenticate(bearer.strip())

    def _peer(self, context: Any) -> Caller:
        """The service that the leaf certificate of the handshake names; nothing else is looked at."""
        names = context.auth_context().get("x509_subject_alternative_name", ())
        uris = [name.decode() for name in names if name.startswith(b"spiffe://")]
        if len(uris) != 1 or not uris[0].startswith(self._spiffe_prefix):
            raise CredentialsMissing("the certificate names no service of this installation")
        return Caller("service", uris[0].removeprefix(self._spiffe_prefix))

    async def _call(self, method: Method, raw: bytes, caller: Caller, context: Any) -> bytes:
        request: Any = _parse(method, raw)
        organization_id = request.organization_id if method.takes_organization else ""
        if organization_id:
            check_id(organization_id, ORGANIZATION, "organization_id")
        check_scope(caller, method.path, organization_id, getattr(request, "registration_id", ""))
        left = context.time_remaining()
        if method.rule.is_mutation and left is not None and left < MUTATION_SECONDS:
            raise DeadlineTooShort("less than 100 ms are left, too little for a change; nothing was done")
        try:
            async with asyncio.timeout(UNARY_SECONDS):
                if method.takes_at_least and request.at_least:
                    checks.count(request.at_least, "at_least", 16)
                    await self._wait(request.at_least, organization_id)
                key = _request_key(method, request, caller, organization_id)
                response = await method.function(request, Call(caller, method.path, trace_id.get(), key))
        except TimeoutError:
            raise DeadlineTooShort(
                f"the call took longer than {UNARY_SECONDS:.0f} s; look before you repeat a change"
            ) from None
        serialised: bytes = response.SerializeToString()
        return serialised

    def _write_line(
        self, method: Method, caller: Caller, code: str, failure: GuardhouseError | None, started: float
    ) -> None:
        extra: dict[str, Any] = {
            "method": method.path,
            "caller": caller.name,
            "code": code,
            "milliseconds": round((time.perf_counter() - started) * 1000, 2),
        }
        if failure is not None:
            extra["reason"] = failure.reason
            extra["detail"] = failure.detail if isinstance(failure, IdTokenInvalid) else failure.message
        log.info("call", extra=extra)


def _parse(method: Method, raw: bytes) -> Message:
    try:
        return method.request_type.FromString(raw)
    except DecodeError:
        raise MessageInvalid(f"the request is not a {method.request_type.DESCRIPTOR.full_name}") from None


def _request_key(method: Method, request: Any, caller: Caller, organization_id: str) -> RequestKey:
    if not method.takes_request_id or not request.request_id:
        return RequestKey(organization_id, caller.name, method.name, "", b"")
    checks.request_id(request.request_id)
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    if method.takes_at_least:
        body.ClearField("at_least")
    fingerprint = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
    return RequestKey(organization_id, caller.name, method.name, request.request_id, fingerprint)


async def _abort(context: Any, error: GuardhouseError, status: status_pb2.Status) -> None:
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(grpc.StatusCode[error.code], error.message, details)


def _address(peer: str) -> str:
    """The host of `ipv4:127.0.0.1:1234` or `ipv6:[::1]:1234`."""
    return peer.rpartition(":")[0]


async def authenticate_keys(bearer: str, keys: Authenticate, devices: Authenticate | None) -> Caller:
    """Recognises an API key or, where the service serves devices, a registration token."""
    if bearer.startswith(f"{API_KEY_PREFIX}_"):
        return await keys(bearer)
    if devices is not None and bearer.startswith(f"{REGISTRATION_PREFIX}_"):
        return await devices(bearer)
    raise CredentialsInvalid("not an API key of Guardhouse")


class Listener:
    """One address with its handlers, health, and, where wanted, reflection and channelz."""

    def __init__(
        self,
        handlers: Handlers,
        names: Sequence[str],
        address: str,
        credentials: grpc.ServerCredentials,
        reflects: bool,
        message_bytes: int,
    ) -> None:
        self._names = [*names, ""]
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", SERVICE_MESSAGE_BYTES),
                # Only identity: a small compressed message can grow without bound in memory.
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.max_concurrent_streams", 1000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflects:
            reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
            channelz.add_channelz_servicer(self._server)
        self.port = self._server.add_secure_port(address, credentials)
        if self.port == 0:
            raise OSError(f"cannot listen on {address}")

    async def start(self) -> None:
        await self.serving(False)
        await self._server.start()

    async def serving(self, value: bool) -> None:
        kinds = health_pb2.HealthCheckResponse.ServingStatus
        for name in self._names:
            await self._health.set(name, kinds.SERVING if value else kinds.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

"""The wrapper around every method.

It is one function for what would else be a chain of interceptors: it finds the caller, applies the method's rule,
bounds the time, waits for the freshness that is asked for, calls the method, maps its errors and accounts for the call.
What can be known before a call is found out once: what a method needs when it is wrapped, who a key's caller is when
the key is first seen.
"""

import asyncio
import hashlib
import itertools
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from types import coroutine
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from guardhouse.errors import (
    AccessDenied,
    CredentialsInvalid,
    CredentialsMissing,
    DeadlineTooShort,
    GuardhouseError,
    Internal,
    InvalidField,
    MessageInvalid,
    OrganizationNotFound,
    RateLimited,
)
from guardhouse.ids import ORGANIZATION, check_id
from guardhouse.status import DETAILS_KEY, to_status
from guardhouse_services import checks
from guardhouse_services.access import ANONYMOUS, SERVICE, Call, Caller, RequestKey, Rule, check_scope
from guardhouse_services.credentials import API_KEY_PREFIX, REGISTRATION_PREFIX
from guardhouse_services.journal import Journal
from guardhouse_services.log import trace_id
from guardhouse_services.proxies import Proxies, client, located
from guardhouse_services.rate_limit import RateLimit, limited

log = logging.getLogger(__name__)

UNARY_SECONDS = 30.0
MUTATION_SECONDS = 0.1
TRACE_ID_KEY = "x-request-id"
BOUND_HANDLERS = 4096
REFUSALS_RATE, REFUSALS_BURST = 10.0, 100
ASKED_AT_ONCE = 1000
"""How many bearers of one address may be asked about at a time, without those that were recognised lately."""
FAMILIAR = 20_000
"""How many bearers that were recognised are remembered: a few MB."""

Authenticate = Callable[[str], Awaitable[Caller]]
"""Recognises a bearer value, or raises CredentialsInvalid."""
Wait = Callable[[Sequence[str], str, float | None], Awaitable[None]]
"""Waits until revision tokens are reached: (tokens, organization_id, the seconds that the caller has left)."""
Refused = Callable[[Caller, str, str, str, GuardhouseError], Awaitable[None]]
"""Is told of a call that an identified caller may not make: (caller, method, organization_id, trace_id, error)."""
Serve = Callable[[bytes, Any], Coroutine[Any, Any, bytes]]
Send = Callable[[bytes], Awaitable[None]]
"""Sends a message of a stream, and waits until there is room for the next."""


class Stream:
    """What a streaming method is given beside its requests. To call it is to send a message."""

    __slots__ = ("_send", "caller", "judge", "path")

    def __init__(self, path: str, caller: Caller, send: Send, judge: Callable[[], Awaitable[Caller]]) -> None:
        self.path = path
        self.caller = caller
        """Who it was that began."""
        self.judge = judge
        """Judges the caller anew, as every request is: a stream may outlive its key. Raises what a call would."""
        self._send = send

    def __call__(self, message: bytes) -> Awaitable[None]:
        return self._send(message)


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
        self.takes_validate_only = "validate_only" in fields
        self.takes_organization = "organization_id" in fields

    def parse(self, raw: bytes) -> Any:
        """Raises MessageInvalid."""
        try:
            return self.request_type.FromString(raw)
        except DecodeError:
            raise MessageInvalid(f"the request is not a {self.request_type.DESCRIPTOR.full_name}") from None

    def organization_id(self, raw: bytes) -> str:
        """The organization that a request names in the form of an id, if any; for the record."""
        try:
            request = self.parse(raw)
            return check_id(request.organization_id, ORGANIZATION, "organization_id")
        except (MessageInvalid, InvalidField, AttributeError):
            return ""


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


class Keys(Protocol):
    """What recognises API keys. See Directory."""

    @property
    def version(self) -> int: ...

    def known(self, bearer: str) -> Caller | None: ...

    def holds(self, caller: Caller, version: int) -> bool: ...

    async def caller(self, bearer: str) -> Caller: ...

    def is_deleted(self, organization_id: str) -> bool: ...


class Callers:
    """Recognises the senders of authorization headers. Each address may present so many unknown ones.

    A bearer that was recognised lately is asked about whatever others behind its address present.
    """

    def __init__(self, keys: Keys, devices: Authenticate | None, strangers: RateLimit) -> None:
        self.keys = keys
        self._devices = devices
        self._strangers = strangers
        self._familiar: OrderedDict[str, None] = OrderedDict()
        self._asking: Counter[str] = Counter()

    async def recognise(self, authorization: str, peer: str) -> Caller:
        """Raises CredentialsInvalid, and RateLimited before anybody is asked about one more unknown bearer."""
        scheme, _, bearer = authorization.partition(" ")
        bearer = bearer.strip()
        if scheme.lower() == "bearer" and (caller := self.keys.known(bearer)) is not None:
            return caller
        stranger = limited(located(peer))
        if scheme.lower() != "bearer":
            self._strangers.take(stranger)
            raise CredentialsInvalid("the authorization header must be `Bearer <key>`")
        if bearer not in self._familiar:
            return await self._ask_of_stranger(bearer, stranger)
        try:
            return await self._ask(bearer)
        except CredentialsInvalid:
            self._familiar.pop(bearer, None)
            self._strangers.charge(stranger)
            raise

    async def _ask_of_stranger(self, bearer: str, stranger: str) -> Caller:
        self._strangers.check(stranger)
        if self._asking[stranger] >= ASKED_AT_ONCE:
            raise RateLimited("too many calls at once; wait a moment", retry_after=1.0)
        self._asking[stranger] += 1
        try:
            caller = await self._ask(bearer)
        except (CredentialsInvalid, asyncio.CancelledError):
            # Whoever goes before the answer has had somebody asked all the same.
            self._strangers.charge(stranger)
            raise
        finally:
            self._asking[stranger] -= 1
            if not self._asking[stranger]:
                del self._asking[stranger]
        self._familiar[bearer] = None
        if len(self._familiar) > FAMILIAR:
            self._familiar.popitem(last=False)
        return caller

    async def _ask(self, bearer: str) -> Caller:
        if bearer.startswith(f"{API_KEY_PREFIX}_"):
            return await self.keys.caller(bearer)
        if self._devices is not None and bearer.startswith(f"{REGISTRATION_PREFIX}_"):
            return await self._devices(bearer)
        raise CredentialsInvalid("not an API key of Guardhouse")


async def _unrecorded(_caller: Caller, _method: str, _organization: str, _trace: str, _error: GuardhouseError) -> None:
    return None


class Handlers(grpc.GenericRpcHandler):
    """The wrapped methods of one listener. Names are looked up exactly; any other is UNIMPLEMENTED.

    A key's first call of a method binds a handler to both; it serves the calls that follow while the key holds.
    """

    def __init__(
        self,
        listener: str,
        methods: Iterable[Method],
        callers: Callers,
        wait: Wait,
        anonymous: RateLimit,
        trust_domain: str,
        journal: Journal,
        refused: Refused = _unrecorded,
        around: Callable[[str, Serve], Serve] | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._listener = listener
        self._callers = callers
        self._wait = wait
        self._anonymous = anonymous
        self._spiffe_prefix = f"spiffe://{trust_domain}/"
        self._journal = journal
        self._refused = refused
        self._around = around
        self._proxies = proxies or Proxies()
        self._refusals = RateLimit(REFUSALS_RATE, REFUSALS_BURST)
        self._recording: set[asyncio.Task[None]] = set()
        self._trace_prefix = secrets.token_hex(6)
        self._trace_numbers = itertools.count()
        self._handlers = {method.path: self._handler(method) for method in methods}
        self._bound: dict[tuple[str, str], grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        # gRPC calls this in the call's own task, so what is set here holds for all of it. Headers of these names are
        # text; only those that end in -bin are bytes.
        authorization: Any = ""
        trace: Any = ""
        for key, value in handler_call_details.invocation_metadata or ():
            if key == "authorization":
                authorization = value
            elif key == TRACE_ID_KEY:
                trace = value
        if not trace or not checks.REQUEST_ID.fullmatch(trace):
            trace = f"{self._trace_prefix}{next(self._trace_numbers)}"
        trace_id.set(trace)
        method: str = handler_call_details.method
        return self._bound.get((method, authorization)) or self._handlers.get(method)

    def _handler(self, method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
        if method.is_stream:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return self._unary_handler(method, None, 0)

    def _unary_handler(self, method: Method, known: Caller | None, version: int) -> "grpc.RpcMethodHandler[Any, Any]":
        serve = self._unary(method, known, version)
        if self._around is not None:
            serve = self._around(method.path, serve)
        return grpc.unary_unary_rpc_method_handler(serve)

    def _unary(self, method: Method, known: Caller | None, version: int) -> Serve:
        """Serves any caller, or one that was `known` as of a `version` of the keys."""
        path, parse, function, is_mutation = method.path, method.parse, method.function, method.rule.is_mutation
        takes_organization, takes_at_least = method.takes_organization, method.takes_at_least
        tally, add, holds = self._journal.tally(path, False), self._journal.add, self._callers.keys.holds
        clock, make = time.perf_counter, tuple.__new__
        name = known.name if known else ""
        no_key = RequestKey("", name, method.name, "", b"") if known and not is_mutation else None

        # The organization that the known caller named last; it may name it again. A key has no other scope than that.
        admitted: str | None = None

        async def serve(raw: bytes, context: Any) -> bytes:
            nonlocal admitted
            began = clock()
            tally.begun += 1
            trace = trace_id.get()
            caller, code = ANONYMOUS, "CANCELLED"
            failure: GuardhouseError | None = None
            try:
                if known is not None and holds(known, version):
                    caller = known
                else:
                    caller = await self._caller(method, context)
                    method.rule.check(caller, path)
                request = parse(raw)
                organization_id = request.organization_id if takes_organization else ""
                if caller is not known or organization_id != admitted:
                    self._check_scope(method, caller, request, organization_id)
                    if caller is known:
                        admitted = organization_id
                if is_mutation:
                    left = context.time_remaining()
                    if left is not None and left < MUTATION_SECONDS:
                        raise DeadlineTooShort("less than 100 ms are left, too little for a change; nothing was done")
                if takes_at_least and request.at_least:
                    work = self._fresh(method, request, caller, trace, organization_id, context)
                else:
                    key = no_key if no_key is not None else _request_key(method, request, caller, organization_id)
                    # As Call(...) does it, for a third of what that costs.
                    work = function(request, make(Call, (caller, path, trace, key)))
                # What is decided without waiting needs no timer, which costs as much as all the rest.
                try:
                    awaited = work.send(None)
                except StopIteration as done:
                    response = done.value
                else:
                    response = await _bounded(work, awaited)
                serialised: bytes = response.SerializeToString()
                code = "OK"
                return serialised
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller is answered
                failure = await self._failure(method, raw, caller, trace, error)
                code = failure.code
            finally:
                add(tally, name or caller.name, code, began, trace, failure)
            await _abort(context, failure, trace)
            raise AssertionError("unreachable: abort raises")

        return serve

    async def _fresh(
        self, method: Method, request: Any, caller: Caller, trace: str, organization_id: str, context: Any
    ) -> Any:
        checks.count(request.at_least, "at_least", 16)
        await self._wait(request.at_least, organization_id, context.time_remaining())
        key = _request_key(method, request, caller, organization_id)
        return await method.function(request, Call(caller, method.path, trace, key))

    def _stream(self, method: Method) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
        path, keys = method.path, self._callers.keys
        tally, add = self._journal.tally(path, True), self._journal.add

        async def serve(raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            began = time.perf_counter()
            tally.begun += 1
            trace, caller, code, last = trace_id.get(), ANONYMOUS, "CANCELLED", b""
            failure: GuardhouseError | None = None
            version = keys.version

            async def judge() -> Caller:
                nonlocal caller, version
                if caller.kind != "service" and not keys.holds(caller, version):
                    version = keys.version
                    caller = await self._caller(method, context)
                    method.rule.check(caller, path)
                return caller

            async def requests() -> AsyncIterator[Any]:
                """A stream may outlive its key, so each message is judged as a call of its own."""
                nonlocal last
                async for raw in raws:
                    last = raw
                    await judge()
                    request = method.parse(raw)
                    # The Start of a Watch names several, which the feed looks at.
                    organization_id = request.organization_id if method.takes_organization else ""
                    if method.takes_organization:
                        self._check_scope(method, caller, request, organization_id)
                    if method.takes_at_least and request.at_least:
                        checks.count(request.at_least, "at_least", 16)
                        await self._wait(request.at_least, organization_id, context.time_remaining())
                    yield request

            try:
                caller = await self._caller(method, context)
                method.rule.check(caller, path)
                await method.function(requests(), Stream(path, caller, context.write, judge))
                code = "OK"
                return b""
            except Exception as error:  # noqa: BLE001  # as above
                failure = await self._failure(method, last, caller, trace, error)
                code = failure.code
            finally:
                add(tally, caller.name, code, began, trace, failure)
            await _abort(context, failure, trace)
            raise AssertionError("unreachable: abort raises")

        return serve

    async def _caller(self, method: Method, context: Any) -> Caller:
        if self._listener == SERVICE:
            return self._peer(context)
        authorization: str = dict(context.invocation_metadata()).get("authorization", "")
        if method.rule.anonymous:
            found = self._proxies.client(context.peer(), context.invocation_metadata() or ())
            self._anonymous.take(limited(found.address))
            client.set(found)
            return ANONYMOUS
        caller, version = ANONYMOUS, self._callers.keys.version
        if authorization:
            caller = await self._callers.recognise(authorization, context.peer())
        if caller.kind == "key" and not (caller.only or method.is_stream) and method.rule.admits(caller):
            if len(self._bound) >= BOUND_HANDLERS:
                self._bound.clear()
            self._bound[method.path, authorization] = self._unary_handler(method, caller, version)
        return caller

    def _check_scope(self, method: Method, caller: Caller, request: Any, organization_id: str) -> None:
        if not method.path.startswith("/guardhouse."):
            # A contract of others has no field of ours that says whom a call is about: its servicer finds that, and
            # checks.
            return
        if organization_id:
            check_id(organization_id, ORGANIZATION, "organization_id")
        check_scope(caller, method.path, organization_id, getattr(request, "registration_id", ""))
        if not method.rule.deleted_organization and self._callers.keys.is_deleted(organization_id):
            raise OrganizationNotFound(organization_id)

    def _peer(self, context: Any) -> Caller:
        """The service that the leaf certificate of the handshake names; nothing else is looked at."""
        names = context.auth_context().get("x509_subject_alternative_name", ())
        uris = [name.decode() for name in names if name.startswith(b"spiffe://")]
        if len(uris) != 1 or not uris[0].startswith(self._spiffe_prefix):
            raise CredentialsMissing("the certificate names no service of this installation")
        return Caller("service", uris[0].removeprefix(self._spiffe_prefix))

    async def _failure(
        self, method: Method, raw: bytes, caller: Caller, trace: str, error: Exception
    ) -> GuardhouseError:
        """What the caller is told of an error. That an identified one may not do this is put on record before, unless
        it goes on for too long."""
        if not isinstance(error, GuardhouseError):
            log.error("%s failed", method.path, exc_info=error)
            return Internal("the server failed; its log has more under this request id")
        if caller is ANONYMOUS or not isinstance(error, AccessDenied):
            return error
        try:
            self._refusals.take(caller.name)
        except RateLimited as limited:
            return limited
        recording = asyncio.create_task(self._record(caller, method.path, method.organization_id(raw), trace, error))
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)
        # Whoever goes before the answer is on record all the same.
        await asyncio.shield(recording)
        return error

    async def _record(self, caller: Caller, path: str, organization_id: str, trace: str, error: AccessDenied) -> None:
        try:
            await self._refused(caller, path, organization_id, trace, error)
        except Exception as cause:
            log.exception("a refused call of %s is not on record", caller.name, exc_info=cause)


async def _bounded(work: Coroutine[Any, Any, Any], awaited: Any) -> Any:
    """Finishes a method that has begun to wait. Raises DeadlineTooShort."""
    try:
        async with asyncio.timeout(UNARY_SECONDS):
            return await _rest(work, awaited)
    except TimeoutError:
        raise DeadlineTooShort(
            f"the call took longer than {UNARY_SECONDS:.0f} s; look before you repeat a change"
        ) from None


@coroutine
def _rest(work: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """What is left of a coroutine that was begun by hand and waits for `awaited`."""
    try:
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001  # it is handed on
                awaited = work.throw(error)
            else:
                awaited = work.send(sent)
    except StopIteration as done:
        return done.value


def _request_key(method: Method, request: Any, caller: Caller, organization_id: str) -> RequestKey:
    if not method.takes_request_id or not request.request_id:
        return RequestKey(organization_id, caller.name, method.name, "", b"")
    checks.request_id(request.request_id)
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    if method.takes_validate_only:
        # To ask what a request would do when it is done is to ask what it did.
        body.ClearField("validate_only")
    if method.takes_at_least:
        body.ClearField("at_least")
    fingerprint = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
    return RequestKey(organization_id, caller.name, method.name, request.request_id, fingerprint)


async def _abort(context: Any, error: GuardhouseError, trace: str) -> None:
    details = ((DETAILS_KEY, to_status(error, trace).SerializeToString()),)
    await context.abort(grpc.StatusCode[error.code], error.message, details)

"""The wrapper around every method: callers, rules, scope, deadlines, errors, limits (I-27 to I-29, I-34)."""

import asyncio
import errno
import io
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from guardhouse.clock import SystemClock
from guardhouse.common.v1.access_pb2 import ROLE_ADMIN, ROLE_AUDITOR, ROLE_GATEWAY
from guardhouse.durations import DAY
from guardhouse.errors import CredentialsInvalid, GuardhouseError, StateStale, SubnetExhausted
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2 as pb
from guardhouse.ipam.v1 import ipam_pb2_grpc as rpc
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2, session_pb2_grpc
from guardhouse.status import DETAILS_KEY, from_rpc_error
from guardhouse_services import calls, tls
from guardhouse_services.access import PUBLIC, SERVICE, Call, Caller, Rule
from guardhouse_services.calls import Callers, Handlers, Method, methods
from guardhouse_services.journal import Journal
from guardhouse_services.log import JsonHandler
from guardhouse_services.proxies import located
from guardhouse_services.rate_limit import RateLimit, limited
from guardhouse_services.server import Listener

A = "org_0000000000000000000000000000000a"
B = "org_0000000000000000000000000000000b"
DOMAIN = "test.local"
KEYS = {
    "admin": Caller("key", "key_1", A, ROLE_ADMIN),
    "auditor": Caller("key", "key_2", A, ROLE_AUDITOR),
    "gateway": Caller("key", "key_3", A, ROLE_GATEWAY),
    "root": Caller("key", "key_4", "", ROLE_ADMIN),
    "device": Caller("device", "reg_1", A),
}
Connect = Callable[..., grpc.aio.Channel]


class Servicer:
    """An ipam that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failure: Exception | None = None
        self.begun = asyncio.Event()
        self.pause = 0.0

    async def LookupAddress(self, request: pb.LookupAddressRequest, call: Call) -> pb.LookupAddressResponse:
        self.calls.append(call)
        self.begun.set()
        await asyncio.sleep(self.pause)
        if self.failure is not None:
            raise self.failure
        return pb.LookupAddressResponse(lease=pb.Lease(ipv4=request.address))

    async def ListAddresses(self, request: pb.ListAddressesRequest, call: Call) -> pb.ListAddressesResponse:
        self.calls.append(call)
        return pb.ListAddressesResponse()

    async def ReserveAddresses(self, request: pb.ReserveAddressesRequest, call: Call) -> pb.ReserveAddressesResponse:
        self.calls.append(call)
        return pb.ReserveAddressesResponse(lease_id="lse")

    async def ReleaseAddresses(self, request: pb.ReleaseAddressesRequest, call: Call) -> pb.ReleaseAddressesResponse:
        await asyncio.sleep(30)
        return pb.ReleaseAddressesResponse()

    def __getattr__(self, name: str) -> Any:
        """What else the contract has, and nobody here calls."""
        if any(name in service.methods_by_name for service in pb.DESCRIPTOR.services_by_name.values()):
            return self._uncalled
        raise AttributeError(name)

    async def _uncalled(self, request: Any, call: Call) -> Any:
        raise AssertionError(f"{call.method} is called")

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, call: Call) -> pb.ListAuditRecordsResponse:
        return pb.ListAuditRecordsResponse()

    async def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, call: Call
    ) -> pb.GetAuditCheckpointResponse:
        return pb.GetAuditCheckpointResponse()

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], send: Callable[[bytes], Any]) -> None:
        async for _ in requests:
            await send(pb.WatchResponse(organization_id=A).SerializeToString())


class Keys:
    """Recognises KEYS, as a directory does. `asked` are the bearers that it had to ask about."""

    def __init__(self) -> None:
        self.keys = dict(KEYS)
        self.version = 1
        self.trusted = True
        self.asked: list[str] = []
        self.deleted: set[str] = set()

    def known(self, bearer: str) -> Caller | None:
        return self.keys.get(bearer) if self.trusted else None

    def holds(self, caller: Caller, version: int) -> bool:
        return self.trusted and version == self.version

    async def caller(self, bearer: str) -> Caller:
        self.asked.append(bearer)
        if bearer not in self.keys or not self.trusted:
            raise CredentialsInvalid("no such API key")
        return self.keys[bearer]

    def is_deleted(self, organization_id: str) -> bool:
        return organization_id in self.deleted

    def revoke(self, bearer: str) -> None:
        del self.keys[bearer]
        self.version += 1


class Refusals:
    """What the handlers put on record."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str, str, str]] = []
        self.failure: Exception | None = None
        self.begun, self.pause = asyncio.Event(), asyncio.Event()
        self.pause.set()

    async def take(
        self, caller: Caller, method: str, organization_id: str, trace_id: str, error: GuardhouseError
    ) -> None:
        self.begun.set()
        await self.pause.wait()
        if self.failure is not None:
            raise self.failure
        self.taken.append((caller.name, method.rpartition("/")[2], organization_id, trace_id, error.reason))


async def wait(_tokens: Sequence[str], _organization_id: str, _left: float | None) -> None:
    return None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    tls.prepare(folder, DOMAIN, ["127.0.0.1"], SystemClock().now())
    return folder


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture
def journal() -> Journal:
    return Journal(log_calls=True)


@pytest.fixture
async def listeners(
    certificates: Path,
    servicer: Servicer,
    keys: Keys,
    refusals: Refusals,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[dict[str, Listener]]:
    # On a slow machine as much would come back as a test takes.
    monkeypatch.setattr(calls, "REFUSALS_RATE", 0.1)
    found = methods(pb.DESCRIPTOR, servicer)
    names = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()]
    callers = Callers(keys, None, strangers=RateLimit(0.001, 5))
    listeners: dict[str, Listener] = {}
    for kind in (PUBLIC, SERVICE):
        handlers = Handlers(kind, found, callers, wait, RateLimit(5, 5), DOMAIN, journal, refusals.take)
        make = tls.public_credentials if kind == PUBLIC else tls.service_credentials
        credentials = make(certificates, "ipam")
        listeners[kind] = Listener(handlers, names, "127.0.0.1:0", credentials, kind == PUBLIC, 64 << 10)
        await listeners[kind].start()
        await listeners[kind].serving(True)
    yield listeners
    for listener in listeners.values():
        await listener.stop(0)


@pytest.fixture
def ports(listeners: dict[str, Listener]) -> dict[str, int]:
    return {kind: listener.port for kind, listener in listeners.items()}


@pytest.fixture
async def connect(ports: dict[str, int], certificates: Path) -> AsyncIterator[Connect]:
    channels: list[grpc.aio.Channel] = []

    def open_channel(listener: str = PUBLIC, service: str = "registry", **options: Any) -> grpc.aio.Channel:
        if listener == PUBLIC:
            credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
        else:
            credentials = tls.peer_credentials(certificates, service)
        channels.append(grpc.aio.secure_channel(f"localhost:{ports[listener]}", credentials, **options))
        return channels[-1]

    yield open_channel
    for channel in channels:
        await channel.close(None)


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def refused(call: Any) -> GuardhouseError:
    with pytest.raises(grpc.RpcError) as raised:
        await call
    return from_rpc_error(raised.value)


def details(error: Any, kind: Any) -> Any:
    raw = dict(error.trailing_metadata())[DETAILS_KEY]
    message = kind()
    for detail in status_pb2.Status.FromString(raw).details:
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {kind.DESCRIPTOR.name}")


LOOKUP = pb.LookupAddressRequest(organization_id=A, address="100.96.0.1")


async def test_a_call_without_a_key_is_told_to_send_one(connect: Connect) -> None:
    error = await refused(rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP))
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")


@pytest.mark.parametrize("header", ["Bearer nobody", "Bearer ", "Basic YWRtaW46YWRtaW4=", "admin"])
async def test_a_key_that_is_none_is_refused(connect: Connect, header: str) -> None:
    call = rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=(("authorization", header),))
    error = await refused(call)
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")


@pytest.mark.parametrize("key", ["admin", "auditor", "gateway", "root"])
async def test_a_role_that_the_rule_names_may_call(connect: Connect, servicer: Servicer, key: str) -> None:
    answer = await rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer(key))
    assert answer.lease.ipv4 == "100.96.0.1"
    assert servicer.calls[0].caller == KEYS[key]


@pytest.mark.parametrize("key", ["gateway", "device"])
async def test_a_role_that_the_rule_does_not_name_may_not(connect: Connect, servicer: Servicer, key: str) -> None:
    request = pb.ListAddressesRequest(organization_id=A)
    error = await refused(rpc.AddressServiceStub(connect()).ListAddresses(request, metadata=bearer(key)))
    assert (error.code, error.reason) == ("PERMISSION_DENIED", "ACCESS_DENIED")
    assert servicer.calls == []


async def test_a_key_may_name_its_own_organization_only(connect: Connect) -> None:
    """I-27: the same answer, whether the other organization exists or not."""
    stub = rpc.AddressServiceStub(connect())
    for organization_id in (B, ""):
        request = pb.LookupAddressRequest(organization_id=organization_id, address="100.96.0.1")
        error = await refused(stub.LookupAddress(request, metadata=bearer("admin")))
        assert error.reason == "ACCESS_DENIED"
    request = pb.LookupAddressRequest(organization_id=B, address="100.96.0.1")
    await stub.LookupAddress(request, metadata=bearer("root"))


async def test_a_malformed_organization_id_is_named(connect: Connect) -> None:
    request = pb.LookupAddressRequest(organization_id="org_1\0", address="100.96.0.1")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rpc.AddressServiceStub(connect()).LookupAddress(request, metadata=bearer("root"))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    violations = details(raised.value, error_details_pb2.BadRequest).field_violations
    assert [violation.field for violation in violations] == ["organization_id"]


async def test_methods_for_services_are_not_served_to_keys(connect: Connect) -> None:
    """I-28: not even to the installation's admin."""
    request = pb.ReserveAddressesRequest(organization_id=A)
    error = await refused(rpc.AddressServiceStub(connect()).ReserveAddresses(request, metadata=bearer("root")))
    assert error.reason == "ACCESS_DENIED"


async def test_a_service_is_who_its_certificate_says(connect: Connect, servicer: Servicer) -> None:
    """I-29: the leaf of the handshake, and no header."""
    stub = rpc.AddressServiceStub(connect(SERVICE, "registry"))
    await stub.ReserveAddresses(pb.ReserveAddressesRequest(organization_id=A))
    assert servicer.calls[0].caller == Caller("service", "registry")
    stub = rpc.AddressServiceStub(connect(SERVICE, "session"))
    error = await refused(stub.ReserveAddresses(pb.ReserveAddressesRequest(organization_id=A), metadata=bearer("root")))
    assert error.reason == "ACCESS_DENIED"


async def test_public_methods_are_not_served_to_services(connect: Connect) -> None:
    error = await refused(rpc.AddressServiceStub(connect(SERVICE, "registry")).LookupAddress(LOOKUP))
    assert error.reason == "ACCESS_DENIED"


async def test_the_service_listener_wants_a_certificate(ports: dict[str, int], certificates: Path) -> None:
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{ports[SERVICE]}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await rpc.AddressServiceStub(channel).LookupAddress(LOOKUP, timeout=2)
    assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_certificate_of_another_authority_is_refused(
    ports: dict[str, int], certificates: Path, tmp_path: Path
) -> None:
    """I-29: the name alone is nothing."""
    tls.prepare(tmp_path, DOMAIN, ["127.0.0.1"], SystemClock().now())
    credentials = grpc.ssl_channel_credentials(
        (certificates / "ca.crt").read_bytes(),
        (tmp_path / "registry.key").read_bytes(),
        (tmp_path / "registry.crt").read_bytes(),
    )
    async with grpc.aio.secure_channel(f"localhost:{ports[SERVICE]}", credentials) as channel:
        with pytest.raises(grpc.RpcError):
            await rpc.AddressServiceStub(channel).ReserveAddresses(pb.ReserveAddressesRequest(), timeout=2)


async def test_a_service_of_another_trust_domain_is_refused(
    ports: dict[str, int], certificates: Path, tmp_path: Path
) -> None:
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).write_bytes((certificates / name).read_bytes())
    tls.prepare(tmp_path, "elsewhere.test", ["127.0.0.1"], SystemClock().now())
    credentials = tls.peer_credentials(tmp_path, "registry")
    async with grpc.aio.secure_channel(f"localhost:{ports[SERVICE]}", credentials) as channel:
        error = await refused(rpc.AddressServiceStub(channel).ReserveAddresses(pb.ReserveAddressesRequest()))
    assert error.reason == "CREDENTIALS_MISSING"


async def test_a_fault_says_nothing_about_itself(
    connect: Connect, servicer: Servicer, caplog: pytest.LogCaptureFixture
) -> None:
    servicer.failure = RuntimeError("the password is hunter2")
    metadata = (*bearer("admin"), ("x-request-id", "my-request"))
    with pytest.raises(grpc.aio.AioRpcError) as raised, caplog.at_level(logging.INFO):
        await rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=metadata)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(raised.value.trailing_metadata()) + (raised.value.details() or "")
    assert details(raised.value, error_details_pb2.RequestInfo).request_id == "my-request"
    assert "hunter2" in caplog.text


async def test_an_error_carries_its_reason_and_what_applies(connect: Connect, servicer: Servicer) -> None:
    """Decision 36."""
    servicer.failure = SubnetExhausted("the subnet is full", subnet="100.96.0.0/28")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer("admin"))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    info = details(raised.value, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "SUBNET_EXHAUSTED",
        "guardhouse",
        {"subnet": "100.96.0.0/28"},
    )
    assert details(raised.value, error_details_pb2.QuotaFailure).violations[0].subject == "SUBNET_EXHAUSTED"


async def test_a_mutation_with_too_little_time_is_not_begun(connect: Connect, servicer: Servicer) -> None:
    stub = rpc.AddressServiceStub(connect(SERVICE, "registry"))
    await stub.ReserveAddresses(pb.ReserveAddressesRequest(organization_id=A))
    error = await refused(stub.ReserveAddresses(pb.ReserveAddressesRequest(organization_id=A), timeout=0.09))
    assert error.reason in ("DEADLINE_TOO_SHORT", "SERVICE_UNAVAILABLE")
    assert len(servicer.calls) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/guardhouse.ipam.v1.AddressService/lookupaddress",
        "//guardhouse.ipam.v1.AddressService/LookupAddress",
        "/guardhouse.ipam.v1.AddressService/LookupAddress?x=1",
        "guardhouse.ipam.v1.AddressService/LookupAddress",
        "/guardhouse.ipam.v1.AddressService/",
    ],
)
async def test_an_odd_path_is_no_method(connect: Connect, servicer: Servicer, path: str) -> None:
    """M12: names are looked up exactly."""
    call = connect().unary_unary(path, bytes, bytes)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(LOOKUP.SerializeToString(), metadata=bearer("root"))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert servicer.calls == []


async def test_what_is_no_message_is_the_callers_fault(connect: Connect) -> None:
    call = connect().unary_unary("/guardhouse.ipam.v1.AddressService/LookupAddress", bytes, bytes)
    error = await refused(call(b"\xff\xff\xff", metadata=bearer("root")))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "MESSAGE_INVALID")


async def test_a_large_message_is_refused(connect: Connect, servicer: Servicer) -> None:
    request = pb.LookupAddressRequest(organization_id=A, address="1" * (65 << 10))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rpc.AddressServiceStub(connect()).LookupAddress(request, metadata=bearer("root"))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert servicer.calls == []


async def test_compressed_messages_are_refused(connect: Connect, servicer: Servicer) -> None:
    """M8: a small one can grow without bound."""
    stub = rpc.AddressServiceStub(connect(compression=grpc.Compression.Gzip))
    request = pb.LookupAddressRequest(organization_id=A, address="1" * 10_000)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.LookupAddress(request, metadata=bearer("root"))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert servicer.calls == []


async def test_a_stream_has_a_rule_as_well(connect: Connect) -> None:
    """I-28: a stream is no way around."""
    call = rpc.IpamFeedServiceStub(connect()).Watch(iter([pb.WatchRequest()]), metadata=bearer("root"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    assert from_rpc_error(raised.value).reason == "ACCESS_DENIED"
    call = rpc.IpamFeedServiceStub(connect(SERVICE, "session")).Watch(iter([pb.WatchRequest()]))
    assert [message.organization_id async for message in call] == [A]


async def test_health_and_reflection_answer(connect: Connect) -> None:
    channel = connect()
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "guardhouse.ipam.v1.AddressService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    names: set[str] = set()
    async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests):
        names |= {service.name for service in answer.list_services_response.service}
    assert {"guardhouse.ipam.v1.AddressService", "guardhouse.ipam.v1.IpamFeedService"} <= names


async def test_a_call_under_way_is_answered_while_the_listener_stops(
    connect: Connect, servicer: Servicer, listeners: dict[str, Listener]
) -> None:
    """A drained replica loses nobody's answer, and takes no new calls."""
    servicer.pause = 0.3
    stub = rpc.AddressServiceStub(connect())
    under_way = asyncio.ensure_future(stub.LookupAddress(LOOKUP, metadata=bearer("admin")))
    await servicer.begun.wait()
    stop = asyncio.create_task(listeners[PUBLIC].stop(5))
    await asyncio.sleep(0.05)
    with pytest.raises(grpc.RpcError):
        await rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer("admin"), timeout=1)
    assert (await under_way).lease.ipv4 == "100.96.0.1"
    await stop


async def test_a_revoked_key_is_refused_at_its_next_call(connect: Connect, keys: Keys) -> None:
    """Who a key's caller is, is found out once; that it still is so, at every call."""
    stub = rpc.AddressServiceStub(connect())
    await stub.LookupAddress(LOOKUP, metadata=bearer("admin"))
    await stub.LookupAddress(LOOKUP, metadata=bearer("admin"))
    keys.revoke("admin")
    assert (await refused(stub.LookupAddress(LOOKUP, metadata=bearer("admin")))).reason == "CREDENTIALS_INVALID"
    await stub.LookupAddress(LOOKUP, metadata=bearer("auditor"))


async def test_a_key_that_is_trusted_no_longer_is_refused_at_its_next_call(connect: Connect, keys: Keys) -> None:
    stub = rpc.AddressServiceStub(connect())
    await stub.LookupAddress(LOOKUP, metadata=bearer("admin"))
    keys.trusted = False
    assert (await refused(stub.LookupAddress(LOOKUP, metadata=bearer("admin")))).reason == "CREDENTIALS_INVALID"
    keys.trusted = True
    await stub.LookupAddress(LOOKUP, metadata=bearer("admin"))


async def test_a_key_is_good_when_the_message_comes_not_when_the_call_begins(
    connect: Connect, keys: Keys, servicer: Servicer
) -> None:
    """Who holds back the message of a call that began in time gains nothing by it."""
    channel = connect()
    await rpc.AddressServiceStub(channel).LookupAddress(LOOKUP, metadata=bearer("admin"))
    sent = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        await sent.wait()
        yield LOOKUP.SerializeToString()

    late: Any = channel.stream_unary("/guardhouse.ipam.v1.AddressService/LookupAddress")
    call = late(messages(), metadata=bearer("admin"))
    await asyncio.sleep(0.1)
    keys.revoke("admin")
    sent.set()
    assert (await refused(call)).reason == "CREDENTIALS_INVALID"
    assert len(servicer.calls) == 1


async def test_unknown_bearers_are_limited_before_anybody_is_asked(connect: Connect, keys: Keys) -> None:
    stub = rpc.AddressServiceStub(connect())
    reasons = [
        (await refused(stub.LookupAddress(LOOKUP, metadata=bearer(f"ghk_{number}")))).reason for number in range(7)
    ]
    assert reasons == ["CREDENTIALS_INVALID"] * 5 + ["RATE_LIMITED"] * 2
    assert len(keys.asked) == 5
    # One behind the same address whose key is known goes on.
    await stub.LookupAddress(LOOKUP, metadata=bearer("admin"))


async def test_who_has_to_be_asked_about_and_is_known_is_not_limited(keys: Keys) -> None:
    """A device's token is looked up each time; only one that is nobody's costs something."""

    async def devices(bearer: str) -> Caller:
        if bearer == "ghr_stale":
            raise StateStale("try again")
        return KEYS["device"]

    callers = Callers(keys, devices, strangers=RateLimit(0.001, 3))
    for _ in range(10):
        assert await callers.recognise("Bearer ghr_1", "ipv4:10.0.0.1:1") == KEYS["device"]
        with pytest.raises(StateStale):
            await callers.recognise("Bearer ghr_stale", "ipv4:10.0.0.1:1")


async def recognised(callers: Callers, token: str) -> str:
    """OK, or the reason why not, of a token that is sent from behind one address."""
    try:
        await callers.recognise(f"Bearer ghr_{token}", "ipv4:10.0.0.1:1")
    except GuardhouseError as error:
        return error.reason
    return "OK"


async def test_a_site_of_many_devices_is_not_limited(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may all be asked about at once, up to a bound."""

    async def devices(_bearer: str) -> Caller:
        await asyncio.sleep(0.01)
        return KEYS["device"]

    async def reasons(*tokens: int) -> Counter[str]:
        return Counter(await asyncio.gather(*(recognised(callers, str(token)) for token in tokens)))

    callers = Callers(keys, devices, strangers=RateLimit(0.001, 5))
    assert await reasons(*range(300)) == {"OK": 300}
    monkeypatch.setattr(calls, "ASKED_AT_ONCE", 10)
    assert await reasons(*range(500, 515)) == {"OK": 10, "RATE_LIMITED": 5}
    # They are known by now, and no place is left taken.
    assert await reasons(*range(300)) == {"OK": 300}
    assert await reasons(*range(600, 610)) == {"OK": 10}


async def test_bad_bearers_lock_out_nobody_who_was_recognised(keys: Keys) -> None:
    """Those behind the same address go on; a token that is revoked is a stranger's from then on."""
    good = {"ghr_1", "ghr_2"}

    async def devices(bearer: str) -> Caller:
        if bearer not in good:
            raise CredentialsInvalid("nobody's")
        return KEYS["device"]

    callers = Callers(keys, devices, strangers=RateLimit(0.001, 3))
    assert [await recognised(callers, token) for token in "12"] == ["OK"] * 2
    assert [await recognised(callers, token) for token in "abcd"] == ["CREDENTIALS_INVALID"] * 3 + ["RATE_LIMITED"]
    assert [await recognised(callers, token) for token in "12"] == ["OK"] * 2
    good.remove("ghr_2")
    assert [await recognised(callers, token) for token in "22"] == ["CREDENTIALS_INVALID", "RATE_LIMITED"]
    assert await recognised(callers, "1") == "OK"


async def test_who_does_not_wait_for_the_answer_is_limited_as_well(keys: Keys) -> None:
    asked: list[str] = []

    async def devices(bearer: str) -> Caller:
        asked.append(bearer)
        await asyncio.sleep(5)
        raise CredentialsInvalid("nobody's")

    callers = Callers(keys, devices, strangers=RateLimit(0.001, 3))
    for number in range(5):
        asking = asyncio.create_task(recognised(callers, str(number)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    assert len(asked) == 3


async def test_each_message_of_a_stream_is_judged_as_a_call(
    certificates: Path, keys: Keys, refusals: Refusals, journal: Journal
) -> None:
    """A stream may outlive its key, and must not reach into another organization."""
    waited: list[str] = []

    async def answer(requests: AsyncIterator[Any], send: Callable[[bytes], Any]) -> None:
        async for request in requests:
            await send(session_pb2.StreamCheckSessionsResponse(nonce=request.nonce).SerializeToString())

    async def remember(tokens: Sequence[str], _organization_id: str, _left: float | None) -> None:
        waited.extend(tokens)

    service = session_pb2.DESCRIPTOR.services_by_name["CheckService"]
    method = Method(service.methods_by_name["StreamCheckSessions"], answer)
    callers = Callers(keys, None, strangers=RateLimit(1, 5))
    handlers = Handlers(PUBLIC, [method], callers, remember, RateLimit(1, 5), DOMAIN, journal, refusals.take)
    listener = Listener(handlers, [], "127.0.0.1:0", tls.public_credentials(certificates, "session"), False, 1 << 20)
    await listener.start()
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{listener.port}", credentials) as channel:

        async def ask(call: Any, organization_id: str, nonce: int) -> int:
            request = session_pb2.StreamCheckSessionsRequest(
                organization_id=organization_id, nonce=nonce, at_least=["token"]
            )
            await call.write(request)
            answered: int = (await call.read()).nonce
            return answered

        stub = session_pb2_grpc.CheckServiceStub(channel)
        call = stub.StreamCheckSessions(metadata=bearer("gateway"))
        assert [await ask(call, A, nonce) for nonce in (1, 2)] == [1, 2]
        assert waited == ["token", "token"]
        assert (await refused(ask(call, B, 3))).reason == "ACCESS_DENIED"
        assert [(taken[0], taken[2]) for taken in refusals.taken] == [("key:key_3", B)]
        call = stub.StreamCheckSessions(metadata=bearer("gateway"))
        assert await ask(call, A, 4) == 4
        keys.revoke("gateway")
        assert (await refused(ask(call, A, 5))).reason == "CREDENTIALS_INVALID"
    await listener.stop(0)


async def test_a_refusal_of_somebody_known_is_on_record_before_the_answer(connect: Connect, refusals: Refusals) -> None:
    """I-33."""
    metadata = (*bearer("gateway"), ("x-request-id", "my-request"))
    stub = rpc.AddressServiceStub(connect())
    await refused(stub.ListAddresses(pb.ListAddressesRequest(organization_id=A), metadata=metadata))
    assert refusals.taken == [("key:key_3", "ListAddresses", A, "my-request", "ACCESS_DENIED")]
    await refused(stub.LookupAddress(pb.LookupAddressRequest(organization_id=B), metadata=bearer("device")))
    await refused(stub.ReserveAddresses(pb.ReserveAddressesRequest(organization_id="x"), metadata=bearer("root")))
    session = rpc.AddressServiceStub(connect(SERVICE, "session"))
    await refused(session.ReserveAddresses(pb.ReserveAddressesRequest(organization_id=A)))
    await refused(stub.LookupAddress(LOOKUP))
    await refused(stub.LookupAddress(LOOKUP, metadata=bearer("nobody")))
    assert [(caller, method, organization_id) for caller, method, organization_id, *_ in refusals.taken[1:]] == [
        ("device:reg_1", "LookupAddress", B),
        ("key:key_4", "ReserveAddresses", ""),
        ("service:session", "ReserveAddresses", A),
    ]


async def test_a_refusal_that_cannot_be_recorded_is_one_all_the_same(
    connect: Connect, refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.failure = RuntimeError("the disk is full")
    call = rpc.AddressServiceStub(connect()).ListAddresses(pb.ListAddressesRequest(), metadata=bearer("gateway"))
    assert (await refused(call)).reason == "ACCESS_DENIED"
    assert "the disk is full" in caplog.text


async def test_a_refusal_is_on_record_though_its_caller_does_not_wait(connect: Connect, refusals: Refusals) -> None:
    """I-33."""
    refusals.pause.clear()
    call = rpc.AddressServiceStub(connect()).ListAddresses(pb.ListAddressesRequest(), metadata=bearer("gateway"))
    asking = asyncio.ensure_future(call)
    await refusals.begun.wait()
    asking.cancel()
    await asyncio.sleep(0.1)
    refusals.pause.set()
    await asyncio.sleep(0.05)
    assert [reason for *_, reason in refusals.taken] == ["ACCESS_DENIED"]


async def test_who_goes_on_and_on_is_put_on_record_no_more(connect: Connect, refusals: Refusals) -> None:
    stub = rpc.AddressServiceStub(connect())
    calls = [stub.ListAddresses(pb.ListAddressesRequest(), metadata=bearer("gateway")) for _ in range(150)]
    reasons = Counter([(await refused(call)).reason for call in calls])
    assert 100 <= reasons["ACCESS_DENIED"] == len(refusals.taken) < 150
    assert reasons["RATE_LIMITED"] == 150 - reasons["ACCESS_DENIED"]
    assert (await refused(stub.ListAddresses(pb.ListAddressesRequest(), metadata=bearer("device")))).reason != (
        "RATE_LIMITED"
    )


async def test_a_call_that_takes_too_long_is_given_up(
    connect: Connect, servicer: Servicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "UNARY_SECONDS", 0.1)
    servicer.pause = 5
    error = await refused(rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer("admin")))
    assert (error.code, error.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")


async def test_a_caller_who_goes_away_ends_the_call(connect: Connect, servicer: Servicer, journal: Journal) -> None:
    servicer.pause = 5
    call = rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer("admin"))
    asking = asyncio.ensure_future(call)
    await servicer.begun.wait()
    tally = journal.tallies["/guardhouse.ipam.v1.AddressService/LookupAddress"]
    assert tally.in_flight == 1
    asking.cancel()
    while tally.in_flight:
        await asyncio.sleep(0.01)
        journal.flush()
    assert tally.codes == {"CANCELLED": 1}


async def test_every_call_has_a_request_id_of_its_own(connect: Connect, servicer: Servicer) -> None:
    stub = rpc.AddressServiceStub(connect())
    headers = ((), (), (("x-request-id", "mine"),), (("x-request-id", "not mine"),))
    for header in headers:
        await stub.LookupAddress(LOOKUP, metadata=(*bearer("admin"), *header))
    traces = [call.trace_id for call in servicer.calls]
    assert traces[2] == "mine"
    assert len(set(traces)) == 4
    assert all(len(trace) > 12 and trace.isalnum() for trace in (traces[0], traces[1], traces[3]))


async def test_a_call_is_a_line_of_json(
    connect: Connect, servicer: Servicer, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of calls are written many at once, and look like all others."""
    written = io.StringIO()
    handler = JsonHandler(written)
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logging.getLogger("guardhouse_services.journal").setLevel(logging.INFO)
    stub = rpc.AddressServiceStub(connect())
    await stub.LookupAddress(LOOKUP, metadata=(*bearer("admin"), ("x-request-id", 'a"b\\c')))
    servicer.failure = SubnetExhausted('the subnet is "full"')
    await refused(stub.LookupAddress(LOOKUP, metadata=bearer("auditor")))
    journal.flush()
    lines = map(json.loads, written.getvalue().splitlines())
    # Libraries may have something to say as well.
    first, second = (line for line in lines if line["event"] == "call")
    assert {key: first[key] for key in ("event", "level", "method", "caller", "code", "request_id")} == {
        "event": "call",
        "level": "info",
        "method": "/guardhouse.ipam.v1.AddressService/LookupAddress",
        "caller": "key:key_1",
        "code": "OK",
        "request_id": 'a"b\\c',
    }
    assert (second["code"], second["reason"]) == ("RESOURCE_EXHAUSTED", "SUBNET_EXHAUSTED")
    assert second["detail"] == 'the subnet is "full"'
    assert 0 <= second["microseconds"] < 5_000_000
    assert abs(datetime.fromisoformat(second["time"]).timestamp() - SystemClock().now() / 1e6) < 5


async def test_a_call_does_not_fail_because_its_line_cannot_be_written(
    connect: Connect, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, _line: str) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [JsonHandler(Full())])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logging.getLogger("guardhouse_services.journal").setLevel(logging.INFO)
    monkeypatch.setattr("guardhouse_services.journal.FLUSH_CALLS", 1)
    await rpc.AddressServiceStub(connect()).LookupAddress(LOOKUP, metadata=bearer("admin"))
    assert journal.tallies["/guardhouse.ipam.v1.AddressService/LookupAddress"].codes == {"OK": 1}


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:127.0.0.1:1234", "127.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:1234", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::7]:1234", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1234", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1234", "fe80::/64"),
        ("unix:/run/socket", ""),
    ],
)
def test_a_site_is_limited_as_one(peer: str, expected: str) -> None:
    assert limited(located(peer)) == expected


def test_an_address_may_call_as_often_as_its_bucket_allows() -> None:
    limit = RateLimit(rate=0.001, burst=3)
    for _ in range(3):
        limit.take("ipv4:127.0.0.1")
    with pytest.raises(GuardhouseError) as raised:
        limit.take("ipv4:127.0.0.1")
    assert raised.value.reason == "RATE_LIMITED"
    assert raised.value.retry_after is not None
    limit.take("ipv4:127.0.0.2")


def test_a_method_without_a_rule_stops_the_start() -> None:
    """I-28."""
    health = descriptor_pool.Default().FindMethodByName("grpc.health.v1.Health.Check")
    with pytest.raises(LookupError, match="no access rule"):
        Rule.of(health)


def test_a_method_without_an_implementation_stops_the_start() -> None:
    with pytest.raises(LookupError, match="lacks"):
        methods(pb.DESCRIPTOR, object())


@pytest.mark.parametrize("contract", [identity_pb2, registry_pb2, pb, session_pb2], ids=lambda it: it.__name__)
def test_every_method_has_a_rule_of_one_listener(contract: Any) -> None:
    """I-28: services on the service listener, everybody else on the public one. Gateways follow the feeds, too."""
    for service in contract.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            rule = Rule.of(method)
            for_others = rule.roles or rule.device or rule.anonymous
            if method.name == "Watch":
                assert rule.roles <= {ROLE_GATEWAY}
                assert not rule.device
                assert not rule.anonymous
            else:
                assert bool(rule.services) != bool(for_others), method.full_name


def test_certificates_are_kept_until_they_soon_expire(tmp_path: Path) -> None:
    now = SystemClock().now()
    tls.prepare(tmp_path, DOMAIN, ["127.0.0.1"], now)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tls.prepare(tmp_path, DOMAIN, ["127.0.0.1"], now + 300 * DAY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    tls.prepare(tmp_path, DOMAIN, ["127.0.0.1"], now + 340 * DAY)
    second = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert second["ca.crt"] == first["ca.crt"]
    assert second["ipam.crt"] != first["ipam.crt"]
    tls.prepare(tmp_path, DOMAIN, ["127.0.0.1", "10.0.0.1"], now + 340 * DAY)
    assert (tmp_path / "ipam.crt").read_bytes() != second["ipam.crt"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())

"""The service as it is put together: over TLS, with identity and the registry played by two feeds of the test's own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.plane import free_port_base
from guardhouse import revisions
from guardhouse.channel import AioChannel, Policy
from guardhouse.common.v1 import access_pb2
from guardhouse.errors import (
    AccessDenied,
    CredentialsInvalid,
    CredentialsMissing,
    DurationInvalid,
    RegistrationRevoked,
    StateStale,
)
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.session.v1 import session_pb2_grpc as rpc
from guardhouse.status import from_rpc_error
from guardhouse_services.config import Settings
from guardhouse_services.credentials import API_KEY_PREFIX, REGISTRATION_PREFIX, format_secret, hash_secret
from guardhouse_services.node import Node
from guardhouse_services.run import prepare
from guardhouse_services.session.__main__ import build
from guardhouse_services.tls import service_credentials
from tests.clock import FakeClock
from tests.conftest import DatabaseUrl
from tests.guardhouse_services.session.world import (
    ALICE,
    LAPTOP,
    NO_POLICY,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    PHONE,
    Link,
    organization,
    registration,
    user,
)

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
TOKEN = format_secret(REGISTRATION_PREFIX, LAPTOP, bytes(32))
ROLES = (access_pb2.ROLE_ADMIN, access_pb2.ROLE_AUDITOR, access_pb2.ROLE_GATEWAY)


def key(role: int) -> str:
    return format_secret(API_KEY_PREFIX, f"key_{role:032x}", bytes(32))


def api_key(role: Any) -> identity.Event:
    made = identity.ApiKey(api_key_id=f"key_{role:032x}", organization_id=ORGANIZATION, role=role)
    return identity.Event(api_key=identity.ApiKeyRecord(api_key=made, secret_hash=hash_secret(key(role))))


class Replica:
    """A running replica of session. Its peers are there once they are started."""

    def __init__(self, settings: Settings, node: Node, stack: contextlib.AsyncExitStack) -> None:
        self.settings = settings
        self.node = node
        self.identity, self.registry = Link("identity", identity), Link("registry", registry)
        self._stack = stack

    async def start_peer(self, service: str, link: Link) -> None:
        async def watch(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
            async for message in link.watch(requests):
                yield message

        contract: Any = {"identity": identity, "registry": registry}[service]
        handler = grpc.stream_stream_rpc_method_handler(
            watch, contract.WatchRequest.FromString, contract.WatchResponse.SerializeToString
        )
        name = f"guardhouse.{service}.v1.{service.capitalize()}FeedService"
        server: Any = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Watch": handler}),))
        credentials = service_credentials(self.settings.tls_path, service)
        server.add_secure_port(f"127.0.0.1:{self.settings.service_port(service)}", credentials)
        await server.start()
        self._stack.push_async_callback(server.stop, 0)

    def channel(self, bearer: str, **policy: Any) -> AioChannel:
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        authority = (self.settings.tls_path / "ca.crt").read_bytes()
        address = f"127.0.0.1:{self.settings.public_port('session')}"
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority))
        self._stack.push_async_callback(channel.close, None)
        # It sends the tokens of what was done through it.
        return AioChannel(channel, Policy(lambda: metadata, **policy))

    def stub(self, stub: Any, bearer: str, **policy: Any) -> Any:
        return stub(self.channel(bearer, **policy))

    async def health(self) -> int:
        authority = (self.settings.tls_path / "ca.crt").read_bytes()
        address = f"127.0.0.1:{self.settings.public_port('session')}"
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


def prepared(tmp_path: Path, clock: FakeClock, **fields: Any) -> Settings:
    settings = Settings(var=tmp_path / "var", log_calls=False, **fields)
    prepare(settings, clock)
    return settings


@pytest.fixture
async def replica(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Replica]:
    async with replica_of(prepared(tmp_path, clock, port_base=free_port_base()), clock) as replica:
        yield replica


@contextlib.asynccontextmanager
async def replica_of(settings: Settings, clock: FakeClock) -> AsyncIterator[Replica]:
    async with contextlib.AsyncExitStack() as stack:
        node = build(settings, clock)
        await stack.enter_async_context(node)
        yield Replica(settings, node, stack)


async def loaded(replica: Replica, clock: FakeClock) -> None:
    """Alice's laptop is enrolled, there is a key of each role, and everything has arrived."""
    replica.identity.publish(organization(ORGANIZATION), organization_id="")
    replica.identity.publish(user(), *map(api_key, ROLES))
    replica.registry.publish(registration(clock.now(), token_hash=hash_secret(TOKEN)))
    await replica.start_peer("identity", replica.identity)
    await replica.start_peer("registry", replica.registry)
    await replica.node.loaded()


async def test_a_replica_serves_when_it_has_loaded_everything(replica: Replica, clock: FakeClock) -> None:
    """Check services wait for loaded, fresh feeds; one feed short of them is not enough."""
    for service, link in (("identity", replica.identity), ("registry", replica.registry)):
        await asyncio.sleep(0.5)
        assert await replica.health() == NOT_SERVING
        link.publish(organization_id="")
        await replica.start_peer(service, link)
    async with asyncio.timeout(30):
        while await replica.health() != SERVING:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.05)


async def create_policy(channel: Any) -> str:
    wanted = pb.Policy(
        display_name="Intranet",
        enabled=True,
        filter=pb.POLICY_FILTER_L4,
        action=pb.POLICY_ACTION_ALLOW,
        check_session=pb.CheckSession(enforce=True, duration="1h"),
    )
    request = pb.CreatePolicyRequest(organization_id=ORGANIZATION, policy=wanted)
    made: Any = await rpc.PolicyServiceStub(channel).CreatePolicy(request)
    return str(made.policy.policy_id)


async def test_a_policy_decides_from_the_next_check_on(replica: Replica, clock: FakeClock) -> None:
    """I-35: the client sends the token of what it did, and the replica follows its own feed."""
    await loaded(replica, clock)
    channel = replica.channel(key(access_pb2.ROLE_ADMIN))
    policy_id = await create_policy(channel)
    check: Any = rpc.CheckServiceStub(channel)
    asked = pb.CheckSessionRequest(organization_id=ORGANIZATION, registration_id=LAPTOP, policy_id=policy_id)
    answer = (await check.CheckSession(asked)).answer
    assert (answer.decision, answer.user_id) == (pb.DECISION_ALLOW, ALICE)
    delete = pb.DeletePolicyRequest(organization_id=ORGANIZATION, policy_id=policy_id)
    await rpc.PolicyServiceStub(channel).DeletePolicy(delete)
    answer = (await check.CheckSession(asked)).answer
    assert answer.reason == pb.DECISION_REASON_POLICY_UNKNOWN


async def test_a_revocation_is_refused_by_the_next_check_with_its_token_and_soon_by_all(
    replica: Replica, clock: FakeClock
) -> None:
    """I-15, I-35: the check that carries the token waits for it; every other one refuses within a second."""
    await loaded(replica, clock)
    channel = replica.channel(key(access_pb2.ROLE_ADMIN))
    policy_id = await create_policy(channel)
    check: Any = rpc.CheckServiceStub(channel)

    async def reason(*at_least: str) -> int:
        item = pb.CheckSessionItem(registration_id=LAPTOP, policy_id=policy_id)
        request = pb.BatchCheckSessionsRequest(organization_id=ORGANIZATION, items=[item], at_least=at_least)
        return int((await check.BatchCheckSessions(request)).answers[0].reason)

    assert await reason() == pb.DECISION_REASON_SESSION_FRESH
    replica.registry.hold()
    token = replica.registry.publish(registration(clock.now(), revoked=True))
    asked = asyncio.create_task(reason(token))
    await asyncio.sleep(0.3)
    assert not asked.done()
    assert await reason() == pb.DECISION_REASON_SESSION_FRESH
    replica.registry.release()
    assert await asked == pb.DECISION_REASON_REGISTRATION_REVOKED

    async def seconds(event: registry.Event, wanted: int) -> float:
        """How long it takes until a check without a token says so."""
        began = time.monotonic()
        replica.registry.publish(event)
        async with asyncio.timeout(20):
            while await reason() != wanted:  # noqa: ASYNC110  # nobody says when
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    took = []
    for _ in range(3):
        await seconds(registration(clock.now()), pb.DECISION_REASON_SESSION_FRESH)
        deleted = registry.Event(registration_deleted=LAPTOP)
        took.append(await seconds(deleted, pb.DECISION_REASON_REGISTRATION_UNKNOWN))
    # One of them may have met a machine that was busy elsewhere.
    assert median(took) < 1


async def test_a_token_that_is_not_reached_in_three_seconds_is_refused(
    tmp_path: Path, clock: FakeClock, database_url: DatabaseUrl
) -> None:
    """I-35: behind a cut feed nothing is answered from older state than was asked for, check or read, and in time:
    whatever the number of tokens."""
    settings = prepared(tmp_path, clock, port_base=free_port_base(), database_url=database_url("session"))
    async with replica_of(settings, clock) as replica:
        await loaded(replica, clock)
        admin = key(access_pb2.ROLE_ADMIN)
        about = {"organization_id": ORGANIZATION, "registration_id": LAPTOP}
        with_tokens: Any = replica.channel(admin)
        policy_id = await create_policy(with_tokens)
        asked = pb.CheckSessionRequest(policy_id=policy_id, **about)
        # It has arrived in the replica's own feed.
        await rpc.CheckServiceStub(with_tokens).CheckSession(asked)
        channel = replica.channel(admin, attempts=1, keep_tokens=False)
        check: Any = rpc.CheckServiceStub(channel)
        replica.registry.hold()
        ahead = [replica.registry.publish(registration(clock.now(), revoked=True)) for _ in range(3)]
        own = revisions.decode(await _token(replica, admin))
        ahead_of_own = revisions.encode("session", ORGANIZATION, own.position.epoch, own.position.revision + 1)
        assert (await check.CheckSession(asked)).answer.reason == pb.DECISION_REASON_SESSION_FRESH

        async def stale(call: Any) -> None:
            began = time.monotonic()
            with pytest.raises(StateStale):
                await call
            # Three seconds for each of three tokens would be nine.
            assert 2.5 < time.monotonic() - began < 8

        item = pb.CheckSessionItem(registration_id=LAPTOP, policy_id=policy_id)
        batch: dict[str, Any] = {"organization_id": ORGANIZATION, "items": [item]}
        policies: Any = rpc.PolicyServiceStub(channel)
        await asyncio.gather(
            stale(check.CheckSession(pb.CheckSessionRequest(policy_id=policy_id, at_least=ahead, **about))),
            stale(check.BatchCheckSessions(pb.BatchCheckSessionsRequest(at_least=ahead[:1], **batch))),
            stale(check.BatchCheckSessions(pb.BatchCheckSessionsRequest(at_least=[ahead_of_own], **batch))),
            stale(
                policies.GetPolicy(
                    pb.GetPolicyRequest(organization_id=ORGANIZATION, policy_id=policy_id, at_least=[ahead_of_own])
                )
            ),
        )
        replica.registry.release()
        answer = await check.CheckSession(pb.CheckSessionRequest(policy_id=policy_id, at_least=ahead, **about))
        assert answer.answer.reason == pb.DECISION_REASON_REGISTRATION_REVOKED


async def _token(replica: Replica, bearer: str) -> str:
    """Of a change of session's own."""
    made = pb.Policy(display_name="Other", filter=pb.POLICY_FILTER_DNS, action=pb.POLICY_ACTION_BLOCK)
    request = pb.CreatePolicyRequest(organization_id=ORGANIZATION, policy=made)
    return str((await replica.stub(rpc.PolicyServiceStub, bearer).CreatePolicy(request)).revision_token)


async def test_each_message_of_a_stream_is_judged_as_a_call(replica: Replica, clock: FakeClock) -> None:
    """I-27, I-35: by its own tokens, its own organization, and whether its key still holds."""
    await loaded(replica, clock)
    policy_id = await create_policy(replica.channel(key(access_pb2.ROLE_ADMIN)))
    item = pb.CheckSessionItem(registration_id=LAPTOP, policy_id=policy_id)
    checks = replica.stub(rpc.CheckServiceStub, key(access_pb2.ROLE_GATEWAY))
    stream, foreign = checks.StreamCheckSessions(), checks.StreamCheckSessions()

    async def reason(call: Any, *at_least: str, organization_id: str = ORGANIZATION) -> int:
        request = pb.StreamCheckSessionsRequest(organization_id=organization_id, items=[item], at_least=at_least)
        await call.write(request)
        return int((await call.read()).answers[0].reason)

    while (first := await reason(stream)) == pb.DECISION_REASON_POLICY_UNKNOWN:
        pass  # It is on its way in the replica's own feed.
    assert first == pb.DECISION_REASON_SESSION_FRESH
    token = replica.registry.publish(registration(clock.now(), revoked=True))
    assert await reason(stream, token) == pb.DECISION_REASON_REGISTRATION_REVOKED
    assert await reason(foreign) == pb.DECISION_REASON_REGISTRATION_REVOKED
    with pytest.raises(grpc.RpcError) as caught:
        await reason(foreign, organization_id=OTHER_ORGANIZATION)
    assert isinstance(from_rpc_error(caught.value, "session"), AccessDenied)
    revoked = api_key(access_pb2.ROLE_GATEWAY)
    revoked.api_key.api_key.revoke_time.GetCurrentTime()
    replica.identity.publish(revoked)
    with pytest.raises(grpc.RpcError) as caught:
        async with asyncio.timeout(30):
            while True:
                await reason(stream)
    assert isinstance(from_rpc_error(caught.value, "session"), CredentialsInvalid)


async def test_a_stream_that_nobody_reads_holds_little(replica: Replica, clock: FakeClock) -> None:
    """I-26, I-34: over the wire as well, who does not read is soon not read from; and then nothing is lost."""
    await loaded(replica, clock)
    policy_id = await create_policy(replica.channel(key(access_pb2.ROLE_ADMIN)))
    items = [pb.CheckSessionItem(registration_id=LAPTOP, policy_id=policy_id)] * 1000
    sent = 0

    async def requests() -> AsyncIterator[pb.StreamCheckSessionsRequest]:
        nonlocal sent
        while sent < 1000:
            yield pb.StreamCheckSessionsRequest(organization_id=ORGANIZATION, items=items, nonce=sent)
            sent += 1

    call = replica.stub(rpc.CheckServiceStub, key(access_pb2.ROLE_GATEWAY)).StreamCheckSessions(requests())
    while not sent:  # noqa: ASYNC110  # gRPC takes them when it likes
        await asyncio.sleep(0.01)
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.5)
    assert 0 < sent < 500
    for nonce in range(sent):
        assert (await call.read()).nonce == nonce
    call.cancel()


async def test_a_device_asks_about_its_own_registration_only(replica: Replica, clock: FakeClock) -> None:
    """Decision 22: with its registration's token, which is nothing once the registration is revoked."""
    await loaded(replica, clock)
    sessions = replica.stub(rpc.SessionServiceStub, TOKEN)
    own = pb.GetSessionRequest(organization_id=ORGANIZATION, registration_id=LAPTOP)
    assert (await sessions.GetSession(own)).session.user_id == ALICE
    with pytest.raises(AccessDenied):
        await sessions.GetSession(pb.GetSessionRequest(organization_id=ORGANIZATION, registration_id=PHONE))
    with pytest.raises(AccessDenied):
        await replica.stub(rpc.PolicyServiceStub, TOKEN).ListPolicies(
            pb.ListPoliciesRequest(organization_id=ORGANIZATION)
        )
    replica.registry.publish(registration(clock.now(), token_hash=hash_secret(TOKEN), revoked=True))
    with pytest.raises(CredentialsInvalid):
        async with asyncio.timeout(30):
            # The revocation is on its way.
            while True:
                await sessions.GetSession(own)


async def test_a_reauthentication_needs_identity_and_an_active_registration(replica: Replica, clock: FakeClock) -> None:
    """Decisions 16 and 27: an admin may ask on a device's behalf, and is told what stands in the way."""
    await loaded(replica, clock)
    sessions = replica.stub(rpc.SessionServiceStub, key(access_pb2.ROLE_ADMIN))
    request = pb.ReauthenticateRequest(organization_id=ORGANIZATION, registration_id=LAPTOP, request_id="r1")
    request.credential.id_token = "header.claims.signature"
    token = replica.registry.publish(registration(clock.now(), revoked=True))
    await sessions.GetSession(
        pb.GetSessionRequest(organization_id=ORGANIZATION, registration_id=LAPTOP, at_least=[token])
    )
    with pytest.raises(RegistrationRevoked):
        await sessions.Reauthenticate(request)


@pytest.mark.parametrize(
    ("bearer", "error"),
    [("", CredentialsMissing), ("ghk_key_x_y", CredentialsInvalid), (key(access_pb2.ROLE_AUDITOR), AccessDenied)],
)
async def test_only_gateways_and_admins_check(
    replica: Replica, clock: FakeClock, bearer: str, error: type[Exception]
) -> None:
    await loaded(replica, clock)
    check = replica.stub(rpc.CheckServiceStub, bearer)
    request = pb.CheckSessionRequest(organization_id=ORGANIZATION, registration_id=LAPTOP, policy_id=NO_POLICY)
    with pytest.raises(error):
        await check.CheckSession(request)


async def test_a_replica_does_not_start_with_a_quarantine_that_a_policy_outlasts(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Decision 25: the operator is told, and the policies' answers stay safe."""
    settings = prepared(tmp_path, clock, port_base=free_port_base(), quarantine="24h")
    async with replica_of(settings, clock) as replica:
        await loaded(replica, clock)
        open_for = pb.Staleness(mode=pb.STALENESS_MODE_OPEN_BOUNDED, max_open="2h")
        made = pb.Policy(
            display_name="Open", filter=pb.POLICY_FILTER_L4, action=pb.POLICY_ACTION_ALLOW, staleness=open_for
        )
        request = pb.CreatePolicyRequest(organization_id=ORGANIZATION, policy=made)
        await replica.stub(rpc.PolicyServiceStub, key(access_pb2.ROLE_ADMIN)).CreatePolicy(request)
    with pytest.raises(DurationInvalid, match="2h0m0s"):
        build(settings.model_copy(update={"quarantine": "119m"}), clock)


async def test_a_replica_with_no_bound_on_staleness_does_not_start(tmp_path: Path, clock: FakeClock) -> None:
    """I-16."""
    settings = prepared(tmp_path, clock, max_staleness="24h")
    with pytest.raises(DurationInvalid):
        build(settings, clock)

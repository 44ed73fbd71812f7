"""Sessions: how old they are, how they are renewed, and the devices they belong to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from guardhouse.channel import AioChannel, Policy
from guardhouse.common.v1 import credential_pb2
from guardhouse.errors import (
    CredentialsInvalid,
    DatabaseUnavailable,
    DifferentUser,
    FieldRequired,
    GuardhouseError,
    IdentityProviderUnavailable,
    IdTokenInvalid,
    InvalidField,
    RegistrationNotFound,
    RegistrationRevoked,
    ServiceTokenInvalid,
    ServiceUnavailable,
    StateStale,
    UserRemoved,
)
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.status import DETAILS_KEY, to_status
from guardhouse_services.access import Caller
from guardhouse_services.calls import Callers
from guardhouse_services.clock import SECOND
from guardhouse_services.credentials import REGISTRATION_PREFIX, format_secret, hash_secret
from guardhouse_services.rate_limit import RateLimit
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.usecases import Session
from guardhouse_services.times import from_timestamp, to_timestamp
from tests.clock import FakeClock
from tests.guardhouse_services.session.world import (
    ALICE,
    LAPTOP,
    MACHINE,
    MAX_STALENESS,
    NO_REGISTRATION,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    PHONE,
    World,
    authentication,
    call,
    registration,
    user,
)

ID_TOKEN = credential_pb2.Credential(id_token="header.claims.signature")
SERVICE_TOKEN = credential_pb2.Credential(
    service_token=credential_pb2.ServiceTokenCredential(client_id="0" * 32 + ".access", client_secret="secret")
)
TOKEN = format_secret(REGISTRATION_PREFIX, LAPTOP, b"\xff" * 32)


class Identity(identity_pb2_grpc.AuthenticationServiceServicer):
    """Answers with `authenticate_time`, or fails with `error`; remembers what it was asked."""

    # Session calls neither.
    AuthorizeEnrollment: Any = None
    CancelEnrollment: Any = None

    def __init__(self) -> None:
        self.requests: list[identity.RecordAuthenticationRequest] = []
        self.authenticate_time = 0
        self.error: GuardhouseError | None = None

    async def RecordAuthentication(
        self, request: identity.RecordAuthenticationRequest, context: Any
    ) -> identity.RecordAuthenticationResponse:
        self.requests.append(request)
        if self.error is not None:
            details = ((DETAILS_KEY, to_status(self.error, "trace").SerializeToString()),)
            await context.abort(grpc.StatusCode[self.error.code], self.error.message, details)
        return identity.RecordAuthenticationResponse(
            authenticate_time=to_timestamp(self.authenticate_time), revision_token="token"
        )


class Plane:
    """A replica of session, and an identity that it reaches over gRPC."""

    def __init__(self, world: World, peer: Identity, servicer: SessionServicer, stop: Any) -> None:
        self.world = world
        self.identity = peer
        self.servicer = servicer
        self.stop_identity = stop

    async def reauthenticate(
        self,
        registration_id: str = LAPTOP,
        credential: credential_pb2.Credential = ID_TOKEN,
        request_id: str = "r1",
        caller: Caller | None = None,
    ) -> pb.ReauthenticateResponse:
        request = pb.ReauthenticateRequest(
            organization_id=ORGANIZATION,
            registration_id=registration_id,
            credential=credential,
            request_id=request_id,
        )
        made = call("Reauthenticate", request_id)
        if caller is not None:
            made = type(made)(caller, made.method, made.trace_id, made.key)
        return await self.servicer.Reauthenticate(request, made)

    async def session(self, registration_id: str = LAPTOP) -> pb.Session:
        request = pb.GetSessionRequest(organization_id=ORGANIZATION, registration_id=registration_id)
        return (await self.servicer.GetSession(request, call("GetSession"))).session


@pytest.fixture
async def plane(clock: FakeClock) -> AsyncIterator[Plane]:
    peer = Identity()
    grpc_server = grpc.aio.server()
    identity_pb2_grpc.add_AuthenticationServiceServicer_to_server(peer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with World(clock) as world, contextlib.AsyncExitStack() as stack:
        channel = AioChannel(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), Policy(lambda: (), 1.0, False))
        stack.push_async_callback(channel.close)
        stub: Any = identity_pb2_grpc.AuthenticationServiceStub(channel)
        nothing: Any = None
        session = Session(clock, nothing, world.directory, world.replica, stub.RecordAuthentication)
        yield Plane(
            world, peer, SessionServicer(clock, session, nothing, nothing, nothing), lambda: grpc_server.stop(0)
        )
    await grpc_server.stop(0)


async def enrolled(plane: Plane, **fields: Any) -> int:
    now = plane.world.clock.now()
    plane.world.identity.publish(user())
    plane.world.registry.publish(registration(now, token_hash=hash_secret(TOKEN), **fields))
    await plane.world.settle()
    return now


async def test_a_session_says_whose_it_is_and_since_when(plane: Plane) -> None:
    """Decision 27."""
    began = await enrolled(plane)
    expected = pb.Session(registration_id=LAPTOP, user_id=ALICE, authenticate_time=to_timestamp(began))
    assert await plane.session() == expected
    plane.world.identity.publish(authentication(began + SECOND, revision=20))
    await plane.world.settle()
    assert (await plane.session()).authenticate_time == to_timestamp(began + SECOND)


async def test_a_session_of_a_machine_names_its_service_token(plane: Plane) -> None:
    """Decision 34."""
    await enrolled(plane, service_token_id=MACHINE)
    found = await plane.session()
    assert (found.service_token_id, found.user_id) == (MACHINE, "")


@pytest.mark.parametrize("event", [lambda at: user(revoked=at), lambda at: user(removed=at)])
async def test_revoking_or_removing_the_user_ends_the_session(plane: Plane, event: Callable[[int], Any]) -> None:
    """Decisions 5 and 35: at or after the enrollment's revision, which is 10."""
    await enrolled(plane)
    for revision, ended in ((0, False), (9, False), (10, True)):
        plane.world.identity.publish(event(revision))
        await plane.world.settle()
        assert (await plane.session()).revoked == ended


async def test_an_authentication_ends_a_revocation_and_no_removal(plane: Plane) -> None:
    """Decisions 5 and 35: a removal is of the enrollment, which stays as old as it is."""
    began = await enrolled(plane)
    plane.world.identity.publish(user(revoked=20))
    plane.world.identity.publish(authentication(began, revision=21))
    await plane.world.settle()
    assert not (await plane.session()).revoked
    plane.world.identity.publish(user(removed=20))
    await plane.world.settle()
    assert (await plane.session()).revoked


async def test_a_registration_that_arrives_during_the_call_is_found(plane: Plane) -> None:
    """I-35: NOT_FOUND only when it is certain that it was so at the time of the call."""
    asked = asyncio.create_task(plane.session())
    plane.world.registry.up = False
    await asyncio.sleep(0.05)
    plane.world.identity.publish(user())
    plane.world.registry.publish(registration(plane.world.clock.now()))
    plane.world.registry.up = True
    assert (await asked).user_id == ALICE


async def test_an_unknown_registration_is_not_found(plane: Plane) -> None:
    await enrolled(plane)
    plane.world.registry.publish(registration(plane.world.clock.now(), PHONE), organization_id=OTHER_ORGANIZATION)
    await plane.world.settle()
    for registration_id in (NO_REGISTRATION, PHONE):
        with pytest.raises(RegistrationNotFound):
            await plane.session(registration_id)
        with pytest.raises(RegistrationNotFound):
            await plane.reauthenticate(registration_id)


async def test_a_registration_whose_user_is_not_known_yet_is_answered_later(plane: Plane) -> None:
    plane.world.registry.publish(registration(plane.world.clock.now()))
    await plane.world.settle()
    with pytest.raises(StateStale):
        await plane.session()


async def test_stale_state_answers_nothing(plane: Plane, clock: FakeClock) -> None:
    """I-16: neither what a session is nor that there is none."""
    await enrolled(plane)
    plane.world.registry.up = False
    clock.advance(MAX_STALENESS / SECOND + 1)
    for registration_id in (LAPTOP, NO_REGISTRATION):
        with pytest.raises(StateStale):
            await plane.session(registration_id)
        with pytest.raises(StateStale):
            await plane.reauthenticate(registration_id)
    assert not plane.identity.requests


async def test_a_reauthentication_is_recorded_by_identity(plane: Plane) -> None:
    """Decision 27, I-33: for the registration's own holder, on behalf of who asked for it."""
    began = await enrolled(plane)
    plane.identity.authenticate_time = began + 5 * SECOND
    reply = await plane.reauthenticate()
    assert (from_timestamp(reply.authenticate_time), reply.revision_token) == (began + 5 * SECOND, "token")
    (asked,) = plane.identity.requests
    assert (asked.organization_id, asked.registration_id) == (ORGANIZATION, LAPTOP)
    assert (asked.user_id, asked.service_token_id, asked.credential) == (ALICE, "", ID_TOKEN)
    assert asked.actor == call().caller.name


async def test_a_machine_reauthenticates_with_its_service_token(plane: Plane) -> None:
    """Decision 34: silently, with the token's credential."""
    await enrolled(plane, service_token_id=MACHINE)
    await plane.reauthenticate(credential=SERVICE_TOKEN)
    (asked,) = plane.identity.requests
    assert (asked.user_id, asked.service_token_id, asked.credential) == ("", MACHINE, SERVICE_TOKEN)


async def test_a_repeated_reauthentication_is_one_request_to_identity(plane: Plane) -> None:
    """I-07: identity gives one effect to one request_id, which is of the caller, the registration and its own."""
    await enrolled(plane)
    plane.world.registry.publish(registration(plane.world.clock.now(), PHONE))
    await plane.world.settle()
    device = Caller("device", LAPTOP, ORGANIZATION)
    await plane.reauthenticate()
    await plane.reauthenticate()
    await plane.reauthenticate(request_id="r2")
    await plane.reauthenticate(PHONE)
    await plane.reauthenticate(caller=device)
    ids = [asked.request_id for asked in plane.identity.requests]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    assert all(0 < len(request_id) <= 64 for request_id in ids)


@pytest.mark.parametrize(
    "error",
    [
        DifferentUser("the credential is another person's"),
        IdTokenInvalid(),
        ServiceTokenInvalid("the secret is wrong"),
        UserRemoved("the user was removed"),
    ],
)
async def test_what_identity_refuses_is_refused_for_the_same_reason(plane: Plane, error: GuardhouseError) -> None:
    """Decision 27: DIFFERENT_USER among them, and the timer is untouched."""
    began = await enrolled(plane)
    plane.identity.error = error
    with pytest.raises(type(error), match=error.message) as caught:
        await plane.reauthenticate()
    assert caught.value.reason == error.reason
    assert to_status(caught.value, "trace").details
    assert len(plane.identity.requests) == 1
    assert from_timestamp((await plane.session()).authenticate_time) == began


@pytest.mark.parametrize(
    "error", [IdentityProviderUnavailable("no keys"), DatabaseUnavailable("no database"), StateStale("not yet")]
)
async def test_what_may_pass_is_tried_again_and_then_said(plane: Plane, error: GuardhouseError) -> None:
    """With the same request_id each time, so that one of them may have counted."""
    await enrolled(plane)
    plane.identity.error = error
    with pytest.raises(type(error)):
        await plane.reauthenticate()
    assert len(plane.identity.requests) > 1
    assert len({asked.request_id for asked in plane.identity.requests}) == 1


async def test_an_identity_that_does_not_answer_is_named(plane: Plane) -> None:
    await enrolled(plane)
    await plane.stop_identity()
    with pytest.raises(ServiceUnavailable) as caught:
        await plane.reauthenticate()
    assert caught.value.metadata == {"service": "identity"}


async def test_a_revoked_registration_cannot_reauthenticate(plane: Plane) -> None:
    """Decision 16: only an admin restores it."""
    await enrolled(plane, revoked=True)
    with pytest.raises(RegistrationRevoked):
        await plane.reauthenticate()
    assert (await plane.session()).user_id == ALICE
    assert not plane.identity.requests


async def test_a_removed_user_cannot_reauthenticate(plane: Plane) -> None:
    """Decision 5: what was enrolled before the removal is over, even while the registry still shows it."""
    await enrolled(plane, authorized=10)
    plane.world.identity.publish(user(removed=10))
    await plane.world.settle()
    with pytest.raises(UserRemoved):
        await plane.reauthenticate()
    assert not plane.identity.requests


async def test_a_reauthentication_says_what_it_lacks(plane: Plane) -> None:
    await enrolled(plane)
    with pytest.raises(FieldRequired) as caught:
        await plane.reauthenticate(request_id="")
    assert caught.value.field == "request_id"
    with pytest.raises(FieldRequired) as caught:
        await plane.reauthenticate(credential=credential_pb2.Credential())
    assert caught.value.field == "credential"
    for registration_id in ("", ALICE):
        with pytest.raises(InvalidField) as invalid:
            await plane.reauthenticate(registration_id)
        assert invalid.value.field == "registration_id"
    assert not plane.identity.requests


async def authenticate(plane: Plane, bearer: str) -> Caller:
    """As the listener does it."""
    callers = Callers(plane.world.directory, plane.world.replica.device, RateLimit(rate=1, burst=1))
    return await callers.recognise(f"Bearer {bearer}", "ipv4:127.0.0.1:1")


async def test_a_registration_token_is_its_device(plane: Plane) -> None:
    """Decision 22."""
    await enrolled(plane)
    plane.world.registry.publish(registration(0, PHONE), organization_id=OTHER_ORGANIZATION)
    await plane.world.settle()
    assert await authenticate(plane, TOKEN) == Caller("device", LAPTOP, ORGANIZATION)


@pytest.mark.parametrize(
    "bearer",
    [
        format_secret(REGISTRATION_PREFIX, LAPTOP, b"\xfe" * 32),
        format_secret(REGISTRATION_PREFIX, PHONE, b"\xff" * 32),
        format_secret(REGISTRATION_PREFIX, NO_REGISTRATION, b"\xff" * 32),
        TOKEN[:-1],
        TOKEN + "A",
        TOKEN.replace("ghr_", "ghk_"),
        f"ghr_{LAPTOP}",
        f"ghr_{LAPTOP}_",
        "ghr_",
        "ghr_" + "x" * 1000,
    ],
)
async def test_no_other_value_is_a_device(plane: Plane, bearer: str) -> None:
    """I-31: a registration without a hash, whatever made it so, has no device."""
    await enrolled(plane)
    plane.world.registry.publish(registration(0, PHONE))
    await plane.world.settle()
    with pytest.raises(CredentialsInvalid):
        await authenticate(plane, bearer)


async def test_a_revoked_or_deleted_registrations_device_is_refused(plane: Plane) -> None:
    """Decisions 16 and 22: at once, for its own session as well; and restored with the registration."""
    began = await enrolled(plane)
    for event in (
        registration(began, token_hash=hash_secret(TOKEN), revoked=True),
        registry.Event(registration_deleted=LAPTOP),
    ):
        plane.world.registry.publish(event)
        await plane.world.settle()
        with pytest.raises(CredentialsInvalid):
            await authenticate(plane, TOKEN)
        plane.world.registry.publish(registration(began, token_hash=hash_secret(TOKEN)))
        await plane.world.settle()
        assert (await authenticate(plane, TOKEN)).id == LAPTOP


async def test_a_device_that_has_just_enrolled_is_waited_for(plane: Plane) -> None:
    """I-35: it is refused only when it is certain that it was unknown at the time of the call."""
    asked = asyncio.create_task(authenticate(plane, TOKEN))
    plane.world.registry.up = False
    await asyncio.sleep(0.05)
    await enrolled_while(plane)
    plane.world.registry.up = True
    assert (await asked).id == LAPTOP


async def enrolled_while(plane: Plane) -> None:
    now = plane.world.clock.now()
    plane.world.registry.publish(registration(now, token_hash=hash_secret(TOKEN)))

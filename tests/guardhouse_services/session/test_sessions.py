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
from guardhouse.durations import SECOND
from guardhouse.errors import (
    ChallengeInvalid,
    CredentialsInvalid,
    DatabaseUnavailable,
    DifferentUser,
    FieldRequired,
    GuardhouseError,
    IdentityProviderNotFound,
    IdentityProviderUnavailable,
    IdTokenInvalid,
    InvalidField,
    OrganizationNotFound,
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
from guardhouse.times import from_timestamp, to_timestamp
from guardhouse_services.access import Caller
from guardhouse_services.calls import Callers
from guardhouse_services.credentials import REGISTRATION_PREFIX, MasterKey, format_secret, hash_secret
from guardhouse_services.paging import Pages
from guardhouse_services.rate_limit import RateLimit
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.usecases import Session, sessions
from tests.clock import FakeClock
from tests.guardhouse_services.session.world import (
    ALICE,
    BOB,
    HOUR,
    HOURLY,
    LAPTOP,
    MACHINE,
    MAX_STALENESS,
    NO_REGISTRATION,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    PHONE,
    TABLET,
    UNLIMITED,
    World,
    authentication,
    call,
    policy,
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

    # Session calls none of them.
    AuthorizeEnrollment: Any = None
    CancelEnrollment: Any = None
    ReportActivity: Any = None
    RevokeAuthentications: Any = None

    def __init__(self) -> None:
        self.requests: list[identity.RecordAuthenticationRequest] = []
        self.authenticate_time = 0
        self.user: identity.User | None = None
        self.error: GuardhouseError | None = None

    async def RecordAuthentication(
        self, request: identity.RecordAuthenticationRequest, context: Any
    ) -> identity.RecordAuthenticationResponse:
        self.requests.append(request)
        if self.error is not None:
            details = ((DETAILS_KEY, to_status(self.error, "trace").SerializeToString()),)
            await context.abort(grpc.StatusCode[self.error.code], self.error.message, details)
        return identity.RecordAuthenticationResponse(
            authenticate_time=to_timestamp(self.authenticate_time), revision_token="token", user=self.user
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
        challenge: str = "",
    ) -> pb.ReauthenticateResponse:
        request = pb.ReauthenticateRequest(
            organization_id=ORGANIZATION,
            registration_id=registration_id,
            credential=credential,
            request_id=request_id,
            challenge=challenge,
        )
        made = call("Reauthenticate", request_id)
        if caller is not None:
            made = type(made)(caller, made.method, made.trace_id, made.key)
        return await self.servicer.Reauthenticate(request, made)

    async def refresh(self, credential: credential_pb2.Credential = ID_TOKEN) -> pb.RefreshIdentityResponse:
        request = pb.RefreshIdentityRequest(
            organization_id=ORGANIZATION, registration_id=LAPTOP, credential=credential, request_id="r1"
        )
        return await self.servicer.RefreshIdentity(request, call("RefreshIdentity", "r1"))

    async def start(self, registration_id: str = LAPTOP) -> pb.StartReauthenticationResponse:
        request = pb.StartReauthenticationRequest(organization_id=ORGANIZATION, registration_id=registration_id)
        return await self.servicer.StartReauthentication(request, call("StartReauthentication"))

    async def listed(self, **fields: Any) -> pb.ListSessionsResponse:
        request = pb.ListSessionsRequest(organization_id=ORGANIZATION)
        request.MergeFrom(pb.ListSessionsRequest(**fields))
        return await self.servicer.ListSessions(request, call("ListSessions"))

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
        channel = AioChannel(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), Policy(lambda: (), 10.0, False))
        stack.push_async_callback(channel.close)
        stub: Any = identity_pb2_grpc.AuthenticationServiceStub(channel)
        nothing: Any = None
        key = MasterKey(b"k" * 32)
        session = Session(clock, nothing, world.directory, world.replica, stub, key)
        servicer = SessionServicer(clock, session, Pages(key), nothing, nothing)
        yield Plane(world, peer, servicer, lambda: grpc_server.stop(0))
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


SSO = "https://sso.example.com"


def provider(**fields: Any) -> identity.Event:
    values = {"identity_provider_id": "idp_1", "issuer": SSO, "client_ids": ["laptops"], **fields}
    return identity.Event(identity_provider=identity.IdentityProvider(**values))


async def of_sso(plane: Plane) -> None:
    """Alice enrolled there."""
    made = user()
    made.user.user.issuer = SSO
    plane.world.identity.publish(made)
    await plane.world.settle()


async def test_who_re_authenticates_is_told_where(plane: Plane) -> None:
    """Decision 27: at the provider that enrolled them, whichever others there are. A challenge lives ten minutes."""
    await enrolled(plane)
    await of_sso(plane)
    other = provider(identity_provider_id="idp_0", issuer="https://other.example.com")
    plane.world.identity.publish(other, provider(force_interaction=True))
    await plane.world.settle()
    now = plane.world.clock.now()
    answer = await plane.start()
    expected = pb.SignIn(identity_provider_id="idp_1", issuer=SSO, client_ids=["laptops"], force_interaction=True)
    assert answer.sign_in == expected
    assert 0 <= from_timestamp(answer.expire_time) - now - 600 * SECOND < 60 * SECOND
    plane.world.identity.publish(identity.Event(identity_provider_deleted="idp_1"))
    await plane.world.settle()
    with pytest.raises(IdentityProviderNotFound):
        await plane.start()


async def test_a_machine_signs_in_nowhere(plane: Plane) -> None:
    """Decision 34."""
    await enrolled(plane, service_token_id=MACHINE)
    answer = await plane.start()
    assert not answer.HasField("sign_in")
    assert answer.challenge


async def test_who_cannot_re_authenticate_is_told_so_before_signing_in(plane: Plane) -> None:
    """Decisions 5 and 16."""
    await enrolled(plane, authorized=10)
    plane.world.identity.publish(user(removed=10))
    plane.world.registry.publish(registration(plane.world.clock.now(), PHONE, user_id=BOB, revoked=True))
    plane.world.identity.publish(user(BOB))
    await plane.world.settle()
    for registration_id, kind in ((LAPTOP, UserRemoved), (PHONE, RegistrationRevoked)):
        with pytest.raises(kind):
            await plane.start(registration_id)


async def test_identity_is_told_when_the_challenge_was_made(plane: Plane, clock: FakeClock) -> None:
    """Decision 33: to the microsecond, because it is compared with what a provider says; without one nothing is."""
    clock.stop()
    clock.advance(0.123456)
    await enrolled(plane)
    await of_sso(plane)
    plane.world.identity.publish(provider())
    await plane.world.settle()
    asked, challenge = clock.now(), (await plane.start()).challenge
    clock.advance(5)
    await plane.reauthenticate(challenge=challenge)
    await plane.reauthenticate(request_id="r2")
    with_one, without = plane.identity.requests
    assert from_timestamp(with_one.asked_time) == asked
    assert not without.HasField("asked_time")


async def test_a_challenge_is_of_its_registration_only(plane: Plane) -> None:
    """Decision 33: nor can its time be changed, or another spelling made of it."""
    await enrolled(plane, service_token_id=MACHINE)
    plane.world.registry.publish(registration(plane.world.clock.now(), PHONE, service_token_id=MACHINE))
    await plane.world.settle()
    challenge = (await plane.start()).challenge
    time, _, mac = challenge.partition(".")
    unfit = [
        (await plane.start(PHONE)).challenge,
        f"{int(time) - 1}.{mac}",
        f"0{challenge}",
        time,
        "x",
        f"{'9' * 5000}.",
    ]
    for wrong in unfit:
        with pytest.raises(ChallengeInvalid) as caught:
            await plane.reauthenticate(challenge=wrong)
        assert caught.value.field == "challenge"
    assert not plane.identity.requests


@pytest.mark.parametrize("error", [ChallengeInvalid("asked_time", "too late"), FieldRequired("asked_time", "say when")])
async def test_what_identity_lacks_is_the_challenge(plane: Plane, error: InvalidField) -> None:
    """Decision 33."""
    await enrolled(plane)
    plane.identity.error = error
    with pytest.raises(type(error), match="StartReauthentication") as caught:
        await plane.reauthenticate()
    assert caught.value.field == "challenge"
    plane.identity.error = FieldRequired("actor")
    with pytest.raises(FieldRequired) as other:
        await plane.reauthenticate()
    assert other.value.field == "actor"


async def test_refreshing_answers_who_somebody_is_now(plane: Plane) -> None:
    """Decisions 9 and 27: it re-authenticates as well, in a request of its own."""
    began = await enrolled(plane)
    plane.identity.authenticate_time = began + SECOND
    plane.identity.user = identity.User(email="ada@example.com", display_name="Ada", groups=["ops", "dev"])
    answer = await plane.refresh()
    assert answer == pb.RefreshIdentityResponse(
        authenticate_time=to_timestamp(began + SECOND),
        revision_token="token",
        email="ada@example.com",
        display_name="Ada",
        groups=["ops", "dev"],
    )
    await plane.reauthenticate()
    refreshed, reauthenticated = plane.identity.requests
    assert refreshed.request_id != reauthenticated.request_id
    reauthenticated.request_id = refreshed.request_id
    assert refreshed == reauthenticated


async def test_a_session_says_when_its_holder_is_asked_again_and_by_which_policy(plane: Plane) -> None:
    """Decision 28: soonest first, at most twenty; by no policy that enforces nothing or covers nothing."""
    began = await enrolled(plane)
    never = pb.POLICY_ACTION_BLOCK
    plane.world.own.publish(
        policy(HOURLY, display_name="Wiki"),
        policy(UNLIMITED, ""),
        policy("pol_" + "3" * 32, "5m", enabled=False),
        policy("pol_" + "4" * 32, "5m", action=never),
        policy("pol_" + "5" * 32, "30m", display_name="Mail"),
    )
    await plane.world.settle()
    asked = (await plane.session()).next_reauthentications
    assert [(it.policy_id, it.display_name, from_timestamp(it.time) - began) for it in asked] == [
        ("pol_" + "5" * 32, "Mail", HOUR // 2),
        (HOURLY, "Wiki", HOUR),
    ]
    plane.world.own.publish(*(policy(f"pol_{number:032}", f"{number + 1}h") for number in range(30)))
    await plane.world.settle()
    asked = (await plane.session()).next_reauthentications
    assert len(asked) == 20
    assert from_timestamp(asked[-1].time) - began == 18 * HOUR


async def test_sessions_are_listed_in_pages(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """By registration, whatever the order in which they came, and a few at a time, so that nobody waits for it."""
    monkeypatch.setattr(sessions, "SLICE", 3)
    now = plane.world.clock.now()
    ids = [f"reg_{number:032}" for number in range(10)]
    plane.world.identity.publish(user(), user(BOB))
    plane.world.registry.publish(
        *(
            registration(now, ids[place], user_id=BOB if place % 2 else ALICE)
            for place in (7, 2, 9, 0, 4, 1, 3, 8, 5, 6)
        )
    )
    await plane.world.settle()
    for of, expected in (("", ids), (BOB, ids[1::2])):
        found, token = [], ""
        while True:
            page = await plane.listed(page_size=2, page_token=token, user_id=of)
            assert len(page.sessions) <= 2
            found += [it.registration_id for it in page.sessions]
            if not (token := page.next_page_token):
                break
        assert found == expected
    with pytest.raises(OrganizationNotFound):
        await plane.servicer.ListSessions(pb.ListSessionsRequest(organization_id="org_" + "9" * 32), call())


async def test_expired_sessions_are_those_that_some_policy_refuses(plane: Plane, clock: FakeClock) -> None:
    """Decisions 27, 28 and 35."""
    clock.stop()
    now = await enrolled(plane)
    plane.world.registry.publish(registration(now - HOUR, PHONE), registration(now - HOUR + 1, TABLET, user_id=BOB))
    plane.world.identity.publish(user(BOB))
    await plane.world.settle()

    async def expired() -> list[str]:
        return [it.registration_id for it in (await plane.listed(only_expired=True)).sessions]

    assert await expired() == []
    plane.world.own.publish(policy(HOURLY))
    await plane.world.settle()
    assert await expired() == [PHONE]
    plane.world.identity.publish(user(BOB, revoked=10))
    await plane.world.settle()
    assert await expired() == [PHONE, TABLET]


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

"""Signing in to applications, what is allowed then, and the tokens that say so (decision 31)."""

import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from guardhouse.channel import AioChannel, Policy
from guardhouse.common.v1 import credential_pb2
from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.errors import (
    ApplicationNotFound,
    DifferentUser,
    FieldRequired,
    GuardhouseError,
    IdTokenInvalid,
    InvalidField,
    RegistrationNotFound,
    SeatsExhausted,
    StateStale,
)
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.status import DETAILS_KEY, to_status
from guardhouse.times import from_timestamp, to_timestamp
from guardhouse_services.credentials import MasterKey
from guardhouse_services.http import HttpServer
from guardhouse_services.paging import Pages
from guardhouse_services.session import jwks
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.session_tokens import SessionToken, SessionTokens
from guardhouse_services.session.usecases import Session
from tests.clock import FakeClock
from tests.guardhouse_services.session.world import (
    ALICE,
    BOB,
    LAPTOP,
    MACHINE,
    MAX_STALENESS,
    NO_REGISTRATION,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    World,
    call,
    registration,
)

WIKI, PAYROLL, NO_APPLICATION = ("app_" + digit * 32 for digit in "12f")
SSO, OTHER_SSO = "idp_" + "1" * 32, "idp_" + "2" * 32
FIRST_KEY, NEXT_KEY = "sig_" + "1" * 32, "sig_" + "2" * 32
ISSUER = "https://access.example.com"
ISSUED_BY = "https://sso.example.com"
KEY = MasterKey(b"k" * 32)
ID_TOKEN = credential_pb2.Credential(id_token="header.claims.signature")
SERVICE_TOKEN = credential_pb2.Credential(
    service_token=credential_pb2.ServiceTokenCredential(client_id="0" * 32 + ".access", client_secret="secret")
)
ALLOW, BLOCK, REAUTHENTICATE = pb.DECISION_ALLOW, pb.DECISION_BLOCK, pb.DECISION_REAUTHENTICATE
EVERYONE = pb.ApplicationRule(everyone=pb.Everyone())


class Identity(identity_pb2_grpc.AuthenticationServiceServicer):
    """Says who holds the credential; keeps what it was asked to record, once for each request."""

    # Session calls none of them.
    AuthorizeEnrollment: Any = None
    CancelEnrollment: Any = None
    ReportActivity: Any = None
    RevokeAuthentications: Any = None

    def __init__(self) -> None:
        self.requests: list[identity.RecordAuthenticationRequest] = []
        self.recorded: dict[str, identity.RecordAuthenticationResponse] = {}
        self.answer = identity.RecordAuthenticationResponse()
        self.error: GuardhouseError | None = None

    async def RecordAuthentication(
        self, request: identity.RecordAuthenticationRequest, context: Any
    ) -> identity.RecordAuthenticationResponse:
        self.requests.append(request)
        if self.error is not None:
            details = ((DETAILS_KEY, to_status(self.error, "trace").SerializeToString()),)
            await context.abort(grpc.StatusCode[self.error.code], self.error.message, details)
        answer = identity.RecordAuthenticationResponse()
        answer.CopyFrom(self.answer)
        if request.validate_only:
            return answer
        return self.recorded.setdefault(request.request_id, answer)


class Plane:
    """A replica of session whose applications the test publishes, and an identity that it reaches over gRPC."""

    def __init__(self, world: World, peer: Identity, session: Session) -> None:
        self.world = world
        self.clock: Any = world.clock
        self.identity = peer
        self.session = session
        nothing: Any = None
        self.servicer = SessionServicer(world.clock, session, Pages(KEY), nothing, nothing)

    async def publish(self, *events: pb.Event, organization_id: str = ORGANIZATION) -> None:
        self.world.own.publish(*events, organization_id=organization_id)
        await self.world.settle()

    async def log_in(
        self, application_id: str = WIKI, request_id: str = "r1", credential: Any = ID_TOKEN, **fields: Any
    ) -> pb.LogInResponse:
        request = pb.LogInRequest(
            organization_id=ORGANIZATION,
            application_id=application_id,
            credential=credential,
            request_id=request_id,
            **fields,
        )
        return await self.servicer.LogIn(request, call("LogIn", request_id))

    async def check(
        self, session_token: str = "", application_id: str = WIKI, organization_id: str = ORGANIZATION, **fields: Any
    ) -> pb.CheckApplicationResponse:
        request = pb.CheckApplicationRequest(
            organization_id=organization_id, application_id=application_id, session_token=session_token, **fields
        )
        return await self.servicer.CheckApplication(request, call("CheckApplication"))

    async def reason(self, session_token: str = "", **fields: Any) -> str:
        checked = await self.check(session_token, **fields)
        answer = checked.answer
        # Nobody who is refused gets a token.
        assert answer.decision == ALLOW or not checked.application_token
        decision = pb.Decision.Name(answer.decision).removeprefix("DECISION_")
        return f"{decision} {pb.DecisionReason.Name(answer.reason).removeprefix('DECISION_REASON_')}"

    async def enroll(self, passed: tuple[str, ...] = ()) -> None:
        """Ada's laptop, now."""
        event = registration(self.clock.now())
        if passed:
            event.registration.posture.passed.extend(passed)
        self.world.registry.publish(event)
        await self.world.settle()

    @contextlib.asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """What whoever has an application token can reach."""
        world, tokens = self.world, self.session.application_tokens
        server = HttpServer("127.0.0.1", 0, [jwks.route(world.clock, world.directory, world.replica, tokens)])
        await server.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
            yield client
        await server.stop()


@pytest.fixture
async def plane(clock: FakeClock) -> AsyncIterator[Plane]:
    """Ada may sign in to the wiki, at one of two providers."""
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
        session = Session(clock, nothing, world.directory, world.replica, stub, KEY, ISSUER)
        made = Plane(world, peer, session)
        clock.stop()
        peer.answer = signed_in(clock.now())
        world.identity.publish(provider(SSO, ISSUED_BY), provider(OTHER_SSO, "https://other.example.com"), ada())
        await made.publish(application(), signing_key())
        yield made
    await grpc_server.stop(0)


def application(application_id: str = WIKI, *policies: pb.ApplicationPolicy, **fields: Any) -> pb.Event:
    everyone = pb.ApplicationPolicy(display_name="Everyone", decision=pb.APPLICATION_DECISION_ALLOW, include=[EVERYONE])
    values: dict[str, Any] = {"display_name": "Wiki", "session_duration": "1h0m0s", **fields}
    return pb.Event(
        application=pb.Application(application_id=application_id, policies=policies or [everyone], **values)
    )


def policy(decision: Any, rule: pb.ApplicationRule = EVERYONE) -> pb.ApplicationPolicy:
    return pb.ApplicationPolicy(display_name="The policy", decision=decision, include=[rule])


def group(name: str) -> pb.ApplicationPolicy:
    return policy(pb.APPLICATION_DECISION_ALLOW, pb.ApplicationRule(group=name))


def signing_key(key_id: str = FIRST_KEY, sign_time: int = 0, expire_time: int | None = None) -> pb.Event:
    key = pb.SigningKey(key_id=key_id, create_time=to_timestamp(0), sign_time=to_timestamp(sign_time))
    if expire_time is not None:
        key.expire_time.CopyFrom(to_timestamp(expire_time))
    return pb.Event(signing_key=key)


def device_sessions(duration: str) -> pb.Event:
    settings = pb.DeviceSessionSettings(session_duration=duration, apply_by_default=True)
    return pb.Event(device_session_settings=settings)


def provider(identity_provider_id: str, issuer: str) -> identity.Event:
    return identity.Event(
        identity_provider=identity.IdentityProvider(
            identity_provider_id=identity_provider_id, issuer=issuer, client_ids=["guardhouse"]
        )
    )


def ada(user_id: str = ALICE, groups: tuple[str, ...] = ("staff",), **revisions: int) -> identity.Event:
    user = identity.User(user_id=user_id, issuer=ISSUED_BY, email="ada@example.com", groups=groups)
    return identity.Event(user=identity.UserRecord(user=user, **revisions))


def signed_in(time: int, user_id: str = ALICE, groups: tuple[str, ...] = ("staff",)) -> Any:
    """As identity answers of Ada."""
    return identity.RecordAuthenticationResponse(
        authenticate_time=to_timestamp(time),
        revision_token="token",
        user=ada(user_id, groups).user.user,
        identity_provider_id=SSO,
        authenticate_revision=20,
    )


def machine(time: int) -> Any:
    return identity.RecordAuthenticationResponse(
        authenticate_time=to_timestamp(time), revision_token="token", service_token_id=MACHINE, authenticate_revision=20
    )


def claims_of(token: str) -> dict[str, Any]:
    """Unchecked."""
    body = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


async def test_who_signs_in_uses_the_application_until_the_session_ends(plane: Plane) -> None:
    """Decision 31: to the millisecond."""
    logged_in = await plane.log_in()
    answer = logged_in.answer
    assert (answer.decision, answer.user_id, answer.policy_id) == (ALLOW, ALICE, "Everyone")
    assert (logged_in.revision_token, logged_in.binding) == ("token", "")
    assert answer.session_expire_time == to_timestamp(plane.clock.now() + HOUR)
    plane.clock.advance(3600 - 0.001)
    await plane.world.settle()
    assert await plane.reason(logged_in.session_token) == "ALLOW SESSION_FRESH"
    plane.clock.advance(0.001)
    await plane.world.settle()
    assert await plane.reason(logged_in.session_token) == "REAUTHENTICATE SESSION_EXPIRED"


async def test_identity_records_what_the_application_has_let_in(plane: Plane) -> None:
    """Decision 2: asked first without an effect, then with one, of nobody's registration."""
    await plane.log_in()
    assert [request.validate_only for request in plane.identity.requests] == [True, False]
    for request in plane.identity.requests:
        assert (request.registration_id, request.WhichOneof("holder"), request.credential) == ("", None, ID_TOKEN)
        assert request.actor == call().caller.name


async def test_whoever_may_not_use_it_is_not_recorded(plane: Plane) -> None:
    """Decisions 2 and 3: so they take no seat, and their ID token is still good elsewhere."""
    await plane.publish(application(WIKI, group("admins")))
    refused = await plane.log_in()
    assert pb.LogInResponse(answer=refused.answer) == refused
    assert (refused.answer.decision, refused.answer.reason) == (BLOCK, pb.DECISION_REASON_NO_POLICY_MATCHED)
    assert plane.identity.recorded == {}
    await plane.publish(application(WIKI, identity_provider_ids=[OTHER_SSO]))
    refused = await plane.log_in()
    assert (refused.answer.decision, refused.answer.reason) == (REAUTHENTICATE, pb.DECISION_REASON_LOGIN_METHOD)
    assert plane.identity.recorded == {}


async def test_the_profile_of_the_credential_decides(plane: Plane) -> None:
    """Decision 9: the groups of this sign-in, also of somebody who is not known and has no id yet."""
    await plane.publish(application(WIKI, group("admins")))
    plane.identity.answer = signed_in(plane.clock.now(), user_id="", groups=("admins",))
    checked = await plane.log_in()
    assert checked.answer.decision == ALLOW


async def test_no_seat_left_refuses_and_gives_nothing(plane: Plane) -> None:
    """Decision 2."""
    plane.identity.error = SeatsExhausted("all seats are taken")
    with pytest.raises(SeatsExhausted):
        await plane.log_in()
    assert plane.identity.recorded == {}


async def test_a_repeated_login_is_recorded_once_and_answers_the_same_session(plane: Plane) -> None:
    first = await plane.log_in()
    plane.identity.answer = signed_in(plane.clock.now() + SECOND)
    again = await plane.log_in()
    assert (again.session_token, again.answer.authenticate_time) == (
        first.session_token,
        first.answer.authenticate_time,
    )
    assert len(plane.identity.recorded) == 1
    await plane.log_in(request_id="r2")
    await plane.publish(application(PAYROLL))
    await plane.log_in(PAYROLL)
    assert len(plane.identity.recorded) == 3


async def test_a_login_says_what_it_lacks(plane: Plane) -> None:
    for lacking, fields in (
        ("request_id", {"request_id": ""}),
        ("credential", {"credential": credential_pb2.Credential()}),
        ("challenge", {"challenge": "1.abc"}),
        ("client.ip", {"client": pb.ClientFacts(ip="nowhere")}),
        ("client.country", {"client": pb.ClientFacts(country="Germany")}),
    ):
        with pytest.raises(InvalidField) as refusal:
            await plane.log_in(**fields)
        assert refusal.value.field == lacking
    with pytest.raises(FieldRequired, match="application_id"):
        await plane.log_in("")
    with pytest.raises(ApplicationNotFound):
        await plane.log_in(NO_APPLICATION)
    plane.identity.error = IdTokenInvalid(detail="expired")
    with pytest.raises(IdTokenInvalid):
        await plane.log_in()


async def test_a_stale_replica_signs_nobody_in_and_lets_nobody_in(plane: Plane) -> None:
    """Decision 36: a refused check is an answer, a login that cannot be judged is an error."""
    token = (await plane.log_in()).session_token
    plane.world.own.up = False
    plane.clock.advance(MAX_STALENESS / SECOND + 1)
    assert await plane.reason(token) == "BLOCK STATE_STALE"
    asked = len(plane.identity.requests)
    for application_id in (WIKI, NO_APPLICATION):
        with pytest.raises(StateStale):
            await plane.log_in(application_id, request_id="r2")
    assert len(plane.identity.requests) == asked


async def test_a_session_is_good_for_every_application_for_as_long_as_each_says(plane: Plane) -> None:
    await plane.publish(application(PAYROLL, session_duration="10m0s"))
    token = (await plane.log_in()).session_token
    assert await plane.reason(token, application_id=PAYROLL) == "ALLOW SESSION_FRESH"
    plane.clock.advance(600)
    await plane.world.settle()
    assert await plane.reason(token, application_id=PAYROLL) == "REAUTHENTICATE SESSION_EXPIRED"
    assert await plane.reason(token) == "ALLOW SESSION_FRESH"
    assert await plane.reason(token, application_id=NO_APPLICATION) == "BLOCK APPLICATION_UNKNOWN"
    # Shortening it acts on sessions that exist.
    await plane.publish(application(WIKI, session_duration="5m0s"))
    assert await plane.reason(token) == "REAUTHENTICATE SESSION_EXPIRED"


async def test_a_duration_of_nothing_lets_in_once(plane: Plane) -> None:
    """Decision 30."""
    await plane.publish(application(WIKI, session_duration="0s"))
    logged_in = await plane.log_in()
    claims = claims_of(logged_in.application_token)
    assert claims["exp"] == (plane.clock.now() + MINUTE) // SECOND
    assert not logged_in.answer.valid_for.ToMicroseconds()
    assert await plane.reason(logged_in.session_token) == "REAUTHENTICATE SESSION_EXPIRED"


async def test_revoking_or_removing_the_user_ends_the_session(plane: Plane) -> None:
    """Decisions 5 and 35: by identity's revisions; what was authenticated behind them holds."""
    token = (await plane.log_in()).session_token
    for revisions, expected in (
        ((19, 19), "ALLOW SESSION_FRESH"),
        ((19, 20), "REAUTHENTICATE SESSION_REVOKED"),
        ((20, 20), "BLOCK USER_REMOVED"),
    ):
        removed, revoked = revisions
        plane.world.identity.publish(ada(removed_revision=removed, revoked_revision=revoked))
        await plane.world.settle()
        assert await plane.reason(token) == expected


async def test_a_repeated_login_does_not_undo_a_revocation(plane: Plane) -> None:
    """Decision 35: what was recorded is older than it, whatever it would be now."""
    await plane.log_in()
    plane.world.identity.publish(ada(revoked_revision=20))
    await plane.world.settle()
    plane.identity.answer.authenticate_revision = 30
    again = await plane.log_in()
    assert pb.LogInResponse(answer=again.answer) == again
    assert (again.answer.decision, again.answer.reason) == (REAUTHENTICATE, pb.DECISION_REASON_SESSION_REVOKED)


async def test_who_signed_in_a_moment_ago_is_waited_for_once(plane: Plane) -> None:
    plane.identity.answer = signed_in(plane.clock.now(), BOB)
    token = (await plane.log_in()).session_token
    assert await plane.reason(token) == "REAUTHENTICATE NO_SESSION"
    plane.world.identity.publish(ada(BOB))
    assert await plane.reason(token) == "ALLOW SESSION_FRESH"


async def test_a_machine_signs_in_for_fifteen_minutes(plane: Plane) -> None:
    """Decision 31: by SERVICE_AUTH only; a service token that is revoked stops within this time."""
    plane.identity.answer = machine(plane.clock.now())
    assert (await plane.log_in(credential=SERVICE_TOKEN)).answer.decision == BLOCK
    await plane.publish(application(WIKI, policy(pb.APPLICATION_DECISION_SERVICE_AUTH)))
    logged_in = await plane.log_in(credential=SERVICE_TOKEN)
    claims = claims_of(logged_in.application_token)
    assert (claims["sub"], "email" in claims) == (MACHINE, False)
    plane.clock.advance(15 * 60 - 0.001)
    await plane.world.settle()
    assert await plane.reason(logged_in.session_token) == "ALLOW SESSION_FRESH"
    plane.clock.advance(0.001)
    await plane.world.settle()
    assert await plane.reason(logged_in.session_token) == "REAUTHENTICATE SESSION_EXPIRED"


async def test_bypass_lets_in_without_a_token(plane: Plane) -> None:
    office = pb.ApplicationRule(ip_range="192.0.2.0/24")
    await plane.publish(application(WIKI, policy(pb.APPLICATION_DECISION_BYPASS, office)))
    checked = await plane.check(client=pb.ClientFacts(ip="192.0.2.7"))
    assert (checked.answer.decision, checked.answer.reason) == (ALLOW, pb.DECISION_REASON_POLICY_BYPASS)
    assert not checked.application_token
    assert await plane.reason(client=pb.ClientFacts(ip="192.0.3.7")) == "REAUTHENTICATE NO_SESSION"


async def test_a_binding_cookie_ties_a_session_to_a_browser(plane: Plane) -> None:
    """Decision 31: what leaks to the application is of no use without it."""
    await plane.publish(application(WIKI, binding_cookie=True))
    one = await plane.log_in()
    plane.identity.answer = signed_in(plane.clock.now() - SECOND)
    other = await plane.log_in(request_id="r2")
    assert await plane.reason(one.session_token, binding=one.binding) == "ALLOW SESSION_FRESH"
    for binding in ("", other.binding, one.session_token, one.binding + "=", "ä"):
        assert await plane.reason(one.session_token, binding=binding) == "REAUTHENTICATE SESSION_NOT_BOUND"


async def test_no_forged_session_is_taken(plane: Plane) -> None:
    """To the last bit; neither another organization's, nor one that another key, or the key for another end, made."""
    token = (await plane.log_in()).session_token
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    forged = [bytes([*raw[:place], raw[place] ^ 1 << place % 8, *raw[place + 1 :]]) for place in range(len(raw))]
    texts = [base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in forged]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # The bits of the last character that decoding drops, if there are any, and what decoding lets pass.
    texts += [token[:-1] + digit for digit in digits if digit != token[-1]]
    texts += [token + "=", token + "\n", token[:-2], "", "é", token * 9]
    of = SessionToken(ORGANIZATION, ALICE, SSO, plane.clock.now(), 20)
    assert SessionTokens(KEY).write(of) == token
    texts.append(SessionTokens(MasterKey(b"x" * 32)).write(of))
    body = "\0".join(map(str, of)).encode()
    for purpose in ("application binding", "application token", "reauthentication"):
        mac = KEY.derive(purpose, *map(str, of))
        texts.append(base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode())
    for text in texts:
        assert await plane.reason(text) == "REAUTHENTICATE NO_SESSION", text
    plane.world.identity.publish(ada(), organization_id=OTHER_ORGANIZATION)
    await plane.publish(application(), organization_id=OTHER_ORGANIZATION)
    assert await plane.reason(token, organization_id=OTHER_ORGANIZATION) == "REAUTHENTICATE NO_SESSION"


async def test_the_session_of_a_device_is_enough_where_it_is_taken(plane: Plane) -> None:
    """Decision 31: no login, and a token that names the device; its timer ends both."""
    await plane.enroll()
    assert await plane.reason(registration_id=LAPTOP) == "REAUTHENTICATE NO_SESSION"
    await plane.publish(device_sessions("2h0m0s"))
    checked = await plane.check(registration_id=LAPTOP)
    assert (checked.answer.decision, checked.answer.registration_id) == (ALLOW, LAPTOP)
    claims = claims_of(checked.application_token)
    assert (claims["registration_id"], claims["sub"]) == (LAPTOP, ALICE)
    plane.clock.advance(7200)
    await plane.world.settle()
    expired = await plane.check(registration_id=LAPTOP)
    assert (expired.answer.decision, expired.answer.reason) == (REAUTHENTICATE, pb.DECISION_REASON_SESSION_EXPIRED)
    # Only where the device was enrolled can it begin anew (decision 27).
    assert [it.identity_provider_id for it in expired.sign_ins] == [SSO]


async def test_signing_in_with_a_device_starts_its_timer_anew(plane: Plane) -> None:
    """Decision 27: identity is told which registration and whose it is, and by the same challenge."""
    await plane.enroll()
    await plane.publish(device_sessions("2h0m0s"))
    plane.clock.advance(7200)
    await plane.world.settle()
    plane.identity.answer = signed_in(plane.clock.now())
    logged_in = await plane.log_in(registration_id=LAPTOP)
    assert (logged_in.answer.decision, logged_in.answer.registration_id) == (ALLOW, LAPTOP)
    assert from_timestamp(logged_in.answer.session_expire_time) == plane.clock.now() + 2 * HOUR
    for request in plane.identity.requests:
        assert (request.registration_id, request.user_id) == (LAPTOP, ALICE)
    plane.identity.error = DifferentUser("another holds it")
    with pytest.raises(DifferentUser):
        await plane.log_in(registration_id=LAPTOP, request_id="r2")
    with pytest.raises(RegistrationNotFound):
        await plane.log_in(registration_id=NO_REGISTRATION, request_id="r3")


async def test_an_address_names_the_device_that_holds_it(plane: Plane) -> None:
    event = registration(plane.clock.now())
    event.registration.registration.ipv4 = "100.96.0.2"
    plane.world.registry.publish(event)
    await plane.publish(device_sessions("2h0m0s"))
    assert (await plane.check(address="::ffff:100.96.0.2")).answer.registration_id == LAPTOP
    assert await plane.reason(address="100.96.0.3") == "BLOCK REGISTRATION_UNKNOWN"
    with pytest.raises(InvalidField, match="address"):
        await plane.check(address="nowhere")


async def test_posture_is_that_of_the_device_whichever_session_decides(plane: Plane) -> None:
    encrypted = policy(pb.APPLICATION_DECISION_ALLOW, pb.ApplicationRule(posture_check="disk"))
    await plane.publish(application(WIKI, encrypted))
    await plane.enroll(passed=("disk",))
    logged_in = await plane.log_in(registration_id=LAPTOP)
    assert await plane.reason(logged_in.session_token, registration_id=LAPTOP) == "ALLOW SESSION_FRESH"
    assert await plane.reason(logged_in.session_token) == "BLOCK NO_POLICY_MATCHED"


async def test_who_must_sign_in_is_told_where(plane: Plane) -> None:
    signs_in_at = [it.identity_provider_id for it in (await plane.check()).sign_ins]
    assert signs_in_at == [SSO, OTHER_SSO]
    await plane.enroll()
    await plane.publish(application(WIKI, identity_provider_ids=[OTHER_SSO]), device_sessions("2h0m0s"))
    for device in ({}, {"registration_id": LAPTOP}):
        assert [it.identity_provider_id for it in (await plane.check(**device)).sign_ins] == [OTHER_SSO]
    many = (provider(f"idp_{number:032x}", f"https://{number}.example.com") for number in range(30))
    plane.world.identity.publish(*many)
    await plane.publish(application())
    assert len((await plane.check()).sign_ins) == 20


async def test_a_third_party_checks_a_token_with_the_key_set(plane: Plane) -> None:
    """RFC 7519: by issuer, audience and expiry, with what it fetches over HTTP, and nothing else."""
    plane.clock.advance(0.7)
    plane.identity.answer = signed_in(plane.clock.now())
    token = (await plane.log_in()).application_token
    async with plane.http() as client:
        fetched = await client.get(f"/{ORGANIZATION}/jwks.json")
    assert fetched.headers["cache-control"] == "max-age=300"
    assert {member for key in fetched.json()["keys"] for member in key} == {
        *("kty", "crv", "x", "y", "kid", "use", "alg")
    }
    decoded = jwt.decode(token, KeySet.import_key_set(fetched.json()), algorithms=["ES256"])
    assert decoded.header == {"alg": "ES256", "kid": FIRST_KEY, "typ": "JWT"}
    now = plane.clock.now() // SECOND

    def is_taken(audience: str = WIKI, issuer: str = f"{ISSUER}/{ORGANIZATION}", at: float = now) -> bool:
        essential: dict[str, Any] = {"iss": {"value": issuer}, "aud": {"value": audience}, "exp": {}}
        essential = {name: {"essential": True, **rule} for name, rule in essential.items()}
        rules = jwt.JWTClaimsRegistry(now=at, leeway=0, **essential)  # type: ignore[arg-type]  # as time.time() has it
        try:
            rules.validate(decoded.claims)
        except JoseError:
            return False
        return True

    assert is_taken()
    assert not is_taken(audience=PAYROLL)
    assert not is_taken(issuer=f"{ISSUER}/{OTHER_ORGANIZATION}")
    assert is_taken(at=now + 15 * 60 - 0.001)
    assert not is_taken(at=now + 15 * 60 + 0.001)
    assert decoded.claims == {
        "iss": f"{ISSUER}/{ORGANIZATION}",
        "aud": WIKI,
        "sub": ALICE,
        "email": "ada@example.com",
        "iat": now,
        "nbf": now,
        "exp": now + 15 * 60,
        "auth_time": now,
        "type": "app",
    }


async def test_no_token_outlives_its_session(plane: Plane) -> None:
    """Its expiry is in whole seconds, rounded down."""
    token = (await plane.log_in()).session_token
    end = plane.clock.now() + HOUR
    plane.clock.advance(3600 - 10)
    await plane.world.settle()
    checked = await plane.check(token)
    expire_time = from_timestamp(checked.application_token_expire_time)
    assert end - SECOND < expire_time == claims_of(checked.application_token)["exp"] * SECOND <= end


async def test_keys_are_published_before_they_sign_and_after(plane: Plane) -> None:
    """Decision 31: the newest whose time has come signs; all that have not expired are in the key set."""
    now = plane.clock.now()
    await plane.publish(signing_key(FIRST_KEY, expire_time=now + 2 * HOUR), signing_key(NEXT_KEY, sign_time=now + HOUR))
    async with plane.http() as client:

        async def key_ids() -> list[str]:
            return [key["kid"] for key in (await client.get(f"/{ORGANIZATION}/jwks.json")).json()["keys"]]

        async def signed_by() -> str:
            plane.identity.answer = signed_in(plane.clock.now())
            token = (await plane.log_in(request_id=str(plane.clock.now()))).application_token
            header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
            found: str = header["kid"]
            return found

        for seconds, signing, published in (
            (0.0, FIRST_KEY, [NEXT_KEY, FIRST_KEY]),
            (3600 - 0.001, FIRST_KEY, [NEXT_KEY, FIRST_KEY]),
            (0.001, NEXT_KEY, [NEXT_KEY, FIRST_KEY]),
            (3600 - 0.001, NEXT_KEY, [NEXT_KEY, FIRST_KEY]),
            (0.001, NEXT_KEY, [NEXT_KEY]),
        ):
            plane.clock.advance(seconds)
            await plane.world.settle()
            assert (await signed_by(), await key_ids()) == (signing, published)
    await plane.publish(pb.Event(signing_key_deleted=NEXT_KEY))
    logged_in = await plane.log_in()
    assert (logged_in.answer.decision, logged_in.application_token) == (ALLOW, "")


async def test_the_tokens_of_a_withdrawn_key_are_refused(plane: Plane) -> None:
    """Decision 31: for a key that leaked."""
    token = (await plane.log_in()).application_token
    await plane.publish(pb.Event(signing_key_deleted=FIRST_KEY), signing_key(NEXT_KEY))
    async with plane.http() as client:
        keys = KeySet.import_key_set((await client.get(f"/{ORGANIZATION}/jwks.json")).json())
    with pytest.raises(JoseError):
        jwt.decode(token, keys, algorithms=["ES256"])
    jwt.decode((await plane.log_in()).application_token, keys, algorithms=["ES256"])


async def test_each_organization_has_keys_of_its_own(plane: Plane) -> None:
    """Even under the same key id; and there are none of an organization that there is not."""
    await plane.publish(signing_key(), organization_id=OTHER_ORGANIZATION)
    async with plane.http() as client:
        ours, others = [(await client.get(f"/{each}/jwks.json")).json() for each in (ORGANIZATION, OTHER_ORGANIZATION)]
        assert ours["keys"][0]["x"] != others["keys"][0]["x"]
        for unknown in ("org_" + "f" * 32, "metrics"):
            assert (await client.get(f"/{unknown}/jwks.json")).status_code == 404


async def test_a_replica_that_does_not_hear_of_withdrawn_keys_answers_no_key_set(plane: Plane) -> None:
    plane.world.own.up = False
    async with plane.http() as client:
        assert (await client.get(f"/{ORGANIZATION}/jwks.json")).status_code == 200
        plane.clock.advance(MAX_STALENESS / SECOND + 1)
        assert (await client.get(f"/{ORGANIZATION}/jwks.json")).status_code == 503


async def test_nothing_secret_is_logged(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    """Nor goes anything to identity but the credential."""
    caplog.set_level(logging.DEBUG)
    await plane.publish(application(WIKI, binding_cookie=True))
    logged_in = await plane.log_in()
    await plane.check(logged_in.session_token, binding=logged_in.binding)
    await plane.check(logged_in.session_token, binding="wrong")
    said = caplog.text + "".join(str(request) for request in plane.identity.requests)
    for secret in (logged_in.session_token, logged_in.binding, logged_in.application_token):
        assert secret
        assert secret not in said
    assert ID_TOKEN.id_token not in caplog.text

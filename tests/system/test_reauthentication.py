"""Signing in again: where, with what, and what it changes."""

import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.session.v1 import session_pb2_grpc as session_rpc
from tests.plane import Plane
from tests.system.people import World

# What of it a database has a part in is tested on both by identity's own tests, and by the first of these.
ON_ONE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


class Device:
    """A registration that calls with its own token."""

    def __init__(self, world: World, made: registry.RegisterResponse) -> None:
        self.registration_id = made.registration.registration_id
        self.user_id = made.registration.user_id
        self._ids: dict[str, Any] = {
            "organization_id": world.organization_id,
            "registration_id": self.registration_id,
        }
        self._sessions = world.plane.stub(session_rpc.SessionServiceStub, key=made.token)

    async def start(self) -> session.StartReauthenticationResponse:
        answer = await self._sessions.StartReauthentication(session.StartReauthenticationRequest(**self._ids))
        assert isinstance(answer, session.StartReauthenticationResponse)
        return answer

    async def reauthenticate(self, **fields: Any) -> list[str]:
        """The revision token."""
        request = session.ReauthenticateRequest(**self._ids, **fields)
        return [(await self._sessions.Reauthenticate(request)).revision_token]

    async def refresh(self, **fields: Any) -> session.RefreshIdentityResponse:
        answer = await self._sessions.RefreshIdentity(session.RefreshIdentityRequest(**self._ids, **fields))
        assert isinstance(answer, session.RefreshIdentityResponse)
        return answer


async def force_interaction(world: World) -> identity.IdentityProvider:
    providers = world.plane.stub(identity_rpc.IdentityProviderServiceStub)
    (provider,) = (
        await providers.ListIdentityProviders(
            identity.ListIdentityProvidersRequest(organization_id=world.organization_id)
        )
    ).identity_providers
    provider.force_interaction = True
    updated = await providers.UpdateIdentityProvider(
        identity.UpdateIdentityProviderRequest(
            organization_id=world.organization_id,
            identity_provider=provider,
            update_mask=FieldMask(paths=["force_interaction"]),
        )
    )
    # So that session knows it when it is asked next.
    await world.sessions.ListSessions(
        session.ListSessionsRequest(organization_id=world.organization_id, at_least=[updated.revision_token])
    )
    return provider  # type: ignore[no-any-return]  # the stub is of any kind


async def test_a_person_signs_in_anew_where_that_is_forced(plane: Plane, world: World) -> None:
    """Decision 33, and 27: with the provider that enrolled them; what is refused leaves the timer alone."""
    policy = await world.policy("1h")
    device = Device(world, await world.enroll("alice"))
    provider = await force_interaction(world)
    await plane.advance(3601)
    now = plane.clock.now() // 1_000_000
    began = await device.start()
    assert began.sign_in == session.SignIn(
        identity_provider_id=provider.identity_provider_id,
        issuer=plane.issuer.url,
        client_ids=[plane.issuer.client_id],
        force_interaction=True,
    )
    with pytest.raises(errors.FieldRequired) as missing:
        await device.reauthenticate(credential=world.id_token("alice"))
    assert missing.value.field == "challenge"
    # A provider that remembers the person gives a fresh token of the sign-in an hour ago.
    silent = world.id_token("alice", auth_time=now - 3600)
    with pytest.raises(errors.IdTokenInvalid):
        await device.reauthenticate(credential=silent, challenge=began.challenge)
    assert await world.check(device.registration_id, policy) == "SESSION_EXPIRED"
    await plane.advance(2)
    anew = world.id_token("alice", auth_time=plane.clock.now() // 1_000_000)
    request_id = uuid.uuid4().hex
    token = await device.reauthenticate(credential=anew, challenge=began.challenge, request_id=request_id)
    assert await world.check(device.registration_id, policy, token) == "SESSION_FRESH"
    await plane.advance(600)
    # A repeated request is answered although its challenge has expired (I-07); a new one needs a new challenge.
    await device.reauthenticate(credential=anew, challenge=began.challenge, request_id=request_id)
    late = world.id_token("alice", auth_time=plane.clock.now() // 1_000_000)
    with pytest.raises(errors.ChallengeInvalid) as expired:
        await device.reauthenticate(credential=late, challenge=began.challenge)
    assert expired.value.field == "challenge"


@ON_ONE
async def test_refreshing_the_identity_brings_the_newest_groups(plane: Plane, world: World) -> None:
    """Decisions 9 and 27: it starts the timer of this registration anew, and of no other."""
    policy = await world.policy("1h")
    laptop, phone = Device(world, await world.enroll("alice")), Device(world, await world.enroll("alice", "phone"))
    await plane.advance(3601)
    answer = await laptop.refresh(credential=world.id_token("alice", groups=["ops"]))
    assert (answer.email, list(answer.groups)) == ("alice@example.com", ["ops"])
    get = identity.GetUserRequest(organization_id=world.organization_id, user_id=laptop.user_id)
    assert list((await world.users.GetUser(get)).user.groups) == ["ops"]
    assert await world.check(laptop.registration_id, policy, [answer.revision_token]) == "SESSION_FRESH"
    assert await world.check(phone.registration_id, policy) == "SESSION_EXPIRED"
    listing = session.ListSessionsRequest(organization_id=world.organization_id, only_expired=True)
    (expired,) = (await world.sessions.ListSessions(listing)).sessions
    assert expired.registration_id == phone.registration_id
    asked = session.GetSessionRequest(organization_id=world.organization_id, registration_id=laptop.registration_id)
    (again,) = (await world.sessions.GetSession(asked)).session.next_reauthentications
    assert again.policy_id == policy
    assert again.time.ToSeconds() == answer.authenticate_time.ToSeconds() + 3600


@ON_ONE
async def test_a_machine_re_authenticates_silently(plane: Plane, world: World) -> None:
    """Decision 34: with its token, also where people must sign in anew; its timer runs from there."""
    policy = await world.policy("1h")
    token = await world.service_token()
    request = await world.request(token, "builder")
    device = Device(world, await world.enrollment.Register(request))
    await force_interaction(world)
    await plane.advance(3601)
    assert await world.check(device.registration_id, policy) == "SESSION_EXPIRED"
    assert not (await device.start()).HasField("sign_in")
    revision = await device.reauthenticate(credential=token)
    assert await world.check(device.registration_id, policy, revision) == "SESSION_FRESH"

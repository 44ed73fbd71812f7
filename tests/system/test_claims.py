"""Claims of ID tokens in policies, from the provider to the server's answer and to that of the embedded checker."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.checker import Checker
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from guardhouse.profile import Profile
from guardhouse.session.v1 import session_pb2 as session
from guardhouse.session.v1 import session_pb2_grpc as session_rpc
from tests.plane import Plane
from tests.system.people import World

# What a database has a part in is tested on both by identity's own tests.
pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


async def name_claims(world: World, *names: str) -> None:
    """The provider's tokens are kept these claims of from now on."""
    providers = world.plane.stub(identity_rpc.IdentityProviderServiceStub)
    listing = identity.ListIdentityProvidersRequest(organization_id=world.organization_id)
    (provider,) = (await providers.ListIdentityProviders(listing)).identity_providers
    provider.oidc_claims[:] = names
    mask = FieldMask(paths=["oidc_claims"])
    await providers.UpdateIdentityProvider(
        identity.UpdateIdentityProviderRequest(
            organization_id=world.organization_id, identity_provider=provider, update_mask=mask
        )
    )


async def test_a_policy_asks_for_a_claim(plane: Plane, world: World) -> None:
    """Decision 9: whoever is in engineering by the newest sign-in is let through, and nobody else; server and embedded
    checker agree."""
    await name_claims(world, "department", "level")
    policies = plane.stub(session_rpc.PolicyServiceStub)
    for name, condition, action in (
        ("engineers", 'any(identity.oidc_claims[*] in {"department=engineering"})', session.POLICY_ACTION_ALLOW),
        ("the rest", "", session.POLICY_ACTION_BLOCK),
    ):
        policy = session.Policy(
            display_name=name,
            enabled=True,
            filter=session.POLICY_FILTER_L4,
            action=action,
            traffic="net.dst.port == 443",
            identity=condition,
        )
        await policies.CreatePolicy(session.CreatePolicyRequest(organization_id=world.organization_id, policy=policy))
    credential = world.id_token("alice", department=["support", "engineering"], level=7)
    alice = (await world.enrollment.Register(await world.request(credential, "laptop"))).registration
    bob = (await world.enroll("bob")).registration
    made = await plane.stub(identity_rpc.ApiKeyServiceStub).CreateApiKey(
        identity.CreateApiKeyRequest(
            organization_id=world.organization_id, api_key=identity.ApiKey(display_name="edge", role=ROLE_GATEWAY)
        )
    )
    profile = Profile(organization_id=world.organization_id, ca=plane.settings.tls_path / "ca.crt", key=made.secret)
    addresses = {name: f"127.0.0.1:{plane.settings.public_port(name)}" for name in ("identity", "registry", "session")}
    async with Checker.connect(profile, **addresses, clock=plane.clock) as checker:

        async def decided(registration_id: str) -> str:
            request = session.CheckTrafficRequest(
                organization_id=world.organization_id,
                registration_id=registration_id,
                kind=session.TRAFFIC_KIND_CONNECTION,
                traffic=session.Traffic(fields={"net.dst.port": "443"}),
            )
            answer = (await world.checks.CheckTraffic(request)).answer
            now = plane.clock.steady()
            for follower in checker._state.followers:
                assert await follower.fresh(now, timeout=30)
            ours = checker.check_traffic(
                kind="connection", registration_id=registration_id, fields={"net.dst.port": "443"}
            )
            assert int(ours.reason) == answer.reason
            return session.DecisionReason.Name(answer.reason).removeprefix("DECISION_REASON_")

        assert await decided(alice.registration_id) == "NO_SESSION_LIMIT"
        assert await decided(bob.registration_id) == "POLICY_BLOCK"
        shown = (
            await world.users.GetUser(
                identity.GetUserRequest(organization_id=world.organization_id, user_id=alice.user_id)
            )
        ).user
        assert list(shown.oidc_claims) == ["department=support", "department=engineering", "level=7"]
        await plane.advance(60)
        for registration_id, department, expected in (
            (alice.registration_id, "support", "POLICY_BLOCK"),
            (bob.registration_id, "engineering", "NO_SESSION_LIMIT"),
        ):
            name = "alice" if registration_id == alice.registration_id else "bob"
            await world.sessions.Reauthenticate(
                session.ReauthenticateRequest(
                    organization_id=world.organization_id,
                    registration_id=registration_id,
                    credential=world.id_token(name, department=department),
                )
            )
            assert await decided(registration_id) == expected

"""SCIM from an identity provider to a check: a user who is deactivated there is out everywhere."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.identity.v1 import identity_pb2_grpc as identity_rpc
from tests.plane import Plane
from tests.system.people import World

SECONDS = 20


async def scim_client(plane: Plane, world: World, settings: identity.ScimSettings) -> httpx.AsyncClient:
    """Set up by the public API alone."""
    providers = plane.stub(identity_rpc.IdentityProviderServiceStub)
    listing = identity.ListIdentityProvidersRequest(organization_id=world.organization_id)
    (provider,) = (await providers.ListIdentityProviders(listing)).identity_providers
    provider.scim.CopyFrom(settings)
    await providers.UpdateIdentityProvider(
        identity.UpdateIdentityProviderRequest(
            organization_id=world.organization_id, identity_provider=provider, update_mask=FieldMask(paths=["scim"])
        )
    )
    named = {"organization_id": world.organization_id, "identity_provider_id": provider.identity_provider_id}
    secret = (await providers.RefreshScimSecret(identity.RefreshScimSecretRequest(**named))).secret
    port = plane.settings.http_port("identity")
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/scim/v2/{provider.identity_provider_id}",
        headers={"authorization": f"Bearer {secret}"},
    )


async def until(world: World, registration_id: str, policy_id: str, *reasons: str) -> None:
    """Waits until a check has one of these reasons: what SCIM does comes to session by the feed."""
    began = time.monotonic()
    while (reason := await world.check(registration_id, policy_id)) not in reasons:
        assert time.monotonic() - began < SECONDS, reason
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("seat", [False, True])
async def test_who_is_deactivated_is_out(plane: Plane, world: World, seat: bool) -> None:
    """Decision 8: the sessions end; with seat_deprovision the seat is free and the registration goes. Nobody else's."""
    settings = identity.ScimSettings(enabled=True, user_deprovision=True, seat_deprovision=seat)
    policy = await world.policy("1h")
    alice, bob = await world.enroll("alice"), await world.enroll("bob")
    async with await scim_client(plane, world, settings) as client:
        sent: dict[str, Any] = {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": "alice",
            "externalId": "alice@example.com",
        }
        made = (await client.post("/Users", json=sent)).json()
        await until(world, alice.registration.registration_id, policy, "SESSION_FRESH")
        patch = {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
            "Operations": [{"op": "Replace", "path": "active", "value": "False"}],
        }
        assert (await client.patch(f"/Users/{made['id']}", json=patch)).json()["active"] is False
    ended = ("USER_REMOVED", "REGISTRATION_UNKNOWN") if seat else ("SESSION_REVOKED",)
    await until(world, alice.registration.registration_id, policy, *ended)
    assert await world.used_seats() == (1 if seat else 2)
    began = time.monotonic()
    while len(await world.live()) != (1 if seat else 2):
        assert time.monotonic() - began < SECONDS
        await asyncio.sleep(0.02)
    assert await world.check(bob.registration.registration_id, policy) == "SESSION_FRESH"

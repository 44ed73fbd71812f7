"""What an identity provider is asked for, as administrators set it, on both engines."""

from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import GuardhouseError, InvalidField
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.identity.store import tables
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import World


async def create(world: World, desk: Desk, **fields: Any) -> pb.IdentityProvider:
    draft = pb.IdentityProvider(display_name="SSO", issuer="https://sso.example.com", client_ids=["a"], **fields)
    request = pb.CreateIdentityProviderRequest(organization_id=world.organization, identity_provider=draft)
    made: pb.IdentityProvider = (await desk.send(request)).identity_provider
    return made


async def update(world: World, desk: Desk, provider_id: str, *paths: str, **fields: Any) -> pb.IdentityProvider:
    request = pb.UpdateIdentityProviderRequest(
        organization_id=world.organization,
        identity_provider=pb.IdentityProvider(identity_provider_id=provider_id, **fields),
        update_mask=FieldMask(paths=paths or list(fields)),
    )
    changed: pb.IdentityProvider = (await desk.send(request)).identity_provider
    return changed


def settings(of: pb.IdentityProvider) -> tuple[str, bool, bool, str]:
    return of.groups_claim, of.allow_unverified_email, of.allow_private_addresses, of.jwks_host


async def test_each_is_off_unless_it_is_asked_for_and_changed_by_itself(world: World, desk: Desk) -> None:
    made = await create(world, desk)
    assert settings(made) == ("groups", False, False, "")
    provider_id = made.identity_provider_id
    changed = await update(world, desk, provider_id, groups_claim="realm_access.roles", jwks_host="keys.example.com")
    assert settings(changed) == ("realm_access.roles", False, False, "keys.example.com")
    changed = await update(world, desk, provider_id, allow_unverified_email=True, allow_private_addresses=True)
    assert settings(changed) == ("realm_access.roles", True, True, "keys.example.com")
    read = pb.GetIdentityProviderRequest(organization_id=world.organization, identity_provider_id=provider_id)
    assert (await desk.send(read)).identity_provider == changed
    changed = await update(world, desk, provider_id, "groups_claim", "jwks_host", "allow_private_addresses")
    assert settings(changed) == ("groups", True, False, "")


async def test_scim_is_as_careful_as_it_can_be_unless_it_is_asked_for_more(world: World, desk: Desk) -> None:
    """Decision 8: nobody is deprovisioned, and what is the provider's own and never changes is what is compared."""
    made = await create(world, desk, scim=pb.ScimSettings(enabled=True))
    assert made.scim == pb.ScimSettings(
        enabled=True,
        identity_update_behavior=pb.IDENTITY_UPDATE_BEHAVIOR_NO_ACTION,
        match_attribute=pb.SCIM_MATCH_ATTRIBUTE_EXTERNAL_ID,
        match_claim=pb.SCIM_MATCH_CLAIM_SUBJECT,
    )


async def test_no_seat_is_freed_of_whom_nothing_else_happens_to(world: World, desk: Desk) -> None:
    """Decision 8: seat_deprovision needs user_deprovision, when SCIM is set up and when that is changed."""
    both = pb.ScimSettings(enabled=True, user_deprovision=True, seat_deprovision=True)
    provider_id = (await create(world, desk, scim=both)).identity_provider_id
    before = await desk.dump()
    alone = pb.ScimSettings(enabled=True, seat_deprovision=True)
    for call in (create(world, desk, scim=alone), update(world, desk, provider_id, scim=alone)):
        with pytest.raises(InvalidField) as raised:
            await call
        assert raised.value.field == "identity_provider.scim.seat_deprovision"
    assert await desk.dump() == before


async def test_a_provider_from_before_is_fetched_from_as_it_was(world: World, desk: Desk) -> None:
    """An upgrade must not lock people out: what an earlier release wrote says nothing of addresses."""
    row = {
        "organization_id": world.organization,
        "identity_provider_id": "idp_0198c0de5a3c7f1e8a2b4c6d8e0f1234",
        "display_name": "Earlier",
        "issuer": "https://10.0.0.1",
        "client_ids": ["a"],
        "create_time": 1,
    }
    await world.database.write(lambda tx: tx.execute(sa.insert(tables.identity_provider).values(row)))
    read = pb.GetIdentityProviderRequest(
        organization_id=world.organization, identity_provider_id=str(row["identity_provider_id"])
    )
    assert settings((await desk.send(read)).identity_provider) == ("groups", False, True, "")


async def test_what_is_malformed_is_named(world: World, desk: Desk) -> None:
    before = await desk.dump()
    bad: list[tuple[type[GuardhouseError], str, str]] = [
        (InvalidField, "groups_claim", "g" * 201),
        (InvalidField, "groups_claim", "a\nb"),
        *((InvalidField, "jwks_host", host) for host in ("https://keys.example", "keys.example:443", "a/b", "h" * 256)),
    ]
    for kind, field, value in bad:
        with pytest.raises(kind) as raised:
            await create(world, desk, **{field: value})
        assert raised.value.field == f"identity_provider.{field}"
    assert await desk.dump() == before

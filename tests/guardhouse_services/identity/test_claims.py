"""Claims that a provider's ID tokens bring, kept of its users for policies."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.identity import messages
from guardhouse_services.identity.gateways import show
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import EVERYBODY, World


async def keep(world: World, *names: str) -> None:
    """The claims that are kept from now on."""
    (provider,) = await world.identity.identity_providers.page(world.organization, EVERYBODY)
    await world.identity.identity_providers.update(
        world.call(world.organization), world.organization, provider.identity_provider_id, {"oidc_claims": names}
    )


async def test_whatever_signs_somebody_in_brings_their_claims(world: World) -> None:
    """Decision 9: those of the newest one, as a provider's oidc_claims name them then; in the feed, and for gateways,
    which decide by them."""
    world.clock.stop()
    await keep(world, "department")
    intent = await world.enroll("ada", department="research", level=7)

    async def kept() -> list[str]:
        (user,) = await world.users()
        (told,) = [it.user.user for it in await world.snapshot(world.organization) if it.HasField("user")]
        newest = [event for events in await world.events() for event in events if event.HasField("user")][-1]
        shown = show(newest, world.organization)
        assert shown is not None
        everywhere = told.oidc_claims, newest.user.user.oidc_claims, shown.user.user.oidc_claims
        assert all(list(user.profile.claims) == list(claims) for claims in everywhere)
        return list(user.profile.claims)

    assert await kept() == ["department=research"]
    world.clock.advance(100)
    await world.authenticate(intent, world.sign_in("ada", department="sales"))
    assert await kept() == ["department=sales"]
    await keep(world, "level", "department")
    await world.authenticate(intent, world.sign_in("ada", department="sales", age=50))
    assert await kept() == ["department=sales"]
    world.clock.advance(100)
    await world.log_in("ada", department="engineering", level=8)
    assert await kept() == ["level=8", "department=engineering"]
    await world.log_in("ada", department="engineering", age=50)
    assert await kept() == ["level=8", "department=engineering"]
    await keep(world)
    await world.enroll("ada", department="engineering")
    assert await kept() == []


async def test_a_provider_names_a_few_claims(world: World, desk: Desk) -> None:
    """As the contract bounds them; an equals sign would make two claims alike."""
    names = [f"claim{number}" for number in range(20)]
    provider = pb.IdentityProvider(
        display_name="SSO", issuer="https://sso.example.com", client_ids=["a"], oidc_claims=names
    )
    create = pb.CreateIdentityProviderRequest(organization_id=world.organization, identity_provider=provider)
    made = (await desk.send(create)).identity_provider
    assert list(made.oidc_claims) == names
    update = pb.UpdateIdentityProviderRequest(
        organization_id=world.organization,
        identity_provider=made,
        update_mask=FieldMask(paths=["oidc_claims"]),
    )
    update.identity_provider.ClearField("etag")
    for unfit, kind, field in (
        ([*names, "more"], InvalidField, "identity_provider.oidc_claims"),
        (["department", "a=b"], InvalidField, "identity_provider.oidc_claims[1]"),
        (["c" * 101], InvalidField, "identity_provider.oidc_claims[0]"),
        (["department", ""], FieldRequired, "identity_provider.oidc_claims[1]"),
    ):
        update.identity_provider.oidc_claims[:] = unfit
        with pytest.raises(kind) as error:
            await desk.send(update)
        assert error.value.field == field
    update.identity_provider.oidc_claims[:] = ["https://example.com/department"]
    update.identity_provider.display_name = "Other"
    changed = (await desk.send(update)).identity_provider
    assert (changed.display_name, list(changed.oidc_claims)) == ("SSO", ["https://example.com/department"])
    get = pb.GetIdentityProviderRequest(
        organization_id=world.organization, identity_provider_id=made.identity_provider_id
    )
    assert (await desk.send(get)).identity_provider == changed


async def test_the_registry_is_told_who_the_person_is_however_often_it_asks(world: World) -> None:
    """Decision 24: IP profiles match people by the sign-in behind the enrollment."""
    await keep(world, "department")
    token = world.sign_in("ada", display_name="Ada", groups=("ops", "berlin"), department="research")
    intent = await world.authorize(token)
    told = messages.holder_identity(intent.profile)
    assert (told.email, told.display_name) == ("ada@example.com", "Ada")
    assert (list(told.groups), list(told.oidc_claims)) == (["ops", "berlin"], ["department=research"])
    again = await world.authorize(token, intent_id=intent.intent_id)
    assert messages.holder_identity(again.profile) == told

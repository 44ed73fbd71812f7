"""Organizations, API keys, identity providers, service tokens and stored enrollment policies."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.common.v1 import access_pb2
from guardhouse.errors import (
    ApiKeyNotFound,
    DurationInvalid,
    EnrollmentPolicyNotFound,
    EtagMismatch,
    FieldRequired,
    GuardhouseError,
    IdentityProviderExists,
    IdentityProviderNotFound,
    InvalidField,
    LimitReached,
    OrganizationNotFound,
    PrecedenceTaken,
    RequestIdReused,
    SeatLimitBelowUse,
    ServiceTokenInUse,
    ServiceTokenNotFound,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import API_KEY, ENROLLMENT_POLICY, IDENTITY_PROVIDER, SERVICE_TOKEN, check_id, new_id
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Identity, Rule, RuleKind
from guardhouse_services.config import CannotStart
from guardhouse_services.credentials import MasterKey, hash_secret, split_secret
from guardhouse_services.identity import store
from guardhouse_services.identity.domain.credentials import IdentityProvider, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import Decision
from guardhouse_services.identity.usecases import api_keys, service_tokens
from guardhouse_services.paging import Page
from tests.guardhouse_services.desk import Desk
from tests.guardhouse_services.identity.world import EVERYBODY, ISSUER, YEAR, World, outcome, unknown_organization

ADMIN = access_pb2.ROLE_ADMIN
ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)


async def everything_stored(world: World) -> str:
    """Every row of every table, as text."""

    def dump(tx: Any) -> str:
        tables = [*store.metadata.sorted_tables]
        return "\n".join(str([tuple(row) for row in tx.execute(sa.select(table))]) for table in tables)

    return await world.read(dump)


# Organizations


async def test_an_organization_is_created_once_for_a_repeated_request(world: World) -> None:
    """Invariant I-07."""
    call, before = world.call(request_id="again"), await world.revision("")
    first, token = await world.identity.organizations.create(call, "New", 3)
    again, same = await world.identity.organizations.create(call, "New", 3)
    assert (again, same) == (first, token)
    assert await world.revision("") == before + 1
    with pytest.raises(RequestIdReused):
        await world.identity.organizations.create(world.call(request_id="again", body=b"other"), "Other", 3)


async def test_organizations_are_told_to_the_whole_installation(world: World) -> None:
    made, _ = await world.identity.organizations.create(world.call(), "New", 3)
    (event,) = (await world.events(""))[-1]
    assert event.organization.organization_id == made.organization_id
    assert event.organization.seat_limit == 3
    assert await world.events(made.organization_id) == []


async def test_only_what_the_mask_names_is_changed(world: World) -> None:
    organizations, call = world.identity.organizations, world.call(world.organization)
    await world.limit(7)
    changed, _, _ = await organizations.update(call, world.organization, {"display_name": "Renamed"})
    assert (changed.display_name, changed.seat_limit) == ("Renamed", 7)
    await world.limit(None)
    found = await organizations.get(world.organization)
    assert (found.display_name, found.seat_limit) == ("Renamed", None)
    (event,) = (await world.events(""))[-1]
    assert not event.organization.HasField("seat_limit")


async def test_what_no_policy_covers_is_allowed_until_it_is_said_to_be_blocked(world: World, desk: Desk) -> None:
    """Decision 29: whoever follows is told, and it stays when something else is changed."""
    key: dict[str, Any] = {"organization_id": world.organization}
    made = (await desk.send(pb.GetOrganizationRequest(**key))).organization
    assert made.default_action == pb.DEFAULT_ACTION_ALLOW
    block = pb.Organization(default_action=pb.DEFAULT_ACTION_BLOCK)
    update = pb.UpdateOrganizationRequest(**key, organization=block, update_mask=FieldMask(paths=["default_action"]))
    changed = (await desk.send(update)).organization
    assert (changed.default_action, changed.display_name) == (pb.DEFAULT_ACTION_BLOCK, made.display_name)
    assert (await world.events(""))[-1][0].organization == changed
    await world.limit(7)
    assert (await world.events(""))[-1][0].organization.default_action == pb.DEFAULT_ACTION_BLOCK
    draft = pb.Organization(display_name="Strict", default_action=pb.DEFAULT_ACTION_BLOCK)
    strict = (await desk.send(pb.CreateOrganizationRequest(organization=draft))).organization
    assert strict.default_action == pb.DEFAULT_ACTION_BLOCK
    for unfit, kind in ((pb.DEFAULT_ACTION_UNSPECIFIED, FieldRequired), (3, InvalidField)):
        update.organization.default_action = unfit  # type: ignore[assignment]  # it is no value
        with pytest.raises(kind) as error:
            await desk.send(update)
        assert error.value.field == "organization.default_action"


async def test_nobody_signs_in_with_a_code_until_it_is_switched_on(world: World, desk: Desk) -> None:
    """Threat T-03: whoever follows is told, and it stays when something else is changed."""
    key: dict[str, Any] = {"organization_id": world.organization}
    assert not (await desk.send(pb.GetOrganizationRequest(**key))).organization.device_flow
    for on in (True, False, True):
        draft = pb.Organization(device_flow=on)
        update = pb.UpdateOrganizationRequest(**key, organization=draft, update_mask=FieldMask(paths=["device_flow"]))
        assert (await desk.send(update)).organization.device_flow == on
        assert (await world.events(""))[-1][0].organization.device_flow == on
    await world.limit(7)
    assert (await desk.send(pb.GetOrganizationRequest(**key))).organization.device_flow
    draft = pb.Organization(display_name="Open", device_flow=True)
    made = (await desk.send(pb.CreateOrganizationRequest(organization=draft))).organization
    assert made.device_flow


async def test_an_organization_says_how_long_revoked_registrations_stay(world: World, desk: Desk) -> None:
    """Decision 17: for ever, unless it wants otherwise; whoever follows is told."""
    key: dict[str, Any] = {"organization_id": world.organization}
    assert (await desk.send(pb.GetOrganizationRequest(**key))).organization.delete_revoked_after == ""
    mask = FieldMask(paths=["delete_revoked_after"])
    for text, shown in (("60m", "1h0m0s"), ("", ""), ("720h", "720h0m0s")):
        draft = pb.Organization(delete_revoked_after=text)
        changed = await desk.send(pb.UpdateOrganizationRequest(**key, organization=draft, update_mask=mask))
        assert changed.organization.delete_revoked_after == shown
        assert (await world.events(""))[-1][0].organization == changed.organization
    await world.limit(7)
    assert (await desk.send(pb.GetOrganizationRequest(**key))).organization.delete_revoked_after == "720h0m0s"
    for unfit in ("59m59s", "0s", "-1h", "30d"):
        draft = pb.Organization(display_name="Short", delete_revoked_after=unfit)
        for request in (
            pb.UpdateOrganizationRequest(**key, organization=draft, update_mask=mask),
            pb.CreateOrganizationRequest(organization=draft),
        ):
            with pytest.raises(DurationInvalid) as error:
                await desk.send(request)
            assert error.value.field == "organization.delete_revoked_after"


async def test_devices_are_shared_on_the_platforms_that_an_organization_names(world: World, desk: Desk) -> None:
    """Decision 19: Windows, unless it wants otherwise; whoever follows is told."""
    key: dict[str, Any] = {"organization_id": world.organization}
    windows, linux = registry_pb2.PLATFORM_WINDOWS, registry_pb2.PLATFORM_LINUX
    assert (await desk.send(pb.GetOrganizationRequest(**key))).organization.multi_user_platforms == [windows]
    mask = FieldMask(paths=["multi_user_platforms"])
    for named, shown in (([linux, windows, linux], [windows, linux]), ([], []), ([linux], [linux])):
        draft = pb.Organization(multi_user_platforms=named)
        changed = await desk.send(pb.UpdateOrganizationRequest(**key, organization=draft, update_mask=mask))
        assert changed.organization.multi_user_platforms == shown
        assert (await world.events(""))[-1][0].organization == changed.organization
    await world.limit(7)
    assert (await desk.send(pb.GetOrganizationRequest(**key))).organization.multi_user_platforms == [linux]
    for named, shown in (([], [windows]), ([linux], [linux])):
        draft = pb.Organization(display_name="Another", multi_user_platforms=named)
        made = await desk.send(pb.CreateOrganizationRequest(organization=draft))
        assert made.organization.multi_user_platforms == shown
    for unfit, kind in ((registry_pb2.PLATFORM_UNSPECIFIED, FieldRequired), (99, InvalidField)):
        draft = pb.Organization(multi_user_platforms=[windows, unfit])  # type: ignore[list-item]  # it is no value
        with pytest.raises(kind) as error:
            await desk.send(pb.UpdateOrganizationRequest(**key, organization=draft, update_mask=mask))
        assert error.value.field == "organization.multi_user_platforms[1]"


async def test_whoever_follows_hears_that_an_organization_is_gone(world: World, desk: Desk) -> None:
    """Also later, by the snapshot: its id stands there for good, and the organization does not."""
    other = await world.add_organization()
    provider = (await world.identity.identity_providers.page(world.organization, EVERYBODY))[0].identity_provider_id
    secret, _ = await world.identity.scim.refresh_secret(world.call(world.organization), world.organization, provider)
    assert secret
    await desk.send(pb.DeleteOrganizationRequest(organization_id=world.organization, confirmation=world.organization))
    (event,) = (await world.events(""))[-1]
    assert event.organization_deleted == world.organization
    shown = await world.snapshot("")
    assert [it.organization_deleted for it in shown if it.organization_deleted] == [world.organization]
    assert [it.organization.organization_id for it in shown if it.HasField("organization")] == [other]
    assert await world.read(lambda tx: store.scim.secret_of(tx, provider)) is None


async def test_a_seat_of_an_organization_that_is_gone_is_none(world: World, desk: Desk) -> None:
    """Invariant I-04: whoever was let in a moment before takes no seat, and is told why."""
    await desk.send(pb.DeleteOrganizationRequest(organization_id=world.organization, confirmation="Example"))
    with pytest.raises(OrganizationNotFound):
        await world.database.write(lambda tx: store.organizations.take_seat(tx, world.organization))
    with pytest.raises(OrganizationNotFound):
        await world.authorize("ada")


async def test_the_limit_cannot_go_below_the_seats_in_use(world: World) -> None:
    """Decision 4; a seat that is reserved is in use."""
    await world.enroll("ada")
    await world.authorize("bob")
    with pytest.raises(SeatLimitBelowUse) as error:
        await world.limit(1)
    assert error.value.metadata == {"used": "2"}
    assert (await world.seats()).purchased is None
    await world.limit(2)
    seats = await world.seats()
    assert (seats.purchased, seats.used, seats.available) == (2, 2, 0)


async def test_an_unknown_organization_is_not_found_anywhere(world: World) -> None:
    unknown = unknown_organization(world.clock)
    call, identity = world.call(unknown), world.identity
    provider = IdentityProvider("", "Issuer", ISSUER, ("guardhouse",), 0)
    for work in (
        identity.organizations.get(unknown),
        identity.organizations.update(call, unknown, {"display_name": "X"}),
        identity.organizations.seats(unknown),
        identity.api_keys.create(call, unknown, "Key", ADMIN, None),
        identity.identity_providers.create(call, unknown, provider),
        identity.service_tokens.create(call, unknown, "Robot", YEAR),
        world.allow(Rule(RuleKind.EVERYONE), organization_id=unknown),
        identity.enrollment_policies.test(unknown, Identity(email="ada@example.com")),
    ):
        with pytest.raises(OrganizationNotFound):
            await work


# API keys


async def test_a_keys_secret_is_answered_again_and_stored_nowhere(world: World) -> None:
    """Invariants I-07 and I-31."""
    call, keys = world.call(world.organization, "again"), world.identity.api_keys
    key, secret, _ = await keys.create(call, world.organization, "Key", access_pb2.ROLE_AUDITOR, None)
    again, same, _ = await keys.create(call, world.organization, "Key", access_pb2.ROLE_AUDITOR, None)
    assert (again, same) == (key, secret)
    assert split_secret(secret) == ("ghk", key.api_key_id)
    assert key.secret_hash == hash_secret(secret)
    assert secret.split("_", 3)[3] not in await everything_stored(world)
    (event,) = (await world.events())[-1]
    assert event.api_key.secret_hash == key.secret_hash
    assert event.api_key.api_key.role == access_pb2.ROLE_AUDITOR


async def test_the_installations_keys_are_its_own(world: World) -> None:
    """Invariant I-27."""
    keys = world.identity.api_keys
    mine, _, _ = await keys.create(world.call(world.organization), world.organization, "Key", ADMIN, None)
    whole, _, _ = await keys.create(world.call(), "", "Key", ADMIN, None)
    assert [key.api_key_id for key in await keys.page(world.organization, EVERYBODY)] == [mine.api_key_id]
    assert [key.api_key_id for key in await keys.page("", EVERYBODY)] == [whole.api_key_id]
    with pytest.raises(ApiKeyNotFound):
        await keys.revoke(world.call(world.organization), world.organization, whole.api_key_id)
    (event,) = (await world.events(""))[-1]
    assert event.api_key.api_key.api_key_id == whole.api_key_id


async def test_a_key_cannot_have_expired_already(world: World) -> None:
    call = world.call(world.organization)
    with pytest.raises(InvalidField) as error:
        await world.identity.api_keys.create(call, world.organization, "Key", ADMIN, world.clock.now())
    assert error.value.field == "api_key.expire_time"


async def test_revoking_a_key_again_changes_nothing(world: World) -> None:
    keys = world.identity.api_keys
    key, _, _ = await keys.create(world.call(world.organization), world.organization, "Key", ADMIN, None)
    first, _ = await keys.revoke(world.call(world.organization), world.organization, key.api_key_id)
    revision = await world.revision()
    assert first.revoke_time is not None
    (event,) = (await world.events())[-1]
    assert event.api_key.api_key.HasField("revoke_time")
    world.clock.advance(60)
    again, _ = await keys.revoke(world.call(world.organization), world.organization, key.api_key_id)
    assert again == first
    assert await world.revision() == revision
    with pytest.raises(ApiKeyNotFound):
        await keys.revoke(world.call(), "", new_id(API_KEY, world.clock.now()))


async def test_the_first_admin_key_is_made_once_and_does_not_come_back(world: World) -> None:
    """Replicas that start together make one; revoked, it stays so."""
    first = await world.identity.ensure_admin_key()
    revision = await world.revision("")
    assert await world.identity.ensure_admin_key() == first
    assert await world.revision("") == revision
    (key,) = await world.identity.api_keys.page("", EVERYBODY)
    assert (key.organization_id, key.display_name, key.role) == ("", "bootstrap", ADMIN)
    assert key.secret_hash == hash_secret(first)
    assert check_id(key.api_key_id, API_KEY, "api_key_id") == split_secret(first)[1]
    await world.identity.api_keys.revoke(world.call(), "", key.api_key_id)
    assert await world.identity.ensure_admin_key() == ""


async def test_another_installations_key_is_refused(world: World) -> None:
    """What it would give as the first ADMIN key nobody accepts. Once that is revoked the key may be replaced."""
    first = await world.identity.ensure_admin_key()
    stored = await everything_stored(world)
    other = api_keys.ApiKeys(world.database, MasterKey(b"l" * 32))
    with pytest.raises(CannotStart, match="this is not the installation's key of this database"):
        await other.ensure_admin_key()
    assert await everything_stored(world) == stored
    await world.identity.api_keys.revoke(world.call(), "", split_secret(first)[1])
    assert await other.ensure_admin_key() == ""


# Identity providers


async def test_an_issuer_is_there_once_in_an_organization(world: World) -> None:
    providers, call = world.identity.identity_providers, world.call(world.organization)
    draft = IdentityProvider("", "Again", ISSUER, ("other",), 0)
    with pytest.raises(IdentityProviderExists) as error:
        await providers.create(call, world.organization, draft)
    assert error.value.metadata == {"issuer": ISSUER}
    # Another organization may trust it too.
    await world.add_organization()


async def test_the_number_of_providers_is_bounded(world: World) -> None:
    """I-34: every device that enrolls is told of them all."""
    providers = world.identity.identity_providers
    present = len(await providers.page(world.organization, Page("", 100)))
    for number in range(50 - present):
        draft = IdentityProvider("", "SSO", f"https://sso{number}.example.com", ("guardhouse",), 0)
        await providers.create(world.call(world.organization), world.organization, draft)
    draft = IdentityProvider("", "SSO", "https://one.too.many", ("guardhouse",), 0)
    with pytest.raises(LimitReached) as raised:
        await providers.create(world.call(world.organization), world.organization, draft)
    assert raised.value.metadata == {"limit": "50"}


async def test_a_provider_comes_and_goes(world: World) -> None:
    providers = world.identity.identity_providers
    (before,) = await providers.page(world.organization, EVERYBODY)
    call = world.call(world.organization, "again")
    await providers.delete(call, world.organization, before.identity_provider_id)
    await providers.delete(call, world.organization, before.identity_provider_id)
    (event,) = (await world.events())[-1]
    assert event.identity_provider_deleted == before.identity_provider_id
    with pytest.raises(IdentityProviderNotFound):
        await providers.delete(world.call(world.organization), world.organization, before.identity_provider_id)
    with pytest.raises(IdentityProviderNotFound):
        await providers.get(world.organization, before.identity_provider_id)
    draft = IdentityProvider("", "Again", ISSUER, ("one", "two"), 0)
    made, _ = await providers.create(world.call(world.organization), world.organization, draft)
    assert await providers.get(world.organization, made.identity_provider_id) == made
    check_id(made.identity_provider_id, IDENTITY_PROVIDER, "id")


async def test_a_provider_keeps_what_an_update_does_not_name(world: World, desk: Desk) -> None:
    """Its issuer cannot be changed at all: users are of it (decision 1)."""
    provider = pb.IdentityProvider(display_name="SSO", issuer="https://sso.example.com", client_ids=["a"])
    create = pb.CreateIdentityProviderRequest(organization_id=world.organization, identity_provider=provider)
    made = (await desk.send(create)).identity_provider
    assert (made.force_interaction, made.update_time) == (False, made.create_time)
    world.clock.advance(1)
    update = pb.UpdateIdentityProviderRequest(
        organization_id=world.organization,
        identity_provider=pb.IdentityProvider(
            identity_provider_id=made.identity_provider_id, force_interaction=True, etag=made.etag
        ),
        update_mask=FieldMask(paths=["force_interaction"]),
    )
    forced = (await desk.send(update)).identity_provider
    assert forced.force_interaction
    assert (forced.display_name, forced.issuer, list(forced.client_ids)) == ("SSO", made.issuer, ["a"])
    assert forced.create_time == made.create_time
    assert forced.update_time.ToMicroseconds() > made.update_time.ToMicroseconds()
    assert (await world.events())[-1][0].identity_provider == forced
    with pytest.raises(EtagMismatch):
        await desk.send(update)
    update.identity_provider.MergeFrom(pb.IdentityProvider(display_name="Other", client_ids=["b", "c"], etag=""))
    update.identity_provider.ClearField("etag")
    update.update_mask.paths[:] = ["display_name", "client_ids"]
    renamed = (await desk.send(update)).identity_provider
    assert (renamed.display_name, list(renamed.client_ids), renamed.force_interaction) == ("Other", ["b", "c"], True)
    update.update_mask.paths[:] = ["issuer"]
    with pytest.raises(InvalidField):
        await desk.send(update)
    with pytest.raises(EtagMismatch):
        await desk.send(
            pb.DeleteIdentityProviderRequest(
                organization_id=world.organization, identity_provider_id=made.identity_provider_id, etag=forced.etag
            )
        )


# Service tokens


async def test_a_service_tokens_secret_is_answered_again_and_stored_nowhere(world: World) -> None:
    """Decision 10 and invariant I-31."""
    call, tokens = world.call(world.organization, "again"), world.identity.service_tokens
    made, secret, _ = await tokens.create(call, world.organization, "Robot", YEAR)
    again, same, _ = await tokens.create(call, world.organization, "Robot", YEAR)
    # What it is known by was not remembered.
    assert (replace(again, secret_hash=made.secret_hash), same) == (made, secret)
    assert re.fullmatch(r"[0-9a-f]{32}\.access", made.client_id)
    assert re.fullmatch(r"[0-9a-f]{64}", secret)
    assert made.expire_time == made.create_time + YEAR
    assert secret not in await everything_stored(world)
    assert bytes.fromhex(secret) != made.secret_hash
    _, other, _ = await tokens.create(world.call(world.organization), world.organization, "Robot", YEAR)
    assert other != secret


async def test_a_service_token_is_kept_while_a_policy_names_it(world: World) -> None:
    """Decision 11: in whichever list, and until no policy does."""
    tokens = world.identity.service_tokens
    token_id, _ = await world.service_token()
    named = Rule(RuleKind.SERVICE_TOKEN, token_id)
    first = await world.allow(named, decision=Decision.SERVICE_AUTH, precedence=1)
    second = await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=2, exclude=[named])
    with pytest.raises(ServiceTokenInUse) as error:
        await tokens.delete(world.call(world.organization), world.organization, token_id)
    ids = [first.enrollment_policy_id, second.enrollment_policy_id]
    assert error.value.metadata == {"enrollment_policy_ids": ",".join(ids)}
    policies, call = world.identity.enrollment_policies, world.call(world.organization)
    await policies.update(call, world.organization, ids[0], {"include": (ANY_TOKEN,)})
    await policies.delete(world.call(world.organization), world.organization, ids[1])
    await tokens.delete(world.call(world.organization), world.organization, token_id)
    with pytest.raises(ServiceTokenNotFound):
        await tokens.get(world.organization, token_id)
    with pytest.raises(ServiceTokenNotFound):
        await tokens.delete(world.call(world.organization), world.organization, token_id)


# Enrollment policies


async def test_a_precedence_is_taken_once(world: World) -> None:
    """Decision 12."""
    policies, call = world.identity.enrollment_policies, world.call(world.organization)
    with pytest.raises(PrecedenceTaken) as error:
        await world.allow(Rule(RuleKind.EVERYONE), precedence=100)
    assert error.value.metadata == {"precedence": "100"}
    made = await world.allow(Rule(RuleKind.EVERYONE), precedence=101)
    with pytest.raises(PrecedenceTaken):
        await policies.update(call, world.organization, made.enrollment_policy_id, {"precedence": 100})
    assert (await policies.get(world.organization, made.enrollment_policy_id)).precedence == 101


async def test_a_policy_keeps_what_an_update_does_not_name(world: World) -> None:
    policies, call = world.identity.enrollment_policies, world.call(world.organization, "again")
    made = await world.allow(
        Rule(RuleKind.EMAIL, "Ada@Example.com"),
        precedence=3,
        require=[Rule(RuleKind.GROUP, "ops")],
        exclude=[Rule(RuleKind.EMAIL_DOMAIN, "@example.org")],
    )
    assert await policies.get(world.organization, made.enrollment_policy_id) == made
    world.clock.advance(1)
    written, _ = await policies.update(call, world.organization, made.enrollment_policy_id, {"require": ()})
    changed = written.enrollment_policy
    assert (changed.include, changed.require, changed.exclude) == (made.include, (), made.exclude)
    assert changed.create_time == made.create_time < changed.update_time
    again, _ = await policies.update(call, world.organization, made.enrollment_policy_id, {"require": ()})
    assert again == written


async def test_a_rule_that_could_never_match_is_refused_when_it_is_written(world: World) -> None:
    """Decision 12: with the reason, and after an update as well."""
    with pytest.raises(InvalidField, match="SERVICE_AUTH policies only") as error:
        await world.allow(Rule(RuleKind.EVERYONE), ANY_TOKEN, precedence=1)
    assert error.value.field == "enrollment_policy.include[1]"
    made = await world.allow(Rule(RuleKind.EMAIL, "ada@example.com"), precedence=1)
    call = world.call(world.organization)
    with pytest.raises(InvalidField, match="people enroll under ALLOW"):
        await world.identity.enrollment_policies.update(
            call, world.organization, made.enrollment_policy_id, {"decision": Decision.SERVICE_AUTH}
        )


async def test_a_policy_names_only_tokens_that_are_there(world: World) -> None:
    """Invariant I-27: another organization's is none."""
    token_id, _ = await world.service_token()
    other = await world.add_organization()
    for organization_id, named in ((world.organization, new_id(SERVICE_TOKEN, 0)), (other, token_id)):
        with pytest.raises(ServiceTokenNotFound):
            await world.allow(
                Rule(RuleKind.SERVICE_TOKEN, named),
                decision=Decision.SERVICE_AUTH,
                precedence=1,
                organization_id=organization_id,
            )


async def test_an_unknown_policy_is_not_found(world: World) -> None:
    policies, unknown = world.identity.enrollment_policies, new_id(ENROLLMENT_POLICY, world.clock.now())
    call = world.call(world.organization)
    for work in (
        policies.get(world.organization, unknown),
        policies.update(call, world.organization, unknown, {"precedence": 1}),
        policies.delete(call, world.organization, unknown),
    ):
        with pytest.raises(EnrollmentPolicyNotFound):
            await work


async def test_a_change_of_policy_has_a_place_in_history(world: World) -> None:
    """A revision token names it, though followers have nothing to learn from it."""
    before = await world.revision()
    await world.allow(Rule(RuleKind.EVERYONE), precedence=1)
    assert await world.revision() == before + 1
    assert (await world.events())[-1] == []


async def test_trying_an_enrollment_uses_nothing_up(world: World) -> None:
    """The token can still enroll, no seat is taken, nobody is written."""
    await world.limit(1)
    token, before = world.sign_in("ada"), await world.revision()
    test = world.identity.enrollment_policies.test
    await test(world.organization, token)
    tested = await test(world.organization, token)
    assert (tested.verdict.admitted, tested.seat_available) == (True, True)
    assert await world.used() == await world.count("users") == await world.count("used_token") == 0
    assert await world.revision() == before
    intent = await world.authorize(token)
    assert intent.enrollment_policy_id == tested.verdict.enrollment_policy_id
    # The last seat is hers, so it is there for her and for nobody else.
    assert (await test(world.organization, world.sign_in("ada"))).seat_available
    tested = await test(world.organization, Identity(email="bob@example.com"))
    assert (tested.verdict.admitted, tested.seat_available) == (True, False)
    tested = await test(world.organization, Identity(email="eve@elsewhere.com"))
    assert not tested.verdict.admitted
    assert "none of its include rules matches" in tested.verdict.explanation
    _, secret = await world.service_token()
    await world.allow(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=1)
    tested = await test(world.organization, secret)
    assert (tested.verdict.admitted, tested.seat_available) == (True, True)
    with pytest.raises(GuardhouseError, match="secret is wrong"):
        await test(world.organization, ServiceTokenSecret(secret.client_id, "x"))


# The feed


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_snapshot_holds_everything_once(world: World, limit: int) -> None:
    """Invariant I-22, whatever the size of its pages: users that have only begun to enroll as well."""
    await world.identity.ensure_admin_key()
    await world.identity.api_keys.create(world.call(world.organization), world.organization, "Key", ADMIN, None)
    other = await world.add_organization()
    ada, bob = await world.enroll("ada"), await world.authorize("bob")
    await world.authenticate(ada, world.sign_in("ada"))
    installation = await world.snapshot("", limit)
    assert [event.WhichOneof("kind") for event in installation] == ["organization", "organization", "api_key"]
    assert [event.organization.organization_id for event in installation[:2]] == [world.organization, other]
    mine = await world.snapshot(world.organization, limit)
    kinds = [event.WhichOneof("kind") for event in mine]
    assert kinds == ["api_key", "identity_provider", "user", "user", "authentication"]
    assert [event.user.user.user_id for event in mine[2:4]] == [ada.user_id, bob.user_id]
    assert [event.WhichOneof("kind") for event in await world.snapshot(other, limit)] == ["identity_provider"]


async def test_lists_are_read_in_pages(world: World) -> None:
    """One more than asked for says that there is more."""
    for number in range(3):
        await world.service_token()
        await world.allow(Rule(RuleKind.EVERYONE), precedence=number + 1)
    tokens, policies = world.identity.service_tokens, world.identity.enrollment_policies
    for page_of, name in ((tokens.page, "service_token_id"), (policies.page, "enrollment_policy_id")):
        found: list[str] = []
        while True:
            page: Any = await page_of(world.organization, Page(found[-1] if found else "", 2))
            found += [getattr(it, name) for it in page[:2]]
            if len(page) <= 2:
                break
        assert found == sorted(set(found))
        assert len(found) in (3, 4)


# Bounds


async def test_the_numbers_of_keys_and_service_tokens_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-34: exactly, however many come at once; a key that is revoked makes room."""
    assert (api_keys.LIMIT, service_tokens.LIMIT) == (1000, 1000)
    monkeypatch.setattr(api_keys, "LIMIT", 3)
    monkeypatch.setattr(service_tokens, "LIMIT", 3)
    identity, organization_id = world.identity, world.organization

    async def key() -> str:
        made, _, _ = await identity.api_keys.create(world.call(organization_id), organization_id, "Key", ADMIN, None)
        return made.api_key_id

    for create in (key, world.service_token):
        results = await asyncio.gather(*(outcome(create()) for _ in range(8)))
        assert [type(result) for result in results].count(LimitReached) == 5
    with pytest.raises(LimitReached) as raised:
        await key()
    assert raised.value.metadata == {"limit": "3"}
    revoked, *_ = await identity.api_keys.page(organization_id, EVERYBODY)
    await identity.api_keys.revoke(world.call(organization_id), organization_id, revoked.api_key_id)
    await key()
    # The installation's and another organization's are counted by themselves.
    await identity.ensure_admin_key()
    await identity.api_keys.create(world.call(), "", "Key", ADMIN, None)


async def test_a_page_of_large_policies_fits_a_message(world: World, desk: Desk) -> None:
    """I-34: it ends early, and the next one goes on there."""
    rules = tuple(Rule(RuleKind.GROUP, f"{number:0240}") for number in range(1000))
    for number in range(20):
        await world.allow(*rules, precedence=number + 1)
    request = pb.ListEnrollmentPoliciesRequest(organization_id=world.organization, page_size=1000)
    pages = []
    while True:
        pages.append(await desk.send(request))
        request.page_token = pages[-1].next_page_token
        if not request.page_token:
            break
    found = [it.enrollment_policy_id for page in pages for it in page.enrollment_policies]
    assert len(found) == len(set(found)) == 21
    assert [page.ByteSize() < 4 << 20 for page in pages] == [True, True]

"""Identity over its two listeners, with a real provider."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.common.v1 import access_pb2
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.errors import (
    AccessDenied,
    DifferentUser,
    DurationInvalid,
    FieldRequired,
    GuardhouseError,
    IdTokenInvalid,
    InvalidField,
    PageTokenInvalid,
)
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.identity.v1 import identity_pb2_grpc as rpc
from guardhouse.ids import REGISTRATION, USER, new_id
from tests.plane import Plane

RULE = pb.EnrollmentRule(everyone=pb.Everyone())


async def fails(kind: type[GuardhouseError], call: Any, field: str = "") -> None:
    with pytest.raises(kind) as error:
        await call
    assert error.value.field == field


def registrations(plane: Plane) -> Any:
    return plane.service_stub(rpc.AuthenticationServiceStub, "registry")


async def authorize(plane: Plane, id_token: str, request_id: str = "r", intent_id: str = "") -> Any:
    return await registrations(plane).AuthorizeEnrollment(
        pb.AuthorizeEnrollmentRequest(
            organization_id=plane.organization,
            intent_id=intent_id or new_id(REGISTRATION, plane.clock.now()),
            request_id=request_id,
            credential=Credential(id_token=id_token),
        )
    )


async def test_a_real_token_enrolls_once(plane: Plane) -> None:
    """Decisions 1 and 27: verified at the provider, accepted for one Register."""
    id_token = plane.issuer.sign_in("alice@example.com")
    made = await authorize(plane, id_token)
    assert made.WhichOneof("holder") == "user_id"
    assert made.enrollment_policy_id.startswith("enp_")
    assert made.revision_token
    assert (made.identity.email, made.identity.display_name) == ("alice@example.com", "alice")
    for spoiled in (id_token[:-4] + "AAAA", "not.a.token", "x" * 20000):
        with pytest.raises((IdTokenInvalid, InvalidField)):
            await authorize(plane, spoiled, "other")
    await fails(IdTokenInvalid, authorize(plane, id_token, "other"))
    usage = await plane.stub(rpc.SeatServiceStub).GetSeatUsage(
        pb.GetSeatUsageRequest(organization_id=plane.organization)
    )
    assert usage.used == 1
    assert not usage.HasField("purchased")
    cancel = pb.CancelEnrollmentRequest(organization_id=plane.organization)
    await fails(FieldRequired, registrations(plane).CancelEnrollment(cancel), "intent_id")


async def test_an_abandoned_enrollment_is_given_up_when_the_registry_says_so(plane: Plane) -> None:
    """Only the registry's word frees a seat: it never saw this intent, and remembers it as aborted."""
    await authorize(plane, plane.issuer.sign_in("alice@example.com"))
    usage = plane.stub(rpc.SeatServiceStub)
    request = pb.GetSeatUsageRequest(organization_id=plane.organization)
    identity: Any = plane.nodes["identity"].servicer
    assert await identity.identity.resolver.resolve_once() == 0
    assert (await usage.GetSeatUsage(request)).used == 1
    plane.clock.advance(61)
    assert await identity.identity.resolver.resolve_once() == 1
    assert (await usage.GetSeatUsage(request)).used == 0


async def test_only_the_services_that_may_ask_are_answered(plane: Plane) -> None:
    """Invariant I-28."""
    request = pb.CancelEnrollmentRequest(
        organization_id=plane.organization, intent_id=new_id(REGISTRATION, plane.clock.now())
    )
    await registrations(plane).CancelEnrollment(request)
    await fails(AccessDenied, plane.service_stub(rpc.AuthenticationServiceStub, "ipam").CancelEnrollment(request))
    await fails(AccessDenied, plane.stub(rpc.AuthenticationServiceStub).CancelEnrollment(request))


async def test_an_organizations_key_makes_no_key_of_the_installation(plane: Plane) -> None:
    """Invariant I-27 and threat T-13."""
    keys = plane.stub(rpc.ApiKeyServiceStub)
    draft = pb.ApiKey(display_name="Ours", role=access_pb2.ROLE_ADMIN)
    made = await keys.CreateApiKey(pb.CreateApiKeyRequest(organization_id=plane.organization, api_key=draft))
    ours = plane.stub(rpc.ApiKeyServiceStub, key=made.secret)
    await ours.CreateApiKey(pb.CreateApiKeyRequest(organization_id=plane.organization, api_key=draft))
    await fails(AccessDenied, ours.CreateApiKey(pb.CreateApiKeyRequest(api_key=draft)))
    await fails(AccessDenied, ours.ListApiKeys(pb.ListApiKeysRequest()))
    listed = await keys.ListApiKeys(pb.ListApiKeysRequest())
    assert [key.display_name for key in listed.api_keys] == ["bootstrap"]


async def test_what_is_malformed_is_refused_by_the_name_of_its_field(plane: Plane) -> None:
    organization_id = plane.organization
    organizations = plane.stub(rpc.OrganizationServiceStub)
    keys, providers = plane.stub(rpc.ApiKeyServiceStub), plane.stub(rpc.IdentityProviderServiceStub)
    tokens, users = plane.stub(rpc.ServiceTokenServiceStub), plane.stub(rpc.UserServiceStub)
    create = organizations.CreateOrganization
    await fails(FieldRequired, create(pb.CreateOrganizationRequest()), "organization.display_name")
    negative = pb.Organization(display_name="X", seat_limit=-1)
    await fails(InvalidField, create(pb.CreateOrganizationRequest(organization=negative)), "organization.seat_limit")
    await fails(FieldRequired, organizations.GetOrganization(pb.GetOrganizationRequest()), "organization_id")
    update = pb.UpdateOrganizationRequest(organization_id=organization_id)
    await fails(FieldRequired, organizations.UpdateOrganization(update), "update_mask")
    update.update_mask.paths.append("create_time")
    await fails(InvalidField, organizations.UpdateOrganization(update), "update_mask")
    key = pb.CreateApiKeyRequest(organization_id=organization_id, api_key=pb.ApiKey(display_name="X"))
    await fails(FieldRequired, keys.CreateApiKey(key), "api_key.role")
    provider = pb.CreateIdentityProviderRequest(
        organization_id=organization_id,
        identity_provider=pb.IdentityProvider(display_name="X", issuer="http://idp.example.com", client_ids=["x"]),
    )
    await fails(InvalidField, providers.CreateIdentityProvider(provider), "identity_provider.issuer")
    provider.identity_provider.ClearField("client_ids")
    await fails(FieldRequired, providers.CreateIdentityProvider(provider), "identity_provider.client_ids")
    token = pb.CreateServiceTokenRequest(organization_id=organization_id, display_name="X", duration="1 year")
    await fails(DurationInvalid, tokens.CreateServiceToken(token), "duration")
    token.duration = "-1h"
    await fails(DurationInvalid, tokens.CreateServiceToken(token), "duration")
    remove = pb.RemoveUsersRequest(organization_id=organization_id)
    await fails(FieldRequired, users.RemoveUsers(remove), "user_ids")
    remove.all = True
    remove.user_ids.append(new_id(USER, plane.clock.now()))
    await fails(InvalidField, users.RemoveUsers(remove), "user_ids")
    listing = pb.ListUsersRequest(organization_id=organization_id, page_token="x")
    await fails(PageTokenInvalid, users.ListUsers(listing), "page_token")


async def test_a_malformed_rule_is_named(plane: Plane) -> None:
    """Decision 12."""
    stub = plane.stub(rpc.EnrollmentPolicyServiceStub)
    for rule, field in (
        (pb.EnrollmentRule(), ""),
        (pb.EnrollmentRule(email="ada"), ".email"),
        (pb.EnrollmentRule(email="@example.com"), ".email"),
        (pb.EnrollmentRule(email_domain="@"), ".email_domain"),
        (pb.EnrollmentRule(email_domain="ada@example.com"), ".email_domain"),
        (pb.EnrollmentRule(group=" "), ".group"),
        (pb.EnrollmentRule(service_token_id="svt_1"), ".service_token_id"),
        (pb.EnrollmentRule(any_valid_service_token=pb.AnyValidServiceToken()), ""),
    ):
        policy = pb.EnrollmentPolicy(
            display_name="X", decision=pb.ENROLLMENT_DECISION_ALLOW, precedence=1, include=[RULE, rule]
        )
        request = pb.CreateEnrollmentPolicyRequest(organization_id=plane.organization, enrollment_policy=policy)
        with pytest.raises(InvalidField) as error:
            await stub.CreateEnrollmentPolicy(request)
        assert error.value.field == f"enrollment_policy.include[1]{field}"


async def test_everything_that_is_written_can_be_read_and_listed(plane: Plane) -> None:
    organization_id = plane.organization
    policies, tokens = plane.stub(rpc.EnrollmentPolicyServiceStub), plane.stub(rpc.ServiceTokenServiceStub)
    providers, organizations = plane.stub(rpc.IdentityProviderServiceStub), plane.stub(rpc.OrganizationServiceStub)
    users = plane.stub(rpc.UserServiceStub)

    token = await tokens.CreateServiceToken(
        pb.CreateServiceTokenRequest(organization_id=organization_id, display_name="Robot")
    )
    token_id = token.service_token.service_token_id
    lifetime = token.service_token.expire_time.seconds - token.service_token.create_time.seconds
    # Decision 10.
    assert lifetime == 8760 * 3600
    found = await tokens.GetServiceToken(
        pb.GetServiceTokenRequest(organization_id=organization_id, service_token_id=token_id)
    )
    assert found.service_token == token.service_token
    listed = await tokens.ListServiceTokens(pb.ListServiceTokensRequest(organization_id=organization_id))
    assert list(listed.service_tokens) == [token.service_token]

    rules = [pb.EnrollmentRule(service_token_id=token_id), RULE]
    draft = pb.EnrollmentPolicy(
        display_name="Robots", decision=pb.ENROLLMENT_DECISION_SERVICE_AUTH, precedence=1, include=rules
    )
    made = await policies.CreateEnrollmentPolicy(
        pb.CreateEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy=draft)
    )
    policy_id = made.enrollment_policy.enrollment_policy_id
    assert list(made.enrollment_policy.include) == rules
    change = pb.EnrollmentPolicy(enrollment_policy_id=policy_id, precedence=2)
    changed = await policies.UpdateEnrollmentPolicy(
        pb.UpdateEnrollmentPolicyRequest(
            organization_id=organization_id, enrollment_policy=change, update_mask=FieldMask(paths=["precedence"])
        )
    )
    assert (changed.enrollment_policy.precedence, changed.enrollment_policy.display_name) == (2, "Robots")
    first = await policies.ListEnrollmentPolicies(
        pb.ListEnrollmentPoliciesRequest(organization_id=organization_id, page_size=1)
    )
    second = await policies.ListEnrollmentPolicies(
        pb.ListEnrollmentPoliciesRequest(organization_id=organization_id, page_size=1, page_token=first.next_page_token)
    )
    assert list(second.enrollment_policies) == [changed.enrollment_policy]
    assert not second.next_page_token
    secret = Credential()
    secret.service_token.client_id = token.service_token.client_id
    secret.service_token.client_secret = token.client_secret
    tested = await policies.TestEnrollment(pb.TestEnrollmentRequest(organization_id=organization_id, credential=secret))
    assert (tested.admitted, tested.enrollment_policy_id, tested.seat_available) == (True, policy_id, True)
    person = pb.TestIdentity(email="eve@elsewhere.com")
    tested = await policies.TestEnrollment(pb.TestEnrollmentRequest(organization_id=organization_id, identity=person))
    assert not tested.admitted
    assert tested.explanation.startswith("refused: no policy matches")
    await policies.DeleteEnrollmentPolicy(
        pb.DeleteEnrollmentPolicyRequest(organization_id=organization_id, enrollment_policy_id=policy_id)
    )
    await tokens.DeleteServiceToken(
        pb.DeleteServiceTokenRequest(organization_id=organization_id, service_token_id=token_id)
    )

    (provider,) = (
        await providers.ListIdentityProviders(pb.ListIdentityProvidersRequest(organization_id=organization_id))
    ).identity_providers
    get = pb.GetIdentityProviderRequest(
        organization_id=organization_id, identity_provider_id=provider.identity_provider_id
    )
    assert (await providers.GetIdentityProvider(get)).identity_provider == provider
    renamed = await organizations.UpdateOrganization(
        pb.UpdateOrganizationRequest(
            organization_id=organization_id,
            organization=pb.Organization(display_name="Renamed", seat_limit=5),
            update_mask=FieldMask(paths=["display_name", "seat_limit"]),
        )
    )
    (organization,) = (await organizations.ListOrganizations(pb.ListOrganizationsRequest())).organizations
    assert organization == renamed.organization
    assert (organization.display_name, organization.seat_limit) == ("Renamed", 5)
    assert not (await users.ListUsers(pb.ListUsersRequest(organization_id=organization_id))).users


async def test_another_person_cannot_sign_in_for_a_registration(plane: Plane) -> None:
    """Invariant I-11, over the listener that session uses."""
    made = await authorize(plane, plane.issuer.sign_in("alice@example.com"))
    sessions = plane.service_stub(rpc.AuthenticationServiceStub, "session")
    request = pb.RecordAuthenticationRequest(
        organization_id=plane.organization,
        registration_id=new_id(REGISTRATION, plane.clock.now()),
        user_id=made.user_id,
        credential=Credential(id_token=plane.issuer.sign_in("bob@example.com")),
    )
    await fails(DifferentUser, sessions.RecordAuthentication(request))
    request.credential.id_token = plane.issuer.sign_in("alice@example.com")
    recorded = await sessions.RecordAuthentication(request)
    assert recorded.authenticate_time.seconds > 0
    assert recorded.revision_token
    request.ClearField("user_id")
    await fails(FieldRequired, sessions.RecordAuthentication(request), "holder")

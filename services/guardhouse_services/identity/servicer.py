"""The contract's methods: syntax on the way in, messages on the way out."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from guardhouse.clock import Clock
from guardhouse.common.v1 import access_pb2, credential_pb2
from guardhouse.durations import HOUR, optional_duration, parse_duration
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import (
    API_KEY,
    ENROLLMENT_POLICY,
    HELD_ACTION,
    IDENTITY_PROVIDER,
    ORGANIZATION,
    REGISTRATION,
    REMOVAL,
    RULE_GROUP,
    SERVICE_TOKEN,
    USER,
    check_id,
)
from guardhouse.registry.v1 import registry_pb2
from guardhouse.rules import Client
from guardhouse.rules import Identity as IdentityOfRules
from guardhouse.times import optional_timestamp, to_timestamp
from guardhouse_services import checks, rules
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.breaker.domain import HeldState
from guardhouse_services.calls import Stream
from guardhouse_services.feed import Feed
from guardhouse_services.identity import messages
from guardhouse_services.identity.domain.credentials import (
    GROUPS_CLAIM,
    Credential,
    IdentityProvider,
    IdToken,
    ServiceTokenSecret,
    parse_silence,
)
from guardhouse_services.identity.domain.enrollment_policies import Decision, EnrollmentPolicy, RuleGroup
from guardhouse_services.identity.domain.enrollments import Registration
from guardhouse_services.identity.domain.organizations import WINDOWS, DefaultAction, parse_revoked
from guardhouse_services.identity.domain.scim import MatchAttribute, MatchClaim, ScimSettings, UpdateBehavior
from guardhouse_services.identity.domain.seats import SeatFilter, expiry_reason, parse_expiration
from guardhouse_services.identity.domain.users import SeatEvent
from guardhouse_services.identity.oidc import host_name, issuer_url
from guardhouse_services.identity.usecases import Identity
from guardhouse_services.paging import Pages

NAME = 100
GROUPS = 1000
ISSUER = 255
CLIENT_IDS = 20
OIDC_CLAIMS = 20
CLAIMS = 1000
AUTH_METHODS = 100
REMOVED = 1000
REPORTED = 1000
EXPIRATION = "organization.seat_expiration"
REVOKED = "organization.delete_revoked_after"
ID_TOKEN_BYTES = 16 << 10
SERVICE_TOKEN_DURATION = "8760h"
MAX_GRACE = 720 * HOUR
"""How long the secret before may go on being accepted."""
CLAIM_PATH = 200
HOST = 255
ROLES = (access_pb2.ROLE_ADMIN, access_pb2.ROLE_AUDITOR, access_pb2.ROLE_GATEWAY)
DECISIONS = tuple(decision.value for decision in Decision)
SEAT_STATUSES = (pb.SEAT_STATUS_ACTIVE, pb.SEAT_STATUS_INACTIVE)
SEAT_EVENTS = tuple(event.value for event in SeatEvent if event)
DEFAULT_ACTIONS = tuple(action.value for action in DefaultAction)
PLATFORMS = tuple(registry_pb2.Platform.values())
ORGANIZATION_PATHS = (
    *("display_name", "seat_limit", "default_action", "device_flow"),
    *("seat_expiration", "delete_revoked_after", "multi_user_platforms"),
)
PROVIDER_PATHS = (
    *("display_name", "client_ids", "force_interaction", "oidc_claims"),
    *("groups_claim", "allow_unverified_email", "allow_private_addresses", "jwks_host", "scim"),
)
SILENCE = "expire_registrations_after"
TOKEN_PATHS = ("display_name", "disabled", SILENCE)
POLICY_PATHS = ("display_name", "decision", "precedence", "include", "require", "exclude")
GROUP_PATHS = ("display_name", "include", "require", "exclude")


class IdentityServicer:
    """Every method of guardhouse.identity.v1."""

    def __init__(self, clock: Clock, identity: Identity, pages: Pages, feed: Feed, audit: Audit) -> None:
        self.identity = identity
        self._clock = clock
        self._pages = pages
        self._feed = feed
        self._audit = audit

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, call: Call
    ) -> pb.CreateOrganizationResponse:
        draft = request.organization
        display_name = checks.text(draft.display_name, "organization.display_name", NAME)
        action = _default_action(draft) if draft.default_action else DefaultAction.ALLOW
        made, token = await self.identity.organizations.create(
            call,
            display_name,
            _seat_limit(draft),
            action,
            device_flow=draft.device_flow,
            seat_expiration=parse_expiration(draft.seat_expiration, EXPIRATION),
            delete_revoked_after=parse_revoked(draft.delete_revoked_after, REVOKED),
            multi_user_platforms=_platforms(draft) or (WINDOWS,),
        )
        return pb.CreateOrganizationResponse(organization=messages.organization(made), revision_token=token)

    async def GetOrganization(self, request: pb.GetOrganizationRequest, call: Call) -> pb.GetOrganizationResponse:
        found = await self.identity.organizations.get(_organization(request))
        return pb.GetOrganizationResponse(organization=messages.organization(found))

    async def ListOrganizations(self, request: pb.ListOrganizationsRequest, call: Call) -> pb.ListOrganizationsResponse:
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.identity.organizations.page(page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.organization_id, now)
        return pb.ListOrganizationsResponse(organizations=map(messages.organization, shown), next_page_token=token)

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, call: Call
    ) -> pb.UpdateOrganizationResponse:
        organization_id, draft = _organization(request), request.organization
        changes = _changes(draft, checks.mask(request.update_mask, ORGANIZATION_PATHS))
        changed, used, token = await self.identity.organizations.update(
            call, organization_id, changes, draft.etag, validate_only=request.validate_only
        )
        shown = messages.organization(changed)
        return pb.UpdateOrganizationResponse(organization=shown, revision_token=token, seats_used=used)

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, call: Call
    ) -> pb.DeleteOrganizationResponse:
        organization_id = _organization(request)
        confirmation = checks.text(request.confirmation, "confirmation", NAME)
        deletion, token = await self.identity.organizations.delete(
            call, organization_id, confirmation, request.etag, validate_only=request.validate_only
        )
        return messages.organization_deletion(deletion, token)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, call: Call) -> pb.CreateApiKeyResponse:
        draft = request.api_key
        made, secret, token = await self.identity.api_keys.create(
            call,
            request.organization_id,
            checks.text(draft.display_name, "api_key.display_name", NAME),
            checks.choice(draft.role, ROLES, "api_key.role"),
            checks.timestamp(draft.expire_time, "api_key.expire_time") if draft.HasField("expire_time") else None,
        )
        return pb.CreateApiKeyResponse(api_key=messages.api_key(made), secret=secret, revision_token=token)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, call: Call) -> pb.ListApiKeysResponse:
        now = self._clock.now()
        page = self._pages.read(request, now)
        found = await self.identity.api_keys.page(request.organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.api_key_id, now)
        return pb.ListApiKeysResponse(api_keys=map(messages.api_key, shown), next_page_token=token)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, call: Call) -> pb.RevokeApiKeyResponse:
        api_key_id = check_id(request.api_key_id, API_KEY, "api_key_id")
        revoked, token = await self.identity.api_keys.revoke(
            call, request.organization_id, api_key_id, validate_only=request.validate_only
        )
        return pb.RevokeApiKeyResponse(api_key=messages.api_key(revoked), revision_token=token)

    async def CreateIdentityProvider(
        self, request: pb.CreateIdentityProviderRequest, call: Call
    ) -> pb.CreateIdentityProviderResponse:
        organization_id, sent = _organization(request), request.identity_provider
        draft = IdentityProvider("", **_provider(sent, PROVIDER_PATHS), issuer=_issuer(sent), create_time=0)
        made, token = await self.identity.identity_providers.create(call, organization_id, draft)
        return pb.CreateIdentityProviderResponse(
            identity_provider=messages.identity_provider(made), revision_token=token
        )

    async def GetIdentityProvider(
        self, request: pb.GetIdentityProviderRequest, call: Call
    ) -> pb.GetIdentityProviderResponse:
        provider_id = check_id(request.identity_provider_id, IDENTITY_PROVIDER, "identity_provider_id")
        found = await self.identity.identity_providers.get(_organization(request), provider_id)
        return pb.GetIdentityProviderResponse(identity_provider=messages.identity_provider(found))

    async def ListIdentityProviders(
        self, request: pb.ListIdentityProvidersRequest, call: Call
    ) -> pb.ListIdentityProvidersResponse:
        organization_id, now = _organization(request), self._clock.now()
        page = self._pages.read(request, now)
        found = await self.identity.identity_providers.page(organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.identity_provider_id, now)
        return pb.ListIdentityProvidersResponse(
            identity_providers=map(messages.identity_provider, shown), next_page_token=token
        )

    async def UpdateIdentityProvider(
        self, request: pb.UpdateIdentityProviderRequest, call: Call
    ) -> pb.UpdateIdentityProviderResponse:
        organization_id, draft = _organization(request), request.identity_provider
        field = "identity_provider.identity_provider_id"
        provider_id = check_id(draft.identity_provider_id, IDENTITY_PROVIDER, field)
        changes = _provider(draft, checks.mask(request.update_mask, PROVIDER_PATHS))
        changed, token = await self.identity.identity_providers.update(
            call, organization_id, provider_id, changes, draft.etag
        )
        return pb.UpdateIdentityProviderResponse(
            identity_provider=messages.identity_provider(changed), revision_token=token
        )

    async def DeleteIdentityProvider(
        self, request: pb.DeleteIdentityProviderRequest, call: Call
    ) -> pb.DeleteIdentityProviderResponse:
        provider_id = check_id(request.identity_provider_id, IDENTITY_PROVIDER, "identity_provider_id")
        deletion, token = await self.identity.identity_providers.delete(
            call, _organization(request), provider_id, request.etag, validate_only=request.validate_only
        )
        return messages.provider_deletion(deletion, token)

    async def RefreshScimSecret(self, request: pb.RefreshScimSecretRequest, call: Call) -> pb.RefreshScimSecretResponse:
        provider_id = check_id(request.identity_provider_id, IDENTITY_PROVIDER, "identity_provider_id")
        secret, token = await self.identity.scim.refresh_secret(call, _organization(request), provider_id)
        return pb.RefreshScimSecretResponse(secret=secret, revision_token=token)

    async def ListScimEvents(self, request: pb.ListScimEventsRequest, call: Call) -> pb.ListScimEventsResponse:
        organization_id, now = _organization(request), self._clock.now()
        provider_id = check_id(request.identity_provider_id, IDENTITY_PROVIDER, "identity_provider_id")
        page = self._pages.read(request, now)
        found = await self.identity.scim.events(organization_id, provider_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.scim_event_id, now)
        return pb.ListScimEventsResponse(scim_events=map(messages.scim_event, shown), next_page_token=token)

    async def CreateServiceToken(
        self, request: pb.CreateServiceTokenRequest, call: Call
    ) -> pb.CreateServiceTokenResponse:
        organization_id = _organization(request)
        display_name = checks.text(request.display_name, "display_name", NAME)
        duration = parse_duration(request.duration or SERVICE_TOKEN_DURATION, "duration")
        if duration <= 0:
            raise DurationInvalid("duration", "a service token is valid for longer than zero")
        silence = parse_silence(request.expire_registrations_after, SILENCE)
        made, secret, token = await self.identity.service_tokens.create(
            call, organization_id, display_name, duration, silence
        )
        return pb.CreateServiceTokenResponse(
            service_token=messages.service_token(made), client_secret=secret, revision_token=token
        )

    async def GetServiceToken(self, request: pb.GetServiceTokenRequest, call: Call) -> pb.GetServiceTokenResponse:
        service_token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
        found = await self.identity.service_tokens.get(_organization(request), service_token_id)
        return pb.GetServiceTokenResponse(service_token=messages.service_token(found))

    async def ListServiceTokens(self, request: pb.ListServiceTokensRequest, call: Call) -> pb.ListServiceTokensResponse:
        organization_id, now = _organization(request), self._clock.now()
        page = self._pages.read(request, now)
        display_name = checks.text(request.display_name, "display_name", NAME, required=False)
        found = await self.identity.service_tokens.page(organization_id, page, display_name)
        shown, token = self._pages.cut(request, page, found, lambda it: it.service_token_id, now)
        return pb.ListServiceTokensResponse(service_tokens=map(messages.service_token, shown), next_page_token=token)

    async def UpdateServiceToken(
        self, request: pb.UpdateServiceTokenRequest, call: Call
    ) -> pb.UpdateServiceTokenResponse:
        organization_id, draft = _organization(request), request.service_token
        service_token_id = check_id(draft.service_token_id, SERVICE_TOKEN, "service_token.service_token_id")
        paths = checks.mask(request.update_mask, TOKEN_PATHS)
        changes: dict[str, Any] = {path: getattr(draft, path) for path in TOKEN_PATHS if path in paths}
        if "display_name" in changes:
            checks.text(draft.display_name, "service_token.display_name", NAME)
        if SILENCE in changes:
            changes[SILENCE] = parse_silence(draft.expire_registrations_after, f"service_token.{SILENCE}")
        changed, token = await self.identity.service_tokens.update(
            call, organization_id, service_token_id, changes, draft.etag
        )
        return pb.UpdateServiceTokenResponse(service_token=messages.service_token(changed), revision_token=token)

    async def RotateServiceToken(
        self, request: pb.RotateServiceTokenRequest, call: Call
    ) -> pb.RotateServiceTokenResponse:
        organization_id = _organization(request)
        service_token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
        grace = parse_duration(request.grace, "grace") if request.grace else 0
        if not 0 <= grace <= MAX_GRACE:
            raise DurationInvalid("grace", "the secret before is good for at most 720h more")
        rotated, secret, token = await self.identity.service_tokens.rotate(
            call, organization_id, service_token_id, grace, request.etag
        )
        return pb.RotateServiceTokenResponse(
            service_token=messages.service_token(rotated), client_secret=secret, revision_token=token
        )

    async def RefreshServiceToken(
        self, request: pb.RefreshServiceTokenRequest, call: Call
    ) -> pb.RefreshServiceTokenResponse:
        service_token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
        refreshed, token = await self.identity.service_tokens.refresh(
            call, _organization(request), service_token_id, request.etag
        )
        return pb.RefreshServiceTokenResponse(service_token=messages.service_token(refreshed), revision_token=token)

    async def DeleteServiceToken(
        self, request: pb.DeleteServiceTokenRequest, call: Call
    ) -> pb.DeleteServiceTokenResponse:
        service_token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
        deletion, token = await self.identity.service_tokens.delete(
            call, _organization(request), service_token_id, request.etag, validate_only=request.validate_only
        )
        return messages.token_deletion(deletion, token)

    async def CreateEnrollmentPolicy(
        self, request: pb.CreateEnrollmentPolicyRequest, call: Call
    ) -> pb.CreateEnrollmentPolicyResponse:
        organization_id, draft = _organization(request), EnrollmentPolicy("", **_policy(request.enrollment_policy))
        written, token = await self.identity.enrollment_policies.create(call, organization_id, draft)
        return pb.CreateEnrollmentPolicyResponse(
            enrollment_policy=messages.enrollment_policy(written.enrollment_policy),
            revision_token=token,
            warnings=written.warnings,
        )

    async def GetEnrollmentPolicy(
        self, request: pb.GetEnrollmentPolicyRequest, call: Call
    ) -> pb.GetEnrollmentPolicyResponse:
        policy_id = check_id(request.enrollment_policy_id, ENROLLMENT_POLICY, "enrollment_policy_id")
        found = await self.identity.enrollment_policies.get(_organization(request), policy_id)
        return pb.GetEnrollmentPolicyResponse(enrollment_policy=messages.enrollment_policy(found))

    async def ListEnrollmentPolicies(
        self, request: pb.ListEnrollmentPoliciesRequest, call: Call
    ) -> pb.ListEnrollmentPoliciesResponse:
        organization_id, now = _organization(request), self._clock.now()
        page = self._pages.read(request, now)
        found = await self.identity.enrollment_policies.page(organization_id, page)
        policies = [messages.enrollment_policy(it) for it in found]
        shown, token = self._pages.cut(
            request, page, policies, lambda it: it.enrollment_policy_id, now, pb.EnrollmentPolicy.ByteSize
        )
        return pb.ListEnrollmentPoliciesResponse(enrollment_policies=shown, next_page_token=token)

    async def UpdateEnrollmentPolicy(
        self, request: pb.UpdateEnrollmentPolicyRequest, call: Call
    ) -> pb.UpdateEnrollmentPolicyResponse:
        organization_id, draft = _organization(request), request.enrollment_policy
        field = "enrollment_policy.enrollment_policy_id"
        policy_id = check_id(draft.enrollment_policy_id, ENROLLMENT_POLICY, field)
        changes = _policy(draft, checks.mask(request.update_mask, POLICY_PATHS))
        written, token = await self.identity.enrollment_policies.update(
            call, organization_id, policy_id, changes, draft.etag, validate_only=request.validate_only
        )
        return messages.policy_update(written, token)

    async def DeleteEnrollmentPolicy(
        self, request: pb.DeleteEnrollmentPolicyRequest, call: Call
    ) -> pb.DeleteEnrollmentPolicyResponse:
        policy_id = check_id(request.enrollment_policy_id, ENROLLMENT_POLICY, "enrollment_policy_id")
        deletion, token = await self.identity.enrollment_policies.delete(
            call, _organization(request), policy_id, request.etag, validate_only=request.validate_only
        )
        return messages.policy_deletion(deletion, token)

    async def TestEnrollment(self, request: pb.TestEnrollmentRequest, call: Call) -> pb.TestEnrollmentResponse:
        organization_id = _organization(request)
        tested: Credential | IdentityOfRules
        match request.WhichOneof("subject"):
            case "credential":
                tested = _credential(request.credential)
            case "identity":
                tested = _test_identity(request.identity)
            case _:
                raise FieldRequired("subject", "whom to test: a credential or an identity")
        found = await self.identity.enrollment_policies.test(organization_id, tested, _client(request))
        return pb.TestEnrollmentResponse(
            admitted=found.verdict.admitted,
            enrollment_policy_id=found.verdict.enrollment_policy_id,
            explanation=found.verdict.explanation,
            seat_available=found.seat_available,
            trace=messages.policy_traces(found.trace),
        )

    async def GetEnrollmentPolicyUsage(
        self, request: pb.GetEnrollmentPolicyUsageRequest, call: Call
    ) -> pb.GetEnrollmentPolicyUsageResponse:
        policy_id = check_id(request.enrollment_policy_id, ENROLLMENT_POLICY, "enrollment_policy_id")
        usage = await self.identity.enrollment_policies.usage(_organization(request), policy_id)
        return pb.GetEnrollmentPolicyUsageResponse(admitted_users=usage.users, live_registrations=usage.registrations)

    async def ListStrandedRegistrations(
        self, request: pb.ListStrandedRegistrationsRequest, call: Call
    ) -> pb.ListStrandedRegistrationsResponse:
        organization_id, now = _organization(request), self._clock.now()
        policy_id = check_id(request.enrollment_policy_id, ENROLLMENT_POLICY, "enrollment_policy_id")
        page = self._pages.read(request, now)
        found = await self.identity.enrollment_policies.stranded(organization_id, policy_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.registration_id, now)
        return pb.ListStrandedRegistrationsResponse(
            registrations=map(messages.stranded_registration, shown), next_page_token=token
        )

    async def CreateRuleGroup(self, request: pb.CreateRuleGroupRequest, call: Call) -> pb.CreateRuleGroupResponse:
        organization_id, draft = _organization(request), RuleGroup("", **_rule_group(request.rule_group, GROUP_PATHS))
        made, token = await self.identity.rule_groups.create(call, organization_id, draft)
        return pb.CreateRuleGroupResponse(rule_group=messages.rule_group(made), revision_token=token)

    async def GetRuleGroup(self, request: pb.GetRuleGroupRequest, call: Call) -> pb.GetRuleGroupResponse:
        rule_group_id = check_id(request.rule_group_id, RULE_GROUP, "rule_group_id")
        found = await self.identity.rule_groups.get(_organization(request), rule_group_id)
        return pb.GetRuleGroupResponse(rule_group=messages.rule_group(found))

    async def ListRuleGroups(self, request: pb.ListRuleGroupsRequest, call: Call) -> pb.ListRuleGroupsResponse:
        organization_id, now = _organization(request), self._clock.now()
        page = self._pages.read(request, now)
        groups = [messages.rule_group(it) for it in await self.identity.rule_groups.page(organization_id, page)]
        shown, token = self._pages.cut(request, page, groups, lambda it: it.rule_group_id, now, pb.RuleGroup.ByteSize)
        return pb.ListRuleGroupsResponse(rule_groups=shown, next_page_token=token)

    async def UpdateRuleGroup(self, request: pb.UpdateRuleGroupRequest, call: Call) -> pb.UpdateRuleGroupResponse:
        organization_id, draft = _organization(request), request.rule_group
        rule_group_id = check_id(draft.rule_group_id, RULE_GROUP, "rule_group.rule_group_id")
        changes = _rule_group(draft, checks.mask(request.update_mask, GROUP_PATHS))
        changed, token = await self.identity.rule_groups.update(
            call, organization_id, rule_group_id, changes, draft.etag
        )
        return pb.UpdateRuleGroupResponse(rule_group=messages.rule_group(changed), revision_token=token)

    async def DeleteRuleGroup(self, request: pb.DeleteRuleGroupRequest, call: Call) -> pb.DeleteRuleGroupResponse:
        rule_group_id = check_id(request.rule_group_id, RULE_GROUP, "rule_group_id")
        gone, token = await self.identity.rule_groups.delete(
            call, _organization(request), rule_group_id, request.etag, validate_only=request.validate_only
        )
        return pb.DeleteRuleGroupResponse(rule_group=messages.rule_group(gone), revision_token=token)

    async def GetUser(self, request: pb.GetUserRequest, call: Call) -> pb.GetUserResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        return pb.GetUserResponse(user=messages.user(await self.identity.users.get(_organization(request), user_id)))

    async def ListUsers(self, request: pb.ListUsersRequest, call: Call) -> pb.ListUsersResponse:
        organization_id, now = _organization(request), self._clock.now()
        email = checks.text(request.email, "email", checks.EMAIL, required=False)
        has_seat = None
        if request.seat_status:
            has_seat = checks.choice(request.seat_status, SEAT_STATUSES, "seat_status") == pb.SEAT_STATUS_ACTIVE
        page = self._pages.read(request, now)
        found = await self.identity.users.page(organization_id, page, email, has_seat)
        users = [messages.user(it) for it in found]
        shown, token = self._pages.cut(request, page, users, lambda it: it.user_id, now, pb.User.ByteSize)
        return pb.ListUsersResponse(users=shown, next_page_token=token)

    async def RevokeUser(self, request: pb.RevokeUserRequest, call: Call) -> pb.RevokeUserResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        revoked, registrations, token = await self.identity.users.revoke(
            call,
            _organization(request),
            user_id,
            request.revoke_registrations,
            validate_only=request.validate_only,
        )
        return pb.RevokeUserResponse(user=messages.user(revoked), registrations=registrations, revision_token=token)

    async def RemoveUsers(self, request: pb.RemoveUsersRequest, call: Call) -> pb.RemoveUsersResponse:
        organization_id = _organization(request)
        if request.all and request.user_ids:
            raise InvalidField("user_ids", "user_ids is empty when all users are removed")
        checks.count(request.user_ids, "user_ids", REMOVED, least=0 if request.all else 1)
        for place, user_id in enumerate(request.user_ids):
            check_id(user_id, USER, f"user_ids[{place}]")
        ordered, token = await self.identity.users.remove(
            call, organization_id, request.user_ids, request.all, validate_only=request.validate_only
        )
        removal = messages.removal(ordered)
        if request.validate_only:
            # There is none to follow.
            removal.ClearField("removal_id")
        return pb.RemoveUsersResponse(removal=removal, revision_token=token)

    async def GetRemoval(self, request: pb.GetRemovalRequest, call: Call) -> pb.GetRemovalResponse:
        removal_id = check_id(request.removal_id, REMOVAL, "removal_id")
        found = await self.identity.users.removal(_organization(request), removal_id)
        return pb.GetRemovalResponse(removal=messages.removal(found))

    async def OffboardUser(self, request: pb.OffboardUserRequest, call: Call) -> pb.OffboardUserResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        user, ordered, token = await self.identity.users.offboard(
            call, _organization(request), user_id, validate_only=request.validate_only
        )
        removal = messages.removal(ordered)
        if request.validate_only:
            removal.ClearField("removal_id")
        return pb.OffboardUserResponse(user=messages.user(user), removal=removal, revision_token=token)

    async def ReinstateUser(self, request: pb.ReinstateUserRequest, call: Call) -> pb.ReinstateUserResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        user, token = await self.identity.users.reinstate(
            call, _organization(request), user_id, validate_only=request.validate_only
        )
        return pb.ReinstateUserResponse(user=messages.user(user), revision_token=token)

    async def EraseUser(self, request: pb.EraseUserRequest, call: Call) -> pb.EraseUserResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        user, token = await self.identity.users.erase(
            call, _organization(request), user_id, validate_only=request.validate_only
        )
        return pb.EraseUserResponse(user=messages.user(user), revision_token=token)

    async def ListHeldActions(self, request: pb.ListHeldActionsRequest, call: Call) -> pb.ListHeldActionsResponse:
        organization_id, now = _organization(request), self._clock.now()
        page = self._pages.read(request, now)
        found = await self.identity.held_actions.page(organization_id, page)
        held = [messages.held_action(it) for it in found]
        shown, token = self._pages.cut(request, page, held, lambda it: it.held_action_id, now, pb.HeldAction.ByteSize)
        return pb.ListHeldActionsResponse(held_actions=shown, next_page_token=token)

    async def ApproveHeldAction(self, request: pb.ApproveHeldActionRequest, call: Call) -> pb.ApproveHeldActionResponse:
        held, token = await self._decide(request, call, HeldState.APPROVED)
        return pb.ApproveHeldActionResponse(held_action=held, revision_token=token)

    async def RejectHeldAction(self, request: pb.RejectHeldActionRequest, call: Call) -> pb.RejectHeldActionResponse:
        held, token = await self._decide(request, call, HeldState.REJECTED)
        return pb.RejectHeldActionResponse(held_action=held, revision_token=token)

    async def _decide(
        self,
        request: pb.ApproveHeldActionRequest | pb.RejectHeldActionRequest,
        call: Call,
        decision: HeldState,
    ) -> tuple[pb.HeldAction, str]:
        held_action_id = check_id(request.held_action_id, HELD_ACTION, "held_action_id")
        held, token = await self.identity.held_actions.decide(
            call, _organization(request), held_action_id, decision, validate_only=request.validate_only
        )
        return messages.held_action(held), token

    async def GetSeatUsage(self, request: pb.GetSeatUsageRequest, call: Call) -> pb.GetSeatUsageResponse:
        return messages.seat_usage(*await self.identity.seat_ledger.usage(_organization(request)))

    async def ListSeats(self, request: pb.ListSeatsRequest, call: Call) -> pb.ListSeatsResponse:
        organization_id, now = _organization(request), self._clock.now()
        before = checks.timestamp(request.active_before, "active_before") if request.HasField("active_before") else None
        wanted = SeatFilter(
            checks.text(request.email, "email", checks.EMAIL, required=False),
            _seat_event(request.taken_by, "taken_by"),
            _seat_event(request.used_for, "used_for"),
            before,
        )
        page = self._pages.read(request, now)
        found = await self.identity.seat_ledger.page(organization_id, page, wanted)
        seats = [messages.seat(it, found.expiration) for it in found.users]
        shown, token = self._pages.cut(request, page, seats, lambda it: it.user_id, now, pb.Seat.ByteSize)
        return pb.ListSeatsResponse(seats=shown, next_page_token=token)

    async def ExplainSeat(self, request: pb.ExplainSeatRequest, call: Call) -> pb.ExplainSeatResponse:
        user_id = check_id(request.user_id, USER, "user_id")
        found = await self.identity.seat_ledger.explain(_organization(request), user_id)
        return pb.ExplainSeatResponse(
            seat=messages.seat(found.user, found.expiration) if found.user.seat_time is not None else None,
            explanation=found.explanation,
            freed=map(messages.freed_seat, found.freed),
        )

    async def PreviewSeatExpiration(
        self, request: pb.PreviewSeatExpirationRequest, call: Call
    ) -> pb.PreviewSeatExpirationResponse:
        organization_id, now = _organization(request), self._clock.now()
        expiration = parse_expiration(request.seat_expiration, "seat_expiration")
        page = self._pages.read(request, now)
        found = await self.identity.seat_ledger.preview(organization_id, page, expiration)
        seats = [
            pb.ExpiringSeat(seat=messages.seat(it, found.expiration), reason=expiry_reason(it, found.expiration))
            for it in found.users
        ]
        shown, token = self._pages.cut(request, page, seats, lambda it: it.seat.user_id, now, pb.ExpiringSeat.ByteSize)
        return pb.PreviewSeatExpirationResponse(
            seats=shown,
            next_page_token=token,
            watermark_time=optional_timestamp(found.watermark_time),
            held_up=found.held_up,
        )

    async def AuthorizeEnrollment(
        self, request: pb.AuthorizeEnrollmentRequest, call: Call
    ) -> pb.AuthorizeEnrollmentResponse:
        organization_id = _organization(request)
        intent_id = check_id(request.intent_id, REGISTRATION, "intent_id")
        checks.request_id(request.request_id, required=True)
        intent, token = await self.identity.enrollments.authorize(
            call, organization_id, intent_id, _credential(request.credential), _client(request)
        )
        holder = {"user_id": intent.user_id} if intent.user_id else {"service_token_id": intent.service_token_id}
        return pb.AuthorizeEnrollmentResponse(
            **holder,
            enrollment_policy_id=intent.enrollment_policy_id,
            authenticate_time=to_timestamp(intent.authenticate_time),
            authorize_revision=intent.authorize_revision,
            revision_token=token,
            identity=messages.holder_identity(intent.profile) if intent.user_id else None,
            expire_after=optional_duration(intent.expire_after),
        )

    async def CancelEnrollment(self, request: pb.CancelEnrollmentRequest, call: Call) -> pb.CancelEnrollmentResponse:
        intent_id = check_id(request.intent_id, REGISTRATION, "intent_id")
        await self.identity.enrollments.cancel(call, _organization(request), intent_id)
        return pb.CancelEnrollmentResponse()

    async def RecordAuthentication(
        self, request: pb.RecordAuthenticationRequest, call: Call
    ) -> pb.RecordAuthenticationResponse:
        organization_id, holder = _organization(request), _holder(request)
        checks.request_id(request.request_id, required=True)
        actor = checks.text(request.actor, "actor", NAME, required=False)
        asked = checks.timestamp(request.asked_time, "asked_time") if request.HasField("asked_time") else None
        credential = _credential(request.credential)
        recorded = await self.identity.authentications.record(
            call,
            organization_id,
            holder,
            credential,
            actor,
            asked,
            application=request.application,
            validate_only=request.validate_only,
        )
        return pb.RecordAuthenticationResponse(
            authenticate_time=to_timestamp(recorded.authenticate_time),
            revision_token=recorded.revision_token,
            user=messages.user(recorded.user) if recorded.user else None,
            service_token_id=recorded.service_token_id,
            identity_provider_id=recorded.identity_provider_id,
            authenticate_revision=recorded.revision,
        )

    async def RevokeAuthentications(
        self, request: pb.RevokeAuthenticationsRequest, call: Call
    ) -> pb.RevokeAuthenticationsResponse:
        organization_id = _organization(request)
        ids = checks.ids(request.registration_ids, "registration_ids", REGISTRATION, least=1)
        checks.request_id(request.request_id, required=True)
        actor = checks.text(request.actor, "actor", NAME, required=False)
        gone, token = await self.identity.authentications.revoke(call, organization_id, ids, actor)
        return pb.RevokeAuthenticationsResponse(gone_registration_ids=gone, revision_token=token)

    async def ReportActivity(self, request: pb.ReportActivityRequest, call: Call) -> pb.ReportActivityResponse:
        organization_id = _organization(request)
        checks.count(request.activity, "activity", REPORTED, least=0)
        times: dict[str, int] = {}
        for place, activity in enumerate(request.activity):
            field = f"activity[{place}]"
            user_id = check_id(activity.user_id, USER, f"{field}.user_id")
            if not activity.HasField("seen_time"):
                raise FieldRequired(f"{field}.seen_time")
            seen_time = checks.timestamp(activity.seen_time, f"{field}.seen_time")
            times[user_id] = max(seen_time, times.get(user_id, 0))
        watermark_time = None
        if request.HasField("watermark_time"):
            watermark_time = checks.timestamp(request.watermark_time, "watermark_time")
        reported = await self.identity.seat_ledger.report(organization_id, times, watermark_time)
        return pb.ReportActivityResponse(watermark_time=optional_timestamp(reported))

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, call: Call) -> pb.ListAuditRecordsResponse:
        answer: pb.ListAuditRecordsResponse = await self._audit.list_records(request)
        return answer

    async def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, call: Call
    ) -> pb.GetAuditCheckpointResponse:
        answer: pb.GetAuditCheckpointResponse = await self._audit.get_checkpoint(request)
        return answer

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], stream: Stream) -> None:
        await self._feed.serve(requests, stream)


def _organization(request: Any) -> str:
    return check_id(request.organization_id, ORGANIZATION, "organization_id")


def _seat_limit(draft: pb.Organization) -> int | None:
    if not draft.HasField("seat_limit"):
        return None
    if draft.seat_limit < 0:
        raise InvalidField("organization.seat_limit", "seat_limit is 0 or more; leave it out for unlimited seats")
    return draft.seat_limit


def _seat_event(value: int, field: str) -> SeatEvent:
    return SeatEvent(checks.choice(value, SEAT_EVENTS, field)) if value else SeatEvent.UNKNOWN


def _default_action(draft: pb.Organization) -> DefaultAction:
    return DefaultAction(checks.choice(draft.default_action, DEFAULT_ACTIONS, "organization.default_action"))


def _platforms(draft: pb.Organization) -> tuple[int, ...]:
    field = "organization.multi_user_platforms"
    checks.count(draft.multi_user_platforms, field, len(PLATFORMS), least=0)
    named = enumerate(draft.multi_user_platforms)
    return tuple(sorted({checks.choice(platform, PLATFORMS, f"{field}[{place}]") for place, platform in named}))


def _changes(draft: pb.Organization, paths: Collection[str]) -> dict[str, Any]:
    """The fields of an organization that these paths name, as the domain has them."""

    def read(path: str) -> Any:
        match path:
            case "display_name":
                return checks.text(draft.display_name, "organization.display_name", NAME)
            case "seat_limit":
                return _seat_limit(draft)
            case "device_flow":
                return draft.device_flow
            case "seat_expiration":
                return parse_expiration(draft.seat_expiration, EXPIRATION)
            case "delete_revoked_after":
                return parse_revoked(draft.delete_revoked_after, REVOKED)
            case "multi_user_platforms":
                return _platforms(draft)
        return _default_action(draft)

    return {path: read(path) for path in ORGANIZATION_PATHS if path in paths}


def _issuer(draft: pb.IdentityProvider) -> str:
    issuer = checks.text(draft.issuer, "identity_provider.issuer", ISSUER)
    try:
        issuer_url(issuer)
    except ValueError as error:
        raise InvalidField("identity_provider.issuer", str(error)) from None
    return issuer


def _provider(draft: pb.IdentityProvider, paths: Collection[str]) -> dict[str, Any]:
    """The fields of a provider that these paths name, as the domain has them."""

    def read(path: str) -> Any:
        field = f"identity_provider.{path}"
        match path:
            case "display_name":
                return checks.text(draft.display_name, field, NAME)
            case "client_ids":
                checks.count(draft.client_ids, field, CLIENT_IDS)
                return tuple(
                    checks.text(client_id, f"{field}[{place}]", ISSUER)
                    for place, client_id in enumerate(draft.client_ids)
                )
            case "oidc_claims":
                checks.count(draft.oidc_claims, field, OIDC_CLAIMS, least=0)
                return tuple(_claim(name, f"{field}[{place}]") for place, name in enumerate(draft.oidc_claims))
            case "groups_claim":
                return checks.text(draft.groups_claim, field, CLAIM_PATH, required=False) or GROUPS_CLAIM
            case "jwks_host":
                return _host(draft.jwks_host, field)
            case "scim":
                return _scim(draft.scim, field) if draft.HasField("scim") else None
        return getattr(draft, path)

    return {path: read(path) for path in PROVIDER_PATHS if path in paths}


def _host(name: str, field: str) -> str:
    checks.text(name, field, HOST, required=False)
    try:
        return host_name(name) if name else ""
    except ValueError as error:
        raise InvalidField(field, str(error)) from None


def _scim(draft: pb.ScimSettings, field: str) -> ScimSettings:
    if draft.seat_deprovision and not draft.user_deprovision:
        raise InvalidField(f"{field}.seat_deprovision", "seat_deprovision needs user_deprovision")
    behaviors = tuple(behavior.value for behavior in UpdateBehavior)
    attributes = tuple(attribute.value for attribute in MatchAttribute)
    claims = tuple(claim.value for claim in MatchClaim)
    behavior = draft.identity_update_behavior or UpdateBehavior.NO_ACTION.value
    attribute = draft.match_attribute or MatchAttribute.EXTERNAL_ID.value
    claim = draft.match_claim or MatchClaim.SUBJECT.value
    return ScimSettings(
        draft.enabled,
        draft.user_deprovision,
        draft.seat_deprovision,
        UpdateBehavior(checks.choice(behavior, behaviors, f"{field}.identity_update_behavior")),
        MatchAttribute(checks.choice(attribute, attributes, f"{field}.match_attribute")),
        MatchClaim(checks.choice(claim, claims, f"{field}.match_claim")),
    )


def _claim(name: str, field: str) -> str:
    if "=" in name:
        raise InvalidField(field, f"{field} holds an equals sign, behind which a claim's value would begin")
    return checks.text(name, field, NAME)


def _policy(draft: pb.EnrollmentPolicy, paths: Collection[str] = POLICY_PATHS) -> dict[str, Any]:
    """The fields of a policy that these paths name, as the domain has them."""

    def read(path: str) -> Any:
        field = f"enrollment_policy.{path}"
        match path:
            case "display_name":
                return checks.text(draft.display_name, field, NAME)
            case "decision":
                return Decision(checks.choice(draft.decision, DECISIONS, field))
            case "precedence":
                return _precedence(draft.precedence, field)
        return rules.read(getattr(draft, path), field, least=1 if path == "include" else 0)

    return {path: read(path) for path in POLICY_PATHS if path in paths}


def _rule_group(draft: pb.RuleGroup, paths: Collection[str]) -> dict[str, Any]:
    """The fields of a rule group that these paths name, as the domain has them."""

    def read(path: str) -> Any:
        field = f"rule_group.{path}"
        if path == "display_name":
            return checks.text(draft.display_name, field, NAME)
        return rules.read(getattr(draft, path), field, least=1 if path == "include" else 0)

    return {path: read(path) for path in GROUP_PATHS if path in paths}


def _precedence(value: int, field: str) -> int:
    if value == 0:
        raise FieldRequired(field)
    if value < 0:
        raise InvalidField(field, "precedence is 1 or more")
    return value


def _credential(credential: credential_pb2.Credential) -> Credential:
    match credential.WhichOneof("kind"):
        case "id_token":
            if not credential.id_token or len(credential.id_token) > ID_TOKEN_BYTES:
                raise InvalidField("credential.id_token", f"an ID token has 1 to {ID_TOKEN_BYTES} characters")
            return IdToken(credential.id_token)
        case "service_token":
            sent = credential.service_token
            client_id = checks.text(sent.client_id, "credential.service_token.client_id", NAME)
            secret = checks.text(sent.client_secret, "credential.service_token.client_secret", NAME)
            return ServiceTokenSecret(client_id, secret)
    raise FieldRequired("credential", "a credential is required: an ID token or a service token")


def _test_identity(sent: pb.TestIdentity) -> IdentityOfRules:
    checks.count(sent.groups, "identity.groups", GROUPS, least=0)
    for place, group in enumerate(sent.groups):
        checks.text(group, f"identity.groups[{place}]", rules.GROUP)
    checks.count(sent.oidc_claims, "identity.oidc_claims", CLAIMS, least=0)
    for place, claim in enumerate(sent.oidc_claims):
        rules.claim(claim, f"identity.oidc_claims[{place}]")
    checks.count(sent.auth_methods, "identity.auth_methods", AUTH_METHODS, least=0)
    for place, method in enumerate(sent.auth_methods):
        checks.text(method, f"identity.auth_methods[{place}]", rules.METHOD)
    if provider_id := sent.identity_provider_id:
        check_id(provider_id, IDENTITY_PROVIDER, "identity.identity_provider_id")
    email = checks.text(sent.email, "identity.email", checks.EMAIL, required=False)
    who = IdentityOfRules("", email, tuple(sent.groups), tuple(sent.oidc_claims), provider_id)
    return who._replace(methods=tuple(sent.auth_methods))


def _client(request: pb.AuthorizeEnrollmentRequest | pb.TestEnrollmentRequest) -> Client:
    country = rules.country(request.country, "country") if request.country else ""
    return Client.of(checks.address(request.ip, "ip") if request.ip else "", country)


def _holder(request: pb.RecordAuthenticationRequest) -> Registration | None:
    """Whose the registration must be; None where there is no registration."""
    kind = request.WhichOneof("holder")
    if not request.registration_id:
        if kind:
            raise InvalidField(kind, f"{kind} says whose a registration is, and there is no registration_id")
        return None
    registration_id = check_id(request.registration_id, REGISTRATION, "registration_id")
    match kind:
        case "user_id":
            return Registration(registration_id, user_id=check_id(request.user_id, USER, "user_id"))
        case "service_token_id":
            token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
            return Registration(registration_id, service_token_id=token_id)
    raise FieldRequired("holder", "whose registration it is: user_id or service_token_id")

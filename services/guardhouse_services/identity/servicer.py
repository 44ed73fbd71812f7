"""The contract's methods: syntax on the way in, messages on the way out."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from guardhouse.clock import Clock
from guardhouse.common.v1 import access_pb2, credential_pb2
from guardhouse.durations import parse_duration
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.ids import (
    API_KEY,
    ENROLLMENT_POLICY,
    IDENTITY_PROVIDER,
    ORGANIZATION,
    REGISTRATION,
    REMOVAL,
    SERVICE_TOKEN,
    USER,
    check_id,
)
from guardhouse.times import to_timestamp
from guardhouse_services import checks
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.calls import Stream
from guardhouse_services.feed import Feed
from guardhouse_services.identity import messages
from guardhouse_services.identity.domain.credentials import Credential, IdentityProvider, IdToken, ServiceTokenSecret
from guardhouse_services.identity.domain.enrollment_policies import (
    Decision,
    EnrollmentPolicy,
    Rule,
    RuleKind,
    Subject,
)
from guardhouse_services.identity.domain.enrollments import Registration
from guardhouse_services.identity.domain.organizations import DefaultAction
from guardhouse_services.identity.oidc import issuer_url
from guardhouse_services.identity.usecases import Identity
from guardhouse_services.paging import Pages

NAME = 100
GROUP = 256
GROUPS = 1000
ISSUER = 255
CLIENT_IDS = 20
OIDC_CLAIMS = 20
RULES = 1000
REMOVED = 1000
ID_TOKEN_BYTES = 16 << 10
SERVICE_TOKEN_DURATION = "8760h"
ROLES = (access_pb2.ROLE_ADMIN, access_pb2.ROLE_AUDITOR, access_pb2.ROLE_GATEWAY)
DECISIONS = tuple(decision.value for decision in Decision)
SEAT_STATUSES = (pb.SEAT_STATUS_ACTIVE, pb.SEAT_STATUS_INACTIVE)
DEFAULT_ACTIONS = tuple(action.value for action in DefaultAction)
ORGANIZATION_PATHS = ("display_name", "seat_limit", "default_action")
PROVIDER_PATHS = ("display_name", "client_ids", "force_interaction", "oidc_claims")
POLICY_PATHS = ("display_name", "decision", "precedence", "include", "require", "exclude")


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
        made, token = await self.identity.organizations.create(call, display_name, _seat_limit(draft), action)
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
        changed, token = await self.identity.organizations.update(call, organization_id, changes, draft.etag)
        return pb.UpdateOrganizationResponse(organization=messages.organization(changed), revision_token=token)

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

    async def CreateServiceToken(
        self, request: pb.CreateServiceTokenRequest, call: Call
    ) -> pb.CreateServiceTokenResponse:
        organization_id = _organization(request)
        display_name = checks.text(request.display_name, "display_name", NAME)
        duration = parse_duration(request.duration or SERVICE_TOKEN_DURATION, "duration")
        if duration <= 0:
            raise DurationInvalid("duration", "a service token is valid for longer than zero")
        made, secret, token = await self.identity.service_tokens.create(call, organization_id, display_name, duration)
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
        found = await self.identity.service_tokens.page(organization_id, page)
        shown, token = self._pages.cut(request, page, found, lambda it: it.service_token_id, now)
        return pb.ListServiceTokensResponse(service_tokens=map(messages.service_token, shown), next_page_token=token)

    async def DeleteServiceToken(
        self, request: pb.DeleteServiceTokenRequest, call: Call
    ) -> pb.DeleteServiceTokenResponse:
        service_token_id = check_id(request.service_token_id, SERVICE_TOKEN, "service_token_id")
        deletion, token = await self.identity.service_tokens.delete(
            call, _organization(request), service_token_id, validate_only=request.validate_only
        )
        return messages.token_deletion(deletion, token)

    async def CreateEnrollmentPolicy(
        self, request: pb.CreateEnrollmentPolicyRequest, call: Call
    ) -> pb.CreateEnrollmentPolicyResponse:
        organization_id, draft = _organization(request), EnrollmentPolicy("", **_policy(request.enrollment_policy))
        made, token = await self.identity.enrollment_policies.create(call, organization_id, draft)
        return pb.CreateEnrollmentPolicyResponse(
            enrollment_policy=messages.enrollment_policy(made), revision_token=token
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
        changed, token = await self.identity.enrollment_policies.update(
            call, organization_id, policy_id, changes, draft.etag
        )
        return pb.UpdateEnrollmentPolicyResponse(
            enrollment_policy=messages.enrollment_policy(changed), revision_token=token
        )

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
        tested: Credential | Subject
        match request.WhichOneof("subject"):
            case "credential":
                tested = _credential(request.credential)
            case "identity":
                tested = _test_identity(request.identity)
            case _:
                raise FieldRequired("subject", "whom to test: a credential or an identity")
        verdict, seat_available = await self.identity.enrollment_policies.test(organization_id, tested)
        return pb.TestEnrollmentResponse(
            admitted=verdict.admitted,
            enrollment_policy_id=verdict.enrollment_policy_id,
            explanation=verdict.explanation,
            seat_available=seat_available,
        )

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

    async def GetSeatUsage(self, request: pb.GetSeatUsageRequest, call: Call) -> pb.GetSeatUsageResponse:
        return messages.seat_usage(await self.identity.organizations.seats(_organization(request)))

    async def AuthorizeEnrollment(
        self, request: pb.AuthorizeEnrollmentRequest, call: Call
    ) -> pb.AuthorizeEnrollmentResponse:
        organization_id = _organization(request)
        intent_id = check_id(request.intent_id, REGISTRATION, "intent_id")
        checks.request_id(request.request_id, required=True)
        intent, token = await self.identity.enrollments.authorize(
            call, organization_id, intent_id, _credential(request.credential)
        )
        holder = {"user_id": intent.user_id} if intent.user_id else {"service_token_id": intent.service_token_id}
        return pb.AuthorizeEnrollmentResponse(
            **holder,
            enrollment_policy_id=intent.enrollment_policy_id,
            authenticate_time=to_timestamp(intent.authenticate_time),
            authorize_revision=intent.authorize_revision,
            revision_token=token,
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
            call, organization_id, holder, credential, actor, asked, validate_only=request.validate_only
        )
        return pb.RecordAuthenticationResponse(
            authenticate_time=to_timestamp(recorded.authenticate_time),
            revision_token=recorded.revision_token,
            user=messages.user(recorded.user) if recorded.user else None,
            service_token_id=recorded.service_token_id,
            identity_provider_id=recorded.identity_provider_id,
            authenticate_revision=recorded.revision,
        )

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


def _default_action(draft: pb.Organization) -> DefaultAction:
    return DefaultAction(checks.choice(draft.default_action, DEFAULT_ACTIONS, "organization.default_action"))


def _changes(draft: pb.Organization, paths: Collection[str]) -> dict[str, Any]:
    """The fields of an organization that these paths name, as the domain has them."""

    def read(path: str) -> Any:
        match path:
            case "display_name":
                return checks.text(draft.display_name, "organization.display_name", NAME)
            case "seat_limit":
                return _seat_limit(draft)
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
        return draft.force_interaction

    return {path: read(path) for path in PROVIDER_PATHS if path in paths}


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
        return _rules(getattr(draft, path), field, least=1 if path == "include" else 0)

    return {path: read(path) for path in POLICY_PATHS if path in paths}


def _precedence(value: int, field: str) -> int:
    if value == 0:
        raise FieldRequired(field)
    if value < 0:
        raise InvalidField(field, "precedence is 1 or more")
    return value


def _rules(rules: Any, field: str, least: int = 0) -> tuple[Rule, ...]:
    checks.count(rules, field, RULES, least=least)
    return tuple(_rule(rule, f"{field}[{place}]") for place, rule in enumerate(rules))


def _rule(rule: pb.EnrollmentRule, field: str) -> Rule:
    if not (name := rule.WhichOneof("kind")):
        raise FieldRequired(field, f"{field} needs a kind of rule")
    kind, field = RuleKind(name), f"{field}.{name}"
    match kind:
        case RuleKind.EMAIL:
            value = checks.email(rule.email, field)
        case RuleKind.EMAIL_DOMAIN:
            value = checks.email_domain(rule.email_domain, field)
        case RuleKind.GROUP:
            value = checks.text(rule.group, field, GROUP)
        case RuleKind.SERVICE_TOKEN:
            value = check_id(rule.service_token_id, SERVICE_TOKEN, field)
        case _:
            value = ""
    return Rule(kind, value)


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


def _test_identity(identity: pb.TestIdentity) -> Subject:
    checks.count(identity.groups, "identity.groups", GROUPS, least=0)
    for place, group in enumerate(identity.groups):
        checks.text(group, f"identity.groups[{place}]", GROUP)
    email = checks.text(identity.email, "identity.email", checks.EMAIL, required=False)
    return Subject(email=email, groups=tuple(identity.groups))


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

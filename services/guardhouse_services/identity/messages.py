"""Domain values as the contract's messages."""

from collections.abc import Iterable

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.times import optional_timestamp, to_timestamp
from guardhouse_services import etags
from guardhouse_services.identity.domain.credentials import (
    ApiKey,
    IdentityProvider,
    ProviderDeletion,
    ServiceToken,
    TokenDeletion,
)
from guardhouse_services.identity.domain.enrollment_policies import EnrollmentPolicy, PolicyDeletion, Rule, RuleKind
from guardhouse_services.identity.domain.enrollments import Authentication
from guardhouse_services.identity.domain.organizations import Organization, SeatUsage
from guardhouse_services.identity.domain.users import Removal, User


def organization(of: Organization) -> pb.Organization:
    made = pb.Organization(
        organization_id=of.organization_id,
        display_name=of.display_name,
        seat_limit=of.seat_limit,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
        default_action=of.default_action.value,  # type: ignore[arg-type]  # numbered alike
    )
    etags.tag(made)
    return made


def api_key(of: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        api_key_id=of.api_key_id,
        organization_id=of.organization_id,
        display_name=of.display_name,
        role=of.role,  # type: ignore[arg-type]  # an enum's value, and a number in the database
        create_time=to_timestamp(of.create_time),
        expire_time=optional_timestamp(of.expire_time),
        revoke_time=optional_timestamp(of.revoke_time),
    )


def identity_provider(of: IdentityProvider) -> pb.IdentityProvider:
    made = pb.IdentityProvider(
        identity_provider_id=of.identity_provider_id,
        display_name=of.display_name,
        issuer=of.issuer,
        client_ids=of.client_ids,
        create_time=to_timestamp(of.create_time),
        force_interaction=of.force_interaction,
        update_time=to_timestamp(of.update_time or of.create_time),
        oidc_claims=of.oidc_claims,
    )
    etags.tag(made)
    return made


def service_token(of: ServiceToken) -> pb.ServiceToken:
    return pb.ServiceToken(
        service_token_id=of.service_token_id,
        display_name=of.display_name,
        client_id=of.client_id,
        create_time=to_timestamp(of.create_time),
        expire_time=to_timestamp(of.expire_time),
    )


def enrollment_policy(of: EnrollmentPolicy) -> pb.EnrollmentPolicy:
    made = pb.EnrollmentPolicy(
        enrollment_policy_id=of.enrollment_policy_id,
        display_name=of.display_name,
        decision=of.decision.value,  # type: ignore[arg-type]  # numbered alike
        precedence=of.precedence,
        include=_rules(of.include),
        require=_rules(of.require),
        exclude=_rules(of.exclude),
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    return made


def _rules(rules: Iterable[Rule]) -> list[pb.EnrollmentRule]:
    return [_rule(rule) for rule in rules]


def _rule(rule: Rule) -> pb.EnrollmentRule:
    match rule.kind:
        case RuleKind.EVERYONE:
            return pb.EnrollmentRule(everyone=pb.Everyone())
        case RuleKind.EMAIL:
            return pb.EnrollmentRule(email=rule.value)
        case RuleKind.EMAIL_DOMAIN:
            return pb.EnrollmentRule(email_domain=rule.value)
        case RuleKind.GROUP:
            return pb.EnrollmentRule(group=rule.value)
        case RuleKind.SERVICE_TOKEN:
            return pb.EnrollmentRule(service_token_id=rule.value)
        case RuleKind.ANY_SERVICE_TOKEN:
            return pb.EnrollmentRule(any_valid_service_token=pb.AnyValidServiceToken())


def user(of: User) -> pb.User:
    status = pb.SEAT_STATUS_INACTIVE if of.seat_time is None else pb.SEAT_STATUS_ACTIVE
    return pb.User(
        user_id=of.user_id,
        issuer=of.issuer,
        subject=of.subject,
        email=of.profile.email,
        display_name=of.profile.display_name,
        groups=of.profile.groups,
        seat_status=status,
        create_time=optional_timestamp(of.create_time),
        authenticate_time=optional_timestamp(of.authenticate_time),
        seat_time=optional_timestamp(of.seat_time),
        oidc_claims=of.profile.claims,
    )


def provider_deletion(of: ProviderDeletion, token: str) -> pb.DeleteIdentityProviderResponse:
    gone = identity_provider(of.identity_provider) if of.identity_provider else None
    return pb.DeleteIdentityProviderResponse(
        identity_provider=gone, users=of.users, registrations=of.registrations, revision_token=token
    )


def token_deletion(of: TokenDeletion, token: str) -> pb.DeleteServiceTokenResponse:
    gone = service_token(of.service_token) if of.service_token else None
    return pb.DeleteServiceTokenResponse(service_token=gone, registrations=of.registrations, revision_token=token)


def policy_deletion(of: PolicyDeletion, token: str) -> pb.DeleteEnrollmentPolicyResponse:
    gone = enrollment_policy(of.enrollment_policy) if of.enrollment_policy else None
    return pb.DeleteEnrollmentPolicyResponse(
        enrollment_policy=gone,
        registrations=of.registrations,
        registration_ids=of.registration_ids,
        revision_token=token,
    )


def removal(of: Removal) -> pb.Removal:
    return pb.Removal(
        removal_id=of.removal_id,
        create_time=to_timestamp(of.create_time),
        users=of.users,
        seats_freed=of.seats_freed,
        registrations=of.registrations,
        registrations_deleted=of.registrations_deleted,
        addresses_released=of.addresses_released,
        done=of.done,
    )


def seat_usage(of: SeatUsage) -> pb.GetSeatUsageResponse:
    return pb.GetSeatUsageResponse(purchased=of.purchased, used=of.used, available=of.available)


def organization_event(of: Organization) -> pb.Event:
    return pb.Event(organization=organization(of))


def api_key_event(of: ApiKey) -> pb.Event:
    return pb.Event(api_key=pb.ApiKeyRecord(api_key=api_key(of), secret_hash=of.secret_hash))


def identity_provider_event(of: IdentityProvider) -> pb.Event:
    return pb.Event(identity_provider=identity_provider(of))


def user_event(of: User) -> pb.Event:
    record = pb.UserRecord(
        user=user(of),
        removed_revision=of.removed_revision,
        revoked_revision=of.revoked_revision,
        registrations_revoked_revision=of.registrations_revoked_revision,
    )
    return pb.Event(user=record)


def authentication_event(of: Authentication) -> pb.Event:
    made = pb.Authentication(
        registration_id=of.registration_id,
        authenticate_time=to_timestamp(of.authenticate_time),
        revision=of.revision,
    )
    return pb.Event(authentication=made)

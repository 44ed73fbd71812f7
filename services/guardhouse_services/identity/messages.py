"""Domain values as the contract's messages."""

from collections.abc import Iterable
from typing import Any, Final

from guardhouse.durations import format_duration, optional_duration
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.rules import Rule, RuleKind
from guardhouse.times import optional_timestamp, set_time, to_timestamp
from guardhouse_services import etags
from guardhouse_services.breaker.domain import HeldAction
from guardhouse_services.identity.domain.credentials import (
    ApiKey,
    IdentityProvider,
    Profile,
    ProviderDeletion,
    ServiceToken,
    TokenDeletion,
)
from guardhouse_services.identity.domain.enrollment_policies import (
    Admitted,
    EnrollmentPolicy,
    PolicyDeletion,
    PolicyTrace,
    PolicyWrite,
    RuleGroup,
)
from guardhouse_services.identity.domain.enrollments import Authentication
from guardhouse_services.identity.domain.organizations import Organization, OrganizationDeletion, SeatUsage
from guardhouse_services.identity.domain.scim import ScimEvent, ScimSettings
from guardhouse_services.identity.domain.seats import Forecast, FreedSeat, expire_time
from guardhouse_services.identity.domain.users import Removal, User

TRACE_BYTES: Final = 2 << 20
"""What the rules of a trace may take."""


def organization(of: Organization) -> pb.Organization:
    made = pb.Organization(
        organization_id=of.organization_id,
        display_name=of.display_name,
        seat_limit=of.seat_limit,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
        default_action=of.default_action.value,  # type: ignore[arg-type]  # numbered alike
        device_flow=of.device_flow,
        seat_expiration=_duration(of.seat_expiration),
        delete_revoked_after=_duration(of.delete_revoked_after),
        multi_user_platforms=of.multi_user_platforms,  # type: ignore[arg-type]  # numbered alike
    )
    etags.tag(made)
    return made


def _duration(of: int | None) -> str:
    return "" if of is None else format_duration(of)


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
        groups_claim=of.groups_claim,
        allow_unverified_email=of.allow_unverified_email,
        allow_private_addresses=of.allow_private_addresses,
        jwks_host=of.jwks_host,
        scim=scim_settings(of.scim) if of.scim else None,
    )
    etags.tag(made)
    return made


def scim_settings(of: ScimSettings) -> pb.ScimSettings:
    return pb.ScimSettings(
        enabled=of.enabled,
        user_deprovision=of.user_deprovision,
        seat_deprovision=of.seat_deprovision,
        identity_update_behavior=of.identity_update_behavior.value,  # type: ignore[arg-type]  # numbered alike
        match_attribute=of.match_attribute.value,  # type: ignore[arg-type]  # numbered alike
        match_claim=of.match_claim.value,  # type: ignore[arg-type]  # numbered alike
    )


def scim_event(of: ScimEvent) -> pb.ScimEvent:
    return pb.ScimEvent(
        scim_event_id=of.scim_event_id,
        event_time=to_timestamp(of.event_time),
        method=of.method,
        resource_type=of.resource_type,
        resource_id=of.resource_id,
        external_id=of.external_id,
        user_id=of.user_id,
        status=of.status,
        error=of.error,
        held=of.held,
    )


def service_token(of: ServiceToken) -> pb.ServiceToken:
    made = pb.ServiceToken(
        service_token_id=of.service_token_id,
        display_name=of.display_name,
        client_id=of.client_id,
        create_time=to_timestamp(of.create_time),
        expire_time=to_timestamp(of.expire_time),
        disabled=of.disabled,
        previous_secret_expire_time=optional_timestamp(of.previous_secret_expire_time),
        update_time=to_timestamp(of.update_time or of.create_time),
        expire_registrations_after=optional_duration(of.expire_registrations_after),
    )
    etags.tag(made)
    # Its use changes nothing that somebody would decide anew for.
    set_time(made.last_seen_time, of.last_seen_time)
    return made


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


def rule_group(of: RuleGroup) -> pb.RuleGroup:
    made = pb.RuleGroup(
        rule_group_id=of.rule_group_id,
        display_name=of.display_name,
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
    return pb.EnrollmentRule(**{rule.kind: _WITHOUT_VALUE.get(rule.kind, rule.value)})


_WITHOUT_VALUE: dict[RuleKind, Any] = {
    RuleKind.EVERYONE: pb.Everyone(),
    RuleKind.ANY_SERVICE_TOKEN: pb.AnyValidServiceToken(),
}


def policy_update(of: PolicyWrite, token: str) -> pb.UpdateEnrollmentPolicyResponse:
    return pb.UpdateEnrollmentPolicyResponse(
        enrollment_policy=enrollment_policy(of.enrollment_policy),
        revision_token=token,
        warnings=of.warnings,
        stranded_users=of.stranded.users,
        stranded_registrations=of.stranded.registrations,
        stranded_registration_ids=of.stranded.registration_ids,
    )


def stranded_registration(of: Admitted) -> pb.StrandedRegistration:
    made = pb.StrandedRegistration(registration_id=of.registration_id, email=of.who.email)
    if of.user_id:
        made.user_id = of.user_id
    else:
        made.service_token_id = of.who.service_token_id
    return made


def policy_traces(of: Iterable[PolicyTrace]) -> list[pb.EnrollmentPolicyTrace]:
    """All policies, and their rules as far as they fit an answer."""
    found, left = [], TRACE_BYTES
    for step in of:
        policy = step.policy
        made = pb.EnrollmentPolicyTrace(
            enrollment_policy_id=policy.enrollment_policy_id,
            display_name=policy.display_name,
            decision=policy.decision.value,  # type: ignore[arg-type]  # numbered alike
            precedence=policy.precedence,
            matched=not step.mismatch,
            decides=step.decides,
            mismatch=step.mismatch,
        )
        for number, rule in enumerate(step.rules):
            if left <= 0:
                made.rules_omitted = len(step.rules) - number
                break
            shown = made.rules.add(place=rule.place, matched=rule.matched, finding=rule.finding, rule=_rule(rule.rule))
            left -= shown.ByteSize()
        found.append(made)
    return found


def holder_identity(of: Profile) -> pb.HolderIdentity:
    return pb.HolderIdentity(email=of.email, display_name=of.display_name, groups=of.groups, oidc_claims=of.claims)


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
        access_seat=of.access_seat,
        gateway_seat=of.gateway_seat,
        blocked=of.block_time is not None,
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


def held_action(of: HeldAction) -> pb.HeldAction:
    return pb.HeldAction(
        held_action_id=of.held_action_id,
        source=of.source,
        effect=of.effect,  # type: ignore[arg-type]  # numbered alike
        state=of.state.value,  # type: ignore[arg-type]  # numbered alike
        create_time=to_timestamp(of.create_time),
        decide_time=optional_timestamp(of.decide_time),
        users=of.subjects,
        users_done=of.subjects_done,
        user_ids=of.subject_ids,
        removal_ids=of.receipts,
    )


def organization_deletion(of: OrganizationDeletion, token: str) -> pb.DeleteOrganizationResponse:
    return pb.DeleteOrganizationResponse(
        organization=organization(of.organization),
        users=of.users,
        seats=of.seats,
        registrations=of.registrations,
        addresses=of.addresses,
        revision_token=token,
    )


def seat_usage(of: SeatUsage, forecast: Forecast) -> pb.GetSeatUsageResponse:
    return pb.GetSeatUsageResponse(
        purchased=of.purchased,
        used=of.used,
        available=of.available,
        seats_per_day=forecast.seats_per_day,
        exhaust_time=optional_timestamp(forecast.exhaust_time),
    )


def seat(of: User, expiration: int | None) -> pb.Seat:
    return pb.Seat(
        user_id=of.user_id,
        email=of.profile.email,
        display_name=of.profile.display_name,
        take_time=optional_timestamp(of.seat_time),
        taken_by=of.seat_event.value,  # type: ignore[arg-type]  # numbered alike
        event_id=of.seat_event_id,
        active_time=to_timestamp(of.active_time),
        authenticate_time=optional_timestamp(of.authenticate_time),
        seen_time=optional_timestamp(of.seen_time),
        expire_time=optional_timestamp(expire_time(of, expiration)),
        access_seat=of.access_seat,
        gateway_seat=of.gateway_seat,
    )


def freed_seat(of: FreedSeat) -> pb.FreedSeat:
    return pb.FreedSeat(
        take_time=to_timestamp(of.take_time),
        taken_by=of.seat_event.value,  # type: ignore[arg-type]  # numbered alike
        event_id=of.seat_event_id,
        free_time=to_timestamp(of.free_time),
        cause=of.cause.value,  # type: ignore[arg-type]  # numbered alike
        removal_id=of.removal_id,
    )


def organization_event(of: Organization) -> pb.Event:
    return pb.Event(organization=organization(of))


def organization_deleted_event(organization_id: str) -> pb.Event:
    return pb.Event(organization_deleted=organization_id)


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
        revoked_revision=of.revoked_revision,
    )
    return pb.Event(authentication=made)

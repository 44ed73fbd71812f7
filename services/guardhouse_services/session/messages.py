"""Domain values as the contract's messages."""

from collections.abc import Iterable, Mapping
from typing import Any

from guardhouse.applications import Application, DeviceSessionSettings, SigningKey
from guardhouse.applications import Policy as ApplicationPolicy
from guardhouse.decisions import Verdict
from guardhouse.durations import format_duration
from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.policies import DAYS, Step
from guardhouse.rules import Rule, RuleKind
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import to_timestamp
from guardhouse_services import etags
from guardhouse_services.results import item_error
from guardhouse_services.session.checking import ALL, fill
from guardhouse_services.session.domain.lists import ValueList
from guardhouse_services.session.domain.policies import CheckSession, Policy, PolicyWarning, Staleness
from guardhouse_services.session.domain.sessions import Session
from guardhouse_services.session.domain.trials import NEW, Finding, Outcome


def policy(of: Policy) -> pb.Policy:
    terms = of.terms
    made = pb.Policy(
        policy_id=of.policy_id,
        display_name=terms.display_name,
        description=terms.description,
        enabled=terms.enabled,
        filter=pb.PolicyFilter.ValueType(terms.filter),
        action=pb.PolicyAction.ValueType(terms.action),
        check_session=_check_session(terms.check_session),
        staleness=_staleness(terms.staleness),
        precedence=terms.precedence,
        traffic=terms.traffic,
        identity=terms.identity,
        device_posture=terms.device_posture,
        schedule=_schedule(terms.schedule),
        expire_time=None if terms.expire_time is None else to_timestamp(terms.expire_time),
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    return made


def policy_event(of: Policy) -> pb.Event:
    return pb.Event(policy=policy(of))


def policy_deleted_event(policy_id: str) -> pb.Event:
    return pb.Event(policy_deleted=policy_id)


def warning(of: PolicyWarning) -> pb.PolicyWarning:
    return pb.PolicyWarning(field=of.field, column=of.column, message=of.message)


def value_list(of: ValueList) -> pb.List:
    """Its etag is that of the list with all its values, so one without them has none."""
    made = pb.List(
        list_id=of.list_id,
        name=of.name,
        description=of.description,
        type=pb.ListType.ValueType(of.type),
        values=of.values,
        value_count=of.value_count,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    if len(of.values) == of.value_count:
        etags.tag(made)
    return made


def list_event(of: ValueList) -> pb.Event:
    return pb.Event(list=value_list(of))


def list_deleted_event(list_id: str) -> pb.Event:
    return pb.Event(list_deleted=list_id)


def application(of: Application, settings: DeviceSessionSettings | None = None) -> pb.Application:
    """What follows from the settings is there where they are known, and no part of the etag: that somebody changes them
    is no change of the application."""
    made = pb.Application(
        application_id=of.application_id,
        display_name=of.display_name,
        description=of.description,
        session_duration=format_duration(of.session_duration),
        policies=map(_application_policy, of.policies),
        identity_provider_ids=of.identity_provider_ids,
        binding_cookie=of.binding_cookie,
        device_session=of.device_session,
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    if settings is not None:
        made.device_session_effective = settings.duration_for(of) is not None
    return made


def application_event(of: Application) -> pb.Event:
    return pb.Event(application=application(of))


def application_deleted_event(application_id: str) -> pb.Event:
    return pb.Event(application_deleted=application_id)


def device_session_settings(of: DeviceSessionSettings) -> pb.DeviceSessionSettings:
    made = pb.DeviceSessionSettings(
        session_duration="" if of.session_duration is None else format_duration(of.session_duration),
        apply_by_default=of.apply_by_default,
        update_time=None if of.update_time is None else to_timestamp(of.update_time),
    )
    etags.tag(made)
    return made


def device_session_settings_event(of: DeviceSessionSettings) -> pb.Event:
    return pb.Event(device_session_settings=device_session_settings(of))


def signing_key(of: SigningKey) -> pb.SigningKey:
    return pb.SigningKey(
        key_id=of.key_id,
        create_time=to_timestamp(of.create_time),
        sign_time=to_timestamp(of.sign_time),
        expire_time=None if of.expire_time is None else to_timestamp(of.expire_time),
    )


def signing_key_event(of: SigningKey) -> pb.Event:
    return pb.Event(signing_key=signing_key(of))


def signing_key_deleted_event(key_id: str) -> pb.Event:
    return pb.Event(signing_key_deleted=key_id)


def _application_policy(of: ApplicationPolicy) -> pb.ApplicationPolicy:
    return pb.ApplicationPolicy(
        display_name=of.display_name,
        decision=pb.ApplicationDecision.ValueType(of.decision),
        include=_rules(of.include),
        require=_rules(of.require),
        exclude=_rules(of.exclude),
        session_duration="" if of.session_duration is None else format_duration(of.session_duration),
    )


def _rules(of: Iterable[Rule]) -> list[pb.ApplicationRule]:
    return [pb.ApplicationRule(**{rule.kind: _WITHOUT_VALUE.get(rule.kind, rule.value)}) for rule in of]


_WITHOUT_VALUE: dict[RuleKind, Any] = {
    RuleKind.EVERYONE: pb.Everyone(),
    RuleKind.ANY_SERVICE_TOKEN: pb.AnyValidServiceToken(),
}


def outcome(of: Outcome, names: Mapping[str, str]) -> pb.TrafficTestResult:
    finding = of.finding
    return pb.TrafficTestResult(
        answer=_answer(finding),
        steps=[_step(step, finding.by_itself, names) for step in finding.steps],
        present_answer=_answer(of.present) if of.present else None,
        newly_refused=of.newly_refused,
    )


def _answer(of: Finding) -> pb.CheckAnswer:
    made = pb.CheckAnswer()
    fill(made, of.verdict, of.registration, of.policy, ALL)
    made.policy_id = _shown(made.policy_id)
    return made


def _step(of: Step, by_itself: Mapping[str, Verdict], names: Mapping[str, str]) -> pb.PolicyStep:
    policy_id = of.policy.policy_id
    made = pb.PolicyStep(
        policy_id=_shown(policy_id),
        display_name=names.get(policy_id, ""),
        matched=of.matched,
        decides=of.decides,
        failed=of.failed,
        missing=of.missing,
    )
    if of.decides:
        made.decision = pb.Decision.ValueType(by_itself[policy_id].decision)
        made.reason = pb.DecisionReason.ValueType(by_itself[policy_id].reason)
    return made


def _shown(policy_id: str) -> str:
    """A proposed policy that is new has no id yet."""
    return "" if policy_id.startswith(NEW) else policy_id


def _check_session(of: CheckSession | None) -> pb.CheckSession | None:
    if of is None:
        return None
    return pb.CheckSession(enforce=of.enforce, duration=format_duration(of.duration) if of.duration else "")


def _staleness(of: Staleness | None) -> pb.Staleness | None:
    if of is None:
        return None
    max_open = "" if of.max_open is None else format_duration(of.max_open)
    return pb.Staleness(mode=pb.StalenessMode.ValueType(of.mode), max_open=max_open)


def _schedule(of: tuple[str, ...] | None) -> pb.Schedule | None:
    if of is None:
        return None
    time_zone, *days = of
    return pb.Schedule(time_zone=time_zone, **dict(zip(DAYS, days, strict=True)))


def session(of: Session, names: Mapping[str, str]) -> pb.Session:
    """With what people call the policies."""
    registration = of.registration
    began = registration.authenticate_time
    found = pb.Session(
        registration_id=registration.registration_id,
        authenticate_time=to_timestamp(began),
        revoked=of.revoked,
        next_reauthentications=[
            pb.NextReauthentication(
                policy_id=policy_id, display_name=names.get(policy_id, ""), time=to_timestamp(began + timeout)
            )
            for timeout, policy_id in of.limits
        ],
    )
    if registration.user_id:
        found.user_id = registration.user_id
    else:
        found.service_token_id = registration.service_token_id
    return found


def session_result(registration_id: str, of: Session | GuardhouseError, names: Mapping[str, str]) -> pb.SessionResult:
    if isinstance(of, Session):
        return pb.SessionResult(registration_id=registration_id, session=session(of, names))
    return pb.SessionResult(registration_id=registration_id, error=item_error(of))


def sign_in(provider: identity.IdentityProvider) -> pb.SignIn:
    return pb.SignIn(
        identity_provider_id=provider.identity_provider_id,
        issuer=provider.issuer,
        client_ids=provider.client_ids,
        force_interaction=provider.force_interaction,
    )

"""Domain values as the contract's messages."""

from guardhouse.decisions import Registration
from guardhouse.durations import format_duration
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import etags
from guardhouse_services.session.domain import CheckSession, Policy, Staleness
from guardhouse_services.times import to_timestamp


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
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )
    etags.tag(made)
    return made


def _check_session(of: CheckSession | None) -> pb.CheckSession | None:
    if of is None:
        return None
    return pb.CheckSession(enforce=of.enforce, duration=format_duration(of.duration) if of.duration else "")


def _staleness(of: Staleness | None) -> pb.Staleness | None:
    if of is None:
        return None
    max_open = "" if of.max_open is None else format_duration(of.max_open)
    return pb.Staleness(mode=pb.StalenessMode.ValueType(of.mode), max_open=max_open)


def session(registration: Registration, revoked: bool) -> pb.Session:
    found = pb.Session(
        registration_id=registration.registration_id,
        authenticate_time=to_timestamp(registration.authenticate_time),
        revoked=revoked,
    )
    if registration.user_id:
        found.user_id = registration.user_id
    else:
        found.service_token_id = registration.service_token_id
    return found

"""Domain values as the contract's messages."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.decisions import Registration, Verdict
from guardhouse.durations import format_duration
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.clock import SECOND
from guardhouse_services.session.domain import CheckSession, Policy
from guardhouse_services.times import to_timestamp


def policy(of: Policy) -> pb.Policy:
    terms = of.terms
    return pb.Policy(
        policy_id=of.policy_id,
        display_name=terms.display_name,
        description=terms.description,
        enabled=terms.enabled,
        filter=pb.PolicyFilter.ValueType(terms.filter),
        action=pb.PolicyAction.ValueType(terms.action),
        check_session=_check_session(terms.check_session),
        create_time=to_timestamp(of.create_time),
        update_time=to_timestamp(of.update_time),
    )


def _check_session(of: CheckSession | None) -> pb.CheckSession | None:
    if of is None:
        return None
    return pb.CheckSession(enforce=of.enforce, duration=format_duration(of.duration) if of.duration else "")


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


def fill(answer: pb.CheckAnswer, verdict: Verdict) -> None:
    """Writes the verdict without its ids. Fields are set in place: building sub-messages first takes twice as long."""
    answer.decision = verdict.decision  # type: ignore[assignment]  # the enums' values are the contract's
    answer.reason = verdict.reason  # type: ignore[assignment]
    if verdict.authenticate_time:
        set_time(answer.authenticate_time, verdict.authenticate_time)
    set_time(answer.session_expire_time, verdict.session_expire_time)
    set_time(answer.valid_for, verdict.valid_for)


def set_time(field: Timestamp | Duration, microseconds: int | None) -> None:
    """Sets a message's field in place; None leaves it absent."""
    if microseconds is not None:
        field.seconds, rest = divmod(microseconds, SECOND)
        field.nanos = rest * 1000

"""Requests as domain values: syntax, and which field is at fault."""

import re
from collections.abc import Callable, Sequence

from guardhouse.decisions import PolicyAction, PolicyFilter, Profile
from guardhouse.durations import parse_duration, parse_session_timeout
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.expressions import ListInvalid, NamedList
from guardhouse.ids import POLICY, REGISTRATION, check_id
from guardhouse.policies import GatewayPolicy, ListType, ScheduleInvalid
from guardhouse.replica.policies import decided_policy, gateway_policy, read_schedule
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import checks
from guardhouse_services.session import messages, traffic
from guardhouse_services.session.domain.lists import MAX_VALUE, MAX_VALUES
from guardhouse_services.session.domain.policies import (
    MAX_PRECEDENCE,
    CheckSession,
    Policy,
    Staleness,
    StalenessMode,
    Terms,
)
from guardhouse_services.session.domain.trials import NEW, Proposal, Somebody, Trial

MAX_PROPOSED = 500
MAX_GROUPS = 1000
MAX_CLAIMS = 100
MAX_CHECKS = 100
LIST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}")


def terms(policy: pb.Policy, field: str) -> Terms:
    """Raises InvalidField."""
    terms = Terms(
        display_name=checks.text(policy.display_name, f"{field}.display_name", 100),
        description=checks.text(policy.description, f"{field}.description", 500, required=False),
        enabled=policy.enabled,
        filter=PolicyFilter(checks.choice(policy.filter, list(PolicyFilter), f"{field}.filter")),
        action=PolicyAction(checks.choice(policy.action, list(PolicyAction), f"{field}.action")),
        check_session=_check_session(policy, f"{field}.check_session"),
        staleness=_staleness(policy, f"{field}.staleness"),
        precedence=_precedence(policy, f"{field}.precedence"),
        traffic=policy.traffic,
        identity=policy.identity,
        device_posture=policy.device_posture,
        schedule=_schedule(policy, f"{field}.schedule"),
        expire_time=(
            checks.timestamp(policy.expire_time, f"{field}.expire_time") if policy.HasField("expire_time") else None
        ),
    )
    terms.expressions(field)
    return terms


def _check_session(policy: pb.Policy, field: str) -> CheckSession | None:
    if not policy.HasField("check_session"):
        return None
    check = policy.check_session
    if not check.enforce and not check.duration:
        return CheckSession(enforce=False, duration=None)
    return CheckSession(check.enforce, parse_session_timeout(check.duration, f"{field}.duration"))


def _staleness(policy: pb.Policy, field: str) -> Staleness | None:
    if not policy.HasField("staleness"):
        return None
    sent, max_open = policy.staleness, f"{field}.max_open"
    mode = StalenessMode(checks.choice(sent.mode, list(StalenessMode), f"{field}.mode"))
    if mode is StalenessMode.OPEN_BOUNDED:
        if not sent.max_open:
            raise FieldRequired(max_open, f"{max_open} is required: OPEN_BOUNDED is open for at most that long")
        return Staleness(mode, parse_duration(sent.max_open, max_open))
    if sent.max_open:
        raise InvalidField(max_open, f"{max_open} is for OPEN_BOUNDED only")
    return Staleness(mode, None)


def _precedence(policy: pb.Policy, field: str) -> int | None:
    if not policy.HasField("precedence"):
        return None
    if not 1 <= policy.precedence <= MAX_PRECEDENCE:
        raise InvalidField(field, f"{field} is 1 to {MAX_PRECEDENCE}; leave it out to put the policy behind all others")
    return policy.precedence


def _schedule(policy: pb.Policy, field: str) -> tuple[str, ...] | None:
    if not policy.HasField("schedule"):
        return None
    if not policy.schedule.time_zone:
        raise FieldRequired(f"{field}.time_zone", f"{field}.time_zone is required, such as Europe/Berlin")
    try:
        return read_schedule(policy.schedule).texts()
    except ScheduleInvalid as invalid:
        raise InvalidField(f"{field}.{invalid.field}", f"{field}.{invalid}") from None


def policy_ids(policy_ids: Sequence[str], field: str) -> list[str]:
    """Each once."""
    found: dict[str, None] = {}
    for place, policy_id in enumerate(policy_ids):
        check_id(policy_id, POLICY, f"{field}[{place}]")
        if policy_id in found:
            raise InvalidField(f"{field}[{place}]", f"{policy_id} is named twice")
        found[policy_id] = None
    return list(found)


def list_name(name: str) -> str:
    if not name:
        raise FieldRequired("list.name")
    if not LIST_NAME.fullmatch(name):
        raise InvalidField(
            "list.name", "list.name is 1 to 50 letters, digits, - and _, and begins with a letter or a digit"
        )
    return name


def list_values(values: Sequence[str], type_: ListType) -> tuple[str, ...]:
    """In order, each once. Raises InvalidField for what the type does not have."""
    checks.count(values, "list.values", MAX_VALUES, least=0)
    for place, value in enumerate(values):
        checks.text(value, f"list.values[{place}]", MAX_VALUE)
    try:
        NamedList.of(type_.type, values)
    except ListInvalid as invalid:
        field = f"list.values[{invalid.place}]"
        raise InvalidField(field, f"{field}: {invalid}") from None
    return tuple(dict.fromkeys(values))


def proposal(request: pb.TestPoliciesRequest, check: Callable[[Terms, str], None], max_open: int) -> Proposal:
    """Its policies are checked as those that are saved. Raises InvalidField."""
    checks.count(request.proposed_policies, "proposed_policies", MAX_PROPOSED, least=0)
    checks.count(request.deleted_policy_ids, "deleted_policy_ids", MAX_PROPOSED, least=0)
    policies: dict[str, GatewayPolicy] = {}
    names: dict[str, str] = {}
    for place, sent in enumerate(request.proposed_policies):
        field = f"proposed_policies[{place}]"
        policy_id = sent.policy_id and check_id(sent.policy_id, POLICY, f"{field}.policy_id")
        if policy_id in policies:
            raise InvalidField(f"{field}.policy_id", f"{policy_id} is proposed twice")
        proposed = terms(sent, field)
        check(proposed, field)
        policy_id = policy_id or f"{NEW}{place}"
        # As it would come by the feed.
        draft = messages.policy(Policy(policy_id, proposed, 0, 0))
        policies[policy_id] = gateway_policy(draft, decided_policy(draft, max_open))
        names[policy_id] = proposed.display_name
    deleted = policy_ids(request.deleted_policy_ids, "deleted_policy_ids")
    return Proposal(policies, frozenset(deleted), names)


def trial(test: pb.TrafficTest, field: str) -> Trial:
    match test.WhichOneof("subject"):
        case "registration_id":
            subject: str | Somebody = check_id(test.registration_id, REGISTRATION, f"{field}.registration_id")
        case "test_subject":
            subject = _somebody(test.test_subject, f"{field}.test_subject")
        case _:
            raise FieldRequired(f"{field}.registration_id", f"{field} needs a registration_id or a test_subject")
    filters = traffic.FILTERS[checks.choice(test.kind, list(traffic.FILTERS), f"{field}.kind")]
    return Trial(subject, filters, traffic.read(test.traffic, f"{field}."))


def _somebody(sent: pb.TestSubject, field: str) -> Somebody:
    def texts(name: str, limit: int) -> tuple[str, ...]:
        values = getattr(sent, name)
        checks.count(values, f"{field}.{name}", limit, least=0)
        return tuple(checks.text(value, f"{field}.{name}[{place}]", 500) for place, value in enumerate(values))

    profile = Profile(
        checks.text(sent.email, f"{field}.email", 320, required=False),
        checks.text(sent.display_name, f"{field}.display_name", 500, required=False),
        texts("groups", MAX_GROUPS),
        texts("oidc_claims", MAX_CLAIMS),
    )

    def age(name: str) -> int | None:
        text = getattr(sent, name)
        found = parse_duration(text, f"{field}.{name}") if text else None
        if found is not None and found < 0:
            raise DurationInvalid(f"{field}.{name}", f"{field}.{name} is not negative")
        return found

    passed, failed = texts("passed_checks", MAX_CHECKS), texts("failed_checks", MAX_CHECKS)
    return Somebody(profile, passed, failed, age("session_age") or 0, age("posture_age"))

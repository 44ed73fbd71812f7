"""Why a check is answered as it is, and what would change that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import typer
from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import PolicyId, RegistrationId
from guardhouse.cli.traffic import Fields, Kind, Subject, traffic_of
from guardhouse.cli.trials import print_steps
from guardhouse.durations import format_duration
from guardhouse.errors import NotFound, StateStale
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)

R = TypeVar("R", bound=Message)

WHY: Final = {
    pb.DECISION_REASON_POLICY_ALLOW: ("the policy allows", ""),
    pb.DECISION_REASON_SESSION_FRESH: (
        "the policy allows, and the session is younger than it asks for",
        "it ends by itself; at once with: guardhouse users revoke {user}",
    ),
    pb.DECISION_REASON_NO_SESSION_LIMIT: (
        "the policy allows, and asks for no session",
        "limit it: guardhouse policies update {policy} --timeout 8h",
    ),
    pb.DECISION_REASON_NO_POLICY_MATCHED: ("no policy covers the traffic: the organization's default decides", ""),
    pb.DECISION_REASON_POLICY_BLOCK: (
        "the policy blocks",
        "guardhouse policies update {policy} --action allow",
    ),
    pb.DECISION_REASON_SESSION_EXPIRED: (
        "the session is older than the policy allows",
        "its holder signs in again: guardhouse sessions reauthenticate {registration}",
    ),
    pb.DECISION_REASON_SESSION_REVOKED: (
        "the user was revoked after the newest authentication",
        "the user signs in again: guardhouse sessions reauthenticate {registration}",
    ),
    pb.DECISION_REASON_REGISTRATION_REVOKED: (
        "the registration is revoked",
        "guardhouse registrations unrevoke {registration}",
    ),
    pb.DECISION_REASON_REGISTRATION_UNKNOWN: (
        "there is no such registration, or its user is not known yet",
        "the machine enrolls: guardhouse enroll; those that exist: guardhouse registrations list --state all",
    ),
    pb.DECISION_REASON_USER_REMOVED: (
        "the user was removed, and every registration made before ended with that",
        "the user enrolls again, which takes a seat: guardhouse enroll",
    ),
    pb.DECISION_REASON_STATE_STALE: (
        "the replica cannot prove that what it knows is fresh, and the policy is closed to that",
        "see guardhouse status; to bridge it: guardhouse policies update {policy} --staleness open:1h",
    ),
    pb.DECISION_REASON_POLICY_UNKNOWN: ("there is no such policy", "those that exist: guardhouse policies list"),
    pb.DECISION_REASON_POLICY_DISABLED: (
        "the policy is disabled, so whoever still enforces it is out of date",
        "guardhouse policies update {policy} --enable",
    ),
    pb.DECISION_REASON_SIGN_IN_HOST: ("people sign in at this host, so it is reachable whatever the policies say", ""),
    pb.DECISION_REASON_APPLICATION_UNKNOWN: (
        "there is no such application",
        "those that exist: guardhouse applications list",
    ),
    pb.DECISION_REASON_POLICY_BYPASS: ("a policy of the application asks nobody to sign in", ""),
    pb.DECISION_REASON_NO_SESSION: ("nobody is signed in", "guardhouse applications log-in"),
    pb.DECISION_REASON_SESSION_NOT_BOUND: (
        "the application binds sessions to a browser, and this is not the one that signed in",
        "they sign in here: guardhouse applications log-in",
    ),
    pb.DECISION_REASON_LOGIN_METHOD: (
        "the application does not take the identity provider that was signed in with",
        "they sign in with another; those that it takes: guardhouse applications show",
    ),
}
"""By reason: why, and what would change it."""


Check = pb.CheckSessionResponse | pb.CheckTrafficResponse


@dataclass(frozen=True, slots=True)
class Facts:
    """What the services say of whoever a check is about; None is what there is not."""

    registration: registry.Registration | None
    user: identity.User | None
    session: pb.Session | None


@app.command("check")
def explain_check(ctx: Context, registration_id: RegistrationId, policy_id: PolicyId) -> None:
    """Say why a check is answered as it is: policy, registration, user, session and freshness, one after the other."""
    it = ctx.obj
    with output.waiting("Asking ..."):
        of_check = {"organization_id": it.organization_id, "policy_id": policy_id}
        check = it.client.checks.CheckSession(pb.CheckSessionRequest(**of_check, registration_id=registration_id))
        found = _found(it.client.policies.GetPolicy, pb.GetPolicyRequest(**of_check))
        facts = _facts(it, registration_id)
    policy = found.policy if found else None
    because, change = _why(check, facts, registration_id, policy_id)
    if it.as_json:
        _print_json(check, because, change, {"policy": _shown(policy)}, facts)
        return
    output.print_pairs(
        [
            ("policy", _policy(policy, policy_id)),
            *_holder(facts, check, f"{registration_id} does not exist"),
            *_decision(check, because, change),
        ]
    )


@app.command("traffic")
def explain_traffic(
    ctx: Context,
    subject: Subject,
    kind: Kind,
    fields: Fields = None,
) -> None:
    """Say why traffic is decided as it is: registration, user, session, freshness, and the policies that cover it."""
    it = ctx.obj
    asked: dict[str, Any] = {"kind": output.value(pb.TrafficKind, kind), "traffic": traffic_of(fields)}
    request = pb.CheckTrafficRequest(organization_id=it.organization_id, **asked)
    setattr(request, "registration_id" if subject.startswith("reg_") else "address", subject)
    with output.waiting("Asking ..."):
        check = it.client.checks.CheckTraffic(request)
        registration_id = request.registration_id or check.answer.registration_id
        facts = _facts(it, registration_id) if registration_id else Facts(None, None, None)
        steps = _steps(it, pb.TrafficTest(registration_id=registration_id, **asked)) if facts.registration else []
    because, change = _why(check, facts, registration_id, check.answer.policy_id)
    if it.as_json:
        _print_json(check, because, change, {"steps": [_shown(step) for step in steps]}, facts)
        return
    nobody = f"{subject} does not exist" if registration_id else f"nobody holds {subject}"
    asks_again = [("asks again", again)] if (again := _asks_again(check.answer)) else []
    output.print_pairs([*_holder(facts, check, nobody), *_decision(check, because, change), *asks_again])
    if steps:
        print_steps(steps)


def _steps(it: Invocation, test: pb.TrafficTest) -> Sequence[pb.PolicyStep]:
    """The policies that cover the traffic, in the order of evaluation; none where that cannot be told."""
    request = pb.TestPoliciesRequest(organization_id=it.organization_id, tests=[test])
    try:
        (result,) = it.client.policies.TestPolicies(request).results
    except (NotFound, StateStale):
        return []
    return [step for step in result.steps if step.matched]


def _why(check: Check, facts: Facts, registration_id: str, policy_id: str) -> tuple[str, str]:
    because, change = WHY.get(check.answer.reason, ("this command does not know the reason: upgrade it", ""))
    holder = facts.registration.user_id if facts.registration else ""
    return because, change.format(
        registration=registration_id or "REGISTRATION", policy=policy_id or "POLICY", user=holder or "USER"
    )


def _print_json(check: Check, because: str, change: str, about: Mapping[str, Any], facts: Facts) -> None:
    holder = {"registration": facts.registration, "user": facts.user, "session": facts.session}
    shown = {**about, **{name: _shown(found) for name, found in holder.items()}}
    output.print_json({**output.as_dict(check), "because": because, "what_would_change_it": change, **shown})


def _shown(found: Message | None) -> dict[str, Any] | None:
    return None if found is None else output.as_dict(found)


def _holder(facts: Facts, check: Check, nobody: str) -> list[tuple[str, str]]:
    return [
        ("registration", _registration(facts.registration) if facts.registration else nobody),
        ("user", _user(facts)),
        ("session", _session(facts.session, check)),
        ("freshness", _freshness(check)),
    ]


def _decision(check: Check, because: str, change: str) -> list[tuple[str, str]]:
    answer = check.answer
    made = ("decision", f"{output.cell(answer, 'decision')} ({output.cell(answer, 'reason')})")
    return [made, ("because", because), *([("to change it", change)] if change else [])]


def _asks_again(answer: pb.CheckAnswer) -> str:
    """When whoever is allowed, or could be, signs in again."""
    if answer.decision == pb.DECISION_REAUTHENTICATE:
        return "now"
    if answer.decision != pb.DECISION_ALLOW:
        return ""
    return output.cell(answer, "session_expire_time") if answer.HasField("session_expire_time") else "never"


def _facts(it: Invocation, registration_id: str) -> Facts:
    client, organization_id = it.client, it.organization_id
    of_registration = {"organization_id": organization_id, "registration_id": registration_id}
    read = registry.GetRegistrationRequest(**of_registration)
    registration = _found(client.registrations.GetRegistration, read)
    session = _found(client.sessions.GetSession, pb.GetSessionRequest(**of_registration)) if registration else None
    user_id = registration.registration.user_id if registration else ""
    read_user = identity.GetUserRequest(organization_id=organization_id, user_id=user_id)
    user = _found(client.users.GetUser, read_user) if user_id else None
    return Facts(
        registration.registration if registration else None,
        user.user if user else None,
        session.session if session else None,
    )


def _found(method: Callable[[Any], R], request: Message) -> R | None:
    try:
        return method(request)
    except NotFound:
        return None


def _policy(policy: pb.Policy | None, policy_id: str) -> str:
    if policy is None:
        return f"{policy_id} does not exist"
    enabled = "" if policy.enabled else ", disabled"
    limit = policy.check_session.duration if policy.check_session.enforce else ""
    sessions = f", sessions of at most {limit}" if limit else ", sessions unlimited"
    words = f"{output.cell(policy, 'action')}s {output.cell(policy, 'filter')}{enabled}{sessions}"
    return f"{policy.display_name!r} {words}"


def _registration(registration: registry.Registration) -> str:
    since = f" since {output.cell(registration, 'revoke_time')}" if registration.HasField("revoke_time") else ""
    return f"{output.cell(registration, 'state')}{since}, on {registration.device_id}"


def _user(facts: Facts) -> str:
    if facts.user is not None:
        seat = "holds a seat" if facts.user.seat_status == identity.SEAT_STATUS_ACTIVE else "was removed, holds no seat"
        return f"{facts.user.email or facts.user.user_id}, {seat}"
    if facts.registration is not None and facts.registration.service_token_id:
        return f"none: it is of the service token {facts.registration.service_token_id}"
    return "not known"


def _session(session: pb.Session | None, check: Check) -> str:
    answer = check.answer
    if session is None or not session.HasField("authenticate_time"):
        return "not known"
    began = f"authenticated at {output.cell(session, 'authenticate_time')}"
    if check.HasField("fresh_as_of"):
        age = check.fresh_as_of.ToMicroseconds() - session.authenticate_time.ToMicroseconds()
        began += f", {format_duration(max(age, 0) // 1_000_000 * 1_000_000)} before the check"
    if session.revoked:
        return f"{began}; its user was revoked or removed since"
    if not answer.HasField("session_expire_time"):
        return f"{began}; the policy asks for no age"
    expired = answer.reason == pb.DECISION_REASON_SESSION_EXPIRED
    return f"{began}; {'expired' if expired else 'expires'} at {output.cell(answer, 'session_expire_time')}"


def _freshness(check: Check) -> str:
    if not check.HasField("fresh_as_of"):
        return "never proven since the replica started"
    kept = output.cell(check.answer, "valid_for")
    degraded = ", too old: degraded, by the policy's staleness" if check.degraded else ""
    return f"as of {output.cell(check, 'fresh_as_of')}{degraded}; the answer may be kept for {kept}"

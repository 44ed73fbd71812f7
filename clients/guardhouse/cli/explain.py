"""Why a check is answered as it is, and what would change that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import typer
from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.cli.invocation import Context, Invocation
from guardhouse.cli.options import PolicyId, RegistrationId
from guardhouse.durations import format_duration
from guardhouse.errors import NotFound
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
}
"""By reason: why, and what would change it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the services say of all that a check depends on; None is what there is not."""

    check: pb.CheckSessionResponse
    policy: pb.Policy | None
    registration: registry.Registration | None
    user: identity.User | None
    session: pb.Session | None


@app.command("check")
def explain_check(ctx: Context, registration_id: RegistrationId, policy_id: PolicyId) -> None:
    """Say why a check is answered as it is: policy, registration, user, session and freshness, one after the other."""
    it = ctx.obj
    with output.waiting("Asking ..."):
        facts = _facts(it, registration_id, policy_id)
    answer = facts.check.answer
    because, change = WHY.get(answer.reason, ("this command does not know the reason: upgrade it", ""))
    holder = facts.registration.user_id if facts.registration else ""
    change = change.format(registration=registration_id, policy=policy_id, user=holder or "USER")
    if it.as_json:
        named = {
            "policy": facts.policy,
            "registration": facts.registration,
            "user": facts.user,
            "session": facts.session,
        }
        shown = {name: output.as_dict(found) if found is not None else None for name, found in named.items()}
        output.print_json({**output.as_dict(facts.check), "because": because, "what_would_change_it": change, **shown})
        return
    path = [
        ("policy", _policy(facts.policy, policy_id)),
        ("registration", _registration(facts.registration, registration_id)),
        ("user", _user(facts)),
        ("session", _session(facts)),
        ("freshness", _freshness(facts.check)),
        ("decision", f"{output.cell(answer, 'decision')} ({output.cell(answer, 'reason')})"),
        ("because", because),
    ]
    if change:
        path.append(("to change it", change))
    output.print_pairs(path)


def _facts(it: Invocation, registration_id: str, policy_id: str) -> Facts:
    client, organization_id = it.client, it.organization_id
    ids = {"organization_id": organization_id, "registration_id": registration_id}
    check = client.checks.CheckSession(pb.CheckSessionRequest(**ids, policy_id=policy_id))
    policy = _found(
        client.policies.GetPolicy, pb.GetPolicyRequest(organization_id=organization_id, policy_id=policy_id)
    )
    registration = _found(client.registrations.GetRegistration, registry.GetRegistrationRequest(**ids))
    session = _found(client.sessions.GetSession, pb.GetSessionRequest(**ids)) if registration else None
    user_id = registration.registration.user_id if registration else ""
    read = identity.GetUserRequest(organization_id=organization_id, user_id=user_id)
    user = _found(client.users.GetUser, read) if user_id else None
    return Facts(
        check,
        policy.policy if policy else None,
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


def _registration(registration: registry.Registration | None, registration_id: str) -> str:
    if registration is None:
        return f"{registration_id} does not exist"
    since = f" since {output.cell(registration, 'revoke_time')}" if registration.HasField("revoke_time") else ""
    return f"{output.cell(registration, 'state')}{since}, on {registration.device_id}"


def _user(facts: Facts) -> str:
    if facts.user is not None:
        seat = "holds a seat" if facts.user.seat_status == identity.SEAT_STATUS_ACTIVE else "was removed, holds no seat"
        return f"{facts.user.email or facts.user.user_id}, {seat}"
    if facts.registration is not None and facts.registration.service_token_id:
        return f"none: it is of the service token {facts.registration.service_token_id}"
    return "not known"


def _session(facts: Facts) -> str:
    session, answer = facts.session, facts.check.answer
    if session is None or not session.HasField("authenticate_time"):
        return "not known"
    began = f"authenticated at {output.cell(session, 'authenticate_time')}"
    if facts.check.HasField("fresh_as_of"):
        age = facts.check.fresh_as_of.ToMicroseconds() - session.authenticate_time.ToMicroseconds()
        began += f", {format_duration(max(age, 0) // 1_000_000 * 1_000_000)} before the check"
    if session.revoked:
        return f"{began}; its user was revoked or removed since"
    if not answer.HasField("session_expire_time"):
        return f"{began}; the policy asks for no age"
    expired = answer.reason == pb.DECISION_REASON_SESSION_EXPIRED
    return f"{began}; {'expired' if expired else 'expires'} at {output.cell(answer, 'session_expire_time')}"


def _freshness(check: pb.CheckSessionResponse) -> str:
    if not check.HasField("fresh_as_of"):
        return "never proven since the replica started"
    kept = output.cell(check.answer, "valid_for")
    degraded = ", too old: degraded, by the policy's staleness" if check.degraded else ""
    return f"as of {output.cell(check, 'fresh_as_of')}{degraded}; the answer may be kept for {kept}"

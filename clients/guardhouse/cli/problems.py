"""Failures as one line on stderr: what is wrong, its reason, and what to do next."""

from typing import Final

from guardhouse.errors import GuardhouseError
from guardhouse.profile import ProfileInvalid

KNOWN: Final = (GuardhouseError, ProfileInvalid, OSError)
"""What people can do something about; anything else is a fault of ours and shows its traceback."""

_AGAIN: Final = "run the command again; if it persists, `guardhouse status` shows who answers"
_ENROLL_AGAIN: Final = "run the command again: it asks for a fresh challenge"

NEXT: Final = {
    "ACCESS_DENIED": "use a key with another role, or of the installation: guardhouse keys list",
    "ADDRESS_HELD": "delete what holds it first: guardhouse registrations delete ID",
    "ADDRESS_NOT_FOUND": "see guardhouse addresses list; --at asks who held it before",
    "API_KEY_NOT_FOUND": "see guardhouse keys list, or with --installation those of the installation",
    "APPLICATION_NOT_FOUND": "see guardhouse applications list",
    "CHALLENGE_INVALID": "enrolling again asks for a fresh challenge; to sign in again get one with"
    " guardhouse sessions start-reauthentication",
    "CONFLICT": "somebody else changed it at the same time; run the command again",
    "CREDENTIALS_INVALID": "set GUARDHOUSE_API_KEY or the profile's key_file to a key that is not revoked or expired;"
    " an admin makes one: guardhouse keys create",
    "CREDENTIALS_MISSING": "set GUARDHOUSE_API_KEY, or key_file in the profile",
    "DATABASE_UNAVAILABLE": _AGAIN,
    "DEADLINE_TOO_SHORT": "look whether it came true before you run the command again",
    "DEVICE_HELD_BY_ANOTHER_REGISTRATION": "delete that registration first: guardhouse registrations delete ID",
    "DEVICE_HELD_BY_ANOTHER_USER": "an admin can revoke or delete theirs: guardhouse registrations list --device ID",
    "DEVICE_NOT_FOUND": "see guardhouse devices list --active-registrations include",
    "DEVICE_NOT_SHARED": "enroll with --multi-user first: guardhouse enroll",
    "DEVICE_PROFILE_IS_DEFAULT": "change it instead: guardhouse profiles update",
    "DEVICE_PROFILE_NOT_FOUND": "see guardhouse profiles list",
    "DEVICE_SESSION_DURATION_REQUIRED": "set one first: guardhouse device-sessions update --session-duration 24h; or"
    " let the applications not take it",
    "DIFFERENT_USER": "sign in as the person that enrolled, at the same identity provider",
    "ENROLLMENT_ABORTED": "run the command again: it starts a new enrollment",
    "ENROLLMENT_POLICY_NOT_FOUND": "see guardhouse enrollment-policies list",
    "ENROLLMENT_REFUSED": "an admin can see why: guardhouse enrollment-policies test",
    "EPOCH_CHANGED": "the database was restored; run the command again",
    "ETAG_MISMATCH": "show it again, decide anew, and send the etag that you then read",
    "FOLLOWER_TOO_SLOW": _AGAIN,
    "HELD_ACTION_DECIDED": "see guardhouse held-actions list",
    "HELD_ACTION_NOT_FOUND": "see guardhouse held-actions list",
    "IDENTITY_PROVIDER_EXISTS": "see guardhouse identity-providers list",
    "IDENTITY_PROVIDER_NOT_FOUND": "see guardhouse identity-providers list",
    "IDENTITY_PROVIDER_UNAVAILABLE": "check that the services can reach the provider's issuer, then try again",
    "ID_TOKEN_INVALID": "sign in again: a token is accepted once, for five minutes, from the organization's providers",
    "INTERNAL": "the services' log says more under the request id {request_id}",
    "KEY_ALREADY_REGISTERED": "make a fresh key: every registration has its own",
    "KEY_NOT_CURRENT": "the key was replaced meanwhile; if it was not by you, an admin should revoke the registration",
    "IP_PROFILE_NOT_FOUND": "see guardhouse ip-profiles list",
    "LEAVE_NOT_ALLOWED": "with a key of an admin: guardhouse registrations delete ID",
    "LIMIT_REACHED": "delete what is no longer used first",
    "LIST_EXISTS": "choose another name, or change that one: guardhouse lists list",
    "LIST_IN_USE": "take it out of the policies first: guardhouse policies update",
    "LIST_NOT_FOUND": "see guardhouse lists list",
    "MULTI_USER_NOT_ALLOWED": "an admin can allow it: guardhouse organizations update --multi-user-platform",
    "ORGANIZATION_NOT_FOUND": "see guardhouse organizations list",
    "OVERRIDE_CODE_INVALID": "an admin reads one out: guardhouse registrations override-codes ID",
    "PAGE_TOKEN_INVALID": "run the command again: the list starts anew",
    "PIN_EXISTS": "see guardhouse addresses pins; guardhouse addresses unpin takes one away",
    "PIN_NOT_FOUND": "see guardhouse addresses pins",
    "POLICY_NOT_FOUND": "see guardhouse policies list",
    "PRECEDENCE_TAKEN": "choose another --precedence; see guardhouse policies list, or enrollment-policies list",
    "PROOF_INVALID": _ENROLL_AGAIN,
    "RATE_LIMITED": "wait a moment, then run the command again",
    "REGISTRATION_NOT_FOUND": "see guardhouse registrations list --state all",
    "REGISTRATION_REVOKED": "an admin can restore it: guardhouse registrations unrevoke ID",
    "REMOVAL_NOT_FOUND": "guardhouse users remove says the removal's id",
    "REVISION_TOKEN_INVALID": "run the command again: it starts without tokens",
    "SEATS_EXHAUSTED": "remove a user (guardhouse users remove) or buy more (guardhouse organizations update)",
    "SEAT_LIMIT_BELOW_USE": "remove users first: guardhouse users list --seat active",
    "RULE_GROUP_IN_USE": "take it out of the policies that name it: guardhouse enrollment-policies list",
    "RULE_GROUP_NOT_FOUND": "see guardhouse rule-groups list",
    "SERVICE_TOKEN_IN_USE": "delete the policies that name it first: guardhouse enrollment-policies list",
    "SERVICE_TOKEN_INVALID": "check the client id and secret; see guardhouse service-tokens list",
    "SERVICE_TOKEN_NOT_FOUND": "see guardhouse service-tokens list",
    "SERVICE_UNAVAILABLE": "is it running? `make run` starts all four, `guardhouse status` shows who answers",
    "STATE_STALE": "try again in a moment; `guardhouse status` shows who answers",
    "SUBNET_EXHAUSTED": "see guardhouse subnets list; delete registrations, or let an IP profile name a larger subnet",
    "SUBNET_IN_USE": "see guardhouse subnets show, ip-profiles list and addresses pins; take what uses it away first",
    "SUBNET_NOT_FOUND": "see guardhouse subnets list",
    "SUBNET_OVERLAPS": "choose a network that overlaps none of guardhouse subnets list",
    "UNIMPLEMENTED": "the server is older than this command: upgrade it",
    "USER_BLOCKED": "an admin off-boarded this user, and can lift that: guardhouse users reinstate",
    "USER_NOT_FOUND": "see guardhouse users list",
    "USER_NOT_OFFBOARDED": "off-board the user first, and wait until it is done: guardhouse users offboard",
    "USER_REMOVED": "an admin removed this user; enrolling again takes a seat again",
}
"""By reason. UNIMPLEMENTED is gRPC's own."""

SAID_ALL: Final = frozenset(
    {
        "DURATION_INVALID",
        "FIELD_INVALID",
        "FIELD_REQUIRED",
        "KEY_INVALID",
        "MESSAGE_INVALID",
        "REQUEST_ID_REUSED",
    }
)
"""The reasons whose message already says what to send instead, or which a command cannot bring about."""


def report(error: Exception) -> None:
    from guardhouse.cli import output

    output.error(describe(error))


def describe(error: Exception) -> str:
    """The line, without its `error:`."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if not isinstance(error, GuardhouseError):
        return str(error)
    parts = [f"{error.message} [{error.reason}]"]
    if next_step := _next_step(error):
        parts.append(next_step)
    return "; ".join(parts)


def _next_step(error: GuardhouseError) -> str:
    if error.retry_after is not None:
        return f"try again in {error.retry_after:.1f} s"
    if error.reason == "SERVICE_UNAVAILABLE" and "CERTIFICATE_VERIFY_FAILED" in error.message:
        return "the server's certificate is not of the profile's ca: name the right ca.crt there"
    return NEXT.get(error.reason, "").format(request_id=error.request_id)

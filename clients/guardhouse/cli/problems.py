"""Failures as one line on stderr: what is wrong, its reason, and what to do next."""

from guardhouse.cli import output
from guardhouse.errors import GuardhouseError, NotFound
from guardhouse.profile import ProfileInvalid

KNOWN = (GuardhouseError, ProfileInvalid, OSError)
"""What people can do something about; anything else is a fault of ours and shows its traceback."""

NEXT = {
    "ACCESS_DENIED": "use a key with another role, or of the installation: guardhouse keys list",
    "CREDENTIALS_INVALID": "set GUARDHOUSE_API_KEY or the profile's key_file to a key that is not revoked or expired",
    "CREDENTIALS_MISSING": "set GUARDHOUSE_API_KEY, or key_file in the profile",
    "DEVICE_HELD_BY_ANOTHER_REGISTRATION": "delete that registration first: guardhouse registrations delete ID",
    "DEVICE_HELD_BY_ANOTHER_USER": "an admin can revoke or delete theirs: guardhouse registrations list --device ID",
    "DIFFERENT_USER": "sign in as the person that enrolled, at the same identity provider",
    "ENROLLMENT_REFUSED": "an admin can see why: guardhouse enrollment-policies test",
    "EPOCH_CHANGED": "the database was restored; run the command again",
    "IDENTITY_PROVIDER_UNAVAILABLE": "check that the services can reach the provider's issuer, then try again",
    "ID_TOKEN_INVALID": "sign in again: a token is accepted once, for five minutes, from the organization's providers",
    "ORGANIZATION_NOT_FOUND": "see guardhouse organizations list",
    "PRECEDENCE_TAKEN": "choose another --precedence; see guardhouse enrollment-policies list",
    "SEATS_EXHAUSTED": "remove a user (guardhouse users remove) or buy more (guardhouse organizations set-seat-limit)",
    "SEAT_LIMIT_BELOW_USE": "remove users first: guardhouse users list --seat active",
    "SERVICE_TOKEN_IN_USE": "delete the policies that name it first: guardhouse enrollment-policies list",
    "SERVICE_TOKEN_INVALID": "check the client id and secret; see guardhouse service-tokens list",
    "SERVICE_UNAVAILABLE": "is it running? `make run` starts all four, `guardhouse status` shows who answers",
    "STATE_STALE": "try again in a moment; `guardhouse status` shows who answers",
}


def report(error: Exception) -> None:
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
    if error.code == "INTERNAL" and error.request_id:
        parts.append(f"request id {error.request_id}")
    return "; ".join(parts)


def _next_step(error: GuardhouseError) -> str:
    if error.retry_after is not None:
        return f"try again in {error.retry_after:.1f} s"
    if error.reason == "SERVICE_UNAVAILABLE" and "CERTIFICATE_VERIFY_FAILED" in error.message:
        return "the server's certificate is not of the profile's ca"
    if isinstance(error, NotFound) and error.reason not in NEXT:
        return "the list command shows what there is"
    return NEXT.get(error.reason, "")

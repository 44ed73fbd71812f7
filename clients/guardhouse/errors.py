"""The error vocabulary: one class for each value of guardhouse.common.v1.ErrorReason.

Servers raise these anywhere and map them once; clients raise the same classes from what came over the wire. The module
knows no gRPC: `code` is the name of a gRPC status code, `reason` the name of the enum's value without its prefix.
"""

from collections.abc import Mapping
from typing import ClassVar


class GuardhouseError(Exception):
    """An RPC's failure, or what will become one.

    `message` is lower case and without a full stop, and says what to do next where that helps. `metadata` holds the
    keys that the reason's comment in errors.proto names, and `retry_after` seconds where waiting helps. In a client
    `request_id` is what the server's log has more under.
    """

    code: str = "INTERNAL"
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, retry_after: float | None = None, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata
        self.retry_after = retry_after
        self.request_id = ""

    @property
    def field(self) -> str:
        """The request's field that is at fault, or an empty string."""
        return self.metadata.get("field", "")


class Internal(GuardhouseError):
    """A fault of the server."""


class MessageInvalid(GuardhouseError):
    code, reason = "INVALID_ARGUMENT", "MESSAGE_INVALID"


class InvalidField(GuardhouseError):
    """A field holds a value that it cannot hold; its subclasses are the more exact reasons."""

    code, reason = "INVALID_ARGUMENT", "FIELD_INVALID"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, field=field)


class FieldRequired(InvalidField):
    reason = "FIELD_REQUIRED"

    def __init__(self, field: str, message: str = "") -> None:
        super().__init__(field, message or f"{field} is required")


class DurationInvalid(InvalidField):
    reason = "DURATION_INVALID"


class KeyInvalid(InvalidField):
    reason = "KEY_INVALID"


class ProofInvalid(InvalidField):
    reason = "PROOF_INVALID"


class OverrideCodeInvalid(InvalidField):
    reason = "OVERRIDE_CODE_INVALID"


class ChallengeInvalid(InvalidField):
    reason = "CHALLENGE_INVALID"


class PageTokenInvalid(InvalidField):
    reason = "PAGE_TOKEN_INVALID"


class RevisionTokenInvalid(InvalidField):
    reason = "REVISION_TOKEN_INVALID"


class RequestIdReused(InvalidField):
    reason = "REQUEST_ID_REUSED"


class Unauthenticated(GuardhouseError):
    """The caller is not who it must be; its subclasses say which credential failed."""

    code = "UNAUTHENTICATED"


class CredentialsMissing(Unauthenticated):
    reason = "CREDENTIALS_MISSING"


class CredentialsInvalid(Unauthenticated):
    reason = "CREDENTIALS_INVALID"


class IdTokenInvalid(Unauthenticated):
    """`detail` is for the log: a caller who guesses at tokens learns nothing from the message."""

    reason = "ID_TOKEN_INVALID"
    detail = ""

    def __init__(self, message: str = "the ID token is not acceptable", *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class ServiceTokenInvalid(Unauthenticated):
    reason = "SERVICE_TOKEN_INVALID"


class PermissionDenied(GuardhouseError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class AccessDenied(PermissionDenied):
    reason = "ACCESS_DENIED"


class EnrollmentRefused(PermissionDenied):
    reason = "ENROLLMENT_REFUSED"


class DifferentUser(PermissionDenied):
    reason = "DIFFERENT_USER"


class UserBlocked(PermissionDenied):
    reason = "USER_BLOCKED"


class NotFound(GuardhouseError):
    """There is no such object in the organization; objects of other organizations answer the same."""

    code = "NOT_FOUND"
    key: ClassVar[str] = "id"
    noun: ClassVar[str] = "object"

    def __init__(self, value: str, message: str = "") -> None:
        super().__init__(message or f"no {self.noun} {value!r}")
        self.metadata = {self.key: value}


class OrganizationNotFound(NotFound):
    reason, key, noun = "ORGANIZATION_NOT_FOUND", "organization_id", "organization"


class UserNotFound(NotFound):
    reason, key, noun = "USER_NOT_FOUND", "user_id", "user"


class RemovalNotFound(NotFound):
    reason, key, noun = "REMOVAL_NOT_FOUND", "removal_id", "removal"


class ApiKeyNotFound(NotFound):
    reason, key, noun = "API_KEY_NOT_FOUND", "api_key_id", "API key"


class IdentityProviderNotFound(NotFound):
    reason, key, noun = "IDENTITY_PROVIDER_NOT_FOUND", "identity_provider_id", "identity provider"


class ServiceTokenNotFound(NotFound):
    reason, key, noun = "SERVICE_TOKEN_NOT_FOUND", "service_token_id", "service token"


class EnrollmentPolicyNotFound(NotFound):
    reason, key, noun = "ENROLLMENT_POLICY_NOT_FOUND", "enrollment_policy_id", "enrollment policy"


class DeviceNotFound(NotFound):
    reason, key, noun = "DEVICE_NOT_FOUND", "device_id", "device"


class RegistrationNotFound(NotFound):
    reason, key, noun = "REGISTRATION_NOT_FOUND", "registration_id", "registration"


class DeviceProfileNotFound(NotFound):
    reason, key, noun = "DEVICE_PROFILE_NOT_FOUND", "device_profile_id", "device profile"


class AddressNotFound(NotFound):
    reason, key, noun = "ADDRESS_NOT_FOUND", "address", "holder of address"


class PinNotFound(NotFound):
    reason, key, noun = "PIN_NOT_FOUND", "pin_id", "pin"


class SubnetNotFound(NotFound):
    reason, key, noun = "SUBNET_NOT_FOUND", "subnet_id", "subnet"


class IpProfileNotFound(NotFound):
    reason, key, noun = "IP_PROFILE_NOT_FOUND", "ip_profile_id", "IP profile"


class PolicyNotFound(NotFound):
    reason, key, noun = "POLICY_NOT_FOUND", "policy_id", "policy"


class ListNotFound(NotFound):
    reason, key, noun = "LIST_NOT_FOUND", "list_id", "list"


class ApplicationNotFound(NotFound):
    reason, key, noun = "APPLICATION_NOT_FOUND", "application_id", "application"


class RuleGroupNotFound(NotFound):
    reason, key, noun = "RULE_GROUP_NOT_FOUND", "rule_group_id", "rule group"


class HeldActionNotFound(NotFound):
    reason, key, noun = "HELD_ACTION_NOT_FOUND", "held_action_id", "held action"


class AlreadyExists(GuardhouseError):
    """Something else holds the name, key or number."""

    code = "ALREADY_EXISTS"


class KeyAlreadyRegistered(AlreadyExists):
    reason = "KEY_ALREADY_REGISTERED"


class IdentityProviderExists(AlreadyExists):
    reason = "IDENTITY_PROVIDER_EXISTS"


class PinExists(AlreadyExists):
    reason = "PIN_EXISTS"


class PrecedenceTaken(AlreadyExists):
    reason = "PRECEDENCE_TAKEN"


class ListExists(AlreadyExists):
    reason = "LIST_EXISTS"


class SubnetOverlaps(AlreadyExists):
    reason = "SUBNET_OVERLAPS"


class FailedPrecondition(GuardhouseError):
    """The call is sound and the state forbids it."""

    code = "FAILED_PRECONDITION"


class SeatLimitBelowUse(FailedPrecondition):
    reason = "SEAT_LIMIT_BELOW_USE"


class ServiceTokenInUse(FailedPrecondition):
    reason = "SERVICE_TOKEN_IN_USE"


class AddressHeld(FailedPrecondition):
    reason = "ADDRESS_HELD"


class DeviceHeldByAnotherUser(FailedPrecondition):
    reason = "DEVICE_HELD_BY_ANOTHER_USER"


class DeviceHeldByAnotherRegistration(FailedPrecondition):
    reason = "DEVICE_HELD_BY_ANOTHER_REGISTRATION"


class MultiUserNotAllowed(FailedPrecondition):
    reason = "MULTI_USER_NOT_ALLOWED"


class DeviceNotShared(FailedPrecondition):
    reason = "DEVICE_NOT_SHARED"


class UserRemoved(FailedPrecondition):
    reason = "USER_REMOVED"


class UserNotOffboarded(FailedPrecondition):
    reason = "USER_NOT_OFFBOARDED"


class HeldActionDecided(FailedPrecondition):
    reason = "HELD_ACTION_DECIDED"


class DeviceProfileIsDefault(FailedPrecondition):
    reason = "DEVICE_PROFILE_IS_DEFAULT"


class LeaveNotAllowed(FailedPrecondition):
    reason = "LEAVE_NOT_ALLOWED"


class RegistrationRevoked(FailedPrecondition):
    reason = "REGISTRATION_REVOKED"


class EpochChanged(FailedPrecondition):
    reason = "EPOCH_CHANGED"


class KeyNotCurrent(FailedPrecondition):
    reason = "KEY_NOT_CURRENT"


class ListInUse(FailedPrecondition):
    reason = "LIST_IN_USE"


class SubnetInUse(FailedPrecondition):
    reason = "SUBNET_IN_USE"


class RuleGroupInUse(FailedPrecondition):
    reason = "RULE_GROUP_IN_USE"


class DeviceSessionDurationRequired(FailedPrecondition):
    reason = "DEVICE_SESSION_DURATION_REQUIRED"


class ResourceExhausted(GuardhouseError):
    """A bounded thing is used up."""

    code = "RESOURCE_EXHAUSTED"


class SeatsExhausted(ResourceExhausted):
    reason = "SEATS_EXHAUSTED"


class SubnetExhausted(ResourceExhausted):
    reason = "SUBNET_EXHAUSTED"


class RateLimited(ResourceExhausted):
    reason = "RATE_LIMITED"


class FollowerTooSlow(ResourceExhausted):
    reason = "FOLLOWER_TOO_SLOW"


class LimitReached(ResourceExhausted):
    reason = "LIMIT_REACHED"


class Aborted(GuardhouseError):
    """Something else came first; the whole operation may be tried again."""

    code = "ABORTED"


class EnrollmentAborted(Aborted):
    reason = "ENROLLMENT_ABORTED"


class Conflict(Aborted):
    reason = "CONFLICT"


class EtagMismatch(Aborted):
    """Trying again helps only after reading again."""

    reason = "ETAG_MISMATCH"


class Unavailable(GuardhouseError):
    """Nothing is wrong with the call; try again."""

    code = "UNAVAILABLE"


class StateStale(Unavailable):
    reason = "STATE_STALE"


class IdentityProviderUnavailable(Unavailable):
    reason = "IDENTITY_PROVIDER_UNAVAILABLE"


class ServiceUnavailable(Unavailable):
    reason = "SERVICE_UNAVAILABLE"


class DatabaseUnavailable(Unavailable):
    reason = "DATABASE_UNAVAILABLE"


class DeadlineTooShort(GuardhouseError):
    code, reason = "DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT"


def _by_reason() -> dict[str, type[GuardhouseError]]:
    found: dict[str, type[GuardhouseError]] = {"INTERNAL": Internal}
    open_classes = [GuardhouseError]
    while open_classes:
        for cls in open_classes.pop().__subclasses__():
            open_classes.append(cls)
            found.setdefault(cls.reason, cls)
    return found


BY_REASON: Mapping[str, type[GuardhouseError]] = _by_reason()
"""Every class by the reason it carries."""

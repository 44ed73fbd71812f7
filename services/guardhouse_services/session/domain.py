"""Gateway policies and the rules on them. The decision on a session is guardhouse.decisions."""

from dataclasses import dataclass
from enum import IntEnum

from guardhouse.decisions import PolicyAction, PolicyFilter, Registration, User
from guardhouse.durations import format_duration
from guardhouse.errors import DurationInvalid, InvalidField

CHECKED_FILTERS = (PolicyFilter.L4, PolicyFilter.HTTP)
MAX_OPEN = 24 * 3600 * 1_000_000


class StalenessMode(IntEnum):
    CLOSED = 1
    OPEN_BOUNDED = 2


@dataclass(frozen=True, slots=True)
class CheckSession:
    """How old a session may be, in microseconds. `duration` may be None only where it is not enforced."""

    enforce: bool
    duration: int | None


@dataclass(frozen=True, slots=True)
class Staleness:
    """What a policy decides by state that is too old, and up to which age, in microseconds; None unless it is open."""

    mode: StalenessMode
    max_open: int | None

    def check(self, max_staleness: int, quarantine: int) -> None:
        """Raises DurationInvalid for a policy that would never be open, or would be for too long.

        Who holds an address is one of the facts that are too old, so it must not have passed to somebody else
        meanwhile (decision 25).
        """
        if self.max_open is None:
            return
        field = "policy.staleness.max_open"
        if self.max_open <= max_staleness:
            raise DurationInvalid(
                field, f"{field} is longer than max_staleness, which is {format_duration(max_staleness)}"
            )
        if self.max_open > MAX_OPEN:
            raise DurationInvalid(field, f"{field} is at most {format_duration(MAX_OPEN)}")
        if self.max_open > quarantine:
            rest = format_duration(quarantine)
            raise DurationInvalid(field, f"{field} is at most {rest}, for which released addresses rest")


@dataclass(frozen=True, slots=True)
class Terms:
    """What people say of a policy; the rest is the server's."""

    display_name: str
    description: str
    enabled: bool
    filter: PolicyFilter
    action: PolicyAction
    check_session: CheckSession | None
    staleness: Staleness | None

    def check(self) -> None:
        """Raises InvalidField for a check_session that the policy cannot have (decision 28)."""
        if self.check_session is None:
            return
        if self.filter not in CHECKED_FILTERS:
            raise InvalidField("policy.check_session", "check_session is for L4 and HTTP policies only")
        if self.action != PolicyAction.ALLOW:
            raise InvalidField("policy.check_session", "check_session is for policies with action ALLOW only")


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is stored."""

    policy_id: str
    terms: Terms
    create_time: int
    update_time: int


def is_removed(registration: Registration, user: User | None) -> bool:
    """Whether the registration's user was removed at or after the enrollment's revision (decision 5)."""
    return user is not None and user.removed_revision != 0 and user.removed_revision >= registration.authorize_revision


def is_revoked(registration: Registration, user: User | None) -> bool:
    """Whether the session has ended before its time: the user was revoked at or after the newest authentication's
    revision (decision 35), or removed, which ends sessions as well (decision 5)."""
    if user is None:
        return False
    revoked = user.revoked_revision != 0 and user.revoked_revision >= registration.authenticate_revision
    return revoked or is_removed(registration, user)

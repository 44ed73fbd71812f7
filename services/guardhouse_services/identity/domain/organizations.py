"""Organizations and their seats."""

from dataclasses import dataclass
from enum import IntEnum

from guardhouse.durations import HOUR, parse_duration
from guardhouse.errors import DurationInvalid

WINDOWS = 1
"""As the contract numbers platforms."""


class DefaultAction(IntEnum):
    """What gateways do with traffic that no policy covers (decision 29)."""

    ALLOW = 1
    BLOCK = 2


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant. `seat_limit` is the seats purchased; None is unlimited."""

    organization_id: str
    display_name: str
    seat_limit: int | None
    create_time: int
    update_time: int
    default_action: DefaultAction = DefaultAction.ALLOW
    device_flow: bool = False
    """Whether people may sign in with a code that they enter on another device (threat T-03)."""
    seat_expiration: int | None = None
    """How long the seat of an inactive user is kept, in microseconds; None is for ever (decision 6)."""
    delete_revoked_after: int | None = None
    """How long a registration may stay revoked, in microseconds; None is for ever (decision 17)."""
    multi_user_platforms: tuple[int, ...] = (WINDOWS,)
    """On which platforms devices may be shared (decision 19), in ascending order."""


@dataclass(frozen=True, slots=True)
class OrganizationDeletion:
    """An organization that goes, and how much goes with it."""

    organization: Organization
    users: int
    seats: int
    registrations: int
    addresses: int


@dataclass(frozen=True, slots=True)
class SeatUsage:
    """An organization's seats. `used` counts those reserved for an enrollment under way as well."""

    purchased: int | None
    used: int

    @property
    def available(self) -> int | None:
        """None is unlimited."""
        return None if self.purchased is None else self.purchased - self.used


def parse_revoked(text: str, field: str) -> int | None:
    """Microseconds; None for an empty text: revoked registrations stay. Raises DurationInvalid."""
    if not text:
        return None
    duration = parse_duration(text, field)
    if duration < HOUR:
        raise DurationInvalid(field, "revoked registrations are deleted after 1h or more; empty is never")
    return duration

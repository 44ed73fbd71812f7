"""Organizations and their seats."""

from dataclasses import dataclass
from enum import IntEnum


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


@dataclass(frozen=True, slots=True)
class SeatUsage:
    """An organization's seats. `used` counts those reserved for an enrollment under way as well."""

    purchased: int | None
    used: int

    @property
    def available(self) -> int | None:
        """None is unlimited."""
        return None if self.purchased is None else self.purchased - self.used

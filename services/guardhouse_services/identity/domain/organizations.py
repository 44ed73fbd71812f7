"""Organizations and their seats."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant. `seat_limit` is the seats purchased; None is unlimited."""

    organization_id: str
    display_name: str
    seat_limit: int | None
    create_time: int
    update_time: int


@dataclass(frozen=True, slots=True)
class SeatUsage:
    """An organization's seats. `used` counts those reserved for an enrollment under way as well."""

    purchased: int | None
    used: int

    @property
    def available(self) -> int | None:
        """None is unlimited."""
        return None if self.purchased is None else self.purchased - self.used

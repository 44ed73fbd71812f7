"""Pins: addresses that are kept for somebody, or from everybody (decision 25)."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

LIMIT = 500
"""Pins of an organization: each reservation reads them all."""
SPAN = 4096
"""Addresses of an exclusion: taking one back writes them all at worst."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One address for somebody on a device; or without a holder an exclusion, addresses that nobody is given."""

    pin_id: str
    first_ipv4: int
    last_ipv4: int
    device_id: str | None
    holder_id: str | None
    """A user or a service token; its prefix says which."""
    description: str
    create_time: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The addresses of a pin, and how many of them are held, reserved or in quarantine."""

    first_ipv4: int
    last_ipv4: int
    used: int

    def idle(self, usable: range) -> int:
        """How many of those that somebody could have are in no other state."""
        kept = min(self.last_ipv4 + 1, usable.stop) - max(self.first_ipv4, usable.start)
        return max(kept - self.used, 0)


class Pins:
    """An organization's pins. No two of them overlap."""

    def __init__(self, pins: Iterable[Pin]) -> None:
        self._pins = sorted(pins, key=lambda pin: pin.first_ipv4)
        self._firsts = [pin.first_ipv4 for pin in self._pins]
        self._of = {(pin.device_id, pin.holder_id): pin for pin in self._pins if pin.holder_id}

    def __len__(self) -> int:
        return len(self._pins)

    def of(self, device_id: str, holder_id: str) -> Pin | None:
        """What is kept for the holder on the device."""
        return self._of.get((device_id, holder_id))

    def covering(self, ipv4: int) -> Pin | None:
        return self.overlapping(ipv4, ipv4)

    def overlapping(self, first: int, last: int) -> Pin | None:
        """One with an address from the first to the last of these."""
        place = bisect_right(self._firsts, last)
        found = self._pins[place - 1] if place else None
        return found if found is not None and found.last_ipv4 >= first else None

    def behind(self, ipv4: int) -> int:
        """The lowest address from this one on that no pin covers."""
        while (pin := self.covering(ipv4)) is not None:
            ipv4 = pin.last_ipv4 + 1
        return ipv4

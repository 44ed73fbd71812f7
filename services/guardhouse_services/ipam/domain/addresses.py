"""Addresses as people look at them."""

from dataclasses import dataclass
from enum import Enum, auto


class AddressState(Enum):
    """What somebody's address is; what is in none of these is free."""

    ACTIVE = auto()
    REVOKED = auto()
    RESERVED = auto()
    QUARANTINED = auto()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which addresses are wanted; what is not said is not asked."""

    state: AddressState | None = None
    """None: held, whether the registration is revoked or not."""
    subnet: int | None = None
    """Its number."""
    device_id: str = ""
    holder_id: str = ""

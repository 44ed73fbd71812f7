"""The map of a subnet: how full each block of its addresses is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardhouse_services.ipam.domain.pins import Pin
from guardhouse_services.ipam.domain.subnets import Subnet

LIMIT = 4096
"""Blocks of a map."""
DEFAULT = 256


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs of a block by what they are."""

    active: int = 0
    revoked: int = 0
    reserved: int = 0
    quarantined: int = 0
    pinned: int = 0
    """Of pins: while it counts what has a state of its own, those; in a map, those that have none."""

    @property
    def used(self) -> int:
        return self.active + self.revoked + self.reserved + self.quarantined


@dataclass(frozen=True, slots=True)
class Block:
    counts: Counts
    free: int


@dataclass(frozen=True, slots=True)
class AddressMap:
    """How full the blocks of a subnet are, in the order of their addresses."""

    subnet: Subnet
    size: int
    """Addresses of a block."""
    blocks: Sequence[Block]


def block_size(subnet: Subnet, blocks: int) -> int:
    """Addresses of a block, a power of two, such that there are at most so many."""
    size = 1
    while subnet.network.num_addresses > blocks * size:
        size *= 2
    return size


def blocks_of(subnet: Subnet, size: int, counted: Mapping[int, Counts], pins: Iterable[Pin]) -> list[Block]:
    """Every block, from what is counted of those in which something is."""
    first, last = int(subnet.network.network_address), int(subnet.network.broadcast_address)
    found = []
    pinned = _spread(subnet, size, pins)
    for number, start in enumerate(range(first, last + 1, size)):
        counts = counted.get(number, Counts())
        # What names the network, and what is for broadcast, is nobody's.
        usable = size - (start == first) - (start + size > last)
        idle = pinned.get(number, 0) - counts.pinned
        shown = Counts(counts.active, counts.revoked, counts.reserved, counts.quarantined, idle)
        found.append(Block(shown, usable - shown.used - idle))
    return found


def _spread(subnet: Subnet, size: int, pins: Iterable[Pin]) -> dict[int, int]:
    """How many addresses of each block are pinned."""
    first, usable = int(subnet.network.network_address), subnet.usable
    pinned: dict[int, int] = {}
    for pin in pins:
        for ipv4 in range(max(pin.first_ipv4, usable.start), min(pin.last_ipv4 + 1, usable.stop)):
            number = (ipv4 - first) // size
            pinned[number] = pinned.get(number, 0) + 1
    return pinned

"""Subnets: the IPv4 networks of an organization, and how far their addresses have been given out (decision 24)."""

import ipaddress
from dataclasses import dataclass

from guardhouse.durations import DAY
from guardhouse.errors import FieldRequired, InvalidField

# RFC 1918, and the shared space of RFC 6598 (decision 24).
PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
LOW_32_BITS = 0xFFFF_FFFF
FIRST = 0
"""The number of an organization's first subnet."""

LIMIT = 100
"""How many an organization may have."""
LONGEST_PREFIX = 24
"""Of a network that an administrator names (decision 24)."""
RATE_OVER = 30
"""Days over which the growth of a subnet is told."""
FORECAST_TO = 3650 * DAY

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Space:
    """What an organization's subnets have in common, and of the first one where it stands."""

    ipv6: str
    """The /64 of RFC 4193. An address of it ends in the 32 bits of the IPv4 address that it is paired with."""
    ipv4: str
    """The network of the first subnet, as in 100.96.0.0/12."""
    next_ipv4: int
    rested_time: int
    last_number: int = FIRST
    """The number of the newest subnet that was ever made. None is used twice, for leases go on naming it."""
    profiles_version: int = 0
    """How often the IP profiles were changed."""
    is_told: bool = True
    """Whether the registry has told since the first subnet was written which registrations are revoked."""

    def ipv6_of(self, ipv4: int) -> str:
        """The other address of the pair, in its normal form."""
        return str(ipaddress.IPv6Network(self.ipv6)[ipv4])

    def ipv4_of(self, address: str) -> int | None:
        """The IPv4 address of the pair that an address of either family belongs to; None for an IPv6 of others."""
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            # A socket for both families shows an IPv4 peer as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2).
            if found.ipv4_mapped is None:
                low = int(found) & LOW_32_BITS
                return low if ipaddress.IPv6Network(self.ipv6)[low] == found else None
            found = found.ipv4_mapped
        return int(found)


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network that addresses are given out from."""

    subnet_id: str
    number: int
    """What leases call it."""
    display_name: str
    description: str
    ipv4: str
    """The network, as in 100.96.0.0/12. It stays as it is."""
    is_default: bool
    create_time: int
    update_time: int
    next_ipv4: int
    """The lowest address that was never given out: the high-water mark."""
    rested_time: int = 0
    """No resting pair's place in the queue is before this."""
    held: int = 0
    """How many pairs registrations hold."""
    revoked: int = 0
    """How many of these are of registrations that are revoked."""

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.ipv4)

    @property
    def usable(self) -> range:
        """The addresses that somebody may have: all but the one that names the network and the one for broadcast."""
        network = self.network
        return range(int(network.network_address) + 1, int(network.broadcast_address))

    def contains(self, first: int, last: int) -> bool:
        """Whether the addresses from the first to the last are of its network."""
        network = self.network
        return int(network.network_address) <= first <= last <= int(network.broadcast_address)

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return len(self.usable)

    @property
    def is_used_up(self) -> bool:
        """Whether every address was given out once. The last of the network is for broadcast."""
        return self.next_ipv4 >= int(self.network.broadcast_address)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a subnet's pairs are, besides held and revoked, and how many were held when its growth began to count."""

    reserved: int
    quarantined: int
    held_before: int
    pinned: int = 0
    """Kept by pins, and in none of the other states."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How a subnet's pairs are used; all states with `pinned` add up to `total`.

    `exhaust_time` None is not in ten years.
    """

    active: int
    revoked: int
    reserved: int
    quarantined: int
    free: int
    total: int
    growth_per_day: float
    exhaust_time: int | None
    pinned: int = 0


def capacity(of: Subnet, usage: Usage, now: int) -> Capacity:
    """As of now. Of a subnet that is younger than a day the growth is that of a day: an hour says little about it."""
    free = of.total - of.held - usage.reserved - usage.quarantined - usage.pinned
    since = max(of.create_time, now - RATE_OVER * DAY)
    growth = (of.held - usage.held_before) / (max(now - since, DAY) / DAY)
    exhaust_time = None
    if growth > 0 and free <= growth * (FORECAST_TO // DAY):
        exhaust_time = now + round(max(free, 0) / growth * DAY)
    active = of.held - of.revoked
    return Capacity(
        active,
        of.revoked,
        usage.reserved,
        usage.quarantined,
        free,
        of.total,
        growth,
        exhaust_time,
        usage.pinned,
    )


def new_space(network: str, random_bits: int) -> Space:
    """The space of an organization. Of `random_bits`, 40 are the global id and 16 the subnet id of RFC 4193."""
    ipv6 = ipaddress.IPv6Address(0xFD << 120 | random_bits << 64)
    return Space(f"{ipv6}/64", network, first_address(network), 0)


def first_subnet(space: Space, subnet_id: str, now: int) -> Subnet:
    """The subnet that every organization begins with, which is the default."""
    return Subnet(
        subnet_id=subnet_id,
        number=FIRST,
        display_name="Default",
        description="",
        ipv4=space.ipv4,
        is_default=True,
        create_time=now,
        update_time=now,
        next_ipv4=space.next_ipv4,
        rested_time=space.rested_time,
    )


def first_address(network: str) -> int:
    """The lowest that can be given out: the one before it names the network."""
    return int(ipaddress.IPv4Network(network).network_address) + 1


def parse_network(text: str) -> str:
    """The setting `ipv4_subnet`. Raises InvalidField."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidField("ipv4_subnet", f"ipv4_subnet is an IPv4 network such as 100.96.0.0/12: {error}") from None
    if network.prefixlen > 30:
        raise InvalidField("ipv4_subnet", f"ipv4_subnet {network} has no address to give out; use a /30 or larger")
    if not any(network.subnet_of(private) for private in PRIVATE):
        raise InvalidField("ipv4_subnet", f"ipv4_subnet {network} is neither in RFC 1918 nor in 100.64.0.0/10")
    return str(network)


def pairs_of(network: Network, ipv6: str) -> tuple[int, int] | None:
    """The first and the last IPv4 address of the pairs with an address in a network of either family.

    `ipv6` is the organization's /64. None: it has no such pair.
    """
    if isinstance(network, ipaddress.IPv6Network):
        mapped = ipaddress.IPv6Network("::ffff:0:0/96")
        own = ipaddress.IPv6Network(f"{ipaddress.IPv6Network(ipv6).network_address}/96")
        if own.subnet_of(network):
            return 0, LOW_32_BITS
        if not network.subnet_of(own) and not network.subnet_of(mapped):
            return None
    return int(network[0]) & LOW_32_BITS, int(network[-1]) & LOW_32_BITS


def check_network(text: str, field: str) -> str:
    """What an administrator names, in its normal form. Raises FieldRequired and InvalidField (decision 24)."""
    if not text:
        raise FieldRequired(field)
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise InvalidField(field, f"{field} is an IPv4 network such as 10.20.0.0/16") from None
    if network.prefixlen > LONGEST_PREFIX:
        raise InvalidField(field, f"{field} is a /{LONGEST_PREFIX} or larger, not a /{network.prefixlen}")
    if not any(network.subnet_of(private) for private in PRIVATE):
        raise InvalidField(field, f"{field} is neither in RFC 1918 nor in 100.64.0.0/10")
    return str(network)

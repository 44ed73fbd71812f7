"""Numbers and IP addresses as integers, and sets of them as ranges, so that looking one up is a bisection.

IPv4 comes first and IPv6 far behind, so a network of one family never reaches into the other. An IPv4 address that
comes mapped into IPv6 (RFC 4291, section 2.5.5.2), as from a socket that listens to both, is the IPv4 address.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

Range = tuple[int, int]
"""The first and the last."""

END_OF_ADDRESSES: Final = 2**129
"""Behind the last address."""

_IPV6: Final = 2**128
_MAPPED: Final = _IPV6 + (0xFFFF << 32)
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def integer_range(text: str, maximum: int) -> Range:
    """Read 443 or 1024..65535. Raises ValueError, whose text says what is wrong, also for more than the maximum."""
    first, dots, last = text.partition("..")
    for digits in (first, last) if dots else (first,):
        if not _DIGITS.fullmatch(digits):
            raise ValueError(f"{text} is no number: write digits, such as 443 or 1024..65535")
        if int(digits) > maximum:
            raise ValueError(f"{digits} is too much: the most is {maximum}")
    return _ascending(text, int(first), int(last if dots else first))


def address_range(text: str) -> Range:
    """Read 10.0.0.1, 10.0.0.1..10.0.0.9 or 10.0.0.0/8. Raises ValueError, whose text says what is wrong."""
    first, dots, last = text.partition("..")
    if dots:
        low, high = _address(first), _address(last)
        if low.version != high.version:
            raise ValueError(f"{text} is half IPv4 and half IPv6: write two ranges")
        return _ascending(text, address_number(low), address_number(high))
    start, slash, length = text.partition("/")
    address = _address(start)
    if not slash:
        return address_number(address), address_number(address)
    if not _DIGITS.fullmatch(length) or int(length) > address.max_prefixlen:
        raise ValueError(f"the length of {text} is a number from 0 to {address.max_prefixlen}")
    network = ip_network(text, strict=False)
    if network.network_address != address:
        raise ValueError(f"{text} has bits behind its length: write {network} or {address}")
    return address_number(network.network_address), address_number(network.broadcast_address)


def address_number(address: IPv4Address | IPv6Address) -> int:
    """The integer that stands for an address."""
    return int(address) if address.version == 4 else _unmapped(_IPV6 + int(address))


def read_address(text: str) -> int:
    """The integer that stands for an address as it comes with traffic. Raises OSError for anything else.

    It takes a fraction of the time of ipaddress.ip_address.
    """
    if ":" in text:
        return _unmapped(_IPV6 + int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big"))
    return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same integers in ascending ranges that neither overlap nor touch; empty ones are gone."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if last < first:
            continue
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def complement(ranges: Iterable[Range], end: int) -> tuple[Range, ...]:
    """The integers from 0 up to `end`, without it, that are in none of the merged ranges."""
    gaps: list[Range] = []
    start = 0
    for first, last in ranges:
        gaps.append((start, first - 1))
        start = last + 1
    gaps.append((start, end - 1))
    return merged(gaps)


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text} is no IP address: write one such as 10.0.0.1 or 2001:db8::1") from None


def _ascending(text: str, first: int, last: int) -> Range:
    if last < first:
        raise ValueError(f"the range {text} runs backwards")
    return first, last


def _unmapped(value: int) -> int:
    return value - _MAPPED if _MAPPED <= value < _MAPPED + 2**32 else value

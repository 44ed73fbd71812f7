"""How often somebody may do what costs us something."""

import ipaddress
import time
from collections import OrderedDict

from guardhouse.errors import RateLimited

BUCKETS = 10_000


class RateLimit:
    """A bucket for each key; it holds `burst` and fills at `rate` a second. The bucket that was idle longest goes."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Raises RateLimited."""
        self.check(key)
        self.charge(key)

    def check(self, key: str) -> None:
        """Raises RateLimited when there is nothing to take."""
        if (left := self._fill(key)) < 1:
            raise RateLimited("too many such calls; wait a moment", retry_after=(1 - left) / self._rate)

    def charge(self, key: str) -> None:
        """Takes, of an empty bucket as well: what it lacks it has to make up for."""
        self._buckets[key] = self._fill(key) - 1, self._buckets[key][1]

    def _fill(self, key: str) -> float:
        now = time.monotonic()
        left, at = self._buckets.pop(key, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._buckets[key] = left, now
        if len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        return left


def address(peer: str) -> str:
    """Who is limited as one, of `ipv4:127.0.0.1:1234` or `ipv6:%5B::1%5D:1234`: the address, or of IPv6 its /64.

    A site is given a /64 at least, so whoever has one IPv6 address has as many as it wants.
    """
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].removeprefix("%5B").removesuffix("%5D").strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return kind
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))

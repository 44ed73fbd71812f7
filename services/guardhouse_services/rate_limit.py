"""How often somebody may do what costs us something."""

import ipaddress
import time
from collections import OrderedDict

from guardhouse.errors import RateLimited
from guardhouse.rules import Address

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


def limited(address: Address | None) -> str:
    """Who is limited as one: the address, or of IPv6 its /64; whoever has none shares a bucket.

    A site is given a /64 at least, so whoever has one IPv6 address has as many as it wants.
    """
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or "")

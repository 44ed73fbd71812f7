"""Which policies cover traffic, with what was seen of its values lately.

A gateway asks about the same hosts, addresses, ports and methods again and again, if not in the same request. So it is
remembered for each value by itself which policies it leaves over, and what comes again is neither read nor matched
anew. What all values of a request leave over is what they have in common.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

from guardhouse import decisions
from guardhouse.decisions import PolicyFilter
from guardhouse.errors import InvalidField
from guardhouse.expressions import DOMAINS, FIELDS, OTHER_NAMES, Traffic, TrafficInvalid, read_texts
from guardhouse.policies import PolicySet

Given = str | tuple[str, ...]
Covering = tuple[decisions.Policy, ...] | None
"""The policies that decide, in order; None where the host is one at which people sign in."""

REMEMBERED: Final = 16_384
"""Values of an organization's traffic, of all fields together."""
LONGEST_REMEMBERED: Final = 255
"""Characters: room for every host name (RFC 1035, section 2.3.4)."""
_SHAPES: Final = 1_024
"""Sets of fields that come together."""

_HOSTS: Final = ("http.request.host", "net.sni.host", "dns.fqdn")
_PLACES: Final = {name: place for place, name in enumerate(FIELDS)}
_NO_OTHER_HOST: Final = 1 << len(FIELDS)
_REST: Final = 2 * _NO_OTHER_HOST - 1
_SAID: Final = {name: _REST ^ 1 << _PLACES[OTHER_NAMES.get(name, name)] for name in (*FIELDS, *OTHER_NAMES)}
"""What a value leaves of the bits behind those of the policies, by each name of its field."""


def signs_in(traffic: Traffic, sign_in_hosts: frozenset[str]) -> bool:
    """Whether traffic is to a host where people sign in, and so exempt (decision 29).

    All hosts that it names must be such, because they are what the client says: a request for another host over a
    connection to a provider, or for a provider over a connection to another host, is not.
    """
    named = [traffic[name] for name in _HOSTS if name in traffic]
    return bool(named) and sign_in_hosts.issuperset(named)


def refusal(fields: Mapping[str, str], invalid: TrafficInvalid, where: str = "") -> InvalidField:
    """What is wrong with traffic: the first of its fields that is, or else one of its lists."""
    try:
        read_texts(fields)
    except TrafficInvalid as of_fields:
        return InvalidField(f"{where}fields", f"{where}fields: {of_fields}")
    return InvalidField(f"{where}lists", f"{where}lists: {invalid}")


class Coverage:
    """The policies of an organization, and the hosts of its identity providers. Neither ever changes.

    What is known of a value is a mask. It has a bit for each policy, set if the policy may still hold; behind those one
    for each field, set unless the value says something of it; and the last, set unless the value is the name of a host
    where nobody signs in.
    """

    def __init__(self, policies: PolicySet, sign_in_hosts: frozenset[str]) -> None:
        self.policies = policies
        self.sign_in_hosts = sign_in_hosts
        self._end = policies.end
        self._known: dict[str, dict[Given, int]] = {name: {} for name in _SAID}
        self._masks: dict[int, int] = {}
        """Each distinct one in memory once: to the policies, most values of a field are alike."""
        self._count = 0
        self._seen: set[int] = set()
        """Hashes of what came once. Only what comes again is remembered, so what never does costs little."""
        # Not of a method: what an edit replaces is then gone at once, without a search for cycles.
        self._shape = lru_cache(_SHAPES)(partial(_look_at_shape, policies))

    def find(
        self,
        filters: Iterable[PolicyFilter],
        fields: Mapping[str, str],
        lists: Mapping[str, tuple[str, ...]],
        who: int,
    ) -> Covering:
        """What covers traffic that passes these filters, among the policies for `who`. The texts are those of
        read_texts. Raises TrafficInvalid."""
        left, known = -1, self._known
        try:
            # For the map of a message this takes a quarter less than its items().
            for name in fields:
                left &= known[name][fields[name]]
            for name in lists:
                left &= known[name][lists[name]]
        except KeyError:
            left = self._look(fields, lists)
        without, count, is_sign_in = self._shape(left >> self._end)
        if count != len(fields) + len(lists):
            # One is given twice, or beside what is made of it: only all of them together say which counts.
            traffic = read_texts(fields, lists)
            return None if signs_in(traffic, self.sign_in_hosts) else self.policies.match(filters, traffic, who)
        if is_sign_in:
            return None
        return self.policies.first_of(filters, left & without & who, lambda: read_texts(fields, lists))

    def _look(self, fields: Mapping[str, str], lists: Mapping[str, tuple[str, ...]]) -> int:
        """The mask of all values, of which some are not remembered."""
        left, known, seen = -1, self._known, self._seen
        new: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        sent: tuple[Mapping[str, Given], Mapping[str, Given]] = fields, lists
        for several, given in enumerate(sent):
            for name in given:
                value = given[name]
                length = sum(map(len, value), len(value)) if several else len(value)
                if (table := known.get(name)) is None or length > LONGEST_REMEMBERED:
                    new[several][name] = value
                elif (mask := table.get(value)) is not None:
                    left &= mask
                elif (sight := hash(name) ^ hash(value)) in seen:
                    left &= self._remember(name, value)
                else:
                    seen.add(sight)
                    new[several][name] = value
        if len(seen) > REMEMBERED:
            seen.clear()
        return left & self._mask(*new) if any(new) else left

    def _remember(self, name: str, given: Given) -> int:
        """The mask of what came again, in the place of all that was remembered once that is too much."""
        mask = self._mask({name: given}, {}) if isinstance(given, str) else self._mask({}, {name: given})
        if self._count >= REMEMBERED:
            self._count = 0
            self._masks.clear()
            for each in self._known.values():
                each.clear()
        self._count += 1
        self._known[name][given] = mask = self._masks.setdefault(mask, mask)
        return mask

    def _mask(self, fields: Mapping[str, str], lists: Mapping[str, tuple[str, ...]]) -> int:
        traffic = read_texts(fields, lists)
        rest = _REST
        for name in (*fields, *lists):
            rest &= _SAID[name]
        for host in _HOSTS:
            if host in traffic and traffic[host] not in self.sign_in_hosts:
                rest &= ~_NO_OTHER_HOST
        return self.policies.left(traffic, traffic) | rest << self._end


def _look_at_shape(policies: PolicySet, shape: int) -> tuple[int, int, bool]:
    """The policies that are left over by fields of which nothing is said; of how many something is said, or -1 if
    one of them is what another would make of it; and whether such traffic is to a host where people sign in."""
    said = {name for name, place in _PLACES.items() if not shape >> place & 1}
    made = {name for name, host in DOMAINS.items() if host in said}
    without = policies.left({}, FIELDS.keys() - said - made)
    is_sign_in = bool(shape & _NO_OTHER_HOST) and not said.isdisjoint(_HOSTS)
    return without, len(said) if made.isdisjoint(said) else -1, is_sign_in

"""Which Gateway policy covers which traffic (decision 29)."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from guardhouse.decisions import Policy, PolicyAction, PolicyFilter
from guardhouse.expressions import (
    POSTURE_AGE,
    Expression,
    ExpressionInvalid,
    InList,
    NamedList,
    Scope,
    Traffic,
    compile_expression,
    conditions,
    parse_expression,
)
from guardhouse.policies.clauses import ranges_of
from guardhouse.policies.index import Asked, Index
from guardhouse.policies.rows import Row
from guardhouse.policies.schedule import Schedule

CONNECTION: Final = (PolicyFilter.L4,)
"""The filters that a connection passes, in order."""
REQUEST: Final = (PolicyFilter.L4, PolicyFilter.HTTP)
"""Those of an HTTP request: it is network traffic first."""
QUERY: Final = (PolicyFilter.DNS,)
"""Those of a DNS query."""

NEVER: Final = 2**63 - 1
"""A time, in microseconds, that does not come."""

_TRAFFIC: Final = {
    PolicyFilter.L4: Scope.L4_TRAFFIC,
    PolicyFilter.HTTP: Scope.HTTP_TRAFFIC,
    PolicyFilter.DNS: Scope.DNS_TRAFFIC,
}
_REMEMBERED: Final = 4_096
"""Sets of policies that decide together."""
_NO_LISTS: Final[Mapping[str, NamedList]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """A policy as it was written. Its three expressions must all hold; one that is empty does.

    Among policies of one filter, the lowest `precedence` comes first. One with a schedule is in force while it holds,
    and one with an `expire_time`, in microseconds since 1970, only before it; DNS policies alone have these.
    """

    policy: Policy
    precedence: int
    traffic: str = ""
    identity: str = ""
    device_posture: str = ""
    schedule: Schedule | None = None
    expire_time: int | None = None

    def out_of_force(self, now: int) -> tuple[str, ...]:
        """Which of "schedule" and "expire_time" keep it out of force."""
        scheduled = self.schedule is None or self.schedule.holds(now)
        expired = self.expire_time is not None and now >= self.expire_time
        return (() if scheduled else ("schedule",)) + (("expire_time",) if expired else ())

    def unchanged_until(self, now: int) -> int:
        """The next time at which it may come into force or go out of it, or NEVER."""
        expires = NEVER if self.expire_time is None else self.expire_time
        if now >= expires:
            return NEVER
        return expires if self.schedule is None else min(expires, self.schedule.until(now))

    @property
    def scopes(self) -> dict[str, Scope]:
        """Where each of its expressions stands, by the name of the attribute."""
        return scopes(self.policy.filter)


def scopes(filter_: PolicyFilter) -> dict[str, Scope]:
    """Where each expression of a policy with this filter stands, by the name of the attribute."""
    return {"traffic": _TRAFFIC[filter_], "identity": Scope.IDENTITY, "device_posture": Scope.DEVICE_POSTURE}


class PolicyInvalid(Exception):
    """A policy that cannot be used: `expression` is which of its three is wrong, and `refusal` why."""

    def __init__(self, policy_id: str, expression: str, refusal: ExpressionInvalid) -> None:
        super().__init__(f"{policy_id}: {expression}: {refusal}")
        self.policy_id = policy_id
        self.expression = expression
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one policy. It `decides` if it is the first of its filter to match, and evaluation got so far.

    `failed` are those of "traffic", "identity", "device_posture", "schedule" and "expire_time" that do not hold, and
    `missing` the fields that its expressions ask for and nobody gave (decision 30a). Of a policy that is not enabled
    nothing is looked at, and "enabled" is what failed.
    """

    policy: Policy
    matched: bool
    decides: bool
    failed: tuple[str, ...]
    missing: tuple[str, ...]


class _InForce(NamedTuple):
    """The policies in force from one time until another."""

    mask: int
    since: int
    until: int


class PolicySet:
    """Policies, compiled together. It never changes: an edit is a new set.

    Who sends the traffic and from which device is asked once, not for each request: `identity_mask(...) &
    posture_mask(...)` is the `who` of the other methods. For a DNS query it is joined with `time_mask(...)` as well.
    The age of a posture changes by itself, and `next_age` says when that has to be asked again.
    Masks mean nothing to another set, so whoever keeps them drops them together with the set.
    """

    def __init__(
        self,
        policies: Sequence[GatewayPolicy],
        read: Mapping[tuple[str, Scope], Expression],
        lists: Mapping[str, NamedList],
        previous: "PolicySet | None",
    ) -> None:
        """Use `compile`. The policies are in the order of evaluation."""
        self._policies = policies
        self._read = read
        self._lists = lists

        def asked(attribute: str, *filters: PolicyFilter) -> dict[int, Asked]:
            return {
                1 << place: self._asked(written)[attribute]
                for place, written in enumerate(policies)
                if written.policy.enabled and written.policy.filter in filters
            }

        self._identity: Index = Index(asked("identity", *PolicyFilter), lists, previous._identity if previous else None)
        self._posture: Index = Index(
            asked("device_posture", *PolicyFilter), lists, previous._posture if previous else None
        )
        self._traffic: dict[PolicyFilter, Index] = {
            filter_: Index(asked("traffic", filter_), lists, previous._traffic[filter_] if previous else None)
            for filter_ in PolicyFilter
        }
        everyone = sum(index.everyone for index in self._traffic.values())
        self._everyone = everyone
        self._rows: dict[str, list[tuple[int, Row]]] = {}
        """By the field that they are about, each with the policies of other filters."""
        for index in self._traffic.values():
            for field, row in index.rows:
                self._rows.setdefault(field, []).append((everyone ^ index.everyone, row))
        self._blocking = sum(
            1 << place for place, written in enumerate(policies) if written.policy.action is PolicyAction.BLOCK
        )
        self._deciding: dict[int, tuple[Policy, ...]] = {}
        self._timed = [
            (1 << place, written)
            for place, written in enumerate(policies)
            if written.policy.enabled and (written.schedule, written.expire_time) != (None, None)
        ]
        self._in_force = _InForce(mask=0, since=NEVER, until=NEVER)
        self._ages = self._bounds_of_ages()

    @classmethod
    def compile(
        cls,
        policies: Iterable[GatewayPolicy],
        lists: Mapping[str, NamedList] = _NO_LISTS,
        *,
        previous: "PolicySet | None" = None,
    ) -> "PolicySet":
        """Compile policies, with the named lists.

        What is the same in `previous` is taken from there, which saves most of the work of an edit. A policy that is
        not enabled is not read at all. Raises PolicyInvalid.
        """
        ordered = sorted(policies, key=lambda it: (it.policy.filter, it.precedence, it.policy.policy_id))
        before = previous._read if previous else {}
        read: dict[tuple[str, Scope], Expression] = {}
        for written in ordered:
            if written.policy.enabled:
                for attribute, scope in written.scopes.items():
                    text = getattr(written, attribute)
                    try:
                        if (text, scope) not in read:
                            read[text, scope] = before.get((text, scope)) or parse_expression(text, scope)
                            _check_lists(read[text, scope], lists)
                    except ExpressionInvalid as refusal:
                        raise PolicyInvalid(written.policy.policy_id, attribute, refusal) from refusal
        return cls(ordered, read, dict(lists), previous)

    @property
    def end(self) -> int:
        """The first bit behind those of the policies."""
        return len(self._policies)

    def identity_mask(self, identity: Traffic) -> int:
        """The policies whose `identity` holds for a user."""
        return self._identity.holding(identity)

    def posture_mask(self, posture: Traffic) -> int:
        """The policies whose `device_posture` holds for a device."""
        return self._posture.holding(posture)

    @property
    def asks_for_age(self) -> bool:
        """Whether `posture_mask` may change with the age of a posture alone."""
        return bool(self._ages)

    def next_age(self, age: int) -> int:
        """The next age of a posture, in seconds, at which `posture_mask` may change, or NEVER."""
        place = bisect_right(self._ages, age)
        return self._ages[place] if place < len(self._ages) else NEVER

    def time_mask(self, now: int) -> int:
        """The policies in force at a time, in microseconds since 1970, in so far as that depends on the time.

        Only those with a schedule or an `expire_time` are looked at, and only when the answer may have changed.
        """
        return self._in_force_at(now).mask

    def time_mask_until(self, now: int) -> int:
        """The next time at which `time_mask` may change, or NEVER."""
        return self._in_force_at(now).until

    def first_match(self, filter_: PolicyFilter, traffic: Traffic, who: int) -> Policy | None:
        """The policy with the lowest precedence, of those with this filter, that matches."""
        bit = self._traffic[filter_].first(traffic, who)
        return self._policies[bit.bit_length() - 1].policy if bit else None

    def match(self, filters: Iterable[PolicyFilter], traffic: Traffic, who: int) -> tuple[Policy, ...]:
        """The policies that decide on traffic that passes these filters (CONNECTION, REQUEST or QUERY), in order.

        Of each filter it is the first match, or none. A network policy that allows an HTTP request leaves it to the
        HTTP policies as well, so for a request that both cover there are two, and it may pass if both let it: each
        judges the session by a timeout of its own. Behind a policy that blocks nothing is evaluated, so it is the last.
        Where nothing matches, the organization's default decides, and the tuple is empty.
        """
        found: list[Policy] = []
        for filter_ in filters:
            policy = self.first_match(filter_, traffic, who)
            if policy is not None:
                found.append(policy)
                if policy.action is PolicyAction.BLOCK:
                    break
        return tuple(found)

    def left(self, traffic: Traffic, fields: Iterable[str]) -> int:
        """The policies whose `traffic` may hold, judging by these fields of it alone."""
        left = self._everyone
        for field in fields:
            for others, row in self._rows.get(field, ()):
                left &= others | row(traffic)
        return left

    def first_of(
        self, filters: Iterable[PolicyFilter], left: int, traffic: Callable[[], Traffic]
    ) -> tuple[Policy, ...]:
        """What `match` finds, once it is known which policies all fields leave over for `who`.

        Whoever keeps it shares it with all others of whom the same is found.
        """
        found = 0
        for filter_ in filters:
            index = self._traffic[filter_]
            among = left & index.everyone
            bit = among & -among
            if bit & index.unsure:
                bit = index.first_of(among, traffic)
            found |= bit
            if bit & self._blocking:
                break
        if (deciding := self._deciding.get(found)) is None:
            if len(self._deciding) >= _REMEMBERED:
                self._deciding.clear()
            places = (place for place in range(found.bit_length()) if found >> place & 1)
            self._deciding[found] = deciding = tuple([self._policies[place].policy for place in places])
        return deciding

    def trace(
        self, filters: Iterable[PolicyFilter], traffic: Traffic, identity: Traffic, posture: Traffic, now: int
    ) -> Iterator[Step]:
        """What `match` would make of it at a time, policy by policy in the order of evaluation, each by itself."""
        facts = {"traffic": traffic, "identity": identity, "device_posture": posture}
        ended = False
        for filter_ in filters:
            decided = ended
            for written in self._policies:
                if written.policy.filter is not filter_:
                    continue
                failed, missing = self._faults(written, facts, now)
                matched = not failed
                yield Step(written.policy, matched, matched and not decided, failed, missing)
                if matched and not decided:
                    decided = True
                    ended = written.policy.action is PolicyAction.BLOCK

    def _bounds_of_ages(self) -> list[int]:
        """The ages at which a condition on them begins to hold, or holds no longer."""
        ranges = {
            span
            for written in self._policies
            if written.policy.enabled
            for condition in conditions(self._read[written.device_posture, Scope.DEVICE_POSTURE].root)
            if condition.field.name == POSTURE_AGE
            for span in ranges_of([condition], self._lists)
        }
        return sorted({bound for first, last in ranges for bound in (first, last + 1)})

    def _in_force_at(self, now: int) -> _InForce:
        known = self._in_force
        if not known.since <= now < known.until:
            mask, until = (1 << len(self._policies)) - 1, NEVER
            for bit, written in self._timed:
                if written.out_of_force(now):
                    mask ^= bit
                until = min(until, written.unchanged_until(now))
            known = self._in_force = _InForce(mask, now, until)
        return known

    def _faults(
        self, written: GatewayPolicy, facts: Mapping[str, Traffic], now: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What does not hold, and which fields are missing."""
        if not written.policy.enabled:
            return ("enabled",), ()
        failed: list[str] = []
        missing: dict[str, None] = {}
        for attribute, (expression, extended_emails) in self._asked(written).items():
            present = facts[attribute]
            if not compile_expression(expression, self._lists, extended_emails=extended_emails)(present):
                failed.append(attribute)
            names = (condition.field.name for condition in conditions(expression.root))
            missing.update(dict.fromkeys(name for name in names if name not in present))
        return (*failed, *written.out_of_force(now)), tuple(missing)

    def _asked(self, written: GatewayPolicy) -> dict[str, Asked]:
        # Public documentation, identity-based policies: no variant of an address gets around a policy that blocks.
        blocks = written.policy.action is PolicyAction.BLOCK
        return {
            attribute: Asked(self._read[getattr(written, attribute), scope], extended_emails=blocks)
            for attribute, scope in written.scopes.items()
        }


def _check_lists(expression: Expression, lists: Mapping[str, NamedList]) -> None:
    """Raise what the compiler raises if a list does not exist or does not fit."""
    for condition in conditions(expression.root):
        if isinstance(condition, InList):
            named = lists.get(condition.name)
            if named is None or not named.fits(condition.field):
                compile_expression(expression, lists)

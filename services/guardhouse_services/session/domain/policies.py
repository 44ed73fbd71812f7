"""Gateway policies and the rules on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.durations import HOUR, format_duration
from guardhouse.errors import DurationInvalid, InvalidField
from guardhouse.expressions import (
    Expression,
    ExpressionInvalid,
    InList,
    NamedList,
    advise,
    compile_expression,
    conditions,
    parse_expression,
    read_traffic,
)
from guardhouse.policies import scopes

CHECKED_FILTERS = (PolicyFilter.L4, PolicyFilter.HTTP)
MAX_OPEN = 24 * HOUR
LIMIT = 500
"""How many an organization may have of each filter (the public account limits)."""
MAX_PRECEDENCE = 1_000_000
FIRST_PRECEDENCE, STEP = 1000, 100
"""Of the first policy, and how far behind the last a new one comes, so that others fit between."""


class StalenessMode(IntEnum):
    CLOSED = 1
    OPEN_BOUNDED = 2


@dataclass(frozen=True, slots=True)
class CheckSession:
    """How old a session may be, in microseconds. `duration` may be None only where it is not enforced."""

    enforce: bool
    duration: int | None


@dataclass(frozen=True, slots=True)
class Staleness:
    """What a policy decides by state that is too old, and up to which age, in microseconds; None unless it is open."""

    mode: StalenessMode
    max_open: int | None

    def check(self, max_staleness: int, quarantine: int, field: str = "policy.staleness.max_open") -> None:
        """Raises DurationInvalid for a policy that would never be open, or would be for too long.

        Who holds an address is one of the facts that are too old, so it must not have passed to somebody else
        meanwhile (decision 25).
        """
        if self.max_open is None:
            return
        if self.max_open <= max_staleness:
            raise DurationInvalid(
                field, f"{field} is longer than max_staleness, which is {format_duration(max_staleness)}"
            )
        if self.max_open > MAX_OPEN:
            raise DurationInvalid(field, f"{field} is at most {format_duration(MAX_OPEN)}")
        if self.max_open > quarantine:
            rest = format_duration(quarantine)
            raise DurationInvalid(field, f"{field} is at most {rest}, for which released addresses rest")


@dataclass(frozen=True, slots=True)
class Terms:
    """What people say of a policy; the rest is the server's.

    `precedence` is None until it is stored. `schedule` are the texts of a guardhouse.policies.Schedule.
    """

    display_name: str
    description: str
    enabled: bool
    filter: PolicyFilter
    action: PolicyAction
    check_session: CheckSession | None
    staleness: Staleness | None
    precedence: int | None
    traffic: str
    identity: str
    device_posture: str
    schedule: tuple[str, ...] | None
    expire_time: int | None

    def check(self, field: str) -> None:
        """Raises InvalidField for what a policy with this filter and action cannot have (decision 28)."""
        if self.check_session is not None:
            if self.filter not in CHECKED_FILTERS:
                raise InvalidField(f"{field}.check_session", "check_session is for L4 and HTTP policies only")
            if self.action != PolicyAction.ALLOW:
                raise InvalidField(f"{field}.check_session", "check_session is for policies with action ALLOW only")
        for name in ("schedule", "expire_time"):
            if getattr(self, name) is not None and self.filter != PolicyFilter.DNS:
                raise InvalidField(f"{field}.{name}", f"{name} is for DNS policies only")

    def expressions(self, field: str) -> dict[str, Expression]:
        """Its expressions, by the name of the field. Raises InvalidField, which names the column."""
        read: dict[str, Expression] = {}
        for name, scope in scopes(self.filter).items():
            try:
                read[name] = parse_expression(getattr(self, name), scope)
            except ExpressionInvalid as refusal:
                raise InvalidField(f"{field}.{name}", f"{field}.{name}: {refusal}") from None
        return read


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is stored."""

    policy_id: str
    terms: Terms
    create_time: int
    update_time: int


@dataclass(frozen=True, slots=True)
class PolicyWarning:
    """What is allowed but probably not meant, in which field and at which column; 0 is about all of it."""

    field: str
    column: int
    message: str


def lists_of(expressions: Mapping[str, Expression]) -> frozenset[str]:
    """The names of the lists that they use."""
    found = (condition for expression in expressions.values() for condition in conditions(expression.root))
    return frozenset(condition.name for condition in found if isinstance(condition, InList))


def check_lists(expressions: Mapping[str, Expression], lists: Mapping[str, NamedList], field: str) -> None:
    """Raises InvalidField for a list that is not there, or whose values the field does not hold."""
    for name, expression in expressions.items():
        try:
            compile_expression(expression, lists)
        except ExpressionInvalid as refusal:
            raise InvalidField(f"{field}.{name}", f"{field}.{name}: {refusal}") from None


def warnings(
    terms: Terms, expressions: Mapping[str, Expression], lists: Mapping[str, NamedList], sign_in_hosts: frozenset[str]
) -> list[PolicyWarning]:
    """Decisions 29 and 30a: patterns that match more than they seem to, and hosts that stay reachable all the same."""
    found = [
        PolicyWarning(name, advice.column, advice.message)
        for name, expression in expressions.items()
        for advice in advise(expression)
    ]
    if terms.schedule is not None and not any(terms.schedule[1:]):
        found.append(PolicyWarning("schedule", 0, "it names no hours, so the policy covers nothing"))
    limits = terms.action != PolicyAction.ALLOW or (terms.check_session is not None and terms.check_session.enforce)
    if limits and terms.filter in _HOSTS:
        covers, field = compile_expression(expressions["traffic"], lists), _HOSTS[terms.filter]
        message = "it covers {}, which stays reachable all the same, because people sign in there"
        covered = (host for host in sorted(sign_in_hosts) if covers(read_traffic({field: host})))
        found += [PolicyWarning("traffic", 0, message.format(host)) for host in covered]
    return found


_HOSTS = {PolicyFilter.L4: "net.sni.host", PolicyFilter.HTTP: "http.request.host"}

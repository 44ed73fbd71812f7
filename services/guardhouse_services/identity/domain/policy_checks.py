"""What is wrong with conditions as they are written: that nobody can meet them, or surely others than was meant."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from guardhouse.errors import InvalidField
from guardhouse.rules import Conditions, Network, Rule, RuleKind, folded
from guardhouse_services.identity.domain.enrollment_policies import EnrollmentPolicy

WARNINGS = 20

_EVERYBODY = (RuleKind.EVERYONE, RuleKind.ANY_SERVICE_TOKEN)
_SINGLE = (
    *(RuleKind.EMAIL, RuleKind.EMAIL_DOMAIN, RuleKind.LOGIN_METHOD),
    *(RuleKind.IP_RANGE, RuleKind.COUNTRY, RuleKind.SERVICE_TOKEN),
)
"""Of what somebody has one only: who matches one such value matches no other."""


def check(on: Conditions, field: str) -> None:
    """Raises InvalidField for conditions that nobody can meet.

    Each rule is compared with what is found at once, never with every other: there may be thousands.
    """
    for place, rule in enumerate(on.exclude):
        if rule.kind in _EVERYBODY:
            raise InvalidField(f"{field}.exclude[{place}]", "it excludes everyone, so nobody is left to match")
    excluded, required = _Excluded(on.exclude), dict[RuleKind, Rule]()
    for place, rule in enumerate(on.require):
        if excluded.covers(rule):
            raise InvalidField(f"{field}.require[{place}]", f"{rule} is required and excluded, so nobody matches")
        if (other := _contradicted(rule, required.values())) is not None:
            raise InvalidField(f"{field}.require[{place}]", f"nobody matches both {other} and {rule}")
        before = required.get(rule.kind)
        if rule.kind in _SINGLE and (before is None or _width(rule) < _width(before)):
            required[rule.kind] = rule
    if all(excluded.covers(rule) or _contradicted(rule, required.values()) for rule in on.include):
        message = "each of these is excluded or contradicts what is required, so nobody matches"
        raise InvalidField(f"{field}.include", message)


def warnings(
    policy: EnrollmentPolicy,
    others: Iterable[EnrollmentPolicy],
    provider_ids: Collection[str],
    kept_claims: Collection[str],
) -> tuple[str, ...]:
    """What is allowed and surely not meant. `others` are in the order in which they are tried."""
    found = [*_shadows(policy, others)]
    excluded = _Excluded(policy.exclude)
    for name in ("include", "require", "exclude"):
        for place, rule in enumerate(getattr(policy, name)):
            where = f"{name}[{place}] never matches"
            claim = rule.value.partition("=")[0]
            if rule.kind is RuleKind.LOGIN_METHOD and rule.value not in provider_ids:
                found.append(f"{where}: the organization has no identity provider {rule.value}")
            elif rule.kind is RuleKind.OIDC_CLAIM and claim not in kept_claims:
                found.append(f"{where}: no identity provider keeps the claim {claim!r}; add it to its oidc_claims")
            elif name == "include" and excluded.covers(rule):
                found.append(f"{where}: {rule} is excluded as well")
    more = len(found) - WARNINGS
    return (*found[: WARNINGS - 1], f"and {more + 1} more") if more > 0 else tuple(found)


def _shadows(policy: EnrollmentPolicy, others: Iterable[EnrollmentPolicy]) -> Iterable[str]:
    rivals = [it for it in others if it.order[0] == policy.order[0] and it is not policy]
    before = next((it for it in rivals if it.order < policy.order and _takes_everybody(it)), None)
    if before is not None:
        yield f"it never decides: {before} is tried before it and matches everyone"
    behind = [it for it in rivals if it.order > policy.order]
    if behind and _takes_everybody(policy):
        yield f"it matches everyone, so no policy behind it ever decides; the next is {behind[0]}"


def _takes_everybody(policy: EnrollmentPolicy) -> bool:
    return any(rule.kind in _EVERYBODY for rule in policy.include) and not (policy.require or policy.exclude)


def _normal(rule: Rule) -> str:
    match rule.kind:
        case RuleKind.EMAIL:
            return folded(rule.value)
        case RuleKind.EMAIL_DOMAIN:
            return folded(rule.value).removeprefix("@")
    return rule.value


def _domain(email: Rule) -> str:
    return _normal(email).rpartition("@")[2]


def _width(rule: Rule) -> int:
    return rule.network.num_addresses if rule.network is not None else 0


def _contradicted(rule: Rule, by: Iterable[Rule]) -> Rule | None:
    """The first of these that nobody can match who matches the rule."""
    return next((it for it in by if _apart(it, rule)), None)


def _apart(one: Rule, other: Rule) -> bool:
    if one.network is not None and other.network is not None:
        return one.network.version != other.network.version or not one.network.overlaps(other.network)
    if one.kind is other.kind:
        return one.kind in _SINGLE and _normal(one) != _normal(other)
    match one.kind, other.kind:
        case RuleKind.EMAIL, RuleKind.EMAIL_DOMAIN:
            return _domain(one) != _normal(other)
        case RuleKind.EMAIL_DOMAIN, RuleKind.EMAIL:
            return _domain(other) != _normal(one)
    return False


class _Excluded:
    """What exclude rules cover: themselves, the addresses of their domains, and the networks in theirs."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._values = {(rule.kind, _normal(rule)) for rule in rules}
        self._networks = defaultdict[tuple[int, int], set[int]](set)
        for rule in rules:
            if rule.network is not None:
                length = rule.network.prefixlen
                self._networks[rule.network.version, length].add(_leading(rule.network, length))

    def covers(self, rule: Rule) -> bool:
        """Whether whoever matches it is excluded."""
        if (rule.kind, _normal(rule)) in self._values:
            return True
        if rule.kind is RuleKind.EMAIL:
            return (RuleKind.EMAIL_DOMAIN, _domain(rule)) in self._values
        network = rule.network
        return network is not None and any(
            version == network.version and length <= network.prefixlen and _leading(network, length) in prefixes
            for (version, length), prefixes in self._networks.items()
        )


def _leading(network: Network, bits: int) -> int:
    """The first bits of its addresses."""
    return int(network.network_address) >> (network.max_prefixlen - bits)

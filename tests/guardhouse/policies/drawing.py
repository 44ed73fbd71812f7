"""Random policies of every shape, and the plainest way to find the first that matches."""

import random
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from guardhouse.decisions import Policy, PolicyFilter
from guardhouse.expressions import (
    FIELDS,
    NamedList,
    Predicate,
    Scope,
    Traffic,
    Type,
    compile_expression,
    parse_expression,
)
from guardhouse.policies import GatewayPolicy
from tests.guardhouse.expressions import naive
from tests.guardhouse.policies.writing import ALLOW, BLOCK, written

SCOPES: Final = {
    PolicyFilter.L4: Scope.L4_TRAFFIC,
    PolicyFilter.HTTP: Scope.HTTP_TRAFFIC,
    PolicyFilter.DNS: Scope.DNS_TRAFFIC,
}
LISTS: Final[Mapping[str, NamedList]] = {
    **naive.NAMED,
    "networks": NamedList.of(Type.ADDRESS, (f"10.{place >> 7}.{place % 128 * 2}.0/24" for place in range(5_000))),
    "sites": NamedList.of(Type.HOST, ["a.b", "b", *(f"site{place}.example" for place in range(4_998))]),
    "people": NamedList.of(Type.EMAIL, ["a@b", *(f"person{place}@example.com" for place in range(4_999))]),
}
LONG: Final = {
    Scope.L4_TRAFFIC: ["net.dst.ip in $networks", "net.sni.host in $sites", "any(net.sni.domains[*] in $sites)"],
    Scope.HTTP_TRAFFIC: ["http.request.host in $sites", "any(http.conn.dst_ip[*] in $networks)"],
    Scope.DNS_TRAFFIC: ["any(dns.domains[*] in $sites)", "dns.src_ip in $networks"],
    Scope.IDENTITY: ["identity.email in $people", "any(identity.groups.email[*] in $people)"],
    Scope.DEVICE_POSTURE: ["any(device_posture.checks.passed[*] in $texts)"],
}
NAMES: Final = {scope: [name for name, field in FIELDS.items() if scope in field.scopes] for scope in LONG}


def expression(chance: random.Random, scope: Scope) -> str:
    """Nothing, some conditions that must all hold, or anything that the language has."""
    kind = chance.random()
    if kind < 0.08:
        return chance.choice(["", " "])
    if kind < 0.4:
        return naive.written(chance, naive.tree(chance, scope))
    return " and ".join(_condition(chance, scope) for _ in range(chance.randint(1, 3)))


def _condition(chance: random.Random, scope: Scope) -> str:
    if chance.random() < 0.2:
        text = chance.choice(LONG[scope])
    else:
        text = naive.written(chance, naive.tree(chance, scope, depth=0), outer=4)
    return f"not({text})" if chance.random() < 0.4 else text


def policies(chance: random.Random, count: int) -> list[GatewayPolicy]:
    result = []
    for place in range(count):
        filter_ = chance.choice(list(PolicyFilter))
        result.append(
            written(
                f"pol_{place}",
                expression(chance, SCOPES[filter_]),
                filter_=filter_,
                action=chance.choice([ALLOW, ALLOW, BLOCK]),
                precedence=chance.randrange(2 * count),
                identity=expression(chance, Scope.IDENTITY) if chance.random() < 0.6 else "",
                device_posture=expression(chance, Scope.DEVICE_POSTURE) if chance.random() < 0.3 else "",
                enabled=chance.random() < 0.9,
            )
        )
    return result


def facts(chance: random.Random, *scopes: Scope) -> dict[str, Any]:
    return naive.values(chance, [name for scope in scopes for name in NAMES[scope]])


class InOrder:
    """Decision 29 to the letter: every policy in turn, every expression in turn."""

    def __init__(self, policies: Iterable[GatewayPolicy], lists: Mapping[str, NamedList] = LISTS) -> None:
        self._policies = [
            (
                it.policy,
                _predicate(it, it.traffic, SCOPES[it.policy.filter], lists),
                _predicate(it, it.identity, Scope.IDENTITY, lists),
                _predicate(it, it.device_posture, Scope.DEVICE_POSTURE, lists),
            )
            for it in sorted(policies, key=lambda it: (it.precedence, it.policy.policy_id))
            if it.policy.enabled
        ]

    def first(self, filter_: PolicyFilter, traffic: Traffic, identity: Traffic, posture: Traffic) -> Policy | None:
        for policy, of_traffic, of_identity, of_posture in self._policies:
            if policy.filter is filter_ and of_traffic(traffic) and of_identity(identity) and of_posture(posture):
                return policy
        return None

    def match(
        self, filters: Iterable[PolicyFilter], traffic: Traffic, identity: Traffic, posture: Traffic
    ) -> tuple[Policy, ...]:
        found: list[Policy] = []
        for filter_ in filters:
            if not found or found[-1].action is ALLOW:
                policy = self.first(filter_, traffic, identity, posture)
                found += [policy] if policy is not None else []
        return tuple(found)


def _predicate(policy: GatewayPolicy, text: str, scope: Scope, lists: Mapping[str, NamedList]) -> Predicate:
    return compile_expression(_parsed(text, scope), lists, extended_emails=policy.policy.action is BLOCK)


_parsed = cache(parse_expression)

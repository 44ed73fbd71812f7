"""How tests write policies and ask for matches."""

from collections.abc import Iterable, Mapping
from typing import Any

from guardhouse.decisions import Policy, PolicyAction, PolicyFilter
from guardhouse.expressions import NamedList, read_traffic
from guardhouse.policies import CONNECTION, GatewayPolicy, PolicySet, Schedule

L4, HTTP, DNS = PolicyFilter
ALLOW, BLOCK = PolicyAction


def written(
    policy_id: str,
    traffic: str = "",
    *,
    filter_: PolicyFilter = L4,
    action: PolicyAction = ALLOW,
    precedence: int = 1_000,
    identity: str = "",
    device_posture: str = "",
    enabled: bool = True,
    schedule: Schedule | None = None,
    expire_time: int | None = None,
) -> GatewayPolicy:
    policy = Policy(policy_id, enabled, filter_, action, None)
    return GatewayPolicy(policy, precedence, traffic, identity, device_posture, schedule, expire_time)


def matched(
    policies: Iterable[GatewayPolicy],
    traffic: Mapping[str, Any] | None = None,
    *,
    filters: Iterable[PolicyFilter] = CONNECTION,
    identity: Mapping[str, Any] | None = None,
    posture: Mapping[str, Any] | None = None,
    lists: Mapping[str, NamedList] | None = None,
) -> list[str]:
    """The ids of the policies that decide."""
    compiled = PolicySet.compile(policies, lists or {})
    who = compiled.identity_mask(read_traffic(identity or {})) & compiled.posture_mask(read_traffic(posture or {}))
    return [policy.policy_id for policy in compiled.match(filters, read_traffic(traffic or {}), who)]

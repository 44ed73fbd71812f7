"""Gateway policies, and which of them cover given traffic.

    policies = PolicySet.compile(written, {"wiki": NamedList.of(Type.ADDRESS, ["10.1.0.0/16"])})
    who = policies.identity_mask(read_traffic(identity)) & policies.posture_mask(read_traffic(posture))
    for policy in policies.match(REQUEST, read_traffic(traffic), who):
        ...
    policies.match(QUERY, read_traffic(query), who & policies.time_mask(now))

It is pure: no clock, no network, no database. It needs the libraries of the extra `checker`.
"""

from guardhouse.policies.lists import ListType
from guardhouse.policies.policy_set import (
    CONNECTION,
    NEVER,
    QUERY,
    REQUEST,
    GatewayPolicy,
    PolicyInvalid,
    PolicySet,
    Step,
    scopes,
)
from guardhouse.policies.schedule import DAYS, Schedule, ScheduleInvalid

__all__ = [
    "CONNECTION",
    "DAYS",
    "NEVER",
    "QUERY",
    "REQUEST",
    "GatewayPolicy",
    "ListType",
    "PolicyInvalid",
    "PolicySet",
    "Schedule",
    "ScheduleInvalid",
    "Step",
    "scopes",
]

"""What ipam tells Prometheus: how full the subnets are. A pair of an IPv4 and an IPv6 address counts as one."""

from collections.abc import Sequence

from guardhouse.durations import SECOND
from guardhouse_services.database import Transaction
from guardhouse_services.ipam import store
from guardhouse_services.ipam.domain.leases import FOREVER
from guardhouse_services.ipam.domain.subnets import Capacity, capacity
from guardhouse_services.metrics import Figures, Gauge

SUBNETS = 100
"""How many have series of their own: those that run out first, by their growth, and then those with the least free."""
STATES = ("active", "revoked", "reserved", "quarantined", "pinned", "free")


def figures(quarantine: int) -> Figures:
    """Those of an ipam with that quarantine, in microseconds."""

    def read(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
        labels = ("organization_id",) if per_organization else ()
        states: dict[tuple[str, ...], float] = {} if per_organization else dict.fromkeys(((it,) for it in STATES), 0)
        totals: dict[tuple[str, ...], float] = {} if per_organization else {(): 0}
        subnets: dict[tuple[str, ...], Capacity] = {}
        for organization_id, subnet, usage in store.subnets.all_usages(tx, quarantine):
            key = (organization_id,) if per_organization else ()
            used = subnets[(*key, subnet.subnet_id)] = capacity(subnet, usage, tx.now)
            totals[key] = totals.get(key, 0) + used.total
            for state in STATES:
                states[(*key, state)] = states.get((*key, state), 0) + getattr(used, state)
        of_subnets = (*labels, "subnet_id")
        first = dict(sorted(subnets.items(), key=lambda it: _runs_out(it[1]))[:SUBNETS])
        return [
            Gauge("guardhouse_addresses", "Address pairs by what they are.", states, (*labels, "state")),
            Gauge("guardhouse_addresses_capacity", "Address pairs that the subnets have.", totals, labels),
            Gauge(
                "guardhouse_subnet_free",
                "Address pairs of a subnet that are free.",
                {key: used.free for key, used in first.items()},
                of_subnets,
            ),
            Gauge(
                "guardhouse_subnet_capacity",
                "Address pairs that a subnet has.",
                {key: used.total for key, used in first.items()},
                of_subnets,
            ),
            Gauge(
                "guardhouse_subnet_exhaust_timestamp_seconds",
                "When none of a subnet is free any more, at the rate of the last 30 days.",
                {key: used.exhaust_time / SECOND for key, used in first.items() if used.exhaust_time is not None},
                of_subnets,
            ),
        ]

    return read


def _runs_out(used: Capacity) -> tuple[int, float]:
    return FOREVER if used.exhaust_time is None else used.exhaust_time, used.free / used.total

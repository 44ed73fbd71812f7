"""What ipam tells Prometheus: how full the subnets are. A pair of an IPv4 and an IPv6 address counts as one."""

from collections.abc import Sequence
from ipaddress import IPv4Network

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.leases import State
from guardhouse_services.ipam.store.tables import lease, subnet
from guardhouse_services.metrics import Figures, Gauge, grouped


def figures(quarantine: int) -> Figures:
    """Those of an ipam with that quarantine, in microseconds."""

    def read(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
        resting = lease.c.rest_time > tx.now - quarantine
        counts = [
            sa.func.sum(sa.case((condition, 1), else_=0))
            for condition in (lease.c.state == State.HELD, lease.c.state == State.RESERVED, resting)
        ]
        labels, used = grouped(tx, lease.c.organization_id, per_organization, *counts)
        sizes = _sizes(tx, per_organization)
        samples: dict[tuple[str, ...], float] = {}
        for key, total in sizes.items():
            held, reserved, quarantined = (int(count or 0) for count in used.get(key, (0, 0, 0)))
            known = {"held": held, "reserved": reserved, "quarantined": quarantined}
            known["free"] = total - sum(known.values())
            samples |= {(*key, state): float(count) for state, count in known.items()}
        capacity = {key: float(total) for key, total in sizes.items()}
        return [
            Gauge("guardhouse_addresses", "Address pairs by what they are.", samples, (*labels, "state")),
            Gauge("guardhouse_addresses_capacity", "Address pairs that the subnets have.", capacity, labels),
        ]

    return read


def _sizes(tx: Transaction, per_organization: bool) -> dict[tuple[str, ...], int]:
    """How many pairs can be given out: all of a network but its own name and the one for broadcast."""
    key = subnet.c.organization_id if per_organization else sa.literal("")
    rows = tx.execute(sa.select(key, subnet.c.ipv4, sa.func.count()).group_by(key, subnet.c.ipv4)).all()
    sizes: dict[tuple[str, ...], int] = {} if per_organization else {(): 0}
    for organization_id, network, count in rows:
        of = (organization_id,) if per_organization else ()
        sizes[of] = sizes.get(of, 0) + count * (IPv4Network(network).num_addresses - 2)
    return sizes

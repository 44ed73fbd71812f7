"""Addresses as people look at them: lists by what they are, and counts for a map."""

from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.address_map import Counts
from guardhouse_services.ipam.domain.addresses import AddressState, Filter
from guardhouse_services.ipam.domain.leases import Lease, State
from guardhouse_services.ipam.domain.subnets import Subnet
from guardhouse_services.ipam.store.leases import to_lease
from guardhouse_services.ipam.store.tables import lease, pin
from guardhouse_services.statements import statement

_HELD = lease.c.state == State.HELD


def _condition(state: AddressState | None, rested_before: Any) -> sa.ColumnElement[bool]:
    match state:
        case AddressState.ACTIVE:
            return sa.and_(_HELD, lease.c.revoke_time.is_(None))
        case AddressState.REVOKED:
            return sa.and_(_HELD, lease.c.revoke_time.is_not(None))
        case AddressState.RESERVED:
            return lease.c.state == State.RESERVED
        case AddressState.QUARANTINED:
            return sa.and_(lease.c.rest_time > rested_before, lease.c.release_time.is_not(None))
    return _HELD


def page(
    tx: Transaction, organization_id: str, wanted: Filter, rested_before: int, after: str, limit: int
) -> list[Lease]:
    """Those that are wanted, by lease."""
    query = sa.select(lease).where(lease.c.organization_id == organization_id, lease.c.lease_id > after)
    query = query.where(_condition(wanted.state, rested_before))
    for column, value in (
        (lease.c.subnet, wanted.subnet),
        (lease.c.device_id, wanted.device_id or None),
        (lease.c.holder_id, wanted.holder_id or None),
    ):
        if value is not None:
            query = query.where(column == value)
    return [to_lease(row) for row in tx.execute(query.order_by(lease.c.lease_id).limit(limit))]


def count(tx: Transaction, organization_id: str, subnet: Subnet, size: int, rested_before: int) -> dict[int, Counts]:
    """What blocks of so many addresses have, of those that have anything; `pinned` of that is pinned as well."""
    network = subnet.network
    ends = int(network.network_address), int(network.broadcast_address)
    kept = {row.block: row.used for row in _count_pinned(tx, organization_id, *ends, size, rested_before)}
    rows = _count(tx, organization_id, *ends, size, rested_before)
    return {
        row.block: Counts(row.active, row.revoked, row.reserved, row.quarantined, kept.get(row.block, 0))
        for row in rows
    }


def _block(first: Any, size: Any) -> Any:
    return ((lease.c.ipv4 - first) // size).label("block")


@statement
def _count(organization_id: str, first: int, last: int, size: int, rested_before: int) -> sa.Select[Any]:
    counts = [
        sa.func.sum(sa.case((_condition(state, rested_before), 1), else_=0)).label(state.name.lower())
        for state in AddressState
    ]
    columns: list[Any] = [_block(first, size), *counts]
    query = sa.select(*columns).group_by("block")
    return query.where(lease.c.organization_id == organization_id, lease.c.ipv4 >= first, lease.c.ipv4 <= last)


@statement
def _count_pinned(organization_id: str, first: int, last: int, size: int, rested_before: int) -> sa.Select[Any]:
    used = sa.or_(*(_condition(state, rested_before) for state in AddressState))
    covered = sa.and_(
        lease.c.organization_id == pin.c.organization_id,
        lease.c.ipv4 >= pin.c.first_ipv4,
        lease.c.ipv4 <= pin.c.last_ipv4,
    )
    columns: list[Any] = [_block(first, size), sa.func.count().label("used")]
    query = sa.select(*columns).select_from(pin).join(lease, covered)
    query = query.where(pin.c.organization_id == organization_id, pin.c.first_ipv4 >= first, pin.c.last_ipv4 <= last)
    return query.where(used).group_by("block")

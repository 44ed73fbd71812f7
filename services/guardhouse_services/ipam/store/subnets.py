"""An organization's space, and its subnets."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.subnets import FIRST, Space, Subnet
from guardhouse_services.ipam.store.tables import space, subnet
from guardhouse_services.statements import Insert, statement


def _space(organization_id: str) -> sa.Select[Any]:
    columns = [space.c[field.name] for field in fields(Space)]
    return sa.select(*columns).where(space.c.organization_id == organization_id)


def _subnets(organization_id: str) -> sa.Select[Any]:
    columns = [subnet.c[field.name] for field in fields(Subnet)]
    return sa.select(*columns).where(subnet.c.organization_id == organization_id)


def _key(organization_id: str, subnet_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(subnet.c.organization_id == organization_id, subnet.c.subnet_id == subnet_id)


def read_space(tx: Transaction, organization_id: str) -> Space | None:
    row = _read_space(tx, organization_id).one_or_none()
    return Space(*row) if row else None


@statement
def _read_space(organization_id: str) -> sa.Select[Any]:
    return _space(organization_id)


def lock_space(tx: Transaction, organization_id: str) -> Space | None:
    """Comes before every change of what the organization has; until the commit nobody else changes it."""
    row = _lock_space(tx, organization_id).one_or_none()
    return Space(*row) if row else None


@statement
def _lock_space(organization_id: str) -> sa.Select[Any]:
    return _space(organization_id).with_for_update()


def add_space(tx: Transaction, organization_id: str, made: Space) -> Space:
    """Adds and locks the space, unless somebody else did at this moment; then theirs counts."""
    tx.execute(_add_space(tx.insert), {"organization_id": organization_id, **asdict(made)})
    return Space(*_lock_space(tx, organization_id).one())


@cache
def _add_space(insert: Insert) -> sa.Executable:
    return insert(space).on_conflict_do_nothing(index_elements=["organization_id"])


def save_place(tx: Transaction, organization_id: str, changed: Subnet) -> None:
    """Of a subnet of a space that the caller has locked: how far it has been given out."""
    if changed.number == FIRST:
        _save_first(tx, organization_id, changed.next_ipv4, changed.rested_time)
    else:
        _save_place(tx, organization_id, changed.subnet_id, changed.next_ipv4, changed.rested_time)


@statement
def _save_first(organization_id: str, next_ipv4: int, rested_time: int) -> sa.Executable:
    changed = space.update().where(space.c.organization_id == organization_id)
    return changed.values(next_ipv4=next_ipv4, rested_time=rested_time)


@statement
def _save_place(organization_id: str, subnet_id: str, next_ipv4: int, rested_time: int) -> sa.Executable:
    changed = subnet.update().where(_key(organization_id, subnet_id))
    return changed.values(next_ipv4=next_ipv4, rested_time=rested_time)


def of_space(tx: Transaction, organization_id: str, within: Space) -> list[Subnet]:
    """Its subnets, by creation. There are none as long as nobody has written the first (see `first_subnet`)."""
    return list(_made(_of_space(tx, organization_id), within))


@statement
def _of_space(organization_id: str) -> sa.Select[Any]:
    return _subnets(organization_id).order_by(subnet.c.subnet_id)


def insert(tx: Transaction, organization_id: str, made: Subnet) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **asdict(made)})


_INSERT = subnet.insert()


def rested_time(tx: Transaction, organization_id: str, within: Space) -> int:
    """No search of any subnet begins behind this."""
    return max(within.rested_time, _rested_time(tx, organization_id).scalar() or 0)


@statement
def _rested_time(organization_id: str) -> sa.Select[Any]:
    return sa.select(sa.func.max(subnet.c.rested_time)).where(subnet.c.organization_id == organization_id)


def count(tx: Transaction, organization_id: str, more: Mapping[int, tuple[int, int]]) -> None:
    """Adds to what subnets, by their numbers, have held, and to how much of that is revoked."""
    for number, (held, revoked) in sorted(more.items()):
        _count(tx, organization_id, number, held, revoked)


@statement
def _count(organization_id: str, number: int, held: int, revoked: int) -> sa.Executable:
    of_it = (subnet.c.organization_id == organization_id, subnet.c.number == number)
    return subnet.update().where(*of_it).values(held=subnet.c.held + held, revoked=subnet.c.revoked + revoked)


def _made(rows: Iterable[Any], within: Space) -> Iterable[Subnet]:
    for row in rows:
        values = dict(row._mapping)
        if row.number == FIRST:
            values |= {"next_ipv4": within.next_ipv4, "rested_time": within.rested_time}
        yield Subnet(**values)

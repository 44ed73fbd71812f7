"""An organization's space, and its subnets."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.durations import DAY
from guardhouse.errors import SubnetNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.leases import FOREVER, State
from guardhouse_services.ipam.domain.subnets import FIRST, Space, Subnet, Usage, day_before
from guardhouse_services.ipam.store.tables import lease, space, subnet, usage
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, statement, upsert

NAMED = 100
"""How many holders a refusal names."""


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


def organizations(tx: Transaction, after: str) -> list[str]:
    """Those that have a space, a few at a time."""
    return list(_organizations(tx, after, 1000).scalars())


@statement
def _organizations(after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(space.c.organization_id).where(space.c.organization_id > after)
    return query.order_by(space.c.organization_id).limit(limit)


@statement
def will_be_told(organization_id: str) -> sa.Executable:
    return space.update().where(space.c.organization_id == organization_id).values(is_told=True)


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
        counted = _count(tx, organization_id, number, held, revoked).one_or_none()
        if counted is not None:
            _note_held(tx, organization_id, counted.subnet_id, tx.now // DAY, counted.held)


@statement
def _count(organization_id: str, number: int, held: int, revoked: int) -> sa.Executable:
    of_it = (subnet.c.organization_id == organization_id, subnet.c.number == number)
    counted = subnet.update().where(*of_it).values(held=subnet.c.held + held, revoked=subnet.c.revoked + revoked)
    return counted.returning(subnet.c.subnet_id, subnet.c.held)


@upsert
def _note_held(insert: Insert, organization_id: str, subnet_id: str, day: int, held: int) -> sa.Executable:
    noted = insert(usage).values(organization_id=organization_id, subnet_id=subnet_id, day=day, held=held)
    key = ["organization_id", "subnet_id", "day"]
    return noted.on_conflict_do_update(index_elements=key, set_={"held": held})


def recount(tx: Transaction, organization_id: str, of: Subnet) -> None:
    """Counts what the subnet has held, where somebody who keeps no count may have changed it."""
    held, revoked = _held(tx, organization_id, of.number).one()
    if (held, revoked) != (of.held, of.revoked):
        _set_counts(tx, organization_id, of.subnet_id, held, revoked)
        if held and not of.held:
            # It is older than its count, so what it has did not come in a day.
            _note_held(tx, organization_id, of.subnet_id, of.create_time // DAY - 1, held)


@statement
def _held(organization_id: str, number: int) -> sa.Select[Any]:
    """It walks over all that are held."""
    counts: list[Any] = [sa.func.count(), sa.func.count(lease.c.revoke_time)]
    return sa.select(*counts).where(
        lease.c.organization_id == organization_id, lease.c.subnet == number, lease.c.state == State.HELD
    )


@statement
def _set_counts(organization_id: str, subnet_id: str, held: int, revoked: int) -> sa.Executable:
    return subnet.update().where(_key(organization_id, subnet_id)).values(held=held, revoked=revoked)


def usage_of(tx: Transaction, organization_id: str, of: Subnet, quarantine: int) -> Usage:
    """What else its pairs are. It walks over those that are reserved or in quarantine, and no others."""
    row = _usage(tx, organization_id, of.subnet_id, of.number, tx.now - quarantine, day_before(of, tx.now)).one()
    return Usage(*row)


@statement
def _usage(organization_id: str, subnet_id: str, number: int, rested: int, day: int) -> sa.Select[Any]:
    mine = lease.c.organization_id == organization_id
    reserved = sa.select(sa.func.count()).where(mine, lease.c.subnet == number, lease.c.state == State.RESERVED)
    place = sa.tuple_(lease.c.subnet, lease.c.rest_time)
    resting = (place > sa.tuple_(number, rested), place <= sa.tuple_(number, FOREVER), lease.c.rest_time.is_not(None))
    quarantined = sa.select(sa.func.count()).select_from(lease).where(mine, *resting)
    before = sa.select(usage.c.held).where(
        usage.c.organization_id == organization_id, usage.c.subnet_id == subnet_id, usage.c.day <= day
    )
    held_before = before.order_by(usage.c.day.desc()).limit(1).scalar_subquery()
    return sa.select(reserved.scalar_subquery(), quarantined.scalar_subquery(), sa.func.coalesce(held_before, 0))


def get(tx: Transaction, organization_id: str, subnet_id: str, within: Space | None) -> Subnet:
    """Raises SubnetNotFound."""
    row = _get(tx, organization_id, subnet_id).one_or_none()
    if row is None or within is None:
        raise SubnetNotFound(subnet_id)
    return next(iter(_made([row], within)))


@statement
def _get(organization_id: str, subnet_id: str) -> sa.Select[Any]:
    return _subnets(organization_id).where(subnet.c.subnet_id == subnet_id)


def page(tx: Transaction, organization_id: str, within: Space, wanted: Page) -> list[Subnet]:
    """The page's subnets by creation, and one more if there is one."""
    return list(_made(_page(tx, organization_id, wanted.after, wanted.size + 1), within))


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    return _subnets(organization_id).where(subnet.c.subnet_id > after).order_by(subnet.c.subnet_id).limit(limit)


def describe(tx: Transaction, organization_id: str, changed: Subnet) -> None:
    """Writes what people say of it."""
    _describe(
        tx,
        organization_id,
        changed.subnet_id,
        changed.display_name,
        changed.description,
        changed.is_default,
        changed.update_time,
    )


@statement
def _describe(
    organization_id: str, subnet_id: str, display_name: str, description: str, is_default: bool, update_time: int
) -> sa.Executable:
    changed = subnet.update().where(_key(organization_id, subnet_id))
    return changed.values(
        display_name=display_name, description=description, is_default=is_default, update_time=update_time
    )


@statement
def set_last_number(organization_id: str, last_number: int) -> sa.Executable:
    return space.update().where(space.c.organization_id == organization_id).values(last_number=last_number)


@statement
def profiles_changed(organization_id: str) -> sa.Executable:
    changed = space.update().where(space.c.organization_id == organization_id)
    return changed.values(profiles_version=space.c.profiles_version + 1)


def holders(tx: Transaction, organization_id: str, of: Subnet) -> list[str]:
    """The first registrations that hold an address of it."""
    return list(_holders(tx, organization_id, int(of.network[0]), int(of.network[-1])).scalars())


@statement
def _holders(organization_id: str, first: int, last: int) -> sa.Select[Any]:
    within = (lease.c.organization_id == organization_id, lease.c.ipv4 >= first, lease.c.ipv4 <= last)
    query = sa.select(lease.c.registration_id).where(*within, lease.c.state == State.HELD)
    return query.order_by(lease.c.ipv4).limit(NAMED)


def delete(tx: Transaction, organization_id: str, subnet_id: str) -> None:
    """Leases of it stay, for nobody who has one. A subnet that has their addresses next takes them over."""
    _delete_usage(tx, organization_id, subnet_id)
    _delete(tx, organization_id, subnet_id)


@statement
def _delete(organization_id: str, subnet_id: str) -> sa.Executable:
    return subnet.delete().where(_key(organization_id, subnet_id))


@statement
def _delete_usage(organization_id: str, subnet_id: str) -> sa.Executable:
    return usage.delete().where(usage.c.organization_id == organization_id, usage.c.subnet_id == subnet_id)


def _made(rows: Iterable[Any], within: Space) -> Iterable[Subnet]:
    for row in rows:
        values = dict(row._mapping)
        if row.number == FIRST:
            values |= {"next_ipv4": within.next_ipv4, "rested_time": within.rested_time}
        yield Subnet(**values)

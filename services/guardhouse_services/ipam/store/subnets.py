"""An organization's space, and its subnets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.durations import DAY
from guardhouse.errors import SubnetNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.leases import FOREVER, State
from guardhouse_services.ipam.domain.pins import Kept
from guardhouse_services.ipam.domain.subnets import FIRST, RATE_OVER, Space, Subnet, Usage
from guardhouse_services.ipam.store import pins
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


def usages(tx: Transaction, organization_id: str, of: Sequence[Subnet], quarantine: int) -> list[Usage]:
    """What else the pairs of an organization's subnets are.

    It walks over those that are reserved, in quarantine or pinned, and no others.
    """
    ids = [each.subnet_id for each in of]
    rows = {row.subnet_id: row for row in _usages_of(tx, organization_id, ids, *_since(tx, quarantine))}
    kept = pins.kept(tx, organization_id, quarantine)
    return [_usage(rows[each.subnet_id], each, kept) for each in of]


def all_usages(tx: Transaction, quarantine: int) -> Iterator[tuple[str, Subnet, Usage]]:
    """The same of every subnet there is, with its organization. It does not say how far a first one is given out."""
    kept = pins.all_kept(tx, quarantine)
    for row in _all_usages(tx, *_since(tx, quarantine)):
        each = Subnet(**{field.name: row._mapping[field.name] for field in fields(Subnet)})
        yield row.organization_id, each, _usage(row, each, kept.get(row.organization_id, ()))


def _usage(row: Any, of: Subnet, kept: Iterable[Kept]) -> Usage:
    return Usage(row.reserved, row.quarantined, row.held_before, sum(each.idle(of.usable) for each in kept))


def _since(tx: Transaction, quarantine: int) -> tuple[int, int]:
    """When what is in quarantine at most was given back, and the day from which growth is counted."""
    return tx.now - quarantine, tx.now // DAY - RATE_OVER


def _using(rested: int, day: int) -> list[Any]:
    """The columns of Usage but for what is pinned: three walks of an index for each subnet."""
    mine = lease.c.organization_id == subnet.c.organization_id
    is_reserved = (lease.c.subnet == subnet.c.number, lease.c.state == State.RESERVED)
    # Written so that SQLite takes the index of the subnet, not the one of all.
    place = sa.tuple_(lease.c.subnet, lease.c.rest_time)
    bounds = (place > sa.tuple_(subnet.c.number, rested), place <= sa.tuple_(subnet.c.number, FOREVER))
    # Of a subnet that is younger, the growth is counted from the day before it was made.
    made = subnet.c.create_time // DAY - 1
    began = sa.case((made > day, made), else_=day)
    of_it = (usage.c.organization_id == subnet.c.organization_id, usage.c.subnet_id == subnet.c.subnet_id)
    before = sa.select(usage.c.held).where(*of_it, usage.c.day <= began).order_by(usage.c.day.desc()).limit(1)
    return [
        sa.select(sa.func.count()).select_from(lease).where(mine, *is_reserved).scalar_subquery().label("reserved"),
        sa.select(sa.func.count())
        .select_from(lease)
        .where(mine, *bounds, lease.c.rest_time.is_not(None))
        .scalar_subquery()
        .label("quarantined"),
        sa.func.coalesce(before.scalar_subquery(), 0).label("held_before"),
    ]


@statement
def _usages_of(organization_id: str, subnet_ids: Sequence[str], rested: int, day: int) -> sa.Select[Any]:
    of_it = (subnet.c.organization_id == organization_id, subnet.c.subnet_id.in_(subnet_ids))
    return sa.select(subnet.c.subnet_id, *_using(rested, day)).where(*of_it)


@statement
def _all_usages(rested: int, day: int) -> sa.Select[Any]:
    columns = [subnet.c[field.name] for field in fields(Subnet)]
    return sa.select(subnet.c.organization_id, *_using(rested, day), *columns)


def forget_usage(tx: Transaction, limit: int) -> int:
    """Deletes what was held on days that no growth is counted from any more; answers how many."""
    return _forget_usage(tx, tx.now // DAY - RATE_OVER, limit).rowcount


@statement
def _forget_usage(day: int, limit: int) -> sa.Executable:
    later = usage.alias()
    same = (later.c.organization_id == usage.c.organization_id, later.c.subnet_id == usage.c.subnet_id)
    is_followed = sa.exists().where(*same, later.c.day > usage.c.day, later.c.day <= day)
    key = (usage.c.organization_id, usage.c.subnet_id, usage.c.day)
    old = sa.select(*key).where(usage.c.day < day, is_followed).limit(limit)
    return usage.delete().where(sa.tuple_(*key).in_(old))


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

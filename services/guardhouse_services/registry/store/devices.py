"""Devices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import (
    LISTED,
    NOBODY,
    Cursor,
    Device,
    DeviceFilter,
    LastSeen,
    Listed,
    Order,
    Range,
    State,
    System,
)
from guardhouse_services.registry.store import people
from guardhouse_services.registry.store.lists import Values, contains, in_range, looking, together
from guardhouse_services.registry.store.tables import (
    bytewise,
    device,
    device_activity,
    device_name,
    device_texts,
    device_version,
    is_enrolled,
    is_listed,
    person,
    profile_column,
    registration,
    registration_activity,
    registration_email,
    spelled,
    to_device,
)
from guardhouse_services.statements import statement

_select = sa.select(device)
_NO_ADDRESS = bytewise(sa.literal_column("''"))


def find(tx: Transaction, organization_id: str, device_id: str) -> Device | None:
    """A device on which an enrollment has succeeded."""
    row = _find(tx, organization_id, device_id).one_or_none()
    return _with_last_seen(tx, organization_id, [to_device(row)])[0] if row else None


@statement
def _find(organization_id: str, device_id: str) -> sa.Select[Any]:
    return _select.where(device.c.organization_id == organization_id, device.c.device_id == device_id, is_enrolled)


def _with_last_seen(tx: Transaction, organization_id: str, devices: Sequence[Device]) -> list[Device]:
    ids = [it.device_id for it in devices]
    rows = _last(tx, organization_id, ids).all()
    known = people.known(tx, organization_id, {row.user_id for row in rows if row.user_id})
    last: dict[str, LastSeen] = {}
    for row in rows:
        who = known.get(row.user_id, NOBODY)
        last[row.device_id] = LastSeen(row.registration_id, row.user_id or "", who.email, who.display_name)
    return [replace(it, last_seen=last.get(it.device_id, LastSeen())) for it in devices]


@statement
def _last(organization_id: str, device_ids: list[str]) -> sa.Select[Any]:
    """The registration that was heard of or made last, of each of the devices that has any."""
    newest_first = (registration_activity.desc(), registration.c.registration_id.desc())
    place = sa.func.row_number().over(partition_by=registration.c.device_id, order_by=newest_first)
    ranked = sa.select(
        registration.c.device_id, registration.c.registration_id, registration.c.user_id, place.label("place")
    ).where(
        registration.c.organization_id == organization_id,
        registration.c.device_id.in_(device_ids),
        registration.c.state.in_(LISTED),
    )
    of_all = ranked.subquery()
    return sa.select(of_all).where(of_all.c.place == 1)


def systems(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> dict[str, System]:
    """What devices run, by their ids."""
    rows = _systems(tx, organization_id, list(device_ids)) if device_ids else ()
    return {row.device_id: System(row.platform, row.os_version, row.display_name, row.client_version) for row in rows}


@statement
def _systems(organization_id: str, device_ids: list[str]) -> sa.Select[Any]:
    columns = (device.c[name] for name in ("device_id", *System.__slots__))
    return sa.select(*columns).where(device.c.organization_id == organization_id, device.c.device_id.in_(device_ids))


def lock(tx: Transaction, organization_id: str, device_ids: Collection[str]) -> list[str]:
    """Locks devices on which an enrollment has succeeded, in the order of their ids, which it answers."""
    return list(_lock(tx, organization_id, list(device_ids)).scalars())


@statement
def _lock(organization_id: str, device_ids: list[str]) -> sa.Select[Any]:
    wanted = sa.select(device.c.device_id).where(
        device.c.organization_id == organization_id, device.c.device_id.in_(device_ids), is_enrolled
    )
    return wanted.order_by(device.c.device_id).with_for_update()


def page(tx: Transaction, organization_id: str, wanted: DeviceFilter, page: Range) -> Listed[Device]:
    here = [device.c.organization_id == organization_id, is_enrolled]
    # What is named, and a user's, are few, and found by that.
    few: list[sa.ColumnElement[bool]] = []
    rare: list[sa.ColumnElement[bool]] = []
    if wanted.ids:
        few.append(device.c.device_id.in_(wanted.ids))
    if wanted.last_seen_user_id:
        few.append(_seen_with([wanted.last_seen_user_id]))
    if wanted.last_seen_user_email:
        named = sa.and_(person.c.organization_id == organization_id, person.c.email == wanted.last_seen_user_email)
        few.append(_seen_with(sa.select(person.c.user_id).where(named)))
    if wanted.active is not None:
        count = device.c.active_registrations
        if page.order is not Order.ACTIVE or not wanted.active:
            rare.append(count > 0 if wanted.active else count == 0)
        elif page.descending or page.after is None:
            # They lie together, and behind one of them there are no others.
            here.append(count > 0)
    if wanted.platform:
        rare.append(device.c.platform == wanted.platform)
    if wanted.search:
        rare.append(contains(wanted.search, *device_texts))
    if wanted.device_profile_id:
        of_profile = profile_column(organization_id, wanted.device_profile_id)
        rare.append(_last_seen(registration.c.device_profile_id) == of_profile)
    rare += [device.c.tags[key].as_string() == value for key, value in wanted.tags]
    by_user = page.order is Order.USER_EMAIL
    if by_user and not few:
        stretches = _by_user(organization_id, wanted.active)
    else:
        last_id = sa.func.coalesce(_last_seen(registration.c.registration_id), device.c.device_id)
        stretches = [_Stretch(here, [], page.order, _VALUES, last_id if by_user else device.c.device_id)]

    def read(page: Range, upto: Cursor | None = None) -> list[Device]:
        parts: list[sa.Select[Any]] = []
        for it in stretches:
            parts += it.parts(_select.where(*it.shown, *few, *rare), page, upto, by_index=not few)
        rows = tx.execute(together(parts, page))
        return [replace(to_device(row), place=Cursor(row.value, row.row_id)) for row in rows]

    def walk(page: Range) -> sa.Select[Any]:
        parts: list[sa.Select[Any]] = []
        for it in stretches:
            parts += it.parts(sa.select(), page)
        return together(parts, page)

    found = Listed(read(page)) if few or not (rare or page.skips or by_user) else looking(tx, page, walk, read)
    return replace(found, rows=_with_last_seen(tx, organization_id, found.rows))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows that lie in an index in this order, and which of them stand for a device of the list."""

    rows: Sequence[sa.ColumnElement[bool]]
    shown: Sequence[sa.ColumnElement[bool]]
    order: Order
    values: Values
    row_id: Any

    def parts(
        self, query: sa.Select[Any], page: Range, upto: Cursor | None = None, *, by_index: bool = True
    ) -> list[sa.Select[Any]]:
        page = replace(page, order=self.order)
        return in_range(query.where(*self.rows), page, self.values, self.row_id, upto, by_index=by_index)


def _by_user(organization_id: str, active: bool | None) -> list[_Stretch]:
    """Devices by the address of the user last seen there, which no device has a note of: each heartbeat may change it.

    A device stands where its registration that was heard of last does, and one without any by its own id, with no
    address. As the ids of devices come before those of registrations, such a one is before all others.
    """
    of_device = sa.and_(
        device.c.organization_id == organization_id, device.c.device_id == registration.c.device_id, is_enrolled
    )
    seen: Values = {Order.SEEN: device_activity}
    by_address: Values = {**seen, Order.USER_EMAIL: registration_email}
    stretches = []
    # The registration heard of last may be revoked although another is active.
    for state in (State.REVOKED,) if active is False else LISTED:
        rows = [registration.c.organization_id == organization_id, spelled(state), is_listed]
        shown = [of_device, _is_last()]
        stretches.append(_Stretch(rows, shown, Order.USER_EMAIL, by_address, registration.c.registration_id))
    if not active:
        rows = [device.c.organization_id == organization_id, is_enrolled, device.c.active_registrations == 0]
        shown = [_last_seen(registration.c.registration_id).is_(None)]
        stretches.append(_Stretch(rows, shown, Order.ID, {**seen, Order.ID: _NO_ADDRESS}, device.c.device_id))
    return stretches


def _is_last() -> sa.ColumnElement[bool]:
    """Whether the registration was heard of last on its device. The first that was heard of later settles it."""
    other = registration.alias()
    time = sa.func.coalesce(other.c.seen_time, other.c.create_time)
    later = sa.select(other.c.registration_id).where(
        other.c.organization_id == registration.c.organization_id,
        other.c.device_id == registration.c.device_id,
        other.c.state.in_(LISTED),
        sa.tuple_(time, other.c.registration_id) > sa.tuple_(registration_activity, registration.c.registration_id),
    )
    return later.limit(1).correlate(registration).scalar_subquery().is_(None)


def _seen_with(user_ids: Any) -> sa.ColumnElement[bool]:
    """Whether the registration that was heard of last on the device is a user's of these, who has one there."""
    theirs = sa.select(registration.c.device_id).where(
        registration.c.organization_id == device.c.organization_id, registration.c.user_id.in_(user_ids)
    )
    return sa.and_(device.c.device_id.in_(theirs), _last_seen(registration.c.user_id).in_(user_ids))


def _last_seen(column: Any) -> sa.ScalarSelect[Any]:
    """What the registration says that was heard of last on the device."""
    of_device = sa.and_(
        registration.c.organization_id == device.c.organization_id,
        registration.c.device_id == device.c.device_id,
        registration.c.state.in_(LISTED),
    )
    newest_first = (registration_activity.desc(), registration.c.registration_id.desc())
    last = sa.select(column).where(of_device).order_by(*newest_first).limit(1)
    return last.correlate(device).scalar_subquery()


_VALUES: Values = {
    Order.CREATE: device.c.create_time,
    Order.SEEN: device_activity,
    Order.ID: device.c.device_id,
    Order.NAME: device_name,
    Order.VERSION: device_version,
    Order.ACTIVE: device.c.active_registrations,
    # Of few.
    Order.USER_EMAIL: sa.func.coalesce(_last_seen(registration_email), _NO_ADDRESS),
}


def tag(tx: Transaction, organization_id: str, device_id: str, tags: Mapping[str, str]) -> None:
    _tag(tx, organization_id, device_id, dict(tags), tx.now)


@statement
def _tag(organization_id: str, device_id: str, tags: dict[str, str], now: int) -> sa.Executable:
    one = device.update().where(device.c.organization_id == organization_id, device.c.device_id == device_id)
    return one.values(tags=tags, update_time=now)


def delete(tx: Transaction, organization_id: str, device_id: str) -> bool:
    """False when there is none on which an enrollment has succeeded."""
    return _delete(tx, organization_id, device_id).rowcount == 1


@statement
def _delete(organization_id: str, device_id: str) -> sa.Executable:
    return device.delete().where(
        device.c.organization_id == organization_id, device.c.device_id == device_id, is_enrolled
    )

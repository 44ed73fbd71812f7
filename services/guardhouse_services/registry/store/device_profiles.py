"""Device profiles."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.device_profiles import DeviceProfile, Rule, Settings
from guardhouse.errors import DeviceProfileNotFound, LimitReached, PrecedenceTaken
from guardhouse.ids import default_profile_id
from guardhouse_services import requests
from guardhouse_services.database import Transaction, violated
from guardhouse_services.paging import Page
from guardhouse_services.registry.store.tables import device_profile, device_profile_by_precedence
from guardhouse_services.statements import Insert, statement, upsert

LIMIT = 100
"""How many an organization may have besides the default. Whatever changes a registration's facts asks them all."""


_is_custom = device_profile.c.precedence.is_not(None)


def _key(organization_id: str, device_profile_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        device_profile.c.organization_id == organization_id, device_profile.c.device_profile_id == device_profile_id
    )


def _made(row: Any) -> DeviceProfile:
    return DeviceProfile(
        device_profile_id=row.device_profile_id,
        name=row.name,
        precedence=row.precedence,
        match=row.match,
        description=row.description,
        enabled=row.enabled,
        settings=requests.recall(Settings, {"value": row.settings}) or Settings(),
        settings_etag=row.settings_etag,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def default(organization_id: str) -> DeviceProfile:
    """The default profile as it is before anybody changes it."""
    return DeviceProfile(default_profile_id(organization_id), "Default", None)


def get(tx: Transaction, organization_id: str, device_profile_id: str, *, lock: bool = False) -> DeviceProfile:
    """Raises DeviceProfileNotFound; the default profile is always there."""
    row = (_get_locked if lock else _get)(tx, organization_id, device_profile_id).one_or_none()
    if row is not None:
        return _made(row)
    if device_profile_id != default_profile_id(organization_id):
        raise DeviceProfileNotFound(device_profile_id)
    return default(organization_id)


@statement
def _get(organization_id: str, device_profile_id: str) -> sa.Select[Any]:
    return sa.select(device_profile).where(_key(organization_id, device_profile_id))


@statement
def _get_locked(organization_id: str, device_profile_id: str) -> sa.Select[Any]:
    return sa.select(device_profile).where(_key(organization_id, device_profile_id)).with_for_update()


def in_force(tx: Transaction, organization_id: str, device_profile_id: str) -> DeviceProfile:
    """The profile of a registration: the default one where it has just been deleted."""
    row = _get(tx, organization_id, device_profile_id).one_or_none()
    return _made(row) if row else get(tx, organization_id, default_profile_id(organization_id))


def check_room(tx: Transaction, organization_id: str) -> None:
    """Raises LimitReached when the organization, whose matching the caller has locked, has as many as it may have."""
    if _count(tx, organization_id).scalar_one() >= LIMIT:
        message = f"the organization has {LIMIT} device profiles already; delete one first"
        raise LimitReached(message, limit=str(LIMIT))


@statement
def _count(organization_id: str) -> sa.Select[Any]:
    query = sa.select(sa.func.count()).select_from(device_profile)
    return query.where(device_profile.c.organization_id == organization_id, _is_custom)


def save(tx: Transaction, organization_id: str, profile: DeviceProfile) -> None:
    """Writes a profile, new or not. Raises PrecedenceTaken."""
    row = {
        "organization_id": organization_id,
        "device_profile_id": profile.device_profile_id,
        "name": profile.name,
        "description": profile.description,
        "enabled": profile.enabled,
        "precedence": profile.precedence,
        "match": profile.match,
        "settings": requests.remember(profile.settings),
        "settings_etag": profile.settings_etag,
        "create_time": profile.create_time,
        "update_time": profile.update_time,
    }
    try:
        _save(tx, **row)
    except IntegrityError as error:
        if not violated(error, device_profile_by_precedence):
            raise
        raise PrecedenceTaken(
            f"another device profile has precedence {profile.precedence}", precedence=str(profile.precedence)
        ) from None


@upsert
def _save(
    insert: Insert,
    organization_id: str,
    device_profile_id: str,
    name: str,
    description: str,
    enabled: bool,
    precedence: int | None,
    match: str,
    settings: Any,
    settings_etag: str,
    create_time: int,
    update_time: int,
) -> sa.Executable:
    values = {
        "name": name,
        "description": description,
        "enabled": enabled,
        "precedence": precedence,
        "match": match,
        "settings": settings,
        "settings_etag": settings_etag,
        "update_time": update_time,
    }
    saved = insert(device_profile).values(
        organization_id=organization_id, device_profile_id=device_profile_id, create_time=create_time, **values
    )
    return saved.on_conflict_do_update(index_elements=["organization_id", "device_profile_id"], set_=values)


@statement
def delete(organization_id: str, device_profile_id: str) -> sa.Executable:
    """Of one that the caller has locked."""
    return device_profile.delete().where(_key(organization_id, device_profile_id))


def rules(tx: Transaction, organization_id: str) -> Sequence[Rule]:
    """What decides on its registrations, by precedence."""
    return [Rule(*row) for row in _rules(tx, organization_id)]


@statement
def _rules(organization_id: str) -> sa.Select[Any]:
    columns = (device_profile.c.device_profile_id, device_profile.c.precedence, device_profile.c.match)
    query = sa.select(*columns, device_profile.c.enabled)
    query = query.where(device_profile.c.organization_id == organization_id, _is_custom)
    return query.order_by(device_profile.c.precedence)


def names(tx: Transaction, organization_id: str) -> dict[str, str]:
    """The names of all that are stored, by id."""
    return {row.device_profile_id: row.name for row in _names(tx, organization_id)}


@statement
def _names(organization_id: str) -> sa.Select[Any]:
    query = sa.select(device_profile.c.device_profile_id, device_profile.c.name)
    return query.where(device_profile.c.organization_id == organization_id)


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[DeviceProfile]:
    """In the order in which they are asked, behind the precedence that the page names: at most one more than its size.

    The default profile is the last of all.
    """
    after, limit = int(wanted.after or 0), wanted.size + 1
    found = [_made(row) for row in _page(tx, organization_id, after, limit)]
    return found if len(found) == limit else [*found, get(tx, organization_id, default_profile_id(organization_id))]


@statement
def _page(organization_id: str, after: int, limit: int) -> sa.Select[Any]:
    query = sa.select(device_profile).where(
        device_profile.c.organization_id == organization_id, device_profile.c.precedence > after
    )
    return query.order_by(device_profile.c.precedence).limit(limit)


def stored(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[DeviceProfile]:
    """Those that have been written, by their ids, and one more if there is one."""
    return [_made(row) for row in _stored(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _stored(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(device_profile).where(
        device_profile.c.organization_id == organization_id, device_profile.c.device_profile_id > after
    )
    return query.order_by(device_profile.c.device_profile_id).limit(limit)

"""How far each organization's registrations have been matched anew with its device profiles."""

from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Matching
from guardhouse_services.registry.store.tables import is_under_way, profile_matching
from guardhouse_services.statements import Insert, statement, upsert


def begin(tx: Transaction, organization_id: str) -> None:
    """From the first registration, whatever was under way; locks the matching, and so the organization's profiles."""
    _begin(tx, organization_id, tx.now)


@upsert
def _begin(insert: Insert, organization_id: str, request_time: int) -> sa.Executable:
    values = {"request_time": request_time, "end_time": None, "after_registration_id": "", "checked": 0, "moved": 0}
    begun = insert(profile_matching).values(organization_id=organization_id, **values)
    return begun.on_conflict_do_update(index_elements=["organization_id"], set_=values)


def lock(tx: Transaction, organization_id: str) -> None:
    """For a change of profiles that matches nobody anew."""
    _lock(tx, organization_id, tx.now)


@upsert
def _lock(insert: Insert, organization_id: str, now: int) -> sa.Executable:
    none = {"request_time": now, "end_time": now, "after_registration_id": "", "checked": 0, "moved": 0}
    locked = insert(profile_matching).values(organization_id=organization_id, **none)
    same = {"checked": profile_matching.c.checked}
    return locked.on_conflict_do_update(index_elements=["organization_id"], set_=same)


def find(tx: Transaction, organization_id: str, *, lock: bool = False) -> Matching | None:
    row = (_find_locked if lock else _find)(tx, organization_id).one_or_none()
    if row is None:
        return None
    return Matching(row.request_time, row.end_time, row.after_registration_id, row.checked, row.moved)


@statement
def _find(organization_id: str) -> sa.Select[Any]:
    return sa.select(profile_matching).where(profile_matching.c.organization_id == organization_id)


@statement
def _find_locked(organization_id: str) -> sa.Select[Any]:
    wanted = sa.select(profile_matching).where(profile_matching.c.organization_id == organization_id)
    return wanted.with_for_update()


def under_way(tx: Transaction) -> list[str]:
    """The organizations whose registrations are still to be looked at."""
    return list(tx.execute(_UNDER_WAY).scalars())


_UNDER_WAY = sa.select(profile_matching.c.organization_id).where(is_under_way)


def save(tx: Transaction, organization_id: str, now: Matching) -> None:
    """Of one that the caller has locked."""
    _save(tx, organization_id, now.end_time, now.after, now.checked, now.moved)


@statement
def _save(organization_id: str, end_time: int | None, after: str, checked: int, moved: int) -> sa.Executable:
    values = {"end_time": end_time, "after_registration_id": after, "checked": checked, "moved": moved}
    return profile_matching.update().where(profile_matching.c.organization_id == organization_id).values(**values)

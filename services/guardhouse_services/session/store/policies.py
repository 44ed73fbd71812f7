"""Gateway policies."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.errors import LimitReached, PolicyNotFound, PrecedenceTaken
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.session.domain.policies import (
    FIRST_PRECEDENCE,
    LIMIT,
    MAX_PRECEDENCE,
    STEP,
    CheckSession,
    Policy,
    Staleness,
    StalenessMode,
    Terms,
)
from guardhouse_services.session.store.tables import policy
from guardhouse_services.statements import statement


def _key(organization_id: str, policy_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(policy.c.organization_id == organization_id, policy.c.policy_id == policy_id)


def insert(tx: Transaction, organization_id: str, added: Policy, lists: Collection[str]) -> None:
    """With the names of the lists that it uses."""
    tx.execute(_INSERT, {"organization_id": organization_id, **to_row(added), "lists": sorted(lists)})


_INSERT = policy.insert()


def update(tx: Transaction, organization_id: str, changed: Policy, lists: Collection[str]) -> None:
    """With the names of the lists that it uses."""
    of_it = {"of_organization_id": organization_id, "of_policy_id": changed.policy_id}
    tx.execute(_UPDATE, {**of_it, **to_row(changed), "lists": sorted(lists)})


# The row comes with the values, by the names of its columns.
_UPDATE = policy.update().where(
    policy.c.organization_id == sa.bindparam("of_organization_id"), policy.c.policy_id == sa.bindparam("of_policy_id")
)


def delete(tx: Transaction, organization_id: str, policy_id: str) -> None:
    """Raises PolicyNotFound."""
    if _delete(tx, organization_id, policy_id).rowcount != 1:
        raise PolicyNotFound(policy_id)


@statement
def _delete(organization_id: str, policy_id: str) -> sa.Executable:
    return policy.delete().where(_key(organization_id, policy_id))


def get(tx: Transaction, organization_id: str, policy_id: str, *, lock: bool = False) -> Policy:
    """With `lock` nobody else changes it before the transaction ends. Raises PolicyNotFound."""
    found = _lock(tx, organization_id, policy_id) if lock else _find(tx, organization_id, policy_id)
    row = found.mappings().one_or_none()
    if row is None:
        raise PolicyNotFound(policy_id)
    return from_row(row)


@statement
def _find(organization_id: str, policy_id: str) -> sa.Select[Any]:
    return sa.select(policy).where(_key(organization_id, policy_id))


@statement
def _lock(organization_id: str, policy_id: str) -> sa.Select[Any]:
    return sa.select(policy).where(_key(organization_id, policy_id)).with_for_update()


def check_room(tx: Transaction, organization_id: str, filter_: PolicyFilter) -> None:
    """Raises LimitReached when the organization, which the caller has locked, has as many as it may have."""
    if _count(tx, organization_id, filter_).scalar_one() >= LIMIT:
        message = f"the organization has {LIMIT} {filter_.name} policies already; delete one first"
        raise LimitReached(message, limit=str(LIMIT))


@statement
def _count(organization_id: str, filter_: PolicyFilter) -> sa.Select[Any]:
    query = sa.select(sa.func.count()).select_from(policy)
    return query.where(policy.c.organization_id == organization_id, policy.c.filter == filter_)


def place(tx: Transaction, organization_id: str, terms: Terms, policy_id: str) -> Terms:
    """The terms with a precedence that no other policy of the organization, which the caller has locked, has.

    Raises PrecedenceTaken, and LimitReached when there is no room behind the last.
    """
    if terms.precedence is None:
        highest = _highest(tx, organization_id).scalar()
        precedence = FIRST_PRECEDENCE if highest is None else highest + STEP
        if precedence > MAX_PRECEDENCE:
            message = f"no precedence up to {MAX_PRECEDENCE} is behind the last; name one that is free"
            raise LimitReached(message, limit=str(MAX_PRECEDENCE))
        return replace(terms, precedence=precedence)
    holder = _holder(tx, organization_id, terms.precedence).scalar()
    if holder not in (None, policy_id):
        message = f"policy {holder} has precedence {terms.precedence}; take another, or leave it out"
        raise PrecedenceTaken(message, precedence=str(terms.precedence))
    return terms


@statement
def _highest(organization_id: str) -> sa.Select[Any]:
    return sa.select(sa.func.max(policy.c.precedence)).where(policy.c.organization_id == organization_id)


@statement
def _holder(organization_id: str, precedence: int) -> sa.Select[Any]:
    where = (policy.c.organization_id == organization_id, policy.c.precedence == precedence)
    return sa.select(policy.c.policy_id).where(*where).limit(1)


def placed(tx: Transaction, organization_id: str, found: Policy) -> Policy:
    """The policy with the precedence that it has, or gets now if a release wrote it that gave none."""
    if found.terms.precedence is not None:
        return found
    placed = replace(found, terms=place(tx, organization_id, found.terms, found.policy_id))
    set_precedences(tx, organization_id, [placed])
    return placed


def set_precedences(tx: Transaction, organization_id: str, ordered: Sequence[Policy]) -> None:
    """Of policies of the organization, which the caller has locked."""
    for each in ordered:
        _set_precedence(tx, organization_id, each.policy_id, each.terms.precedence, each.update_time)


@statement
def _set_precedence(organization_id: str, policy_id: str, precedence: int | None, update_time: int) -> sa.Executable:
    changed = policy.update().where(_key(organization_id, policy_id))
    return changed.values(precedence=precedence, update_time=update_time)


def using(tx: Transaction, organization_id: str, name: str) -> Sequence[str]:
    """The policies that use a list."""
    return [row.policy_id for row in _using(tx, organization_id) if name in row.lists]


@statement
def _using(organization_id: str) -> sa.Select[Any]:
    query = sa.select(policy.c.policy_id, policy.c.lists)
    return query.where(policy.c.organization_id == organization_id, policy.c.lists.is_not(None))


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[Policy]:
    """The page's policies by creation, and one more if there is one."""
    return [from_row(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1).mappings()]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    return (
        sa.select(policy)
        .where(policy.c.organization_id == organization_id, policy.c.policy_id > after)
        .order_by(policy.c.policy_id)
        .limit(limit)
    )


def longest_open(tx: Transaction | Connection) -> int:
    """The longest max_open of any policy of any organization; 0 for none."""
    return int(tx.execute(_LONGEST_OPEN).scalar() or 0)


_LONGEST_OPEN = sa.select(sa.func.max(policy.c.max_open))


def to_row(of: Policy) -> dict[str, Any]:
    """As the table has it, without the organization; only what JSON can hold."""
    terms, check, staleness = of.terms, of.terms.check_session, of.terms.staleness
    return {
        "policy_id": of.policy_id,
        "display_name": terms.display_name,
        "description": terms.description,
        "enabled": terms.enabled,
        "filter": int(terms.filter),
        "action": int(terms.action),
        "enforce": check.enforce if check else None,
        "duration": check.duration if check else None,
        "create_time": of.create_time,
        "update_time": of.update_time,
        "staleness_mode": int(staleness.mode) if staleness else None,
        "max_open": staleness.max_open if staleness else None,
        "precedence": terms.precedence,
        "traffic": terms.traffic,
        "identity": terms.identity,
        "device_posture": terms.device_posture,
        "schedule": terms.schedule,
        "expire_time": terms.expire_time,
    }


def from_row(row: Mapping[Any, Any]) -> Policy:
    """A row, or what was remembered as one, perhaps by a release that knew less."""
    enforce, mode, schedule = row["enforce"], row["staleness_mode"], row.get("schedule")
    terms = Terms(
        display_name=row["display_name"],
        description=row["description"],
        enabled=row["enabled"],
        filter=PolicyFilter(row["filter"]),
        action=PolicyAction(row["action"]),
        check_session=None if enforce is None else CheckSession(enforce, row["duration"]),
        staleness=None if mode is None else Staleness(StalenessMode(mode), row["max_open"]),
        precedence=row.get("precedence"),
        traffic=row.get("traffic") or "",
        identity=row.get("identity") or "",
        device_posture=row.get("device_posture") or "",
        schedule=None if schedule is None else tuple(schedule),
        expire_time=row.get("expire_time"),
    )
    return Policy(row["policy_id"], terms, row["create_time"], row["update_time"])

"""Session's own database: policies."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.errors import PolicyNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.session.domain import CheckSession, Policy, Staleness, StalenessMode, Terms
from guardhouse_services.statements import statement

metadata = sa.MetaData()

policy = sa.Table(
    "policy",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("policy_id", sa.String(40), primary_key=True),
    sa.Column("display_name", sa.String(100), nullable=False),
    sa.Column("description", sa.String(500), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("filter", sa.SmallInteger, nullable=False),
    sa.Column("action", sa.SmallInteger, nullable=False),
    # Null: the policy has no check_session.
    sa.Column("enforce", sa.Boolean),
    sa.Column("duration", sa.BigInteger),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("update_time", sa.BigInteger, nullable=False),
    # Null: the policy has no staleness.
    sa.Column("staleness_mode", sa.SmallInteger),
    sa.Column("max_open", sa.BigInteger),
)


def _key(organization_id: str, policy_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(policy.c.organization_id == organization_id, policy.c.policy_id == policy_id)


def insert(tx: Transaction, organization_id: str, added: Policy) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **to_row(added)})


_INSERT = policy.insert()


def update(tx: Transaction, organization_id: str, changed: Policy) -> None:
    of_it = {"of_organization_id": organization_id, "of_policy_id": changed.policy_id}
    tx.execute(_UPDATE, {**of_it, **to_row(changed)})


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


def page(tx: Transaction, organization_id: str, after: str, limit: int) -> Sequence[Policy]:
    """The policies behind an id, by creation."""
    return [from_row(row) for row in _page(tx, organization_id, after, limit).mappings()]


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
    }


def from_row(row: Mapping[Any, Any]) -> Policy:
    enforce, mode = row["enforce"], row["staleness_mode"]
    terms = Terms(
        display_name=row["display_name"],
        description=row["description"],
        enabled=row["enabled"],
        filter=PolicyFilter(row["filter"]),
        action=PolicyAction(row["action"]),
        check_session=None if enforce is None else CheckSession(enforce, row["duration"]),
        staleness=None if mode is None else Staleness(StalenessMode(mode), row["max_open"]),
    )
    return Policy(row["policy_id"], terms, row["create_time"], row["update_time"])

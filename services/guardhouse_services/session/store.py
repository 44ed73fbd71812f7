"""Session's own database: policies."""

from collections.abc import Sequence

import sqlalchemy as sa

from guardhouse.decisions import PolicyAction, PolicyFilter
from guardhouse.errors import PolicyNotFound
from guardhouse_services.database import Transaction
from guardhouse_services.session.domain import CheckSession, Policy, Terms

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
)


def insert(tx: Transaction, organization_id: str, added: Policy) -> None:
    values = {"organization_id": organization_id, "policy_id": added.policy_id, "create_time": added.create_time}
    tx.execute(policy.insert().values(**values, **_values(added)))


def update(tx: Transaction, organization_id: str, changed: Policy) -> None:
    tx.execute(policy.update().where(_key(organization_id, changed.policy_id)).values(**_values(changed)))


def delete(tx: Transaction, organization_id: str, policy_id: str) -> None:
    """Raises PolicyNotFound."""
    if tx.execute(policy.delete().where(_key(organization_id, policy_id))).rowcount != 1:
        raise PolicyNotFound(policy_id)


def get(tx: Transaction, organization_id: str, policy_id: str, *, lock: bool = False) -> Policy:
    """With `lock` nobody else changes it before the transaction ends. Raises PolicyNotFound."""
    query = sa.select(policy).where(_key(organization_id, policy_id))
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise PolicyNotFound(policy_id)
    return _policy(row)


def page(tx: Transaction, organization_id: str, after: str, limit: int) -> Sequence[Policy]:
    """The policies behind an id, by creation."""
    query = (
        sa.select(policy)
        .where(policy.c.organization_id == organization_id, policy.c.policy_id > after)
        .order_by(policy.c.policy_id)
        .limit(limit)
    )
    return [_policy(row) for row in tx.execute(query)]


def _key(organization_id: str, policy_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(policy.c.organization_id == organization_id, policy.c.policy_id == policy_id)


def _values(of: Policy) -> dict[str, object]:
    terms, check = of.terms, of.terms.check_session
    return {
        "display_name": terms.display_name,
        "description": terms.description,
        "enabled": terms.enabled,
        "filter": int(terms.filter),
        "action": int(terms.action),
        "enforce": check.enforce if check else None,
        "duration": check.duration if check else None,
        "update_time": of.update_time,
    }


def _policy(row: sa.Row[tuple[object, ...]]) -> Policy:
    terms = Terms(
        display_name=row.display_name,
        description=row.description,
        enabled=row.enabled,
        filter=PolicyFilter(row.filter),
        action=PolicyAction(row.action),
        check_session=None if row.enforce is None else CheckSession(row.enforce, row.duration),
    )
    return Policy(row.policy_id, terms, row.create_time, row.update_time)

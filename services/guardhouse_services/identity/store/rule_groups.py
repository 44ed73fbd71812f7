"""Rule groups, and the stored form of rules."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import RuleGroupInUse, RuleGroupNotFound
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.enrollment_policies import RuleGroup
from guardhouse_services.identity.store.tables import policy_rule_group, rule_group
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

NAMED_POLICIES = 100
_INSERT = rule_group.insert()
_UPDATE = rule_group.update().where(
    rule_group.c.organization_id == sa.bindparam("the_organization_id"),
    rule_group.c.rule_group_id == sa.bindparam("the_rule_group_id"),
)


def rules(pairs: Sequence[tuple[str, str]]) -> tuple[Rule, ...]:
    return tuple(Rule(RuleKind(kind), value) for kind, value in pairs)


def pairs(of: Sequence[Rule]) -> list[tuple[str, str]]:
    return [(rule.kind.value, rule.value) for rule in of]


def _made(row: Any) -> RuleGroup:
    return RuleGroup(
        row.rule_group_id,
        row.display_name,
        rules(row.include),
        rules(row.require),
        rules(row.exclude),
        row.create_time,
        row.update_time,
    )


def _values(group: RuleGroup) -> dict[str, Any]:
    return {
        "display_name": group.display_name,
        "include": pairs(group.include),
        "require": pairs(group.require),
        "exclude": pairs(group.exclude),
        "create_time": group.create_time,
        "update_time": group.update_time,
    }


def _key(organization_id: str, rule_group_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(rule_group.c.organization_id == organization_id, rule_group.c.rule_group_id == rule_group_id)


def insert(tx: Transaction, organization_id: str, made: RuleGroup) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, "rule_group_id": made.rule_group_id, **_values(made)})


def update(tx: Transaction, organization_id: str, changed: RuleGroup) -> None:
    key = {"the_organization_id": organization_id, "the_rule_group_id": changed.rule_group_id}
    tx.execute(_UPDATE, {**key, **_values(changed)})


def get(tx: Transaction, organization_id: str, rule_group_id: str, *, lock: bool = False) -> RuleGroup:
    """Raises RuleGroupNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, rule_group_id).one_or_none()
    if row is None:
        raise RuleGroupNotFound(rule_group_id)
    return _made(row)


@statement
def _get(organization_id: str, rule_group_id: str) -> sa.Select[Any]:
    return sa.select(rule_group).where(_key(organization_id, rule_group_id))


@statement
def _get_locked(organization_id: str, rule_group_id: str) -> sa.Select[Any]:
    return sa.select(rule_group).where(_key(organization_id, rule_group_id)).with_for_update()


def of_ids(tx: Transaction, organization_id: str, rule_group_ids: Iterable[str]) -> list[RuleGroup]:
    """Those there are of these, of which there are no more than an organization may have."""
    wanted = sorted(rule_group_ids)
    return [_made(row) for row in _of_ids(tx, organization_id, wanted)] if wanted else []


@statement
def _of_ids(organization_id: str, rule_group_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(rule_group).where(
        rule_group.c.organization_id == organization_id, rule_group.c.rule_group_id.in_(rule_group_ids)
    )


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[RuleGroup]:
    return [_made(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(rule_group).where(
        rule_group.c.organization_id == organization_id, rule_group.c.rule_group_id > after
    )
    return query.order_by(rule_group.c.rule_group_id).limit(limit)


def lock(tx: Transaction, organization_id: str, rule_group_ids: Iterable[str]) -> None:
    """Keeps them from being deleted before the transaction ends. Raises RuleGroupNotFound."""
    for rule_group_id in sorted(rule_group_ids):
        get(tx, organization_id, rule_group_id, lock=True)


def name(tx: Transaction, organization_id: str, enrollment_policy_id: str, rule_group_ids: Iterable[str]) -> None:
    """Notes which groups, locked by the caller, a policy names now."""
    unname(tx, organization_id, enrollment_policy_id)
    for rule_group_id in sorted(rule_group_ids):
        _name(tx, organization_id, rule_group_id, enrollment_policy_id)


@statement
def _name(organization_id: str, rule_group_id: str, enrollment_policy_id: str) -> sa.Executable:
    return policy_rule_group.insert().values(
        organization_id=organization_id, rule_group_id=rule_group_id, enrollment_policy_id=enrollment_policy_id
    )


@statement
def unname(organization_id: str, enrollment_policy_id: str) -> sa.Executable:
    return policy_rule_group.delete().where(
        policy_rule_group.c.organization_id == organization_id,
        policy_rule_group.c.enrollment_policy_id == enrollment_policy_id,
    )


def delete(tx: Transaction, organization_id: str, rule_group_id: str) -> None:
    """Of one that the caller has locked. Raises RuleGroupInUse while a policy names it."""
    policies = _naming(tx, organization_id, rule_group_id).scalars().all()
    if policies:
        message = "enrollment policies name the rule group; take it out of them first"
        raise RuleGroupInUse(message, enrollment_policy_ids=",".join(policies))
    _delete(tx, organization_id, rule_group_id)


@statement
def _naming(organization_id: str, rule_group_id: str) -> sa.Select[Any]:
    """The policies that name it."""
    query = sa.select(policy_rule_group.c.enrollment_policy_id).where(
        policy_rule_group.c.organization_id == organization_id, policy_rule_group.c.rule_group_id == rule_group_id
    )
    return query.order_by(policy_rule_group.c.enrollment_policy_id).limit(NAMED_POLICIES)


@statement
def _delete(organization_id: str, rule_group_id: str) -> sa.Executable:
    return rule_group.delete().where(_key(organization_id, rule_group_id))

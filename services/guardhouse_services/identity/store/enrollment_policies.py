"""Enrollment policies."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from guardhouse.errors import EnrollmentPolicyNotFound, PrecedenceTaken
from guardhouse_services.database import Transaction, violated
from guardhouse_services.identity.domain.enrollment_policies import Decision, EnrollmentPolicy, Rules
from guardhouse_services.identity.store import rule_groups
from guardhouse_services.identity.store.tables import enrollment_policy, policy_by_precedence, policy_token
from guardhouse_services.paging import Page
from guardhouse_services.statements import statement

_INSERT = enrollment_policy.insert()
_UPDATE = enrollment_policy.update().where(
    enrollment_policy.c.organization_id == sa.bindparam("the_organization_id"),
    enrollment_policy.c.enrollment_policy_id == sa.bindparam("the_enrollment_policy_id"),
)


def _made(row: Any) -> EnrollmentPolicy:
    return EnrollmentPolicy(
        row.enrollment_policy_id,
        row.display_name,
        Decision(row.decision),
        row.precedence,
        rule_groups.rules(row.include),
        rule_groups.rules(row.require),
        rule_groups.rules(row.exclude),
        row.create_time,
        row.update_time,
    )


def _values(policy: EnrollmentPolicy) -> dict[str, Any]:
    return {
        "display_name": policy.display_name,
        "decision": policy.decision.value,
        "precedence": policy.precedence,
        "include": rule_groups.pairs(policy.include),
        "require": rule_groups.pairs(policy.require),
        "exclude": rule_groups.pairs(policy.exclude),
        "create_time": policy.create_time,
        "update_time": policy.update_time,
    }


def _key(organization_id: str, enrollment_policy_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        enrollment_policy.c.organization_id == organization_id,
        enrollment_policy.c.enrollment_policy_id == enrollment_policy_id,
    )


def insert(tx: Transaction, organization_id: str, made: EnrollmentPolicy) -> None:
    """The caller has locked the service tokens and rule groups that it names. Raises PrecedenceTaken."""
    key = {"organization_id": organization_id, "enrollment_policy_id": made.enrollment_policy_id}
    _write(tx, _INSERT, key, made)
    _name_tokens(tx, organization_id, made)
    rule_groups.name(tx, organization_id, made.enrollment_policy_id, made.rule_group_ids)


def update(tx: Transaction, organization_id: str, changed: EnrollmentPolicy) -> None:
    """The caller has locked the service tokens and rule groups that it names. Raises PrecedenceTaken."""
    key = {"the_organization_id": organization_id, "the_enrollment_policy_id": changed.enrollment_policy_id}
    _write(tx, _UPDATE, key, changed)
    _unname_tokens(tx, organization_id, changed.enrollment_policy_id)
    _name_tokens(tx, organization_id, changed)
    rule_groups.name(tx, organization_id, changed.enrollment_policy_id, changed.rule_group_ids)


def delete(tx: Transaction, organization_id: str, enrollment_policy_id: str) -> None:
    """Of one that the caller has locked."""
    _unname_tokens(tx, organization_id, enrollment_policy_id)
    rule_groups.unname(tx, organization_id, enrollment_policy_id)
    _delete(tx, organization_id, enrollment_policy_id)


@statement
def _delete(organization_id: str, enrollment_policy_id: str) -> sa.Executable:
    return enrollment_policy.delete().where(_key(organization_id, enrollment_policy_id))


def get(tx: Transaction, organization_id: str, enrollment_policy_id: str, *, lock: bool = False) -> EnrollmentPolicy:
    """Raises EnrollmentPolicyNotFound."""
    query = _get_locked if lock else _get
    row = query(tx, organization_id, enrollment_policy_id).one_or_none()
    if row is None:
        raise EnrollmentPolicyNotFound(enrollment_policy_id)
    return _made(row)


@statement
def _get(organization_id: str, enrollment_policy_id: str) -> sa.Select[Any]:
    return sa.select(enrollment_policy).where(_key(organization_id, enrollment_policy_id))


@statement
def _get_locked(organization_id: str, enrollment_policy_id: str) -> sa.Select[Any]:
    return sa.select(enrollment_policy).where(_key(organization_id, enrollment_policy_id)).with_for_update()


def rules_of(tx: Transaction, organization_id: str) -> Rules:
    """All that decides on its enrollments."""
    policies = [_made(row) for row in _all_of(tx, organization_id)]
    named = {rule_group_id for policy in policies for rule_group_id in policy.rule_group_ids}
    return Rules.of(policies, rule_groups.of_ids(tx, organization_id, named))


@statement
def _all_of(organization_id: str) -> sa.Select[Any]:
    return sa.select(enrollment_policy).where(enrollment_policy.c.organization_id == organization_id)


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[EnrollmentPolicy]:
    return [_made(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1)]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(enrollment_policy).where(
        enrollment_policy.c.organization_id == organization_id,
        enrollment_policy.c.enrollment_policy_id > after,
    )
    return query.order_by(enrollment_policy.c.enrollment_policy_id).limit(limit)


def _write(tx: Transaction, how: sa.Insert | sa.Update, key: dict[str, str], policy: EnrollmentPolicy) -> None:
    try:
        tx.execute(how, {**key, **_values(policy)})
    except IntegrityError as error:
        if not violated(error, policy_by_precedence):
            raise
        raise PrecedenceTaken(
            f"another enrollment policy has precedence {policy.precedence}", precedence=str(policy.precedence)
        ) from None


def _name_tokens(tx: Transaction, organization_id: str, policy: EnrollmentPolicy) -> None:
    for service_token_id in sorted(policy.service_token_ids):
        _name_token(tx, organization_id, service_token_id, policy.enrollment_policy_id)


@statement
def _name_token(organization_id: str, service_token_id: str, enrollment_policy_id: str) -> sa.Executable:
    return policy_token.insert().values(
        organization_id=organization_id, service_token_id=service_token_id, enrollment_policy_id=enrollment_policy_id
    )


@statement
def _unname_tokens(organization_id: str, enrollment_policy_id: str) -> sa.Executable:
    return policy_token.delete().where(
        policy_token.c.organization_id == organization_id,
        policy_token.c.enrollment_policy_id == enrollment_policy_id,
    )

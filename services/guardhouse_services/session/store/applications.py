"""Access applications."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.applications import Application, Policy, PolicyDecision
from guardhouse.errors import ApplicationNotFound, LimitReached
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.session.domain.applications import LIMIT
from guardhouse_services.session.store.tables import application
from guardhouse_services.statements import statement


def _key(organization_id: str, application_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(application.c.organization_id == organization_id, application.c.application_id == application_id)


def insert(tx: Transaction, organization_id: str, added: Application) -> None:
    tx.execute(_INSERT, {"organization_id": organization_id, **to_row(added)})


_INSERT = application.insert()


def update(tx: Transaction, organization_id: str, changed: Application) -> None:
    of_it = {"of_organization_id": organization_id, "of_application_id": changed.application_id}
    tx.execute(_UPDATE, {**of_it, **to_row(changed)})


# The row comes with the values, by the names of its columns.
_UPDATE = application.update().where(
    application.c.organization_id == sa.bindparam("of_organization_id"),
    application.c.application_id == sa.bindparam("of_application_id"),
)


def delete(tx: Transaction, organization_id: str, application_id: str) -> None:
    _delete(tx, organization_id, application_id)


@statement
def _delete(organization_id: str, application_id: str) -> sa.Executable:
    return application.delete().where(_key(organization_id, application_id))


def get(tx: Transaction, organization_id: str, application_id: str) -> Application:
    """Raises ApplicationNotFound."""
    row = _find(tx, organization_id, application_id).mappings().one_or_none()
    if row is None:
        raise ApplicationNotFound(application_id)
    return from_row(row)


@statement
def _find(organization_id: str, application_id: str) -> sa.Select[Any]:
    return sa.select(application).where(_key(organization_id, application_id))


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[Application]:
    """The page's applications by creation, and one more if there is one."""
    return [from_row(row) for row in _page(tx, organization_id, wanted.after, wanted.size + 1).mappings()]


@statement
def _page(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(application)
    query = query.where(application.c.organization_id == organization_id, application.c.application_id > after)
    return query.order_by(application.c.application_id).limit(limit)


def with_device_session(tx: Transaction, organization_id: str) -> Sequence[str]:
    """The ids of those that say themselves that the session of a device is enough."""
    return list(_with_device_session(tx, organization_id).scalars())


@statement
def _with_device_session(organization_id: str) -> sa.Select[Any]:
    query = sa.select(application.c.application_id)
    query = query.where(application.c.organization_id == organization_id, application.c.device_session.is_(sa.true()))
    return query.order_by(application.c.application_id)


def check_room(tx: Transaction, organization_id: str) -> None:
    """Raises LimitReached when the organization, which the caller has locked, has as many as it may have."""
    if _count(tx, organization_id).scalar_one() >= LIMIT:
        raise LimitReached(f"the organization has {LIMIT} applications already; delete one first", limit=str(LIMIT))


@statement
def _count(organization_id: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(application).where(application.c.organization_id == organization_id)


def to_row(of: Application) -> dict[str, Any]:
    """As the table has it, without the organization; only what JSON can hold."""
    return {
        "application_id": of.application_id,
        "display_name": of.display_name,
        "description": of.description,
        "session_duration": of.session_duration,
        "identity_provider_ids": list(of.identity_provider_ids),
        "binding_cookie": of.binding_cookie,
        "device_session": of.device_session,
        "policies": list(map(_to_json, of.policies)),
        "create_time": of.create_time,
        "update_time": of.update_time,
    }


def from_row(row: Mapping[Any, Any]) -> Application:
    """A row, or what was remembered as one."""
    return Application(
        application_id=row["application_id"],
        display_name=row["display_name"],
        description=row["description"],
        session_duration=row["session_duration"],
        policies=tuple(map(_from_json, row["policies"])),
        identity_provider_ids=tuple(row["identity_provider_ids"]),
        binding_cookie=row["binding_cookie"],
        device_session=row["device_session"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _to_json(of: Policy) -> dict[str, Any]:
    def pairs(rules: Sequence[Rule]) -> list[tuple[str, str]]:
        return [(rule.kind.value, rule.value) for rule in rules]

    return {
        "display_name": of.display_name,
        "decision": int(of.decision),
        "include": pairs(of.include),
        "require": pairs(of.require),
        "exclude": pairs(of.exclude),
        "session_duration": of.session_duration,
    }


def _from_json(of: Mapping[str, Any]) -> Policy:
    def rules(name: str) -> tuple[Rule, ...]:
        return tuple(Rule(RuleKind(kind), value) for kind, value in of[name])

    return Policy(
        display_name=of["display_name"],
        decision=PolicyDecision(of["decision"]),
        include=rules("include"),
        require=rules("require"),
        exclude=rules("exclude"),
        session_duration=of["session_duration"],
    )

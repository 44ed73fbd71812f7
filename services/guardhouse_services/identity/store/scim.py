"""What identity providers provision by SCIM, the secrets of their clients, and what became of their requests.

Whoever changes resources holds the lock of their provider.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.rules import folded
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.scim import Kind, MatchClaim, Member, Resource, ScimEvent
from guardhouse_services.identity.store.tables import (
    identity_provider,
    scim_event,
    scim_member,
    scim_resource,
    scim_secret,
    users,
)
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, chunks, statement, upsert

_INSERT = scim_resource.insert()
_INSERT_EVENT = scim_event.insert()

# Secrets


def secret_of(tx: Transaction, identity_provider_id: str) -> tuple[str, bytes] | None:
    """The organization of the provider, and the hash of its secret. The one query that names no organization."""
    row = _secret_of(tx, identity_provider_id).one_or_none()
    return (row.organization_id, row.secret_hash) if row else None


@statement
def _secret_of(identity_provider_id: str) -> sa.Select[Any]:
    return sa.select(scim_secret).where(scim_secret.c.identity_provider_id == identity_provider_id)


@upsert
def set_secret(insert: Insert, organization_id: str, identity_provider_id: str, secret_hash: bytes) -> sa.Executable:
    made = insert(scim_secret).values(
        identity_provider_id=identity_provider_id, organization_id=organization_id, secret_hash=secret_hash
    )
    return made.on_conflict_do_update(index_elements=["identity_provider_id"], set_={"secret_hash": secret_hash})


@statement
def drop_secret(organization_id: str, identity_provider_id: str) -> sa.Executable:
    return scim_secret.delete().where(
        scim_secret.c.organization_id == organization_id, scim_secret.c.identity_provider_id == identity_provider_id
    )


# Resources


def _made(row: Any) -> Resource:
    return Resource(
        Kind(row.kind),
        row.resource_id,
        row.name,
        row.name_key,
        row.external_id,
        row.active,
        row.document,
        row.version,
        row.create_time,
        row.update_time,
        row.user_id or "",
    )


def _values(of: Resource) -> dict[str, Any]:
    return {
        "name": of.name,
        "name_key": of.name_key,
        "external_id": of.external_id,
        "active": of.active,
        "document": dict(of.document),
        "version": of.version,
        "update_time": of.update_time,
        "user_id": of.user_id or None,
    }


def _of_provider(organization_id: str, identity_provider_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        scim_resource.c.organization_id == organization_id,
        scim_resource.c.identity_provider_id == identity_provider_id,
    )


def _members_of_provider(organization_id: str, identity_provider_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        scim_member.c.organization_id == organization_id, scim_member.c.identity_provider_id == identity_provider_id
    )


def insert(tx: Transaction, organization_id: str, identity_provider_id: str, made: Resource) -> None:
    """Raises IntegrityError when another has the name or the external id, which the caller has asked about."""
    values = {
        "organization_id": organization_id,
        "identity_provider_id": identity_provider_id,
        "resource_id": made.resource_id,
        "kind": made.kind,
        "create_time": made.create_time,
        **_values(made),
    }
    tx.execute(_INSERT, values)


def update(tx: Transaction, organization_id: str, identity_provider_id: str, changed: Resource) -> None:
    of = _of_provider(organization_id, identity_provider_id)
    one = scim_resource.update().where(of, scim_resource.c.resource_id == changed.resource_id)
    tx.execute(one, _values(changed))


def delete(tx: Transaction, organization_id: str, identity_provider_id: str, resource_id: str) -> None:
    """With what it is a member of, and its members."""
    _delete_members(tx, organization_id, identity_provider_id, resource_id)
    _delete(tx, organization_id, identity_provider_id, resource_id)


@statement
def _delete(organization_id: str, identity_provider_id: str, resource_id: str) -> sa.Executable:
    of = _of_provider(organization_id, identity_provider_id)
    return scim_resource.delete().where(of, scim_resource.c.resource_id == resource_id)


@statement
def _delete_members(organization_id: str, identity_provider_id: str, resource_id: str) -> sa.Executable:
    of = _members_of_provider(organization_id, identity_provider_id)
    named = sa.or_(scim_member.c.group_id == resource_id, scim_member.c.member_id == resource_id)
    return scim_member.delete().where(of, named)


def get(
    tx: Transaction, organization_id: str, identity_provider_id: str, kind: Kind, resource_id: str
) -> Resource | None:
    row = _get(tx, organization_id, identity_provider_id, kind, resource_id).one_or_none()
    return _made(row) if row else None


@statement
def _get(organization_id: str, identity_provider_id: str, kind: int, resource_id: str) -> sa.Select[Any]:
    return sa.select(scim_resource).where(
        _of_provider(organization_id, identity_provider_id),
        scim_resource.c.resource_id == resource_id,
        scim_resource.c.kind == kind,
    )


def named(
    tx: Transaction, organization_id: str, identity_provider_id: str, kind: Kind, name_key: str
) -> Resource | None:
    """One with this name."""
    row = _named(tx, organization_id, identity_provider_id, kind, name_key).first()
    return _made(row) if row else None


@statement
def _named(organization_id: str, identity_provider_id: str, kind: int, name_key: str) -> sa.Select[Any]:
    return sa.select(scim_resource).where(
        _of_provider(organization_id, identity_provider_id),
        scim_resource.c.kind == kind,
        scim_resource.c.name_key == name_key,
    )


def with_external_id(
    tx: Transaction, organization_id: str, identity_provider_id: str, kind: Kind, external_id: str
) -> Resource | None:
    row = _with_external_id(tx, organization_id, identity_provider_id, kind, external_id).one_or_none()
    return _made(row) if row else None


@statement
def _with_external_id(organization_id: str, identity_provider_id: str, kind: int, external_id: str) -> sa.Select[Any]:
    return sa.select(scim_resource).where(
        _of_provider(organization_id, identity_provider_id),
        scim_resource.c.kind == kind,
        scim_resource.c.external_id == external_id,
    )


def of_ids(
    tx: Transaction, organization_id: str, identity_provider_id: str, resource_ids: Collection[str]
) -> list[Resource]:
    """Those there are of these, of either kind, by id."""
    found = []
    for some in chunks(sorted(set(resource_ids))):
        found += [_made(row) for row in _of_ids(tx, organization_id, identity_provider_id, some)]
    return found


@statement
def _of_ids(organization_id: str, identity_provider_id: str, resource_ids: Sequence[str]) -> sa.Select[Any]:
    of = _of_provider(organization_id, identity_provider_id)
    query = sa.select(scim_resource).where(of, scim_resource.c.resource_id.in_(resource_ids))
    return query.order_by(scim_resource.c.resource_id)


def count(
    tx: Transaction, organization_id: str, identity_provider_id: str, kind: Kind, *which: sa.ColumnElement[bool]
) -> int:
    query = sa.select(sa.func.count()).where(
        _of_provider(organization_id, identity_provider_id), scim_resource.c.kind == kind, *which
    )
    return int(tx.execute(query).scalar_one())


def some(
    tx: Transaction,
    organization_id: str,
    identity_provider_id: str,
    kind: Kind,
    offset: int,
    limit: int,
    *which: sa.ColumnElement[bool],
) -> list[Resource]:
    """Of these, in the order of creation, so many behind the first so many."""
    query = sa.select(scim_resource).where(
        _of_provider(organization_id, identity_provider_id), scim_resource.c.kind == kind, *which
    )
    query = query.order_by(scim_resource.c.resource_id).offset(offset).limit(limit)
    return [_made(row) for row in tx.execute(query)]


# Members of groups


def count_members(tx: Transaction, organization_id: str, identity_provider_id: str, group_id: str) -> int:
    return int(_count_members(tx, organization_id, identity_provider_id, group_id).scalar_one())


@statement
def _count_members(organization_id: str, identity_provider_id: str, group_id: str) -> sa.Select[Any]:
    of = _members_of_provider(organization_id, identity_provider_id)
    return sa.select(sa.func.count()).where(of, scim_member.c.group_id == group_id)


def members(
    tx: Transaction,
    organization_id: str,
    identity_provider_id: str,
    group_id: str,
    among: Collection[str] | None = None,
) -> tuple[Member, ...]:
    """Of a group, by id; of these ids only, where such are given."""
    if among is None:
        rows = list(_members(tx, organization_id, identity_provider_id, group_id))
    else:
        rows = []
        for ids in chunks(sorted(among)):
            rows += _members_among(tx, organization_id, identity_provider_id, group_id, ids)
    return tuple(Member(row.member_id, row.display) for row in rows)


@statement
def _members(organization_id: str, identity_provider_id: str, group_id: str) -> sa.Select[Any]:
    of = _members_of_provider(organization_id, identity_provider_id)
    return sa.select(scim_member).where(of, scim_member.c.group_id == group_id).order_by(scim_member.c.member_id)


@statement
def _members_among(
    organization_id: str, identity_provider_id: str, group_id: str, ids: Sequence[str]
) -> sa.Select[Any]:
    of = _members_of_provider(organization_id, identity_provider_id)
    query = sa.select(scim_member).where(of, scim_member.c.group_id == group_id, scim_member.c.member_id.in_(ids))
    return query.order_by(scim_member.c.member_id)


def groups_of(
    tx: Transaction, organization_id: str, identity_provider_id: str, member_ids: Collection[str]
) -> dict[str, list[Member]]:
    """The groups that each of these is in, by the group's name."""
    found: dict[str, list[Member]] = {}
    for some in chunks(sorted(member_ids)):
        for row in _groups_of(tx, organization_id, identity_provider_id, some):
            found.setdefault(row.member_id, []).append(Member(row.group_id, row.name))
    return found


@statement
def _groups_of(organization_id: str, identity_provider_id: str, member_ids: Sequence[str]) -> sa.Select[Any]:
    group = sa.and_(
        scim_resource.c.organization_id == scim_member.c.organization_id,
        scim_resource.c.identity_provider_id == scim_member.c.identity_provider_id,
        scim_resource.c.resource_id == scim_member.c.group_id,
    )
    query = sa.select(scim_member.c.member_id, scim_member.c.group_id, scim_resource.c.name)
    query = query.join_from(scim_member, scim_resource, group)
    of = _members_of_provider(organization_id, identity_provider_id)
    return query.where(of, scim_member.c.member_id.in_(member_ids)).order_by(scim_resource.c.name)


def change_members(
    tx: Transaction,
    organization_id: str,
    identity_provider_id: str,
    group_id: str,
    put: Iterable[Member],
    gone: Collection[str],
) -> None:
    """Adds or renames members, and drops others."""
    key = {"organization_id": organization_id, "identity_provider_id": identity_provider_id, "group_id": group_id}
    for some in chunks([{**key, "member_id": it.resource_id, "display": it.display} for it in put]):
        wanted = tx.insert(scim_member).values(some)
        renamed = {"display": wanted.excluded.display}
        tx.execute(wanted.on_conflict_do_update(index_elements=list(scim_member.primary_key.columns), set_=renamed))
    for ids in chunks(sorted(gone)):
        _drop_members(tx, organization_id, identity_provider_id, group_id, ids)


@statement
def _drop_members(organization_id: str, identity_provider_id: str, group_id: str, ids: Sequence[str]) -> sa.Executable:
    of = _members_of_provider(organization_id, identity_provider_id)
    return scim_member.delete().where(of, scim_member.c.group_id == group_id, scim_member.c.member_id.in_(ids))


# The log


def note(tx: Transaction, organization_id: str, event: ScimEvent) -> None:
    values: Mapping[str, Any] = {name: getattr(event, name) for name in ScimEvent.__slots__}
    tx.execute(_INSERT_EVENT, {"organization_id": organization_id, **values})


def events(tx: Transaction, organization_id: str, identity_provider_id: str, wanted: Page) -> list[ScimEvent]:
    rows = _events(tx, organization_id, identity_provider_id, wanted.after, wanted.size + 1)
    return [ScimEvent(**{name: getattr(row, name) for name in ScimEvent.__slots__}) for row in rows]


@statement
def _events(organization_id: str, identity_provider_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(scim_event).where(
        scim_event.c.organization_id == organization_id,
        scim_event.c.identity_provider_id == identity_provider_id,
        scim_event.c.scim_event_id > after,
    )
    return query.order_by(scim_event.c.scim_event_id).limit(limit)


# What goes by itself


def forget_events(tx: Transaction, before: int, keep: int, limit: int) -> int:
    """Drops events from before a time, and of each provider those beyond the newest `keep`; answers how many."""
    key = (scim_event.c.organization_id, scim_event.c.identity_provider_id, scim_event.c.scim_event_id)
    old = sa.select(*key).where(scim_event.c.event_time < before).limit(limit)
    dropped = tx.execute(scim_event.delete().where(sa.tuple_(*key).in_(old))).rowcount
    counted = sa.select(key[0], key[1], sa.func.count().label("events")).group_by(key[0], key[1])
    for row in tx.execute(counted.having(sa.func.count() > keep)):
        of = sa.and_(key[0] == row.organization_id, key[1] == row.identity_provider_id)
        oldest = sa.select(key[2]).where(of).order_by(key[2]).limit(min(row.events - keep, limit))
        dropped += tx.execute(scim_event.delete().where(of, key[2].in_(oldest))).rowcount
    return dropped


def forget_orphans(tx: Transaction, limit: int) -> int:
    """Drops what providers have provisioned that are gone; answers how many rows."""
    dropped = 0
    for table in (scim_member, scim_resource, scim_event):
        there = sa.select(identity_provider.c.identity_provider_id).where(
            identity_provider.c.organization_id == table.c.organization_id,
            identity_provider.c.identity_provider_id == table.c.identity_provider_id,
        )
        key = table.primary_key.columns
        orphans = sa.select(*key).where(~there.exists()).limit(limit)
        dropped += tx.execute(table.delete().where(sa.tuple_(*key).in_(orphans))).rowcount
    return dropped


def erase(tx: Transaction, organization_id: str, user_id: str) -> None:
    """Drops what was provisioned for a user, and what the log says of that and of what stood for the user before."""
    for row in list(_standing_for(tx, organization_id, user_id)):
        delete(tx, organization_id, row.identity_provider_id, row.resource_id)
        _erase_events(tx, organization_id, row.identity_provider_id, row.resource_id)
    for row in list(_logged_for(tx, organization_id, user_id)):
        _erase_events(tx, organization_id, row.identity_provider_id, row.resource_id)


@statement
def _standing_for(organization_id: str, user_id: str) -> sa.Select[Any]:
    return sa.select(scim_resource).where(
        scim_resource.c.organization_id == organization_id, scim_resource.c.user_id == user_id
    )


@statement
def _logged_for(organization_id: str, user_id: str) -> sa.Select[Any]:
    named = sa.select(scim_event.c.identity_provider_id, scim_event.c.resource_id).distinct()
    return named.where(scim_event.c.organization_id == organization_id, scim_event.c.user_id == user_id)


@statement
def _erase_events(organization_id: str, identity_provider_id: str, resource_id: str) -> sa.Executable:
    return scim_event.delete().where(
        scim_event.c.organization_id == organization_id,
        scim_event.c.identity_provider_id == identity_provider_id,
        scim_event.c.resource_id == resource_id,
    )


# Whom a SCIM user stands for


def matching(
    tx: Transaction, organization_id: str, issuer: str, claim: MatchClaim, values: Collection[str]
) -> dict[str, list[str]]:
    """The user_ids of an issuer's users by the claim that equals one of these values, bytewise."""
    found: dict[str, list[str]] = {}
    for some in chunks(sorted(set(values))):
        if claim is MatchClaim.SUBJECT:
            rows = _with_subjects(tx, organization_id, issuer, some)
        else:
            rows = _with_emails(tx, organization_id, issuer, some, [folded(value) for value in some])
        for row in rows:
            found.setdefault(row.value, []).append(row.user_id)
    return found


@statement
def _with_subjects(organization_id: str, issuer: str, values: Sequence[str]) -> sa.Select[Any]:
    return sa.select(users.c.user_id, users.c.subject.label("value")).where(
        users.c.organization_id == organization_id, users.c.issuer == issuer, users.c.subject.in_(values)
    )


@statement
def _with_emails(organization_id: str, issuer: str, values: Sequence[str], keys: Sequence[str]) -> sa.Select[Any]:
    # The keys are what there is an index of.
    return sa.select(users.c.user_id, users.c.email.label("value")).where(
        users.c.organization_id == organization_id,
        users.c.email_key.in_(keys),
        users.c.issuer == issuer,
        users.c.email.in_(values),
    )


def standing_for(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> dict[str, str]:
    """The resource that stands for each of these users, where one does."""
    found: dict[str, str] = {}
    for ids in chunks(sorted(set(user_ids))):
        found |= {row.user_id: row.resource_id for row in _standing_for_some(tx, organization_id, ids)}
    return found


@statement
def _standing_for_some(organization_id: str, user_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(scim_resource.c.user_id, scim_resource.c.resource_id).where(
        scim_resource.c.organization_id == organization_id, scim_resource.c.user_id.in_(user_ids)
    )


@statement
def link(organization_id: str, identity_provider_id: str, resource_id: str, user_id: str) -> sa.Executable:
    of = _of_provider(organization_id, identity_provider_id)
    return scim_resource.update().where(of, scim_resource.c.resource_id == resource_id).values(user_id=user_id)


@statement
def unlink_all(organization_id: str, identity_provider_id: str) -> sa.Executable:
    """For another match: who stands for whom is found out anew."""
    return scim_resource.update().where(_of_provider(organization_id, identity_provider_id)).values(user_id=None)

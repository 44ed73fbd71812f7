"""What the registry and ipam say of registrations, and the authentications made for them."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.rules import Identity
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.enrollment_policies import Admitted, PolicyUsage
from guardhouse_services.identity.domain.enrollments import Authentication, Registration
from guardhouse_services.identity.store.tables import (
    authentication,
    identity_provider,
    registration,
    removal_item,
    users,
)
from guardhouse_services.paging import Page
from guardhouse_services.statements import Insert, chunks, statement, upsert


def get(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    row = _get(tx, organization_id, registration_id).one_or_none()
    return _made(row) if row else None


@statement
def _get(organization_id: str, registration_id: str) -> sa.Select[Any]:
    return sa.select(registration).where(
        registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
    )


def known(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> set[str]:
    """Those of these registrations whose record has been seen before."""
    found: set[str] = set()
    for ids in chunks(sorted(registration_ids)):
        found.update(_known(tx, organization_id, ids).scalars())
    return found


@statement
def _known(organization_id: str, registration_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(registration_ids),
        registration.c.authorize_revision > 0,
    )


def save(tx: Transaction, organization_id: str, seen: Sequence[Registration]) -> None:
    """Writes what the records say; what is deleted stays so (invariant I-12)."""
    for some in chunks(seen):
        tx.execute(_save(tx.insert), [{**_record(it), "organization_id": organization_id} for it in some])


@cache
def _save(insert: Insert) -> sa.Executable:
    """Of the records that it is run with."""
    wanted = insert(registration)
    columns: dict[str, Any] = {
        name: wanted.excluded[name] for name in _record(Registration("")) if name != "registration_id"
    }
    # The record may come again when nothing else remembers the policy.
    policy = sa.func.nullif(wanted.excluded.enrollment_policy_id, "")
    columns["enrollment_policy_id"] = sa.func.coalesce(policy, registration.c.enrollment_policy_id)
    return wanted.on_conflict_do_update(index_elements=["organization_id", "registration_id"], set_=columns)


def delete(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> list[str]:
    """Notes that they are gone, with their authentications; answers which had one."""
    _note(tx, organization_id, registration_ids, "delete_time")
    dropped: list[str] = []
    for ids in chunks(sorted(registration_ids)):
        dropped += _drop_authentications(tx, organization_id, ids).scalars()
    return sorted(dropped)


@statement
def _drop_authentications(organization_id: str, registration_ids: Sequence[str]) -> sa.Executable:
    dropped = authentication.delete().where(
        authentication.c.organization_id == organization_id, authentication.c.registration_id.in_(registration_ids)
    )
    return dropped.returning(authentication.c.registration_id)


def release(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """Notes that their addresses are no longer theirs."""
    _note(tx, organization_id, registration_ids, "release_time")


def sharing_leases(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> list[Registration]:
    """These registrations and whichever had a lease of theirs before or after, unless known to have given it back."""
    leases: set[str] = set()
    for ids in chunks(sorted(registration_ids)):
        leases.update(_leases_of(tx, organization_id, ids).scalars())
    return of_leases(tx, organization_id, leases - {""})


@statement
def _leases_of(organization_id: str, registration_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(registration.c.lease_id).where(
        registration.c.organization_id == organization_id, registration.c.registration_id.in_(registration_ids)
    )


def of_leases(tx: Transaction, organization_id: str, lease_ids: Collection[str]) -> list[Registration]:
    """The registrations that have or had these leases, unless known to have given them back."""
    found = []
    for ids in chunks(sorted(lease_ids)):
        found += [_made(row) for row in _of_leases(tx, organization_id, ids)]
    return found


@statement
def _of_leases(organization_id: str, lease_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(registration).where(
        registration.c.organization_id == organization_id,
        registration.c.lease_id.in_(lease_ids),
        registration.c.release_time.is_(None),
    )


def live_of(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> list[str]:
    """The ids of these users' registrations."""
    found: list[str] = []
    for ids in chunks(sorted(user_ids)):
        found += _live_of(tx, organization_id, ids).scalars()
    return found


@statement
def _live_of(organization_id: str, user_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.user_id.in_(user_ids),
        registration.c.delete_time.is_(None),
    )


def count_of_issuer(tx: Transaction, organization_id: str, issuer: str) -> int:
    """The live registrations of the users whom an identity provider names."""
    return int(_count_of_issuer(tx, organization_id, issuer).scalar_one())


@statement
def _count_of_issuer(organization_id: str, issuer: str) -> sa.Select[Any]:
    of_user = sa.and_(
        users.c.organization_id == registration.c.organization_id, users.c.user_id == registration.c.user_id
    )
    query = sa.select(sa.func.count()).select_from(registration.join(users, of_user))
    return query.where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        users.c.issuer == issuer,
    )


def count_of_token(tx: Transaction, organization_id: str, service_token_id: str) -> int:
    """The live registrations that were made with a service token."""
    return int(_count_of_token(tx, organization_id, service_token_id).scalar_one())


@statement
def _count_of_token(organization_id: str, service_token_id: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        registration.c.service_token_id == service_token_id,
    )


def of_policy(
    tx: Transaction, organization_id: str, enrollment_policy_id: str, limit: int
) -> tuple[int, tuple[str, ...]]:
    """How many live registrations an enrollment policy admitted, and the first of them."""
    rows = _of_policy(tx, organization_id, enrollment_policy_id, limit).all()
    return (rows[0].all if rows else 0), tuple(row.registration_id for row in rows)


@statement
def _of_policy(organization_id: str, enrollment_policy_id: str, limit: int) -> sa.Select[Any]:
    query = sa.select(registration.c.registration_id, sa.func.count().over().label("all")).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        registration.c.enrollment_policy_id == enrollment_policy_id,
    )
    return query.order_by(registration.c.registration_id).limit(limit)


def usage_of_policy(tx: Transaction, organization_id: str, enrollment_policy_id: str) -> PolicyUsage:
    """Counted along the index of what the policy admitted."""
    return PolicyUsage(*_usage_of_policy(tx, organization_id, enrollment_policy_id).one())


@statement
def _usage_of_policy(organization_id: str, enrollment_policy_id: str) -> sa.Executable:
    # The registrations of service tokens have no user, and null is not counted.
    admitted = sa.func.nullif(registration.c.user_id, "").distinct()
    return sa.select(sa.func.count(admitted), sa.func.count()).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        registration.c.enrollment_policy_id == enrollment_policy_id,
    )


def admitted_by(
    tx: Transaction, organization_id: str, enrollment_policy_id: str, after: str, limit: int
) -> list[Admitted]:
    """The live registrations that a policy admitted, with their holders as last known, behind an id."""
    rows = _admitted_by(tx, organization_id, enrollment_policy_id, after, limit)
    return [_admitted(row) for row in rows]


@statement
def _admitted_by(organization_id: str, enrollment_policy_id: str, after: str, limit: int) -> sa.Select[Any]:
    of_user = sa.and_(
        users.c.organization_id == registration.c.organization_id, users.c.user_id == registration.c.user_id
    )
    of_issuer = sa.and_(
        identity_provider.c.organization_id == users.c.organization_id, identity_provider.c.issuer == users.c.issuer
    )
    columns = (registration.c.registration_id, registration.c.user_id, registration.c.service_token_id)
    profile = (users.c.email, users.c.groups, users.c.oidc_claims, identity_provider.c.identity_provider_id)
    query = sa.select(*columns, *profile).select_from(
        registration.outerjoin(users, of_user).outerjoin(identity_provider, of_issuer)
    )
    query = query.where(
        registration.c.organization_id == organization_id,
        registration.c.enrollment_policy_id == enrollment_policy_id,
        registration.c.delete_time.is_(None),
        registration.c.registration_id > after,
    )
    return query.order_by(registration.c.registration_id).limit(limit)


def _admitted(row: Any) -> Admitted:
    if not row.user_id:
        return Admitted(row.registration_id, "", Identity(row.service_token_id))
    who = Identity(
        email=row.email or "",
        groups=tuple(row.groups or ()),
        claims=tuple(row.oidc_claims or ()),
        identity_provider_id=row.identity_provider_id or "",
    )
    return Admitted(row.registration_id, row.user_id, who)


def live(tx: Transaction, organization_id: str) -> set[str]:
    """The ids of the registrations that the registry has, as far as its feed has come."""
    return set(_live(tx, organization_id).scalars())


@statement
def _live(organization_id: str) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.authorize_revision > 0,
        registration.c.delete_time.is_(None),
    )


def deleted_unreleased(tx: Transaction, organization_id: str) -> set[str]:
    """The ids of those that are gone and whose addresses are not known to be free."""
    return set(_deleted_unreleased(tx, organization_id).scalars())


@statement
def _deleted_unreleased(organization_id: str) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_not(None),
        registration.c.release_time.is_(None),
    )


def authenticate(tx: Transaction, organization_id: str, made: Authentication) -> Authentication:
    """Writes an authentication and answers it with the time that counts: it never goes backwards (decision 27)."""
    done = _authenticate(tx, organization_id, made.registration_id, made.authenticate_time, made.revision)
    time, revoked_revision = done.one()
    return Authentication(made.registration_id, time, made.revision, revoked_revision)


@upsert
def _authenticate(
    insert: Insert, organization_id: str, registration_id: str, authenticate_time: int, revision: int
) -> sa.Executable:
    wanted = insert(authentication).values(
        organization_id=organization_id,
        registration_id=registration_id,
        authenticate_time=authenticate_time,
        revision=revision,
        revoked_revision=0,
    )
    before, now = authentication.c.authenticate_time, wanted.excluded.authenticate_time
    later = sa.case((now > before, now), else_=before)
    wanted = wanted.on_conflict_do_update(
        index_elements=["organization_id", "registration_id"],
        set_={"authenticate_time": later, "revision": wanted.excluded.revision},
    )
    return wanted.returning(authentication.c.authenticate_time, authentication.c.revoked_revision)


def revoke_sessions(
    tx: Transaction, organization_id: str, registration_ids: Sequence[str], revision: int
) -> list[Authentication]:
    """Writes that what was authenticated for them up to a revision counts no more."""
    revoked: list[Authentication] = []
    for part in chunks(sorted(registration_ids)):
        none = {"authenticate_time": 0, "revision": 0, "revoked_revision": revision}
        rows = [{"organization_id": organization_id, "registration_id": each, **none} for each in part]
        wanted = tx.insert(authentication).values(rows)
        wanted = wanted.on_conflict_do_update(
            index_elements=["organization_id", "registration_id"],
            set_={"revoked_revision": wanted.excluded.revoked_revision},
        )
        revoked += map(_authentication, tx.execute(wanted.returning(*authentication.c)))
    return revoked


def gone(tx: Transaction, organization_id: str, registration_ids: Sequence[str]) -> set[str]:
    """Those of them that are known to be gone."""
    found: set[str] = set()
    for part in chunks(registration_ids):
        found.update(_gone(tx, organization_id, part).scalars())
    return found


@statement
def _gone(organization_id: str, registration_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.registration_id.in_(registration_ids),
        registration.c.delete_time.is_not(None),
    )


def authentication_of(tx: Transaction, organization_id: str, registration_id: str) -> Authentication | None:
    row = _authentication_of(tx, organization_id, registration_id).one_or_none()
    return _authentication(row) if row else None


def _authentication(row: Any) -> Authentication:
    return Authentication(row.registration_id, row.authenticate_time, row.revision, row.revoked_revision)


@statement
def _authentication_of(organization_id: str, registration_id: str) -> sa.Select[Any]:
    return sa.select(authentication).where(
        authentication.c.organization_id == organization_id, authentication.c.registration_id == registration_id
    )


def page_of_authentications(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[Authentication]:
    rows = _page_of_authentications(tx, organization_id, wanted.after, wanted.size + 1)
    return [_authentication(row) for row in rows]


@statement
def _page_of_authentications(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    query = sa.select(authentication).where(
        authentication.c.organization_id == organization_id, authentication.c.registration_id > after
    )
    return query.order_by(authentication.c.registration_id).limit(limit)


def forget(tx: Transaction, before: int, limit: int) -> int:
    """Deletes what is left of registrations that are long gone, unless a removal counts them; answers how many rows."""
    return _forget(tx, before, limit).rowcount


@statement
def _forget(before: int, limit: int) -> sa.Executable:
    counted = sa.select(removal_item.c.registration_id).where(
        removal_item.c.organization_id == registration.c.organization_id,
        removal_item.c.registration_id == registration.c.registration_id,
    )
    # Released before its record was seen: the record comes, or never will.
    only_released = sa.and_(registration.c.authorize_revision == 0, registration.c.release_time < before)
    old = sa.select(registration.c.organization_id, registration.c.registration_id).where(
        sa.or_(registration.c.delete_time < before, only_released), ~counted.exists()
    )
    key = sa.tuple_(registration.c.organization_id, registration.c.registration_id)
    return registration.delete().where(key.in_(old.limit(limit)))


def _made(row: Any) -> Registration:
    return Registration(
        row.registration_id,
        row.user_id,
        row.service_token_id,
        row.authorize_revision,
        row.authenticate_time,
        row.lease_id,
        row.delete_time,
        row.release_time,
        row.enrollment_policy_id,
    )


def _record(seen: Registration) -> dict[str, Any]:
    return {
        "registration_id": seen.registration_id,
        "user_id": seen.user_id,
        "service_token_id": seen.service_token_id,
        "authorize_revision": seen.authorize_revision,
        "authenticate_time": seen.authenticate_time,
        "lease_id": seen.lease_id,
        "enrollment_policy_id": seen.enrollment_policy_id,
    }


def _note(tx: Transaction, organization_id: str, registration_ids: Collection[str], column: str) -> None:
    """Sets a time that is set once, also for a registration that was never seen."""
    for ids in chunks(sorted(registration_ids)):
        rows = [{**_record(Registration(it)), "organization_id": organization_id, column: tx.now} for it in ids]
        tx.execute(_set_once(tx.insert, column), rows)


@cache
def _set_once(insert: Insert, column: str) -> sa.Executable:
    wanted = insert(registration)
    first = sa.func.coalesce(registration.c[column], wanted.excluded[column])
    return wanted.on_conflict_do_update(index_elements=["organization_id", "registration_id"], set_={column: first})

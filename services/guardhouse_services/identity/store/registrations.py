"""What the registry and ipam say of registrations, and the authentications made for them."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.enrollments import Authentication, Registration
from guardhouse_services.identity.store.tables import authentication, chunks, registration, removal_item, users
from guardhouse_services.paging import Page


def get(tx: Transaction, organization_id: str, registration_id: str) -> Registration | None:
    row = tx.execute(
        sa.select(registration).where(
            registration.c.organization_id == organization_id, registration.c.registration_id == registration_id
        )
    ).one_or_none()
    return _made(row) if row else None


def known(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> set[str]:
    """Those of these registrations whose record has been seen before."""
    found: set[str] = set()
    for ids in chunks(sorted(registration_ids)):
        query = sa.select(registration.c.registration_id).where(
            registration.c.organization_id == organization_id,
            registration.c.registration_id.in_(ids),
            registration.c.authorize_revision > 0,
        )
        found.update(tx.execute(query).scalars())
    return found


def save(tx: Transaction, organization_id: str, seen: Sequence[Registration]) -> None:
    """Writes what the records say; what is deleted stays so (invariant I-12)."""
    for some in chunks(seen):
        rows = [{**_record(it), "organization_id": organization_id} for it in some]
        statement = tx.insert(registration).values(rows)
        columns = {name: statement.excluded[name] for name in _record(some[0]) if name != "registration_id"}
        # The record may come again when nothing else remembers the policy.
        policy = sa.func.nullif(statement.excluded.enrollment_policy_id, "")
        columns["enrollment_policy_id"] = sa.func.coalesce(policy, registration.c.enrollment_policy_id)
        tx.execute(statement.on_conflict_do_update(index_elements=["organization_id", "registration_id"], set_=columns))


def delete(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> list[str]:
    """Notes that they are gone, with their authentications; answers which had one."""
    _note(tx, organization_id, registration_ids, "delete_time")
    dropped: list[str] = []
    for ids in chunks(sorted(registration_ids)):
        statement = authentication.delete().where(
            authentication.c.organization_id == organization_id, authentication.c.registration_id.in_(ids)
        )
        dropped += tx.execute(statement.returning(authentication.c.registration_id)).scalars()
    return sorted(dropped)


def release(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """Notes that their addresses are no longer theirs."""
    _note(tx, organization_id, registration_ids, "release_time")


def sharing_leases(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> list[Registration]:
    """These registrations and whichever had a lease of theirs before or after, unless known to have given it back."""
    leases: set[str] = set()
    for ids in chunks(sorted(registration_ids)):
        query = sa.select(registration.c.lease_id).where(
            registration.c.organization_id == organization_id, registration.c.registration_id.in_(ids)
        )
        leases.update(tx.execute(query).scalars())
    return of_leases(tx, organization_id, leases - {""})


def of_leases(tx: Transaction, organization_id: str, lease_ids: Collection[str]) -> list[Registration]:
    """The registrations that have or had these leases, unless known to have given them back."""
    found = []
    for ids in chunks(sorted(lease_ids)):
        query = sa.select(registration).where(
            registration.c.organization_id == organization_id,
            registration.c.lease_id.in_(ids),
            registration.c.release_time.is_(None),
        )
        found += [_made(row) for row in tx.execute(query)]
    return found


def live_of(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> list[str]:
    """The ids of these users' registrations."""
    found: list[str] = []
    for ids in chunks(sorted(user_ids)):
        query = sa.select(registration.c.registration_id).where(
            registration.c.organization_id == organization_id,
            registration.c.user_id.in_(ids),
            registration.c.delete_time.is_(None),
        )
        found += tx.execute(query).scalars()
    return found


def count_of_issuer(tx: Transaction, organization_id: str, issuer: str) -> int:
    """The live registrations of the users whom an identity provider names."""
    of_user = sa.and_(
        users.c.organization_id == registration.c.organization_id, users.c.user_id == registration.c.user_id
    )
    query = sa.select(sa.func.count()).select_from(registration.join(users, of_user))
    query = query.where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        users.c.issuer == issuer,
    )
    return int(tx.execute(query).scalar_one())


def count_of_token(tx: Transaction, organization_id: str, service_token_id: str) -> int:
    """The live registrations that were made with a service token."""
    query = sa.select(sa.func.count()).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        registration.c.service_token_id == service_token_id,
    )
    return int(tx.execute(query).scalar_one())


def of_policy(
    tx: Transaction, organization_id: str, enrollment_policy_id: str, limit: int
) -> tuple[int, tuple[str, ...]]:
    """How many live registrations an enrollment policy admitted, and the first of them."""
    query = sa.select(registration.c.registration_id, sa.func.count().over().label("all")).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_(None),
        registration.c.enrollment_policy_id == enrollment_policy_id,
    )
    rows = tx.execute(query.order_by(registration.c.registration_id).limit(limit)).all()
    return (rows[0].all if rows else 0), tuple(row.registration_id for row in rows)


def live(tx: Transaction, organization_id: str) -> set[str]:
    """The ids of the registrations that the registry has, as far as its feed has come."""
    query = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.authorize_revision > 0,
        registration.c.delete_time.is_(None),
    )
    return set(tx.execute(query).scalars())


def deleted_unreleased(tx: Transaction, organization_id: str) -> set[str]:
    """The ids of those that are gone and whose addresses are not known to be free."""
    query = sa.select(registration.c.registration_id).where(
        registration.c.organization_id == organization_id,
        registration.c.delete_time.is_not(None),
        registration.c.release_time.is_(None),
    )
    return set(tx.execute(query).scalars())


def authenticate(tx: Transaction, organization_id: str, made: Authentication) -> Authentication:
    """Writes an authentication and answers it with the time that counts: it never goes backwards (decision 27)."""
    statement = tx.insert(authentication).values(
        organization_id=organization_id,
        registration_id=made.registration_id,
        authenticate_time=made.authenticate_time,
        revision=made.revision,
    )
    before, now = authentication.c.authenticate_time, statement.excluded.authenticate_time
    later = sa.case((now > before, now), else_=before)
    statement = statement.on_conflict_do_update(
        index_elements=["organization_id", "registration_id"],
        set_={"authenticate_time": later, "revision": statement.excluded.revision},
    )
    time = tx.execute(statement.returning(authentication.c.authenticate_time)).scalar_one()
    return Authentication(made.registration_id, time, made.revision)


def authentication_of(tx: Transaction, organization_id: str, registration_id: str) -> Authentication | None:
    row = tx.execute(
        sa.select(authentication).where(
            authentication.c.organization_id == organization_id, authentication.c.registration_id == registration_id
        )
    ).one_or_none()
    return Authentication(row.registration_id, row.authenticate_time, row.revision) if row else None


def page_of_authentications(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[Authentication]:
    query = sa.select(authentication).where(
        authentication.c.organization_id == organization_id, authentication.c.registration_id > wanted.after
    )
    rows = tx.execute(query.order_by(authentication.c.registration_id).limit(wanted.size + 1))
    return [Authentication(row.registration_id, row.authenticate_time, row.revision) for row in rows]


def forget(tx: Transaction, before: int, limit: int) -> int:
    """Deletes what is left of registrations that are long gone, unless a removal counts them; answers how many rows."""
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
    return tx.execute(registration.delete().where(key.in_(old.limit(limit)))).rowcount


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
        statement = tx.insert(registration).values(rows)
        first = sa.func.coalesce(registration.c[column], statement.excluded[column])
        tx.execute(
            statement.on_conflict_do_update(index_elements=["organization_id", "registration_id"], set_={column: first})
        )

"""What identity has said of users: removals and revocations, which an enrollment under way must not overtake."""

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Fence
from guardhouse_services.registry.store.tables import fence
from guardhouse_services.statements import Insert, statement, upsert


def lock(tx: Transaction, organization_id: str, user_id: str) -> Fence:
    """What is known of the user, locked until the transaction ends."""
    row = _lock(tx, organization_id, user_id).one()
    return Fence(row.removed_revision, row.revoked_revision)


@upsert
def _lock(insert: Insert, organization_id: str, user_id: str) -> sa.Executable:
    locked = insert(fence).values(
        organization_id=organization_id, user_id=user_id, removed_revision=0, revoked_revision=0
    )
    locked = locked.on_conflict_do_update(
        index_elements=["organization_id", "user_id"], set_={"removed_revision": fence.c.removed_revision}
    )
    return locked.returning(fence.c.removed_revision, fence.c.revoked_revision)


def raise_to(tx: Transaction, organization_id: str, user_id: str, known: Fence) -> None:
    _raise_to(tx, organization_id, user_id, known.removed_revision, known.revoked_revision)


@statement
def _raise_to(organization_id: str, user_id: str, removed_revision: int, revoked_revision: int) -> sa.Executable:
    return (
        fence.update()
        .where(fence.c.organization_id == organization_id, fence.c.user_id == user_id)
        .values(removed_revision=removed_revision, revoked_revision=revoked_revision)
    )

"""What identity has said of users: removals and revocations, which an enrollment under way must not overtake."""

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import Fence
from guardhouse_services.registry.store.tables import fence


def lock(tx: Transaction, organization_id: str, user_id: str) -> Fence:
    """What is known of the user, locked until the transaction ends."""
    insert = tx.insert(fence).values(
        organization_id=organization_id, user_id=user_id, removed_revision=0, revoked_revision=0
    )
    insert = insert.on_conflict_do_update(
        index_elements=["organization_id", "user_id"], set_={"removed_revision": fence.c.removed_revision}
    )
    row = tx.execute(insert.returning(fence.c.removed_revision, fence.c.revoked_revision)).one()
    return Fence(row.removed_revision, row.revoked_revision)


def raise_to(tx: Transaction, organization_id: str, user_id: str, known: Fence) -> None:
    tx.execute(
        fence.update()
        .where(fence.c.organization_id == organization_id, fence.c.user_id == user_id)
        .values(removed_revision=known.removed_revision, revoked_revision=known.revoked_revision)
    )

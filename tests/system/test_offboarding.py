"""Off-boarding and erasing somebody over four real services, on both engines."""

from typing import Any

import pytest
import sqlalchemy as sa

from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse_services.database import Transaction
from guardhouse_services.node import Node
from tests.system.people import World
from tests.system.state import quiet
from tests.system.test_main_job import until


async def said(node: Node, word: str) -> list[str]:
    """The tables of a service that hold this text anywhere, in bytes or in letters."""

    def read(tx: Transaction) -> list[str]:
        found = []
        for name in sa.inspect(node.database.engine).get_table_names():
            rows = tx.execute(sa.text(f'SELECT * FROM "{name}"'))  # the database's own name
            values = [value for row in rows for value in row]
            texts = [bytes(it).decode("latin-1") if isinstance(it, bytes | memoryview) else str(it) for it in values]
            found += [name] if any(word in text for text in texts) else []
        return found

    return await node.database.read(read)


async def test_whoever_leaves_is_out_at_once_and_can_be_erased_then(world: World) -> None:
    """Decisions 1 and 5: sessions, registrations, addresses, seat and the way back; and then who it was."""
    laptop, phone = await world.enroll("alice", "laptop"), await world.enroll("alice", "phone")
    bob = await world.enroll("bob")
    policy_id, user_id = await world.policy("1h"), laptop.registration.user_id
    of: dict[str, Any] = {"organization_id": world.organization_id, "user_id": user_id}
    done = await world.users.OffboardUser(identity.OffboardUserRequest(**of))
    for made in (laptop, phone):
        assert await world.check(made.registration.registration_id, policy_id) in (
            "USER_REMOVED",
            "REGISTRATION_UNKNOWN",
        )
    assert await world.check(bob.registration.registration_id, policy_id) == "SESSION_FRESH"
    assert await world.used_seats() == 1
    with pytest.raises(errors.UserBlocked):
        await world.enroll("alice", "tablet")

    receipt = identity.GetRemovalRequest(organization_id=world.organization_id, removal_id=done.removal.removal_id)

    async def is_done() -> bool:
        return bool((await world.users.GetRemoval(receipt)).removal.done)

    await until(is_done)
    assert [it.registration_id for it in await world.leases()] == [bob.registration.registration_id]
    assert [it.registration_id for it in await world.live()] == [bob.registration.registration_id]

    nodes = world.plane.nodes
    assert "users" in await said(nodes["identity"], "alice@example.com")
    await world.users.EraseUser(identity.EraseUserRequest(**of))
    # The registry hears of it by identity's feed.
    await quiet(world.plane)
    for node in nodes.values():
        assert await said(node, "alice@example.com") == []
    assert "users" in await said(nodes["identity"], user_id)
    again = await world.enroll("alice", "tablet")
    assert again.registration.user_id != user_id

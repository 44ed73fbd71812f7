"""A service dies at every step of a removal: of off-boarding somebody, and of carrying out what was approved.

The receipt completes all the same, and what it counts is true; on both engines.
"""

import contextlib
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse_services import breaker as breaker_folder
from guardhouse_services.breaker import usecases as breaking
from guardhouse_services.database import Transaction
from guardhouse_services.identity.domain.held_actions import Effect
from guardhouse_services.identity.store import held_actions
from guardhouse_services.identity.usecases import breaker, effects, removing, users
from tests.plane import Plane
from tests.system.people import World
from tests.system.state import quiet
from tests.system.test_kill import dying
from tests.system.test_main_job import until

REMOVING = ("identity.removing", "registry.follow", "ipam.follow", "identity.follow")
OFFBOARDING = (*REMOVING, "identity.removed")
APPROVING = ("identity.decide", "identity.carry_out", *REMOVING)
GHOSTS = 12
SECONDS = 20.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


def named(*modules: Any) -> set[str]:
    """The failpoints of these modules."""
    source = "".join(Path(module.__file__).read_text() for module in modules)
    return set(re.findall(r'failpoint\(f?"([^"]+)"\)', source))


def test_every_failpoint_of_a_removal_is_killed() -> None:
    assert Path(breaking.__file__).parent == Path(breaker_folder.__file__).parent
    assert named(removing, users, effects) | {"registry.follow", "ipam.follow"} == set(OFFBOARDING)
    assert named(breaking) == {"{tx.service}.decide", "{tx.service}.carry_out"}


async def removed(world: World, removal_id: str) -> identity_pb2.Removal:
    """The receipt, once it is done."""
    request = identity_pb2.GetRemovalRequest(organization_id=world.organization_id, removal_id=removal_id)

    async def is_done() -> bool:
        return bool((await world.users.GetRemoval(request)).removal.done)

    await until(is_done, SECONDS)
    receipt: identity_pb2.Removal = (await world.users.GetRemoval(request)).removal
    return receipt


async def test_an_off_boarding_completes_whoever_dies(plane: Plane, world: World) -> None:
    """Decision 5: it is one transaction, and all that follows from it follows from the feeds."""
    bob = (await world.enroll("bob")).registration
    for number, failpoint in enumerate(OFFBOARDING):
        machines = [(await world.enroll(f"person{number}", f"{place}{number}")).registration for place in ("a", "b")]
        await quiet(plane)
        request = identity_pb2.OffboardUserRequest(
            organization_id=world.organization_id, user_id=machines[0].user_id, request_id=uuid.uuid4().hex
        )
        async with dying(plane, failpoint):
            with contextlib.suppress(errors.Unavailable):
                await world.users.OffboardUser(request)
        done = await world.users.OffboardUser(request)
        receipt = await removed(world, done.removal.removal_id)
        counts = (receipt.users, receipt.seats_freed, receipt.registrations, receipt.registrations_deleted)
        assert (*counts, receipt.addresses_released) == (1, 1, 2, 2, 2), failpoint
        assert await world.used_seats() == 1, failpoint
        assert [it.registration_id for it in await world.live()] == [bob.registration_id], failpoint
        assert [it.registration_id for it in await world.leases()] == [bob.registration_id], failpoint
        with pytest.raises(errors.UserBlocked):
            await world.enroll(f"person{number}", f"a{number}")


async def test_an_approved_action_completes_whoever_dies(plane: Plane, world: World) -> None:
    """Decision 6: nobody is removed twice, and nobody who was approved is left."""
    actions = plane.stub(identity_pb2_grpc.HeldActionServiceStub)
    organization_id = world.organization_id
    for failpoint in APPROVING:
        ghosts = [
            (await world.enroll(f"ghost{number}", f"{failpoint}{number}")).registration for number in range(GHOSTS)
        ]
        await quiet(plane)
        ids = [it.user_id for it in ghosts]

        def hold(tx: Transaction, source: str = f"test {failpoint}", ids: list[str] = ids) -> str:
            assert not breaker.passes(tx, organization_id, source, ids)
            return held_actions.waiting(tx, organization_id, source, Effect.REMOVE)

        held_action_id = await plane.nodes["identity"].database.write(hold)
        request = identity_pb2.ApproveHeldActionRequest(
            organization_id=organization_id, held_action_id=held_action_id, request_id=uuid.uuid4().hex
        )
        async with dying(plane, failpoint):
            with contextlib.suppress(errors.Unavailable):
                await actions.ApproveHeldAction(request)
        await actions.ApproveHeldAction(request)

        async def is_done(held_action_id: str = held_action_id) -> bool:
            page = await actions.ListHeldActions(
                identity_pb2.ListHeldActionsRequest(organization_id=organization_id, page_size=100)
            )
            (held,) = (it for it in page.held_actions if it.held_action_id == held_action_id)
            return bool(held.state == identity_pb2.HELD_ACTION_STATE_DONE)

        await until(is_done, SECONDS)
        page = await actions.ListHeldActions(
            identity_pb2.ListHeldActionsRequest(organization_id=organization_id, page_size=100)
        )
        (held,) = (it for it in page.held_actions if it.held_action_id == held_action_id)
        assert (held.users, held.users_done, len(held.removal_ids)) == (GHOSTS, GHOSTS, 1), failpoint
        receipt = await removed(world, held.removal_ids[0])
        assert (receipt.seats_freed, receipt.registrations_deleted, receipt.addresses_released) == (
            GHOSTS,
            GHOSTS,
            GHOSTS,
        ), failpoint
        assert await world.used_seats() == 0, failpoint
        assert await world.leases() == [], failpoint

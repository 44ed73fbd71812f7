"""What must hold when many come at once, and the three races that the saga's fences exist for; on both engines."""

import asyncio
import ipaddress
import threading
import time
from collections import Counter
from typing import Any

import pytest

from guardhouse.registry.v1 import registry_pb2
from guardhouse_services.follower import applied
from guardhouse_services.registry.store import registrations
from tests.plane import Plane
from tests.system.people import PATIENCE, World

CLIENTS = 64


async def outcomes(*calls: Any) -> tuple[list[registry_pb2.RegisterResponse], Counter[str]]:
    """What succeeded, and how often each reason was given."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    reasons = Counter(getattr(it, "reason", repr(it)) for it in results if isinstance(it, BaseException))
    return [it for it in results if not isinstance(it, BaseException)], reasons


async def test_64_people_for_10_seats(plane: Plane) -> None:
    """I-04, decisions 3 and 4: exactly ten."""
    world = World(plane, await plane.create_organization(seat_limit=10))
    made, reasons = await outcomes(*(world.enroll(f"person{number}") for number in range(CLIENTS)))
    assert reasons == {"SEATS_EXHAUSTED": CLIENTS - 10}
    assert len(made) == 10
    assert await world.used_seats() == 10
    assert len(await world.live()) == 10
    assert {it.registration_id for it in await world.leases()} == {it.registration.registration_id for it in made}


@pytest.mark.plane(ipv4_subnet="100.96.0.0/28")
async def test_64_people_for_14_addresses(plane: Plane) -> None:
    """I-01: exactly fourteen, each address once in both families, and no seat is left behind."""
    world = World(plane, plane.organization)
    made, reasons = await outcomes(*(world.enroll(f"person{number}") for number in range(CLIENTS)))
    assert reasons == {"SUBNET_EXHAUSTED": CLIENTS - 14}
    assert len(made) == 14
    assert len({it.registration.ipv4 for it in made}) == len({it.registration.ipv6 for it in made}) == 14
    assert all(ipaddress.ip_address(it.registration.ipv4) in ipaddress.ip_network("100.96.0.0/28") for it in made)
    assert await world.used_seats() == 14
    assert len(await world.leases()) == 14


async def test_64_calls_of_one_request_make_one_registration(world: World) -> None:
    """I-07."""
    request = await world.request(world.id_token("alice"), "laptop")
    made, reasons = await outcomes(*(world.enrollment.Register(request, timeout=PATIENCE) for _ in range(CLIENTS)))
    assert reasons == {}
    assert len({it.registration.registration_id for it in made}) == 1
    assert len({it.token for it in made}) == 1
    assert len(await world.live()) == 1
    assert len(await world.leases()) == 1


async def test_64_racers_with_one_id_token(world: World) -> None:
    """I-08: one winner."""
    credential = world.id_token("alice")
    requests = [await world.request(credential, f"machine{number}") for number in range(CLIENTS)]
    made, reasons = await outcomes(*(world.enrollment.Register(request, timeout=PATIENCE) for request in requests))
    assert reasons == {"ID_TOKEN_INVALID": CLIENTS - 1}
    assert len(made) == len(await world.live()) == 1


async def test_one_user_twice_at_once_on_one_device(world: World) -> None:
    """Decision 18: one registration is left, it has one lease, and no address ever had two holders."""
    for _ in range(5):
        made, reasons = await outcomes(*(world.enroll("alice", "laptop") for _ in range(8)))
        assert set(reasons) <= {"CONFLICT"}
        assert made
        live = await world.live()
        assert len(live) == 1
        leases = await world.leases()
        assert [(it.registration_id, it.ipv4) for it in leases] == [(live[0].registration_id, live[0].ipv4)]


@pytest.mark.parametrize("change", ["Delete", "Revoke"])
async def test_the_registration_to_take_over_from_goes_at_this_moment(
    world: World, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions 16 to 18, I-01: the lease of one that is deleted or revoked is nobody else's to take."""
    first = (await world.enroll("alice", "laptop")).registration
    name = change.lower()
    real, begun = getattr(registrations, name), threading.Event()

    def slowly(*args: Any) -> Any:
        changed = real(*args)
        begun.set()
        time.sleep(0.3)
        return changed

    monkeypatch.setattr(registrations, name, slowly)
    request = world.batch(getattr(registry_pb2, f"{change}RegistrationsRequest"), first.registration_id)
    changing = asyncio.ensure_future(getattr(world.registrations, f"{change}Registrations")(request))
    assert await asyncio.to_thread(begun.wait, 20)
    second = (await world.enroll("alice", "laptop")).registration
    await changing
    monkeypatch.undo()
    await settled(world)
    live = {(it.registration_id, it.ipv4) for it in await world.live()}
    assert {(it.registration_id, it.ipv4) for it in await world.leases()} == live
    assert (second.registration_id, second.ipv4) in live
    assert len(live) == (1 if change == "Delete" else 2)
    policy = await world.policy()
    assert await world.check(second.registration_id, policy) == "NO_SESSION_LIMIT"
    assert await world.check(first.registration_id, policy) in ("REGISTRATION_UNKNOWN", "REGISTRATION_REVOKED")


async def test_a_removal_between_authorization_and_activation_leaves_no_registration(
    plane: Plane, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 5: whichever of the two reaches the registry first."""
    user_id = (await world.enroll("alice", "laptop")).registration.user_id
    enrollments = plane.nodes["registry"].servicer.registry.enrollments  # type: ignore[attr-defined]
    reserve = enrollments._reserve

    async def remove_and_reserve(*args: Any) -> Any:
        await world.remove(user_id)
        return await reserve(*args)

    monkeypatch.setattr(enrollments, "_reserve", remove_and_reserve)
    await outcomes(world.enroll("alice", "phone"))
    monkeypatch.undo()
    await settled(world)
    assert await world.live() == []
    assert await world.used_seats() == 0
    assert await world.leases() == []


async def test_a_removal_that_arrives_late_leaves_a_newer_enrollment_alone(plane: Plane, world: World) -> None:
    """Decision 5: it touches what was authorized at or before its revision only."""
    first = (await world.enroll("alice", "laptop")).registration
    removals: Any = plane.nodes["registry"].effects["identity"]
    gate = asyncio.Event()
    change = removals._sink.change

    async def held_back(*args: Any) -> None:
        await gate.wait()
        await change(*args)

    removals._sink.change = held_back
    await world.remove(first.user_id)
    second = (await world.enroll("alice", "phone")).registration
    gate.set()
    removals._sink.change = change
    await settled(world)
    assert [it.registration_id for it in await world.live()] == [second.registration_id]
    assert await world.used_seats() == 1
    assert [it.registration_id for it in await world.leases()] == [second.registration_id]
    assert await world.check(second.registration_id, await world.policy()) == "NO_SESSION_LIMIT"


async def test_a_snapshot_that_omits_a_pending_enrollment_frees_nothing(plane: Plane, world: World) -> None:
    """I-13: identity and ipam load the registry's snapshot while the enrollment is neither active nor aborted."""
    other = (await world.enroll("bob")).registration
    enrollments = plane.nodes["registry"].servicer.registry.enrollments  # type: ignore[attr-defined]
    activate = enrollments._activate
    at_the_door, gate = asyncio.Event(), asyncio.Event()

    async def wait_and_activate(*args: Any) -> Any:
        _, begun, grant, _ = args
        lease = await enrollments._reserve(begun.intent, grant)
        at_the_door.set()
        await gate.wait()
        found = await activate(*args)
        assert found.registration.lease == lease
        return found

    enrollments._activate = wait_and_activate
    enrolling = asyncio.create_task(world.enroll("alice", "laptop"))
    await at_the_door.wait()
    for service in ("identity", "ipam"):
        await snapshot_again(plane, service)
    assert await world.used_seats() == 2
    gate.set()
    made = (await enrolling).registration
    enrollments._activate = activate
    await settled(world)
    assert await world.used_seats() == 2
    leases = {(it.registration_id, it.ipv4) for it in await world.leases()}
    assert leases == {(it.registration_id, it.ipv4) for it in (made, other)}


async def snapshot_again(plane: Plane, service: str) -> None:
    """Makes an effects' follower forget where it was, as a compaction would, and waits for its snapshot."""
    node = plane.nodes[service]
    follower: Any = node.effects["registry"]
    # Whatever it still applies would say again where it is.
    assert await follower.fresh(plane.clock.steady(), timeout=30)
    ended = asyncio.Event()
    end = follower._sink.end

    async def note(organization_id: str, position: Any) -> None:
        await end(organization_id, position)
        if organization_id == plane.organization:
            ended.set()

    follower._sink.end = note
    await node.database.write(lambda tx: tx.execute(applied.delete().where(applied.c.source == "registry")))
    plane.nodes["registry"].feed.stop()
    await asyncio.wait_for(ended.wait(), 30)
    follower._sink.end = end


async def settled(world: World) -> None:
    """Waits until every service has applied what the others have written."""
    for node in world.plane.nodes.values():
        for follower in node.effects.values():
            assert await follower.fresh(world.plane.clock.steady(), timeout=30)

"""What becomes of enrollments while a service is away, a clock is set, or two decide at once; on both engines.

The rows are those of the failure table of an enrollment; deaths of processes are in test_kill.py.
"""

import asyncio
import random
from typing import Any

import pytest

from guardhouse import errors
from guardhouse.ids import DEVICE, REGISTRATION, USER, new_id
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.plane import Plane
from tests.system.people import World
from tests.system.test_kill import found_by_the_registry, reserved, resolve

RACES = 60


@pytest.mark.parametrize("service", ["identity", "ipam"])
async def test_while_a_peer_is_down_nobody_enrolls_and_nothing_stays_reserved(
    plane: Plane, world: World, service: str
) -> None:
    """Row 12."""
    request = await world.request(world.id_token("alice"), "laptop")
    await plane.stop(service)
    with pytest.raises(errors.ServiceUnavailable):
        await world.enrollment.Register(request)
    await plane.start(service)
    await found_by_the_registry(plane, service)
    plane.clock.advance(65)
    await resolve(plane)
    assert await reserved(plane) == (0, 0)
    assert (await world.used_seats(), await world.leases(), await world.live()) == (0, [], [])
    made = await world.enrollment.Register(request)
    assert [it.registration_id for it in await world.live()] == [made.registration.registration_id]


@pytest.mark.plane(ipv4_subnet="100.96.0.0/28")
async def test_while_the_registry_is_down_no_time_frees_an_address(plane: Plane, world: World) -> None:
    """Row 11: what is reserved stays so, and the subnet may look full; checks go on where a policy says so."""
    made = [(await world.enroll(f"person{number}")).registration for number in range(12)]
    policy = await world.policy(max_open="1h")
    ipam = plane.service_stub(ipam_pb2_grpc.AddressServiceStub, "registry")

    def lost() -> ipam_pb2.ReserveAddressesRequest:
        """Of a coordinator that has died, and its intent with it."""
        now = plane.clock.now()
        ids: Any = {
            "intent_id": new_id(REGISTRATION, now),
            "device_id": new_id(DEVICE, now),
            "user_id": new_id(USER, now),
        }
        return ipam_pb2.ReserveAddressesRequest(organization_id=plane.organization, **ids)

    for _ in range(2):
        await ipam.ReserveAddresses(lost())
    assert await world.check(made[0].registration_id, policy) == "NO_SESSION_LIMIT"
    await plane.stop("registry")
    plane.clock.advance(600)
    await plane.nodes["ipam"].servicer.ipam.addresses.resolve_once()  # type: ignore[attr-defined]
    assert await reserved(plane) == (0, 2)
    with pytest.raises(errors.SubnetExhausted):
        await ipam.ReserveAddresses(lost())
    with pytest.raises(errors.Unavailable):
        await world.enroll("somebody else")
    assert await world.check(made[0].registration_id, policy, []) == "NO_SESSION_LIMIT"
    await plane.start("registry")
    await plane.reachable("registry")
    # Who asked in vain asks again after this.
    plane.clock.advance(6)
    await resolve(plane)
    assert await reserved(plane) == (0, 0)
    for number in range(2):
        await world.enroll(f"newcomer{number}")
    assert len({it.ipv4 for it in await world.leases()}) == 14


async def test_an_activation_and_the_question_at_one_moment_agree(
    plane: Plane, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 8: one of them decides, and the other reads what it decided; each of them does at times."""
    enrollments = plane.nodes["registry"].servicer.registry.enrollments  # type: ignore[attr-defined]
    question = plane.service_stub(registry_pb2_grpc.EnrollmentServiceStub, "ipam")
    reserve, chance = enrollments._reserve, random.Random(5)
    asked: list[asyncio.Task[Any]] = []

    async def ask(intent_id: str, pause: float) -> int:
        await asyncio.sleep(pause)
        request = registry_pb2.ResolveIntentRequest(organization_id=plane.organization, intent_id=intent_id)
        return int((await question.ResolveIntent(request)).outcome)

    async def reserve_and_be_asked(intent: Any, grant: Any) -> Any:
        lease = await reserve(intent, grant)
        # Past its deadline, an intent is whatever the first of them makes it.
        plane.clock.advance(31)
        # Either is first by far at times, and mostly they meet.
        random_pauses = chance.uniform(0, 0.01), chance.uniform(0, 0.01)
        pauses = {0: (0.0, 0.2), 1: (0.2, 0.0)}.get(len(asked) % 4, random_pauses)
        asked.append(asyncio.create_task(ask(intent.registration_id, pauses[0])))
        await asyncio.sleep(pauses[1])
        return lease

    monkeypatch.setattr(enrollments, "_reserve", reserve_and_be_asked)
    outcomes: list[tuple[bool, int]] = []
    for number in range(RACES):
        try:
            await world.enroll(f"person{number}")
            became = True
        except errors.EnrollmentAborted:
            became = False
        outcomes.append((became, await asked[-1]))
        if len(set(outcomes)) == 2 and number > 10:
            break
    assert set(outcomes) == {(True, registry_pb2.INTENT_OUTCOME_ACTIVE), (False, registry_pb2.INTENT_OUTCOME_ABORTED)}
    plane.clock.advance(65)
    await resolve(plane)
    assert await reserved(plane) == (0, 0)
    live = {(it.registration_id, it.ipv4) for it in await world.live()}
    assert {(it.registration_id, it.ipv4) for it in await world.leases()} == live
    assert len(live) == sum(became for became, _ in outcomes) == await world.used_seats()


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_a_clock_that_is_set_in_the_middle_of_an_enrollment_makes_nothing_twice(
    plane: Plane, world: World, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Row 15, I-18: it may be given up early; another attempt leaves one registration with one pair and one seat."""
    enrollments = plane.nodes["registry"].servicer.registry.enrollments  # type: ignore[attr-defined]
    reserve = enrollments._reserve
    sets = iter([seconds])

    async def reserve_and_set_the_clock(intent: Any, grant: Any) -> Any:
        lease = await reserve(intent, grant)
        for by in sets:
            plane.clock.jump(by)
            await resolve(plane)
        return lease

    async def enroll() -> Any:
        now = plane.clock.now() // 1_000_000
        request = await world.request(world.id_token("alice", auth_time=now), "laptop")
        return await world.enrollment.Register(request)

    monkeypatch.setattr(enrollments, "_reserve", reserve_and_set_the_clock)
    if seconds > 0:
        # Its intent is aborted, and by now its challenge has expired as well.
        with pytest.raises(errors.ChallengeInvalid):
            await enroll()
    else:
        await enroll()
    made = (await enroll()).registration
    plane.clock.advance(65)
    await resolve(plane)
    assert await reserved(plane) == (0, 0)
    wanted = [(made.registration_id, made.ipv4, made.ipv6)]
    assert [(it.registration_id, it.ipv4, it.ipv6) for it in await world.live()] == wanted
    assert [(it.registration_id, it.ipv4, it.ipv6) for it in await world.leases()] == wanted
    assert await world.used_seats() == 1

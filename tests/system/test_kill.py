"""The registry, and ipam, die at every step of the saga; on both engines (the failure table of an enrollment)."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from guardhouse import errors
from guardhouse.durations import SECOND
from guardhouse.registry.v1 import registry_pb2
from guardhouse_services import ipam, registry
from guardhouse_services.identity.store.tables import intent
from guardhouse_services.ipam.store import tables as ipam_store
from guardhouse_services.leases import LEASE
from tests.plane import Plane
from tests.system.people import World

ENROLLING = (
    "registry.begin",
    "registry.begun",
    "registry.authorized",
    "registry.reserved",
    "registry.activate",
    "registry.activated",
)
ABORTING = ("registry.aborted", "registry.released")
IPAM = ("ipam.reserve", "ipam.reserved", "ipam.release", "ipam.follow")


def test_every_failpoint_of_the_saga_is_killed() -> None:
    source = (Path(registry.__file__).parent / "usecases" / "enrollments.py").read_text()
    assert set(re.findall(r'failpoint\("([^"]+)"\)', source)) == {*ENROLLING, *ABORTING}
    sources = "".join(path.read_text() for path in Path(ipam.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'failpoint\("([^"]+)"\)', sources)) == {*IPAM}


@asynccontextmanager
async def dying(plane: Plane, failpoint: str) -> AsyncIterator[None]:
    """The service of the failpoint as a process that kills itself there; behind it, one that does not."""
    service = failpoint.partition(".")[0]
    await plane.stop(service)
    process = await plane.spawn(service, GUARDHOUSE_FAILPOINTS=f"{failpoint}=kill")
    await found_by_the_registry(plane, service)
    yield
    # What it follows is served by this thread.
    assert await asyncio.to_thread(process.wait, 20) == -9, f"{failpoint} was not reached"
    await plane.start(service)
    # The dead one's leases have to expire before another replica takes its jobs.
    plane.clock.advance(LEASE / SECOND)
    for follower in plane.nodes[service].effects.values():
        await follower.loaded()
    await plane.nodes[service].loaded()
    await plane.reachable(service)
    await found_by_the_registry(plane, service)


async def found_by_the_registry(plane: Plane, service: str) -> None:
    """Waits until the registry calls a service that was away: that takes it longer than an enrollment waits."""
    if service in ("identity", "ipam"):
        channel = plane.nodes["registry"].peers.channel(service)._channel
        channel.get_state(try_to_connect=True)
        await channel.channel_ready()


async def reserved(plane: Plane) -> tuple[int, int]:
    """How many claims on seats and how many addresses wait for an outcome."""
    claims = sa.select(sa.func.count()).where(intent.c.ask_time.is_not(None))
    leases = sa.select(sa.func.count()).where(ipam_store.lease.c.state == "RESERVED")
    return (
        await plane.nodes["identity"].database.read(lambda tx: tx.execute(claims).scalar_one()),
        await plane.nodes["ipam"].database.read(lambda tx: tx.execute(leases).scalar_one()),
    )


async def resolve(plane: Plane) -> None:
    """What the jobs of identity, ipam and the registry do every few seconds, once their feeds are back."""
    for service in ("identity", "ipam"):
        assert await plane.nodes[service].effects["registry"].fresh(plane.clock.steady(), timeout=20)
    # A job that asked while the registry was dead asks again after this.
    plane.clock.advance(5)
    await plane.nodes["registry"].servicer.registry.enrollments.sweep_once()  # type: ignore[attr-defined]
    await plane.nodes["identity"].servicer.identity.resolver.resolve_once()  # type: ignore[attr-defined]
    await plane.nodes["ipam"].servicer.ipam.addresses.resolve_once()  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_retry_after_a_death_makes_one_registration(plane: Plane, world: World) -> None:
    """Rows 1 to 6: the retry goes on where the first call stopped."""
    for number, failpoint in enumerate(ENROLLING):
        person = f"person{number}"
        async with dying(plane, failpoint):
            # The dying process has the real clock, so its challenge is asked for here.
            request = await world.request(world.id_token(person), f"machine-of-{person}")
            with pytest.raises(errors.Unavailable):
                await world.enrollment.Register(request)
        made = await world.enrollment.Register(request)
        live = await world.live(device_id=made.registration.device_id)
        assert [it.registration_id for it in live] == [made.registration.registration_id], failpoint
        assert await world.used_seats() == number + 1, failpoint
        leases = [it for it in await world.leases() if it.device_id == made.registration.device_id]
        assert [it.ipv4 for it in leases] == [made.registration.ipv4], failpoint


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_nothing_is_left_reserved_65_seconds_after_a_death(plane: Plane, world: World) -> None:
    """Rows 2 to 7 and 12: without a retry, what became active is held, and the rest is free."""
    for number, failpoint in enumerate((*ENROLLING, *ABORTING)):
        person, machine = f"person{number}", f"machine{number}"
        if failpoint in ABORTING:
            await world.enroll(f"holder{number}", machine)
        before = (await world.used_seats(), len(await world.leases()))
        async with dying(plane, failpoint):
            request = await world.request(world.id_token(person), machine)
            with pytest.raises(errors.Unavailable):
                await world.enrollment.Register(request)
        plane.clock.advance(60)
        await resolve(plane)
        assert await reserved(plane) == (0, 0), failpoint
        became = 1 if failpoint == "registry.activated" else 0
        assert await world.used_seats() == before[0] + became, failpoint
        assert len(await world.leases()) == before[1] + became, failpoint
        live = [it for it in await world.live() if it.state == registry_pb2.REGISTRATION_STATE_ACTIVE]
        assert len(live) == len(await world.leases()), failpoint


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_death_of_ipam_takes_no_address_and_frees_none(plane: Plane, world: World) -> None:
    """Rows 3, 7, 9 and 12, seen from ipam: nothing is left reserved, and who asks again has one pair of addresses."""
    for number, failpoint in enumerate(IPAM):
        person, machine = f"person{number}", f"machine{number}"
        is_refused = failpoint == "ipam.release"
        if is_refused:
            await world.enroll("holder", machine)
        async with dying(plane, failpoint):
            request = await world.request(world.id_token(person), machine)
            with contextlib.suppress(errors.Unavailable, errors.DeviceHeldByAnotherUser):
                await world.enrollment.Register(request)
        plane.clock.advance(60)
        await resolve(plane)
        assert await reserved(plane) == (0, 0), failpoint
        with contextlib.suppress(errors.DeviceHeldByAnotherUser):
            await world.enrollment.Register(request)
        live = {(it.registration_id, it.ipv4, it.ipv6) for it in await world.live()}
        assert len(live) == number + 1, failpoint
        await resolve(plane)
        assert {(it.registration_id, it.ipv4, it.ipv6) for it in await world.leases()} == live, failpoint


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_deletion_that_ipam_dies_over_lets_the_address_rest_all_the_same(plane: Plane, world: World) -> None:
    """Row 17: the registry has it durably; the address is still held, and then rests."""
    made = (await world.enroll("alice")).registration
    await resolve(plane)
    async with dying(plane, "ipam.follow"):
        request = world.batch(registry_pb2.DeleteRegistrationsRequest, made.registration_id)
        await world.registrations.DeleteRegistrations(request)
    await resolve(plane)
    assert await world.leases() == []
    other = (await world.enroll("bob")).registration
    assert other.ipv4 != made.ipv4

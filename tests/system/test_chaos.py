"""A minute of everything at once, while services stop and start; afterwards everything adds up, on both engines."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from guardhouse.errors import GuardhouseError
from guardhouse.identity.v1 import identity_pb2
from guardhouse.registry.v1 import registry_pb2
from tests.plane import Plane
from tests.system.people import World

SECONDS = 60
WORKERS = 8
PEOPLE = [f"person{number}" for number in range(15)]
MACHINES = [f"machine{number}" for number in range(12)]
SEATS = 10
# A run in which little happened proves nothing; on a slow disk it takes longer until enough has.
LEAST = 300

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


class Chaos:
    """Random calls. What is refused is refused for a reason of the contract; anything else is a failure."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.ids: list[str] = []
        self.users: list[str] = []
        self.over = False

    async def work(self) -> None:
        while not self.over:
            action = self.random.choices(
                [self.enroll, self.revoke, self.unrevoke, self.delete, self.delete_device, self.remove],
                [10, 2, 2, 3, 1, 1],
            )[0]
            try:
                await action()
            except GuardhouseError as error:
                self.outcomes[error.reason] += 1
                if error.code == "UNAVAILABLE":
                    await asyncio.sleep(0.1)
            else:
                self.outcomes[action.__name__] += 1

    async def enroll(self) -> None:
        request = await self.world.request(
            self.world.id_token(self.random.choice(PEOPLE)), self.random.choice(MACHINES)
        )
        made = await self.world.enrollment.Register(request)
        if self.random.random() < 0.3:
            # The answer may have been lost: the device asks again.
            made = await self.world.enrollment.Register(request)
        self.ids.append(made.registration.registration_id)
        self.users.append(made.registration.user_id)

    def some(self) -> list[str]:
        return self.random.sample(self.ids, min(len(self.ids), self.random.randint(1, 4))) or ["reg_" + "0" * 32]

    async def revoke(self) -> None:
        request = self.world.batch(registry_pb2.RevokeRegistrationsRequest, *self.some())
        await self.world.registrations.RevokeRegistrations(request)

    async def unrevoke(self) -> None:
        request = self.world.batch(registry_pb2.UnrevokeRegistrationsRequest, *self.some())
        await self.world.registrations.UnrevokeRegistrations(request)

    async def delete(self) -> None:
        request = self.world.batch(registry_pb2.DeleteRegistrationsRequest, *self.some())
        await self.world.registrations.DeleteRegistrations(request)

    async def delete_device(self) -> None:
        live = await self.world.live()
        if live:
            device_id = self.random.choice(live).device_id
            request = registry_pb2.DeleteDeviceRequest(organization_id=self.world.organization_id, device_id=device_id)
            await self.world.devices.DeleteDevice(request)

    async def remove(self) -> None:
        if self.users:
            await self.world.remove(self.random.choice(self.users))


async def test_everything_adds_up_after_a_minute_of_everything(plane: Plane) -> None:
    """I-01, I-03, I-04, I-10, I-12, I-13, I-22."""
    world = World(plane, await plane.create_organization(seat_limit=SEATS))
    policy = await world.policy()
    chaos = Chaos(world, seed=7)
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    busy = asyncio.gather(sample_seats(chaos), *(chaos.work() for _ in range(WORKERS)))
    while not busy.done() and (loop.time() < end or chaos.outcomes.total() < LEAST):
        await asyncio.sleep(4)
        service = chaos.random.choice(["identity", "registry", "ipam", "session"])
        await plane.stop(service)
        await asyncio.sleep(chaos.random.uniform(0, 1))
        await plane.start(service)
    chaos.over = True
    await busy
    assert "INTERNAL" not in chaos.outcomes
    await quiet(plane)
    await audit(world, policy)


async def sample_seats(chaos: Chaos) -> None:
    """At no instant are more seats used than purchased."""
    request = identity_pb2.GetSeatUsageRequest(organization_id=chaos.world.organization_id)
    while not chaos.over:
        try:
            usage = await chaos.world.seats.GetSeatUsage(request)
        except GuardhouseError:
            await asyncio.sleep(0.1)
        else:
            assert usage.used <= usage.purchased
            await asyncio.sleep(0.01)


async def quiet(plane: Plane) -> None:
    """Everybody has heard of everything, and what stayed undecided is decided."""
    nodes = plane.nodes
    steps: list[Callable[[], Awaitable[object]]] = [
        nodes["registry"].servicer.registry.enrollments.sweep_once,  # type: ignore[attr-defined]
        nodes["identity"].servicer.identity.resolver.resolve_once,  # type: ignore[attr-defined]
        nodes["ipam"].servicer.ipam.addresses.resolve_once,  # type: ignore[attr-defined]
    ]
    for _ in range(2):
        plane.clock.advance(65)
        for node in nodes.values():
            for follower in (*node.effects.values(), *node.views):
                assert await follower.fresh(plane.clock.steady(), timeout=30)
        for step in steps:
            await step()


async def audit(world: World, policy: str) -> None:
    live = await world.live()
    leases = await world.leases()
    holders = {(it.registration_id, it.ipv4, it.ipv6) for it in live}
    assert {(it.registration_id, it.ipv4, it.ipv6) for it in leases} == holders
    assert len({it.ipv4 for it in live}) == len({it.ipv6 for it in live}) == len(live) == len(leases)
    active = [it for it in live if it.state == registry_pb2.REGISTRATION_STATE_ACTIVE]
    assert max(Counter(it.device_id for it in active).values(), default=0) <= 1
    request = identity_pb2.ListUsersRequest(
        organization_id=world.organization_id, seat_status=identity_pb2.SEAT_STATUS_ACTIVE, page_size=1000
    )
    seated = {user.user_id for user in (await world.users.ListUsers(request)).users}
    assert {it.user_id for it in live} <= seated
    assert await world.used_seats() == len(seated) <= SEATS
    for registration in live:
        wanted = "NO_SESSION_LIMIT" if registration in active else "REGISTRATION_REVOKED"
        assert await world.check(registration.registration_id, policy) == wanted

"""How soon a revoked registration is refused: from the answer of RevokeRegistrations to the first refusal of a check.

Half of the revocations are made at the registry's replica that session follows, and half at another one, of whose
commits the first hears by looking. Meanwhile people enroll and other checks are made.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.crowd import Crowd
from bench.figure import Figure, Target, percentile, resampled
from bench.plane import POSTGRESQL, START_SECONDS, Plane
from bench.run import Bench
from guardhouse.clock import SystemClock
from guardhouse.errors import StateStale
from guardhouse.ids import REGISTRATION, new_id
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.session.v1 import session_pb2, session_pb2_grpc

COUNT = 1000
REPLICA = "127.0.0.4"
SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
TARGETS = {"p99": Target("≤", 250.0)}
# The load beside the revocations: each of these goes on as fast as it is answered.
ENROLLING = 2
CHECKING = 2
PAUSE_SECONDS = 0.02
"""Between the calls of one who enrolls or checks, so that the load is one and not a flood."""
NAMES = tuple(f"revocation_{name}" for name in SHARES)


async def measure(bench: Bench) -> list[Figure]:
    plane, registrations = await bench.loaded(POSTGRESQL, bench.large)
    count = bench.size(COUNT)
    dice = random.Random(0)
    bench.say("revocations under load", count)
    async with plane:
        plane.spawn("registry", REPLICA)
        await plane.serving("registry", REPLICA)
        revoker = Revoker(plane)
        await revoker.ready()
        async with load(plane, registrations, bench) as done:
            began = time.perf_counter()
            delays = []
            for number, registration_id in enumerate(dice.sample(registrations, count)):
                delays.append(1e3 * await revoker.revoke(registration_id, REPLICA if number % 2 else ""))
                bench.tick()
            seconds = time.perf_counter() - began
    return list(_figures(delays, {what: f"{count / seconds:.0f}/s" for what, count in done.items()}))


class Revoker:
    """Revokes, and asks session until it refuses."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._registries = {host: plane.stub(registry_pb2_grpc.RegistrationServiceStub, host) for host in ("", REPLICA)}
        self._checks = session_pb2_grpc.CheckServiceStub(plane.channel("session"))

    async def ready(self) -> None:
        """A replica serves before it has loaded whom it knows callers by."""
        stranger = new_id(REGISTRATION, SystemClock().now())
        async with asyncio.timeout(START_SECONDS):
            for host in self._registries:
                while True:
                    with contextlib.suppress(StateStale):
                        await self.revoke_at(stranger, host)
                        break

    async def revoke_at(self, registration_id: str, host: str) -> None:
        await self._registries[host].RevokeRegistrations(
            registry_pb2.RevokeRegistrationsRequest(
                organization_id=self._plane.organization_id, registration_ids=[registration_id]
            )
        )

    async def revoke(self, registration_id: str, host: str) -> float:
        """Seconds from the answer to the first refusal."""
        await self.revoke_at(registration_id, host)
        answered = time.perf_counter()
        while await _check(self._plane, self._checks, registration_id) != session_pb2.DECISION_BLOCK:
            pass
        return time.perf_counter() - answered


async def _check(plane: Plane, checks: Any, registration_id: str) -> int:
    request = session_pb2.CheckSessionRequest(
        organization_id=plane.organization_id, registration_id=registration_id, policy_id=plane.policy_id
    )
    answer = await checks.CheckSession(request, timeout=10, metadata=plane.metadata)
    return int(answer.answer.decision)


@contextlib.asynccontextmanager
async def load(plane: Plane, registrations: Sequence[str], bench: Bench) -> AsyncIterator[dict[str, int]]:
    """People who enroll and gateways that check, and how much they did."""
    done = {"enrollments beside": 0, "checks beside": 0}
    crowd, checks = Crowd(plane), session_pb2_grpc.CheckServiceStub(plane.channel("session"))
    dice = random.Random(1)

    async def enroll() -> None:
        while True:
            for one in crowd.newcomers(1):
                await crowd.enroll(one)
            done["enrollments beside"] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def check() -> None:
        while True:
            await _check(plane, checks, dice.choice(registrations))
            done["checks beside"] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    running = [asyncio.create_task(enroll()) for _ in range(ENROLLING)]
    running += [asyncio.create_task(check()) for _ in range(CHECKING)]
    try:
        yield done
    finally:
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def _figures(delays: Sequence[float], absolute: dict[str, str]) -> list[Figure]:
    figures = []
    for name, share in SHARES.items():
        value = percentile(delays, share)
        quartiles = resampled(lambda of, share=share: percentile(of, share), delays)
        figures.append(Figure(f"revocation_{name}", value, quartiles, TARGETS.get(name), "ms", absolute))
    return figures

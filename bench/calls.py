"""What a call costs: on a bare server, behind our stack, as a check, and as a share of a batch of checks."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from bench.contract import PATH, messages
from bench.figure import Figure, Round, Sample, Target, ratios, summary, take_rounds
from bench.machine import cpu_of
from bench.plane import SQLITE, Plane
from bench.run import Bench
from guardhouse.session.v1 import session_pb2 as pb

BATCH = 500
# In flight at once, the same on both sides of a ratio: enough to keep the server busy, and as few as a gateway has of
# batches. The more there are, the less of what it costs to wake up is in each.
UNARY_CLIENTS, BATCH_CLIENTS = 16, 2
BARE_AT_A_TIME = f"bare, {BATCH_CLIENTS} in flight"
BARE_HOST, STACK_HOST = "127.0.0.2", "127.0.0.3"
CHECK, BATCH_CHECK = (f"/guardhouse.session.v1.CheckService/{name}" for name in ("CheckSession", "BatchCheckSessions"))
LEAN = ("decision", "reason", "session_expire_time")
FIELDS = pb.BatchCheckSessionsRequest.DESCRIPTOR.fields_by_name

NAMES = ("stack_vs_bare", "check_vs_stack", "batch_vs_bare", "batch_lean_vs_bare")


async def measure(bench: Bench) -> list[Figure]:
    plane, registrations = await bench.loaded(SQLITE, bench.large)
    bench.say("calls and checks", bench.pairs(21))
    async with plane:
        plane.spawn("session", BARE_HOST, "bare")
        url = f"sqlite:///{plane.folder}/{{service}}-stack.db"
        plane.spawn("session", STACK_HOST, "stack", database_url=url)
        await plane.serving("session", STACK_HOST)
        await plane.channel("session", host=BARE_HOST).channel_ready()
        sides = {name: side.take for name, side in _sides(bench, plane, registrations).items()}
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, bench.pairs(21), bench.tick)
    return list(_figures(rounds))


class Side:
    """One method of one server, called over and over."""

    def __init__(
        self, plane: Plane, host: str, path: str, requests: Sequence[bytes], calls: int, clients: int, checks: int = 1
    ) -> None:
        self._metadata = plane.metadata
        self._pid = plane.pid("session", host)
        channel: grpc.aio.Channel = plane.channel("session", host=host)
        self._call: Callable[..., Any] = channel.unary_unary(path)
        self._requests = itertools.cycle(requests)
        self._calls = calls
        self._checks = checks
        self._clients = clients

    async def take(self) -> Sample:
        left = iter(range(self._calls))
        cpu, began = cpu_of([self._pid]), time.perf_counter()
        await asyncio.gather(*(self._client(left) for _ in range(self._clients)))
        seconds = time.perf_counter() - began
        return Sample(self._calls * self._checks, seconds, cpu_of([self._pid]) - cpu)

    async def _client(self, left: Iterator[int]) -> None:
        for _ in left:
            await self._call(next(self._requests), timeout=10, metadata=self._metadata)


def _sides(bench: Bench, plane: Plane, registrations: Sequence[str]) -> dict[str, Side]:
    request, _ = messages()
    empty = [request(organization_id=plane.organization_id).SerializeToString()]
    dice = random.Random(0)
    unary, batches = bench.size(1500), bench.size(40)
    about: dict[str, Any] = {"organization_id": plane.organization_id}

    def items() -> dict[str, str]:
        return {"registration_id": dice.choice(registrations), "policy_id": plane.policy_id}

    checks = [pb.CheckSessionRequest(**about, **items()).SerializeToString() for _ in range(2000)]

    def batch(**more: Any) -> list[bytes]:
        full = [
            pb.BatchCheckSessionsRequest(items=[pb.CheckSessionItem(**items()) for _ in range(BATCH)], **about, **more)
            for _ in range(20)
        ]
        return [each.SerializeToString() for each in full]

    sides = {
        "bare": Side(plane, BARE_HOST, PATH, empty, unary, UNARY_CLIENTS),
        "stack": Side(plane, STACK_HOST, PATH, empty, unary, UNARY_CLIENTS),
        "check": Side(plane, "127.0.0.1", CHECK, checks, unary, UNARY_CLIENTS),
        BARE_AT_A_TIME: Side(plane, BARE_HOST, PATH, empty, unary, BATCH_CLIENTS),
        "batch": Side(plane, "127.0.0.1", BATCH_CHECK, batch(), batches, BATCH_CLIENTS, BATCH),
    }
    if "read_mask" in FIELDS:
        lean = batch(read_mask=FieldMask(paths=LEAN))
        sides["lean"] = Side(plane, "127.0.0.1", BATCH_CHECK, lean, batches, BATCH_CLIENTS, BATCH)
    return sides


def _figures(rounds: Sequence[Round]) -> Iterator[Figure]:
    yield cost_ratio(rounds, "stack_vs_bare", "bare", "stack", Target("≥", 0.85))
    yield cost_ratio(rounds, "check_vs_stack", "stack", "check", Target("≥", 0.9))
    yield cost_ratio(rounds, "batch_vs_bare", "batch", BARE_AT_A_TIME, Target("≤", 1 / 40), "1/")
    if "lean" in rounds[0]:
        yield cost_ratio(rounds, "batch_lean_vs_bare", "lean", BARE_AT_A_TIME, Target("≤", 1 / 60), "1/")


def cost_ratio(
    rounds: Sequence[Round], name: str, above: str, below: str, target: Target | None, unit: str = ""
) -> Figure:
    """What one side takes of the CPU over what the other takes."""

    def cost(side: str) -> dict[str, str]:
        """What each takes, in microseconds of CPU."""
        median, _ = summary([each[side].cost for each in rounds])
        return {side: f"{median * 1e6:.1f} µs CPU"}

    median, quartiles = summary(ratios(rounds, above, below, lambda sample: sample.cost))
    return Figure(name, median, quartiles, target, unit, cost(above) | cost(below))

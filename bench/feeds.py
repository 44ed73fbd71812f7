"""What a follower of a feed can take, how fast a snapshot loads, and what a registration costs a follower in memory."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.figure import Figure, Sample, Take, Target, ratios, summary, take_rounds
from bench.plane import SQLITE, Plane
from bench.run import Bench
from bench.servers import FEED_EVENTS
from guardhouse.clock import SystemClock
from guardhouse.following import Follower, Position, View
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.replica import RegistryState

FEED_HOST = "127.0.0.5"
WAITING = 100
SNAPSHOTS = 5
NAMES = ("feed_batching", "snapshot_rate", "follower_memory")


async def measure(bench: Bench) -> list[Figure]:
    large, _ = await bench.loaded(SQLITE, bench.large)
    small, _ = await bench.loaded(SQLITE, bench.small)
    async with large:
        async with small:
            # Before anything has asked either for more.
            memory = _memory(bench, large, small)
        large.spawn("registry", FEED_HOST, "feed")
        return [await _batching(bench, large), await _snapshots(bench, large), memory]


class Stopwatch(View):
    """A registry's follower as session has it, which notes when its changes came."""

    def __init__(self) -> None:
        super().__init__(RegistryState)
        self.began = 0.0
        self.ended = 0.0
        self.count = 0
        self.loaded = asyncio.Event()
        self.whole = asyncio.Event()

    async def begin(self, organization_id: str) -> None:
        await super().begin(organization_id)
        self.began = self.began or time.perf_counter()

    async def page(self, organization_id: str, events: Sequence[Any]) -> None:
        await super().page(organization_id, events)
        self.count += len(events)

    async def end(self, organization_id: str, position: Position) -> None:
        await super().end(organization_id, position)
        self.ended = time.perf_counter()
        if organization_id:
            self.loaded.set()

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        await super().change(organization_id, events, before, after)
        self.count += len(events)
        self.ended = time.perf_counter()
        if after[1] == FEED_EVENTS:
            self.whole.set()


@contextlib.asynccontextmanager
async def _following(plane: Plane, name: str, host: str = "") -> AsyncIterator[Stopwatch]:
    """Follows the registry on a connection of its own, as session does, from nothing."""
    channel = plane.channel("registry", "service", "session", host)
    stub = registry_pb2_grpc.RegistryFeedServiceStub(channel)
    watch = Stopwatch()
    follower = Follower(name, stub.Watch, registry_pb2.WatchRequest, watch, SystemClock())
    running = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(60):
            await channel.channel_ready()
            yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _batching(bench: Bench, plane: Plane) -> Figure:
    bench.say("changes one by one and together", bench.pairs(15))

    async def take(size: int) -> Sample:
        async with _following(plane, str(size), FEED_HOST) as watch:
            await watch.whole.wait()
        return Sample(watch.count, watch.ended - watch.began)

    sides: dict[str, Take] = {"one by one": lambda: take(1), f"{WAITING} wait": lambda: take(WAITING)}
    for warm_up in sides.values():
        await warm_up()
    # As a service does when it has begun: the collector need not look at what was there before, and here stays.
    gc.collect()
    gc.freeze()
    rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    gc.unfreeze()
    median, quartiles = summary(ratios(rounds, f"{WAITING} wait", "one by one", lambda sample: sample.rate))
    absolute = {side: f"{summary([each[side].rate for each in rounds])[0]:,.0f}/s" for side in sides}
    return Figure("feed_batching", median, quartiles, Target("≥", 8), "", absolute)


async def _snapshots(bench: Bench, plane: Plane) -> Figure:
    bench.say("snapshots", SNAPSHOTS)
    rates = []
    for _ in range(SNAPSHOTS):
        async with _following(plane, "bench") as watch:
            await watch.loaded.wait()
        rates.append(watch.count / (watch.ended - watch.began))
        bench.tick()
    median, quartiles = summary(rates)
    return Figure("snapshot_rate", median, quartiles, None, "/s", {"registrations": f"{bench.large:,}"})


def _memory(bench: Bench, large: Plane, small: Plane) -> Figure:
    """What session's process has more when it knows more registrations, users and all."""
    more = large.memory("session") - small.memory("session")
    value = more / (bench.large - bench.small)
    absolute = {
        f"with {count:,}": f"{plane.memory('session') / 1e6:.0f} MB"
        for count, plane in ((bench.large, large), (bench.small, small))
    }
    return Figure("follower_memory", value, (value, value), None, "bytes", absolute)

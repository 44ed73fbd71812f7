"""What an enrollment costs when there are many registrations already, on both engines."""

import time

from bench.crowd import Crowd
from bench.figure import Figure, Sample, Target, ratios, summary, take_rounds
from bench.plane import POSTGRESQL, SQLITE, Plane
from bench.run import Bench

CLIENTS = 8
BURST = 40
NAMES = (*(f"enroll_flatness_{engine}" for engine in (SQLITE, POSTGRESQL)), "register_flatness")


async def measure(bench: Bench) -> list[Figure]:
    figures = [
        await _measure(bench, f"enroll_flatness_{engine}", engine, bench.large, Target("≤", 1.25))
        for engine in (SQLITE, POSTGRESQL)
        if bench.wants(f"enroll_flatness_{engine}")
    ]
    if bench.wants("register_flatness"):
        figures.append(await _measure(bench, "register_flatness", POSTGRESQL, bench.huge, Target("≤", 1.3)))
    return figures


async def _measure(bench: Bench, name: str, engine: str, count: int, target: Target) -> Figure:
    large, _ = await bench.loaded(engine, count)
    small, _ = await bench.loaded(engine, bench.small)
    bench.say(f"enrollments, {engine}", bench.pairs(15))
    async with large, small:
        sides = {"large": _Burst(large, bench).take, "small": _Burst(small, bench).take}
        for warm_up in sides.values():
            await warm_up()
        for plane in (large, small):
            await plane.calm()
        rounds = await take_rounds(sides, bench.pairs(15), bench.tick)
    median, quartiles = summary(ratios(rounds, "large", "small", lambda sample: sample.cost))
    absolute = {
        f"with {size:,}": f"{summary([each[side].cost for each in rounds])[0] * 1e3:.1f} ms CPU"
        for side, size in (("large", count), ("small", bench.small))
    }
    return Figure(name, median, quartiles, target, "", absolute)


class _Burst:
    """Some enrollments, a few at a time, with the CPU of the services and of their database."""

    def __init__(self, plane: Plane, bench: Bench) -> None:
        self._plane = plane
        self._crowd = Crowd(plane)
        self._count = bench.size(BURST)

    async def take(self) -> Sample:
        people = self._crowd.newcomers(self._count)
        cpu, began = self._plane.cpu(), time.perf_counter()
        await self._crowd.enroll_all(people, CLIENTS)
        return Sample(self._count, time.perf_counter() - began, self._plane.cpu() - cpu)

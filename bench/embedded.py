"""What a checker costs that is built into a gateway: a decision, the memory of a registration, a pause, a start.

It follows a stand-in for the three feeds (bench/population.py), which has ten times as many registrations as the loaded
plane; the checker, its follower and the connection are the real ones.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.calls import BARE_HOST, UNARY_CLIENTS, Side
from bench.contract import PATH, messages
from bench.figure import Figure, Round, Take, Target, ratios, summary, take_rounds
from bench.gateway import Gateway
from bench.plane import POPULATION_HOST, SQLITE, Plane
from bench.population import CHANGES_A_SECOND, CHURN, organization_of
from bench.run import Bench
from guardhouse.profile import Profile

TIMES = 10
"""As many registrations as the loaded plane."""
ROUNDS = 15
PAUSE_SECONDS = 30
NAMES = (
    "embedded_vs_bare",
    "embedded_working_vs_bare",
    "embedded_traffic_vs_bare",
    "embedded_connections_vs_bare",
    "bytes_per_registration",
    "replica_pause",
    "snapshot_rate_checker",
    "snapshot_rate_disk",
)


async def measure(bench: Bench) -> list[Figure]:
    count = TIMES * bench.large
    plane, _ = await bench.loaded(SQLITE, bench.small)
    async with plane:
        plane.spawn("session", BARE_HOST, "bare")
        plane.spawn("session", POPULATION_HOST, "population")
        at = f"{POPULATION_HOST}:{plane.settings.public_port('session')}"
        profile = Profile(
            identity=at,
            registry=at,
            session=at,
            ca=plane.settings.tls_path / "ca.crt",
            organization_id=organization_of(count),
        )
        await plane.channel("session", host=BARE_HOST).channel_ready()
        await plane.channel("session", host=POPULATION_HOST).channel_ready()
        folder = bench.folder()
        snapshot = folder / "snapshot"
        bench.say(f"a checker of {count:,} registrations", bench.pairs(ROUNDS))
        async with Gateway(folder, profile, "key", snapshot) as gateway:
            loaded = gateway.started
            first = {"session": await gateway.sample("everybody")}
            asked = (await gateway.ask("memory"))["bytes"]
            some = bench.large
            first["request"] = await gateway.sample("some", some)
            more = (await gateway.ask("memory"))["bytes"] - asked
            rounds = await _rounds(bench, plane, gateway)
            pauses = await _pauses(bench, plane, gateway)
        bench.say("a start from disk", 1)
        async with Gateway(folder, profile, "key", snapshot) as gateway:
            restored = gateway.started
        bench.tick()
    cold = {f"the first {what} of each": f"{1e6 * sample.cost:.2f} µs CPU" for what, sample in first.items()}
    asked_bytes = asked - loaded["before"]
    request_bytes = {"and each that has sent requests": f"{more / some:.0f} bytes more"}
    file = {"file": f"{snapshot.stat().st_size / count:.0f} bytes each"}
    return [
        _rate(rounds, "embedded_vs_bare", "sessions", Target("≥", 50), cold),
        _rate(rounds, "embedded_working_vs_bare", "working", Target("≥", 100)),
        _rate(rounds, "embedded_traffic_vs_bare", "traffic", Target("≥", 35), cold),
        _rate(rounds, "embedded_connections_vs_bare", "connections", None),
        _memory(count, loaded, asked_bytes, request_bytes),
        pauses,
        _loading("snapshot_rate_checker", count, loaded),
        _loading("snapshot_rate_disk", count, restored, file),
    ]


async def _rounds(bench: Bench, plane: Plane, gateway: Gateway) -> list[Round]:
    request, _ = messages()
    empty = [request(organization_id=plane.organization_id).SerializeToString()]
    decisions = bench.size(100_000)

    def side(command: str) -> Take:
        return lambda: gateway.sample(command, decisions)

    sides: dict[str, Take] = {name: side(name) for name in ("sessions", "working", "traffic", "connections")}
    sides["bare"] = Side(plane, BARE_HOST, PATH, empty, bench.size(1500), UNARY_CLIENTS).take
    for warm_up in sides.values():
        await warm_up()
    return await take_rounds(sides, bench.pairs(ROUNDS), bench.tick)


async def _pauses(bench: Bench, plane: Plane, gateway: Gateway) -> Figure:
    """The longest that anything else in the gateway waited, while a thousand changes a second came."""
    seconds = bench.size(PAUSE_SECONDS)
    bench.say("pauses under changes", 1)
    call: Any = plane.channel("session", host=POPULATION_HOST).unary_unary(CHURN)
    changing = asyncio.ensure_future(call(str(seconds).encode()))
    found = await gateway.ask("pauses", seconds)
    await changing
    bench.tick()
    absolute = {
        "p99": f"{found['late']['p99']:.1f} ms",
        "of these computing, p99": f"{found['busy']['p99']:.1f} ms",
        "max": f"{found['busy']['max']:.1f} ms",
        "changes": f"{CHANGES_A_SECOND}/s",
        "never older than": f"{found['staleness']:.1f} s",
    }
    worst = found["late"]["max"]
    return Figure("replica_pause", worst, (worst, worst), Target("≤", 50), "ms", absolute)


def _rate(
    rounds: Sequence[Round], name: str, side: str, target: Target | None, absolute: dict[str, str] | None = None
) -> Figure:
    """Decisions a second of a core over bare calls a second of a core."""
    median, quartiles = summary(ratios(rounds, "bare", side, lambda sample: sample.cost))
    costs = {what: f"{1e6 * summary([each[what].cost for each in rounds])[0]:.2f} µs CPU" for what in (side, "bare")}
    return Figure(name, median, quartiles, target, "", costs | (absolute or {}))


def _memory(count: int, loaded: dict[str, float], asked: float, more: dict[str, str]) -> Figure:
    value = asked / count
    absolute = {
        "before it is asked about": f"{(loaded['after'] - loaded['before']) / count:.0f} bytes",
        **more,
        f"so {count:,}": f"{asked / 1e6:.0f} MB",
    }
    return Figure("bytes_per_registration", value, (value, value), Target("≤", 1000), "bytes", absolute)


def _loading(name: str, count: int, started: dict[str, float], absolute: dict[str, str] | None = None) -> Figure:
    value = count / started["seconds"]
    seconds = {"registrations": f"{count:,}", "seconds": f"{started['seconds']:.1f}"}
    return Figure(name, value, (value, value), None, "/s", seconds | (absolute or {}))

"""What a pair of addresses costs in a /12 that is full but for one in a thousand, and how it goes on.

Measured as in bench.allocation: the transactions from their first statement to their last, in networks of the same
database, one after the other. `allocate_churn` goes on for a minute in the network that was filled at random, at first
alone, and then while somebody has left a transaction open, whose snapshot keeps PostgreSQL from tidying up. For
`allocate_scaling` the clients call a service of their own through gRPC.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from bench.allocation import EMPTY, FILLED, SHARES, Churn, MovingClock, Network, fill
from bench.figure import Figure, Sample, Target, percentile, ratios, resampled, summary, take_rounds
from bench.loaders import without_indexes
from bench.plane import Plane
from bench.run import Bench
from guardhouse import ids
from guardhouse.clock import SystemClock
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from guardhouse_services.config import Settings
from guardhouse_services.directory import DirectoryState
from guardhouse_services.ipam.__main__ import build
from guardhouse_services.run import prepare

NETWORK, QUICK_NETWORK = "10.16.0.0/12", "10.16.0.0/16"
FULL = 0.999
PATTERNS = ("contiguous", "random", "churned")
CYCLES = 1500
WARM_UP = 50
CHURNED = 100_000
TOGETHER = 30
QUARANTINE = "10m"
STEPS = {NETWORK: 2, QUICK_NETWORK: 20}
"""Seconds that pass with each pair, so that half of what is free is out of its quarantine."""
CHURN_SECONDS, QUICK_SECONDS = 60.0, 3.0
CLIENTS = 16
CALLS = 20
"""Of a client, in a sample."""
AT_999 = tuple(f"allocate_at_999_{pattern}_{name}" for pattern in PATTERNS for name in SHARES)
CHURN = ("allocate_churn", "allocate_churn_old_transaction")
NAMES = (*AT_999, *CHURN, "allocate_scaling")


async def measure(bench: Bench) -> list[Figure]:
    figures: list[Figure] = []
    if bench.wants(*AT_999, *CHURN):
        figures += await _in_process(bench)
    if bench.wants("allocate_scaling"):
        figures.append(await _through_grpc(bench))
    return figures


async def _in_process(bench: Bench) -> list[Figure]:
    clock, server = MovingClock(), bench.server()
    network = QUICK_NETWORK if bench.quick else NETWORK
    url = server.create("churn_ipam", "ipam")
    settings = Settings(var=bench.folder() / "var", database_url=url, ipv4_subnet=network, quarantine=QUARANTINE)
    prepare(settings, clock)
    node = build(settings, clock)
    bench.say("filling networks", len(PATTERNS) + 1)
    networks: dict[str, Network] = {}
    with node.database.engine.begin() as connection, without_indexes(connection, *FILLED):
        for pattern, share in (*((pattern, FULL) for pattern in PATTERNS), ("empty", EMPTY)):
            as_filled = "contiguous" if pattern == "contiguous" else "random"
            networks[pattern] = fill(connection, as_filled, share, clock, network)
            bench.tick()
    server.tidy("churn_ipam")
    installation = node.directory.view.states[""] = DirectoryState("")
    for each in networks.values():
        installation.organizations[each.organization_id] = identity_pb2.Organization()
    step = STEPS[network]
    churn = Churn(node.database, node.servicer, clock)
    try:
        count = bench.size(CHURNED) // TOGETHER
        bench.say(f"{count * TOGETHER:,} releases and allocations", count)
        for _ in range(count):
            await churn.run_together(networks["churned"], TOGETHER)
            clock.tick(TOGETHER * step)
            bench.tick()
        cycles = bench.size(CYCLES)
        bench.say("allocations", cycles)
        for cycle in range(WARM_UP + cycles):
            order = list(networks.values())
            for each in order if cycle % 2 == 0 else reversed(order):
                seconds = await churn.run(each)
                if cycle >= WARM_UP:
                    each.times.append(seconds)
            clock.tick(step)
            bench.tick()
        figures = list(_at_999(networks))
        seconds = QUICK_SECONDS if bench.quick else CHURN_SECONDS
        bench.say("churn", 2)
        figures.append(_churn("allocate_churn", await _go_on(churn, networks["random"], clock, seconds, step), 1.3))
        bench.tick()
        engine = sa.create_engine(url)
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as forgotten:
            forgotten.execute(sa.text("SELECT 1 FROM lease LIMIT 1"))
            times = await _go_on(churn, networks["random"], clock, seconds, step)
        engine.dispose()
        figures.append(_churn("allocate_churn_old_transaction", times, 4))
        bench.tick()
    finally:
        await node.peers.close()
        node.database.close()
    return figures


async def _go_on(churn: Churn, network: Network, clock: MovingClock, seconds: float, step: int) -> list[list[float]]:
    """The seconds that each pair took to be reserved and another one to be given back, by tenths of the time."""
    tenths: list[list[float]] = [[] for _ in range(10)]
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        await churn.run(network)
        tenths[min(int(passed / seconds * 10), 9)].append(churn.seconds_of_both)
        clock.tick(step)
    return tenths


def _churn(name: str, tenths: Sequence[Sequence[float]], bound: float) -> Figure:
    first, last = tenths[0], tenths[-1]

    def ratio(above: Sequence[float], below: Sequence[float]) -> float:
        return percentile(above, 0.5) / percentile(below, 0.5)

    absolute = {
        what: f"{percentile(times, 0.5) * 1e3:.2f} ms" for what, times in (("first tenth", first), ("last tenth", last))
    }
    absolute["pairs"] = f"{sum(map(len, tenths)):,}"
    return Figure(name, ratio(last, first), resampled(ratio, last, first), Target("≤", bound), "", absolute)


def _at_999(networks: dict[str, Network]) -> Iterator[Figure]:
    empty = networks["empty"].times
    for pattern in PATTERNS:
        full = networks[pattern].times
        for name, share in SHARES.items():

            def ratio(above: list[float], below: list[float], share: float = share) -> float:
                return percentile(above, share) / percentile(below, share)

            absolute = {
                what: f"{percentile(times, share) * 1e3:.2f} ms" for what, times in (("full", full), ("empty", empty))
            }
            figure = f"allocate_at_999_{pattern}_{name}"
            yield Figure(figure, ratio(full, empty), resampled(ratio, full, empty), Target("≤", 1.5), "", absolute)


async def _through_grpc(bench: Bench) -> Figure:
    plane = Plane(bench.folder(), bench.issuer, bench.server())
    async with plane:
        count = bench.pairs(9)
        bench.say("allocations through gRPC", count)
        sides = {"16": _Clients(plane, CLIENTS).take, "1": _Clients(plane, 1).take}
        for warm_up in sides.values():
            await warm_up()
        rounds = await take_rounds(sides, count, bench.tick)
    median, quartiles = summary(ratios(rounds, "16", "1", lambda sample: sample.rate))
    absolute = {
        f"{clients} at a time": f"{summary([each[clients].rate for each in rounds])[0]:.0f}/s"
        for clients in ("16", "1")
    }
    return Figure("allocate_scaling", median, quartiles, Target("≥", 3), "", absolute)


class _Clients:
    """So many, each of which reserves pairs for one organization, one after the other."""

    def __init__(self, plane: Plane, count: int) -> None:
        self._plane = plane
        self._count = count

    async def take(self) -> Sample:
        stub = ipam_pb2_grpc.AddressServiceStub(self._plane.channel("ipam", "service", "registry"))
        calls = CALLS * (1 if self._count > 1 else 4)
        began = time.perf_counter()
        await asyncio.gather(*(self._reserve(stub, calls) for _ in range(self._count)))
        return Sample(self._count * calls, time.perf_counter() - began)

    async def _reserve(self, stub: "ipam_pb2_grpc.AddressServiceAsyncStub", calls: int) -> None:
        for _ in range(calls):
            now = SystemClock().now()
            request = ipam_pb2.ReserveAddressesRequest(
                organization_id=self._plane.organization_id,
                intent_id=ids.new_id(ids.REGISTRATION, now),
                device_id=ids.new_id(ids.DEVICE, now),
                user_id=ids.new_id(ids.USER, now),
            )
            await stub.ReserveAddresses(request, timeout=30)

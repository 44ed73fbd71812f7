"""How soon a WireGuard gateway has every peer: from nothing, from its file, and when it was away meanwhile; and what a
peer takes in its memory.

It is the command itself, with an interface of wireguard-go in a network of its own. Each start is a process, and the
time counts from there until the interface has what the registry knew by then, as the gateway says by HTTP.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.figure import Figure, summary
from bench.gates import gateway_key
from bench.plane import SQLITE, Plane
from bench.run import Bench
from demo.namespaces import Namespace, end_process, missing
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc

COUNT = 10_000
CHANGES = 1_000
PART = 100
"""Registrations that one call changes."""
ROUNDS = 5
LOOK_SECONDS = 0.01
START_SECONDS = 60.0
COMMAND = str(Path(sys.executable).with_name("guardhouse"))
FROM = ("nothing", "file", "changes")
NAMES = (*(f"gateway_from_{name}" for name in FROM), "gateway_bytes_per_peer")


class Start(NamedTuple):
    """One process: milliseconds until it served, and until its interface had everything; its memory then, in bytes;
    and how many peers a look at the whole had to set right."""

    served: float
    converged: float
    memory: float
    set_right: float


async def measure(bench: Bench) -> list[Figure]:
    if lacking := missing():
        bench.say(f"no gateway, for {lacking}", 1)
        return []
    count, changes, rounds = bench.size(COUNT), bench.size(CHANGES), bench.pairs(ROUNDS)
    small, _ = await bench.loaded(SQLITE, bench.small)
    async with small:
        little = await _from_nothing(Site(small, bench.folder(), await gateway_key(small)))
    plane, registrations = await bench.loaded(SQLITE, count)
    found: dict[str, list[Start]] = {name: [] for name in FROM}
    bench.say(f"a gateway of {count:,} peers", rounds)
    async with plane:
        site = Site(plane, bench.folder(), await gateway_key(plane))
        for _ in range(rounds):
            site.file.unlink(missing_ok=True)
            found["nothing"].append(await _from_nothing(site))
            with site.interface():
                async with site.started() as start:
                    found["file"].append(start)
                await site.revoke(registrations[:changes])
                async with site.started() as start:
                    found["changes"].append(start)
            await site.unrevoke(registrations[:changes])
            bench.tick()
    if not all(start.set_right == count for start in found["file"]):
        raise RuntimeError("an interface was not empty")
    figures = [_figure(name, starts, count) for name, starts in found.items()]
    more = min(start.memory for start in found["nothing"]) - little.memory
    value = more / (count - bench.small)
    absolute = {f"with {bench.small:,}": f"{little.memory / 1e6:.0f} MB", "peers": f"{count:,}"}
    return [*figures, Figure("gateway_bytes_per_peer", value, (value, value), None, "bytes", absolute)]


class Site:
    """A gateway's machine: its network, its file, and what it calls with."""

    def __init__(self, plane: Plane, folder: Path, key: str) -> None:
        self.file = folder / "gateway.snapshot"
        self._registrations = plane.stub(registry_pb2_grpc.RegistrationServiceStub)
        self._gateways = plane.stub(registry_pb2_grpc.GatewayServiceStub)
        self._organization_id = plane.organization_id
        self._folder = folder
        self._environment = {**os.environ, "GUARDHOUSE_API_KEY": key}
        self._network = Namespace("bench")
        self._interface = f"ghb{os.getpid()}"
        at = f"127.0.0.1:{plane.settings.public_port('registry')}"
        profile = Profile(registry=at, ca=plane.settings.tls_path / "ca.crt", organization_id=plane.organization_id)
        profile.write(folder / "gateway.toml")

    @contextlib.contextmanager
    def interface(self) -> Iterator[None]:
        """An empty one."""
        with self._network, self._network.wireguard(self._interface):
            yield

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Start]:
        """A gateway, once it has come as far as the registry is now. It writes its file when it ends."""
        request = registry_pb2.ListGatewaysRequest(organization_id=self._organization_id)
        revision = (await self._gateways.ListGateways(request)).head.revision
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [COMMAND, "--profile", str(self._folder / "gateway.toml"), "gateway", "wireguard"]
        command += ["--interface", self._interface, "--snapshot", str(self.file), "--http", address]
        log = self._folder / "gateway.log"
        began = time.perf_counter()
        with log.open("ab") as said:
            process = subprocess.Popen(command, env=self._environment, stdout=said, stderr=said)  # noqa: ASYNC220
        try:
            served, figures = 0.0, dict[str, float]()
            async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(base_url=f"http://{address}") as client:
                while figures.get("guardhouse_gateway_applied_revision", -1) < revision:
                    if process.poll() is not None:
                        raise RuntimeError(f"the gateway has ended:\n{log.read_text()[-4000:]}")
                    await asyncio.sleep(LOOK_SECONDS)
                    with contextlib.suppress(httpx.TransportError):
                        figures = _figures(await client.get("/metrics"))
                        served = served or time.perf_counter()
            converged = time.perf_counter()
            yield Start(
                1e3 * (served - began),
                1e3 * (converged - began),
                figures["process_resident_memory_bytes"],
                figures["guardhouse_gateway_set_right_total"],
            )
        finally:
            await asyncio.to_thread(end_process, process)

    async def revoke(self, registrations: Sequence[str]) -> None:
        for part in _parts(registrations):
            of = registry_pb2.RevokeRegistrationsRequest(organization_id=self._organization_id, registration_ids=part)
            await self._registrations.RevokeRegistrations(of)

    async def unrevoke(self, registrations: Sequence[str]) -> None:
        for part in _parts(registrations):
            of = registry_pb2.UnrevokeRegistrationsRequest(organization_id=self._organization_id, registration_ids=part)
            await self._registrations.UnrevokeRegistrations(of)


def _parts(registrations: Sequence[str]) -> Iterator[Sequence[str]]:
    return (registrations[start : start + PART] for start in range(0, len(registrations), PART))


async def _from_nothing(site: Site) -> Start:
    with site.interface():
        async with site.started() as start:
            return start


def _figures(answer: httpx.Response) -> dict[str, float]:
    families = text_string_to_metric_families(answer.text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def _figure(name: str, starts: Sequence[Start], count: int) -> Figure:
    value, quartiles = summary([start.converged for start in starts])
    served, _ = summary([start.served for start in starts])
    absolute = {"until it serves": f"{served:.0f} ms", "peers": f"{count:,}", "starts": f"{len(starts)}"}
    return Figure(f"gateway_from_{name}", value, quartiles, None, "ms", absolute)

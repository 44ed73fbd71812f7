"""A real interface of WireGuard in user space, set up, taken away and spoilt."""

import asyncio
import base64
import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guardhouse import keys
from guardhouse.agent.agent import Agent
from guardhouse.agent.folder import Folder
from guardhouse.agent.keeper import Means
from guardhouse.agent.link import Wire, resolve
from guardhouse.agent.tunnel import NO_KEY, Gateway, Tunnel
from guardhouse.durations import DAY, SECOND
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse.registry.v1 import registry_pb2_grpc
from tests.guardhouse.agent.test_agent import Machine
from tests.plane import Plane
from tests.system.people import World
from tests.wireguard import become, wireguard_go

# Networks that are for documentation and for measuring: nobody here misses them.
TUNNEL = Tunnel(
    private_key=keys.new_private_key(),
    public_key=keys.public_key(keys.new_private_key()),
    endpoints=("192.0.2.1:51820",),
    keepalive=25,
    mtu=1380,
    addresses=frozenset({"198.51.100.9/32", "2001:db8:7::9/128"}),
    networks=frozenset({"198.18.0.0/15", "2001:db8:8::/48"}),
)


@pytest.fixture
def name() -> str:
    return f"wga{secrets.token_hex(4)}"


@contextlib.contextmanager
def interface(name: str) -> Iterator[None]:
    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: apt-get install iproute2)")
    with wireguard_go(name):
        yield


def shown(name: str) -> tuple[set[str], set[str]]:
    """The addresses and routes that an interface has, but for the kernel's own."""

    def ask(*arguments: str) -> list[dict[str, str]]:
        said = subprocess.run(["ip", "-json", *arguments, "dev", name], capture_output=True, check=True).stdout
        return list(json.loads(said or b"[]"))

    (link,) = ask("address", "show")
    addresses = {it["local"] for it in link["addr_info"] if it["scope"] == "global"}  # type: ignore[index]
    routes = [*ask("-4", "route", "show"), *ask("-6", "route", "show")]
    return addresses, {it["dst"] for it in routes if it.get("protocol") != "kernel"}


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


async def test_an_interface_becomes_what_is_wanted(name: str) -> None:
    wire = Wire(name)
    with interface(name):
        assert await wire.become(TUNNEL)
        assert not await wire.become(TUNNEL)
        addresses, routes = shown(name)
        assert "198.51.100.9" in addresses
        assert "198.18.0.0/15" in routes
        # What others do to it is undone.
        ip(f"address add 198.51.100.77/32 dev {name}")
        ip(f"route add 198.51.100.128/25 dev {name}")
        ip(f"route del 198.18.0.0/15 dev {name}")
        assert await wire.become(TUNNEL)
        assert shown(name) == (addresses, routes)
        ip(f"link set dev {name} down")
        assert await wire.become(TUNNEL)
        assert shown(name) == (addresses, routes)
        other = replace(TUNNEL, addresses=frozenset({"198.51.100.10/32"}), private_key=keys.new_private_key())
        assert await wire.become(other)
        assert shown(name)[0] == {"198.51.100.10"}
        assert await wire.become(None)
        assert not await wire.become(None)
        assert shown(name) == (set(), set())


async def test_one_that_is_gone_is_told_and_set_up_when_it_is_back(name: str) -> None:
    wire = Wire(name)
    with interface(name):
        await wire.become(TUNNEL)
    with pytest.raises(InterfaceUnavailable, match=f"wireguard-go {name}"):
        await wire.become(TUNNEL)
    with interface(name):
        assert await wire.become(TUNNEL)
        # WireGuard is there, and the link is not what it was.
        with pytest.raises(InterfaceUnavailable, match=r"ip .*does not exist|Cannot find device"):
            await Wire("nowhere0", Path("/var/run/wireguard"))._link(TUNNEL)


async def test_names_are_resolved() -> None:
    assert "127.0.0.1" in map(str, await resolve("localhost"))
    assert [str(it) for it in await resolve("2001:db8::1")] == ["2001:db8::1"]


async def narrow(plane: Plane) -> None:
    """Only what is for measuring goes through the tunnel, or the machine of the test would lose its network."""
    profiles = plane.stub(registry_pb2_grpc.DeviceProfileServiceStub)
    listed = await profiles.ListDeviceProfiles(pb.ListDeviceProfilesRequest(organization_id=plane.organization))
    profile = listed.device_profiles[-1]
    profile.settings.include.routes.add(address="198.18.0.0/15")
    request = pb.UpdateDeviceProfileRequest(organization_id=plane.organization, device_profile=profile)
    request.update_mask.paths.append("settings.include")
    await profiles.UpdateDeviceProfile(request)


@pytest.mark.timeout(120)
async def test_the_tunnel_is_there_as_long_as_the_registration_is(
    plane: Plane, world: World, tmp_path: Path, name: str
) -> None:
    """Enrolled, revoked, restored; and the interface goes and comes back meanwhile."""
    folder = Folder(tmp_path)
    about = Machine(plane, tmp_path, Means(await world.service_token()))
    await narrow(plane)
    gateway = Gateway(keys.public_key(keys.new_private_key()), "192.0.2.1:51820")
    agent = Agent(about.orders, folder, plane.clock, about.means, Wire(name), gateway)
    running = asyncio.create_task(agent.run())
    try:
        await become(lambda: "there is no interface" in str(agent.problems))
        with interface(name):
            await become(lambda: agent._told != "")
            (held,) = await world.live()
            addresses, routes = shown(name)
            assert held.ipv4 in addresses
            assert routes == {"198.18.0.0/15"}
            wire = await Wire(name)._present()
            assert {base64.b64encode(it) for it in wire.peers} == {base64.b64encode(gateway.public_key)}
            batch = world.batch(pb.RevokeRegistrationsRequest, held.registration_id)
            await world.registrations.RevokeRegistrations(batch)
            await become(lambda: shown(name) == (set(), set()))
            while (await Wire(name)._present()).peers:  # noqa: ASYNC110  # nobody says when
                await asyncio.sleep(0.01)
            batch = world.batch(pb.UnrevokeRegistrationsRequest, held.registration_id)
            await world.registrations.UnrevokeRegistrations(batch)
            await become(lambda: shown(name) == (addresses, routes))
        await become(lambda: agent.problems != [])
        with interface(name):
            await become(lambda: agent.problems == [] and shown(name) == (addresses, routes))
            # The control plane goes, and the tunnel stays.
            await plane.stop("registry")
            await become(lambda: any(it.reason == "SERVICE_UNAVAILABLE" for it in agent.problems))
            assert shown(name) == (addresses, routes)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_a_gateway_that_hears_of_a_key_later_is_asked_again_soon(
    plane: Plane, world: World, tmp_path: Path, name: str
) -> None:
    """Of a device that is new, and of one that has replaced its key. WireGuard itself would ask again after 5 s."""
    await narrow(plane)
    about = Machine(plane, tmp_path, Means(await world.service_token()))
    private_key = keys.new_private_key()
    wire, there = Wire(name), Interface(f"{name}g")
    with interface(wire.name), interface(there.name):
        ip(f"link set dev {there.name} up")
        await there.exchange(f"set=1\nprivate_key={private_key.hex()}\n\n".encode())
        port = (await there.exchange(b"get=1\n\n")).decode().partition("listen_port=")[2].split()[0]
        gateway = Gateway(keys.public_key(private_key), f"127.0.0.1:{port}")
        agent = Agent(about.orders, about.folder, plane.clock, about.means, wire, gateway)
        running = asyncio.create_task(agent.run())
        try:
            known = NO_KEY
            for _ in range(2):
                while (held := (await wire._present()).private_key) == known:  # noqa: ASYNC110  # nobody says when
                    await asyncio.sleep(0.01)
                known = held
                # The first that it asks is lost on whoever does not know it.
                await asyncio.sleep(0.3)
                assert await wire.handshake_time() == 0
                peer = f"set=1\nreplace_peers=true\npublic_key={keys.public_key(known).hex()}\n\n"
                await there.exchange(peer.encode())
                plane.clock.advance(1)
                async with asyncio.timeout(4):
                    while not await wire.handshake_time():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await plane.advance(DAY / SECOND)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

"""Making an interface of this machine what a tunnel has to be: WireGuard by its socket, the rest by `ip`."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from guardhouse.agent.tunnel import (
    Address,
    Link,
    Present,
    Tunnel,
    again,
    commands,
    configuration,
    parse,
    parse_link,
    without_ipv6,
)
from guardhouse.gateway.claim import claimed
from guardhouse.gateway.uapi import FOLDER, Interface, InterfaceUnavailable

SECONDS: Final = 10.0
"""How long `ip` may take; thousands of routes take one."""


class Wire:
    """An interface of WireGuard in user space, which belongs to the agent alone."""

    def __init__(self, name: str, sockets: Path = FOLDER) -> None:
        self.name = name
        self._interface = Interface(name, sockets)

    def claimed(self) -> AbstractContextManager[None]:
        """Keeps whoever else would set it up out. Raises InterfaceTaken, and InterfaceUnavailable."""
        return claimed(self._interface)

    async def become(self, wanted: Tunnel | None) -> bool:
        """Makes it what is wanted; whether anything had to be done. Raises InterfaceUnavailable.

        It begins with what gives the tunnel its key and ends with the routes, and takes them away in the other order.
        """
        wanted = wanted and self._possible(wanted)
        operation = configuration(wanted, await self._present())
        if operation is not None and wanted is not None:
            await self._interface.exchange(operation)
        linked = await self._link(wanted)
        if operation is not None and wanted is None:
            await self._interface.exchange(operation)
        return linked or operation is not None

    async def ask_again(self, wanted: Tunnel) -> None:
        """Has it ask the gateway for a handshake now. Raises InterfaceUnavailable."""
        await self._interface.exchange(again(self._possible(wanted)))

    async def handshake_time(self) -> int:
        """When the gateway last answered, in seconds since 1970. 0: never. Raises InterfaceUnavailable."""
        return max((it["time"] for it in (await self._present()).peers.values()), default=0)

    def _possible(self, wanted: Tunnel) -> Tunnel:
        return wanted if _has_ipv6(self.name) else without_ipv6(wanted)

    async def _present(self) -> Present:
        return parse(await self._interface.exchange(b"get=1\n\n"))

    async def _link(self, wanted: Tunnel | None) -> bool:
        lines = commands(self.name, wanted, await self._linked())
        if lines:
            await _ip(["-batch", "-"], "".join(f"{line}\n" for line in lines))
        return bool(lines)

    async def _linked(self) -> Link:
        addresses = await _ip_json(["address", "show", "dev", self.name])
        routes = [await _ip_json([family, "route", "show", "dev", self.name]) for family in ("-4", "-6")]
        return parse_link(addresses, *routes)


async def _ip_json(arguments: Sequence[str]) -> Any:
    return json.loads(await _ip(["-json", *arguments]) or "[]")


async def _ip(arguments: Sequence[str], lines: str = "") -> bytes:
    """Runs `ip`. Raises InterfaceUnavailable with what it complains of."""
    program = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if program is None:
        raise InterfaceUnavailable("there is no `ip` here; install it: apt-get install iproute2")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(SECONDS):
            out, said = await process.communicate(lines.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise InterfaceUnavailable(f"`ip {' '.join(arguments)}` has not ended within {SECONDS:.0f} s") from None
    if process.returncode:
        complaint = " ".join(said.decode(errors="replace").split())
        hint = "; run as root" if "not permitted" in complaint else ""
        raise InterfaceUnavailable(f"ip {' '.join(arguments)}: {complaint}{hint}")
    return out


def _has_ipv6(name: str) -> bool:
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


async def resolve(host: str) -> list[Address]:
    """The addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None)
    return list(dict.fromkeys(ip_address(str(at[0]).partition("%")[0]) for *_, at in found))

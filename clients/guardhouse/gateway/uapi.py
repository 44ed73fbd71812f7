"""The configuration protocol of WireGuard in user space (wireguard.com/xplatform): text over a Unix socket.

A connection is for one operation, which every implementation takes.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guardhouse.gateway.peers import Operation, Peer

FOLDER: Final = Path("/var/run/wireguard")
EXCHANGE_SECONDS: Final = 10.0
"""How long an answer may take. Ten thousand peers take a tenth of one."""
PART_BYTES: Final = 1 << 16
_END: Final = b"\n\n"


class InterfaceUnavailable(Exception):
    """The interface cannot be asked now; the message is a sentence for people."""


class Interface:
    """A WireGuard interface, by its name."""

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.name = name
        self.folder = folder
        self._path = folder / f"{name}.sock"

    async def get(self) -> dict[bytes, Peer]:
        """Its peers. Raises InterfaceUnavailable."""
        return parse(await self.exchange(b"get=1\n\n"))

    async def set(self, operations: Sequence[Operation]) -> None:
        """Carries out operations, in order. Raises InterfaceUnavailable; some may have been carried out then."""
        await self.exchange(encode(operations))

    async def exchange(self, request: bytes) -> bytes:
        """The answer to one operation, as text. Raises InterfaceUnavailable."""
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                answer = await self._ask(request)
        except FileNotFoundError:
            raise InterfaceUnavailable(
                f"there is no interface {self.name} of WireGuard in user space ({self._path} does not exist);"
                f" start it: wireguard-go {self.name}"
            ) from None
        except ConnectionRefusedError:
            raise InterfaceUnavailable(
                f"whoever served {self.name} has ended and left {self._path}; start it: wireguard-go {self.name}"
            ) from None
        except PermissionError:
            raise InterfaceUnavailable(
                f"this user may not open {self._path}; run as the user who runs {self.name}"
            ) from None
        except TimeoutError:
            raise InterfaceUnavailable(f"{self.name} has not answered within {EXCHANGE_SECONDS:.0f} s") from None
        except OSError as error:
            raise InterfaceUnavailable(f"{self.name} broke off: {error}") from None
        if not answer.endswith(_END):
            raise InterfaceUnavailable(f"{self.name} broke off in the middle of an answer")
        if (errno := _errno(answer)) != 0:
            raise InterfaceUnavailable(f"{self.name} refuses what it was asked: {os.strerror(abs(errno))}")
        return answer

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(request)
            await writer.drain()
            parts = [b""]
            # An empty line ends an answer, and is in none.
            while not (parts[-2:][0] + parts[-1]).endswith(_END):
                if not (part := await reader.read(PART_BYTES)):
                    break
                parts.append(part)
            return b"".join(parts)
        finally:
            writer.close()


def encode(operations: Sequence[Operation]) -> bytes:
    lines = ["set=1"]
    for it in operations:
        lines.append(f"public_key={it.public_key.hex()}")
        if it.allowed_ips is None:
            lines.append("remove=true")
        else:
            lines.append("replace_allowed_ips=true")
            lines += [f"allowed_ip={ip}" for ip in it.allowed_ips]
    return "\n".join([*lines, "", ""]).encode()


def parse(answer: bytes) -> dict[bytes, Peer]:
    """The peers of an answer to get=1. What else it says is passed over, the interface's private key above all."""
    peers: dict[bytes, Peer] = {}
    for part in answer.decode().split("public_key=")[1:]:
        key, *lines = part.splitlines()
        allowed_ips, handshake_time = list[str](), 0
        for line in lines:
            name, _, value = line.partition("=")
            if name == "allowed_ip":
                allowed_ips.append(value)
            elif name == "last_handshake_time_sec":
                handshake_time = int(value)
        peers[bytes.fromhex(key)] = Peer(tuple(sorted(allowed_ips)), handshake_time)
    return peers


def _errno(answer: bytes) -> int:
    name, _, value = answer.rstrip().rpartition(b"\n")[2].partition(b"=")
    return int(value) if name == b"errno" else -1

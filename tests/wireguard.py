"""The other side of a gateway: an interface that speaks the configuration protocol, and the real wireguard-go."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from guardhouse.gateway.uapi import FOLDER


class FakeInterface:
    """What an interface in user space does with the protocol. Entered, it listens; it may be left and entered again."""

    def __init__(self, folder: Path, name: str = "wg0") -> None:
        self.name = name
        self.path = folder / f"{name}.sock"
        self.peers: dict[str, set[str]] = {}
        """Allowed addresses by the public key, in hex."""
        self.handshakes: dict[str, int] = {}
        self.sets: list[list[str]] = []
        """The lines of each set operation."""
        self.gets = 0
        self.errno = 0
        """What it answers instead of doing what it is asked."""
        self.stuck = False
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while lines := await self._operation(reader):
                while self.stuck:  # noqa: ASYNC110  # a test says when
                    await asyncio.sleep(0.01)
                if not self.errno and lines[0] == "get=1":
                    writer.write(self._get().encode())
                elif not self.errno:
                    self._set(lines)
                writer.write(f"errno={self.errno}\n\n".encode())
                await writer.drain()
            writer.close()

    @staticmethod
    async def _operation(reader: asyncio.StreamReader) -> list[str]:
        lines = []
        while line := (await reader.readline()).decode().rstrip("\n"):
            lines.append(line)
        return lines

    def _get(self) -> str:
        self.gets += 1
        lines = [f"private_key={'5a' * 32}", "listen_port=51820"]
        for key, allowed_ips in self.peers.items():
            lines += [f"public_key={key}", f"preshared_key={'0' * 64}", "protocol_version=1"]
            lines += [f"last_handshake_time_sec={self.handshakes.get(key, 0)}", "last_handshake_time_nsec=0"]
            lines += ["tx_bytes=0", "rx_bytes=0", "persistent_keepalive_interval=0"]
            lines += [f"allowed_ip={ip}" for ip in allowed_ips]
        return "".join(f"{line}\n" for line in lines)

    def _set(self, lines: list[str]) -> None:
        self.sets.append(lines)
        key = ""
        for line in lines[1:]:
            name, _, value = line.partition("=")
            match name:
                case "public_key":
                    key = value
                    self.peers.setdefault(key, set())
                case "remove":
                    del self.peers[key]
                case "replace_allowed_ips":
                    self.peers[key] = set()
                case "allowed_ip":
                    for other in self.peers.values():
                        other.discard(value)
                    self.peers[key].add(value)
                case _:
                    raise ValueError(f"what is {line!r}?")


@contextlib.contextmanager
def wireguard_go(name: str) -> Iterator[Path]:
    """A real interface of that name; answers the folder of its socket. Skips the test where there can be none."""
    program = shutil.which("wireguard-go")
    if program is None or os.geteuid() != 0 or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("needs root, /dev/net/tun and wireguard-go (Debian: apt-get install wireguard-go)")
    command = [program, "--foreground", name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if (FOLDER / f"{name}.sock").exists():
                break
            if process.poll() is not None:
                pytest.skip("wireguard-go cannot make an interface here")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield FOLDER
    finally:
        process.terminate()
        process.wait(10)

"""The other side of a gateway: an interface that speaks the configuration protocol, and the real wireguard-go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from demo import namespaces
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.durations import SECOND
from guardhouse.gateway.uapi import FOLDER, Interface
from guardhouse.gateway.wireguard import Gateway, WhenStale
from guardhouse.identity.v1 import identity_pb2, identity_pb2_grpc
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2
from tests.plane import Plane


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
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        # Their transports close with the next turn.
        await asyncio.sleep(0)
        self.path.unlink(missing_ok=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while lines := await self._operation(reader):
                while self.stuck:  # noqa: ASYNC110  # a test says when
                    await asyncio.sleep(0.01)
                writer.write(self.answer(lines).encode())
                await writer.drain()
        except OSError:
            # Whoever asked has gone.
            pass
        finally:
            writer.close()

    @staticmethod
    async def _operation(reader: asyncio.StreamReader) -> list[str]:
        lines = []
        while line := (await reader.readline()).decode().rstrip("\n"):
            lines.append(line)
        return lines

    def answer(self, lines: list[str]) -> str:
        """Carries out an operation, and says what it comes to."""
        said = ""
        if not self.errno and lines[0] == "get=1":
            said = self._get()
        elif not self.errno:
            self._set(lines)
        return f"{said}errno={self.errno}\n\n"

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
    if lacking := namespaces.missing():
        pytest.skip(lacking)
    with namespaces.wireguard_go(name):
        yield FOLDER


async def gateway_key(plane: Plane, organization_id: str | None = None) -> str:
    """A key with the role GATEWAY, of the plane's organization unless another is named; an empty id is the
    installation."""
    owner = plane.organization if organization_id is None else organization_id
    api_key = identity_pb2.ApiKey(display_name="edge", role=ROLE_GATEWAY)
    request = identity_pb2.CreateApiKeyRequest(organization_id=owner, api_key=api_key)
    made = await plane.stub(identity_pb2_grpc.ApiKeyServiceStub).CreateApiKey(request)
    return str(made.secret)


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Gateway]:
    task = asyncio.create_task(gateway.run())
    yield gateway
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def gateway_of(
    plane: Plane,
    key: str,
    interface: Interface,
    when_stale: WhenStale = "remove",
    name: str = "edge",
    snapshot_path: Path | None = None,
) -> Gateway:
    profile = Profile(
        registry=f"127.0.0.1:{plane.settings.public_port('registry')}",
        ca=plane.settings.tls_path / "ca.crt",
        organization_id=plane.organization,
        key=key,
    )
    return Gateway(profile, interface, plane.clock, name, 30 * SECOND, when_stale, snapshot_path)


def on(fake: FakeInterface) -> Interface:
    return Interface(fake.name, fake.path.parent)


async def become(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.01)


def peer_of(enrolled: registry_pb2.RegisterResponse) -> tuple[str, set[str]]:
    """Its key in hex, and its addresses."""
    of = enrolled.registration
    return of.public_key.hex(), {f"{of.ipv4}/32", f"{of.ipv6}/128"}

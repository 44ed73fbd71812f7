"""A read model on disk, for a start while every service is down: what was known of one organization, in one file.

The file is a header and frames, each of which holds one Snapshot of a feed, and ends with HMAC-SHA256 over all of it
under a key that is derived from the API key. So nobody else can make one, and one that was cut short, changed, or
written with another key is refused. It names the positions at which the feeds go on, and the wall time as of which what
it holds was proven, from which its staleness counts.
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import logging
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from guardhouse.clock import Clock
from guardhouse.following import Position
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

log = logging.getLogger(__name__)

PAGE_EVENTS: Final = 100
"""Of a frame. They take about half a millisecond to make, in which nothing else is done in the process."""
GIVE_WAY_SECONDS: Final = 0.0002
"""Between two frames. An event loop that waits for the interpreter's lock has it then, not only after the 5 ms for
which Python lets a thread go on; and it waits for that lock several times in each round."""
CONTRACTS: Final = {"identity": identity, "registry": registry, "session": session}
_FRAME: Final = struct.Struct(">BI")
_MAC_BYTES: Final = 32

Positions = Mapping[str, Mapping[str, Position]]
"""By service and by organization."""
Captured = Sequence[tuple[str, str, Iterator[Any]]]
"""Service, organization, and the events that make what is known of it."""
Pages = Iterator[tuple[str, str, Sequence[Any]]]
"""The same as it is read, some events at a time."""


class SnapshotRefused(Exception):
    """The file holds nothing to start from; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `fresh_as_of` is a wall time, in microseconds."""

    organization_id: str
    fresh_as_of: int
    positions: Positions

    def proven(self, clock: Clock) -> int:
        """The steady time as of which what is in the file was proven. 0, never: a clock that is behind the file's
        cannot tell how old that is; all else of it holds."""
        age = clock.now() - self.fresh_as_of
        return clock.steady() - age if age >= 0 else 0


class SnapshotFile:
    """The file of one program, a checker or a gateway, that follows one organization with an API key."""

    def __init__(self, path: Path, program: str, api_key: str, organization_id: str) -> None:
        self.path = path
        self._program = program
        self._organization_id = organization_id
        # It names the form of what follows; another form has another number.
        self._magic = f"guardhouse {program} 1\n".encode()
        # An API key is 256 random bits, so one step is enough to derive from it.
        self._key = hmac.digest(api_key.encode(), f"guardhouse {program} snapshot".encode(), hashlib.sha256)

    def write(self, fresh_as_of: int, positions: Positions, captured: Captured) -> None:
        """Replaces the file by a whole one that only its owner may read, or leaves it as it was. Raises OSError."""
        path = self.path
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                mac = hmac.new(self._key, digestmod=hashlib.sha256)
                for part in self._parts(Header(self._organization_id, fresh_as_of, positions), captured):
                    mac.update(part)
                    file.write(part)
                    time.sleep(GIVE_WAY_SECONDS)
                file.write(mac.digest())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def found(self) -> tuple[Header, Pages] | None:
        """What `read` answers, in a thread; None where there is nothing to begin with, which it says."""
        try:
            return await asyncio.to_thread(self.read)
        except FileNotFoundError:
            pass
        except (OSError, SnapshotRefused) as error:
            log.warning("does not start from %s: %s", self.path, error)
        return None

    def read(self) -> tuple[Header, Pages]:
        """The header, and what it holds as (service, organization, events). Raises SnapshotRefused and OSError."""
        content = memoryview(self.path.read_bytes())
        start = len(self._magic)
        if bytes(content[:start]) != self._magic or len(content) < start + _MAC_BYTES:
            raise SnapshotRefused(f"it is no snapshot of a {self._program}, or one in another form")
        whole, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
        if not hmac.compare_digest(hmac.digest(self._key, whole, hashlib.sha256), mac):
            raise SnapshotRefused("it was cut short or changed, or written with another API key")
        frames = _frames(whole[start:])
        _, first = next(frames)
        header = _header(first)
        if header.organization_id != self._organization_id:
            raise SnapshotRefused(f"it is of {header.organization_id}")
        return header, _pages(frames)

    def _parts(self, header: Header, captured: Captured) -> Iterator[bytes]:
        yield self._magic
        said = {
            "organization_id": header.organization_id,
            "fresh_as_of": header.fresh_as_of,
            "positions": {service: dict(positions) for service, positions in header.positions.items()},
        }
        yield _framed(0, json.dumps(said).encode())
        services = list(CONTRACTS)
        for service, organization_id, events in captured:
            contract: Any = CONTRACTS[service]
            while page := list(itertools.islice(events, PAGE_EVENTS)):
                snapshot = contract.Snapshot(events=page)
                message = contract.WatchResponse(organization_id=organization_id, snapshot=snapshot)
                yield _framed(services.index(service) + 1, message.SerializeToString())


def _framed(kind: int, content: bytes) -> bytes:
    return _FRAME.pack(kind, len(content)) + content


def _frames(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    place = 0
    while place < len(content):
        kind, length = _FRAME.unpack_from(content, place)
        place += _FRAME.size
        yield kind, content[place : place + length]
        place += length


def _header(content: memoryview) -> Header:
    said = json.loads(bytes(content))
    positions = {
        service: {organization_id: (epoch, revision) for organization_id, (epoch, revision) in each.items()}
        for service, each in said["positions"].items()
    }
    return Header(said["organization_id"], said["fresh_as_of"], positions)


def _pages(frames: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[str, str, Sequence[Any]]]:
    services = list(CONTRACTS)
    for kind, content in frames:
        service = services[kind - 1]
        contract: Any = CONTRACTS[service]
        message = contract.WatchResponse.FromString(content)
        yield service, message.organization_id, message.snapshot.events

"""`guardhouse gateway wireguard`: keeps the peers of a WireGuard interface equal to the active registrations.

It follows the registry's feed for one organization, with a GATEWAY key of that organization. Once it knows everything
it looks at the whole interface and sends what differs; after that each change is sent as it comes, before the next is
taken. Every minute it looks at the whole again, because others may have changed it. It may keep what it knows in a
file, and goes on from there when it starts again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from guardhouse import aio
from guardhouse.clock import Clock
from guardhouse.durations import HOUR, SECOND, format_duration, parse_within
from guardhouse.following import Follower, Position, View
from guardhouse.gateway.claim import claimed
from guardhouse.gateway.handshakes import Handshakes
from guardhouse.gateway.peers import NOBODY, Peers, Wanted, difference, operations
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable
from guardhouse.profile import Profile, ProfileInvalid
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from guardhouse.snapshots import SnapshotFile

log = logging.getLogger(__name__)

WhenStale = Literal["remove", "keep"]
"""What becomes of the peers when nothing has been heard for too long."""

MAX_STALENESS: Final = 2 * SECOND, 24 * HOUR
LOOK: Final = 60 * SECOND
"""How often the whole interface is looked at while nothing calls for it."""
TICK_SECONDS: Final = 1.0
"""How often an interface is tried that cannot be asked, and staleness is judged."""
SET_PEERS: Final = 1000
"""How many peers one set operation of a look at the whole changes: a revocation waits for no more than this."""
SNAPSHOT_SECONDS: Final = 60.0


def parse_max_staleness(text: str) -> int:
    """In microseconds. Raises DurationInvalid for what nobody should run with."""
    return parse_within(text, "max_staleness", *MAX_STALENESS)


class Gateway:
    """The peers of an interface, as long as `run` runs. When that ends they stay as they are.

    It is the sink of its own follower. Under `name` it acknowledges how far the interface has come.
    """

    def __init__(
        self,
        profile: Profile,
        interface: Interface,
        clock: Clock,
        name: str,
        max_staleness: int,
        when_stale: WhenStale = "remove",
        snapshot_path: Path | None = None,
    ) -> None:
        """At `snapshot_path` it keeps a file that it starts from. Raises ProfileInvalid."""
        if not profile.organization_id:
            raise ProfileInvalid("a gateway follows one organization: name its organization_id in the profile")
        if not profile.key:
            raise ProfileInvalid("a gateway needs a GATEWAY key of its organization: name its key_file in the profile")
        self.organization_id = profile.organization_id
        self.max_staleness = max_staleness
        self.applied: Position | None = None
        """How far the interface has come."""
        self.looks = 0
        """How often the whole interface was looked at, and set right where that was needed."""
        self.set_right = 0
        """How many peers it had to set right in all."""
        self.errors = 0
        """How often the interface could not be asked, or refused."""
        self.reachable = True
        """Whether it could be asked the last time."""
        self.admits: bool | None = None
        """Whether what it knows is young enough to admit by. None until that was so for the first time, or took too
        long: the interface stays as it was found."""
        self.observe: Callable[[float], object] = lambda _seconds: None
        """Is told how long each set operation took, waiting for the one before it included."""
        self._clock = clock
        self._client = aio.Client(profile)
        self._interface = interface
        self._when_stale = when_stale
        self._file: SnapshotFile | None = None
        if snapshot_path is not None:
            self._file = SnapshotFile(snapshot_path, "gateway", profile.key, self.organization_id)
        self._stored = 0
        """The steady time as of which the file is proven."""
        self._view = View(Peers)
        self._follower = Follower(
            f"gateway {interface.name}",
            self._watch,
            registry_pb2.WatchRequest,
            self,
            clock,
            [self.organization_id],
            name,
            self._acknowledged,
        )
        self._began = clock.steady()
        self._loaded = 0
        """The steady time as of which a snapshot was proven, before any ping was answered. 0: never."""
        self._due = 0
        self._sent: Position | None = None
        """The newest change that the interface has been told."""
        self._behind = True
        """Whether only a look at the whole can tell what the interface lacks."""
        self._missed = False
        """Whether something could not be sent since the last look began."""
        self.handshakes = Handshakes(self._client, self.organization_id, self._holder)
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Goes on for ever, whatever is away for how long. Raises InterfaceTaken, and InterfaceUnavailable where that
        cannot be told."""
        with claimed(self._interface):
            if self._file is not None:
                await self._restore(self._file)
            try:
                async with self._client, asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follower.run())
                    tasks.create_task(self._keep())
                    tasks.create_task(self.handshakes.report())
                    if self._file is not None:
                        tasks.create_task(self._keep_storing(self._file))
            finally:
                if self._file is not None:
                    await self._store(self._file)

    # What is asked of it

    def staleness(self) -> int | None:
        """How long ago everything that it knows was proven; None for never."""
        proven = self._proven()
        return self._clock.steady() - proven if proven else None

    @property
    def known(self) -> Position | None:
        """How far it has come itself."""
        return self._view.position(self.organization_id)

    @property
    def peers(self) -> int:
        """How many the interface is to have."""
        return len(self._wanted() or NOBODY)

    @property
    def resyncs(self) -> int:
        return self._follower.resyncs

    def reasons(self) -> list[str]:
        """Why the interface may have other peers than the registry wants; empty when all is well."""
        found = []
        if not self.reachable:
            found.append("the interface cannot be asked")
        if self.staleness() is None:
            found.append("the registry has not been heard of")
        elif (self.staleness() or 0) > self.max_staleness:
            found.append("the registry was heard of too long ago")
        return found or (["the interface has not got everything yet"] if self._behind else [])

    # What it is fed

    async def positions(self) -> dict[str, Position]:
        return await self._view.positions()

    async def begin(self, organization_id: str) -> None:
        await self._view.begin(organization_id)

    async def page(self, organization_id: str, events: Sequence[Any]) -> None:
        await self._view.page(organization_id, events)

    async def end(self, organization_id: str, position: Position) -> None:
        """A snapshot may lack what the interface has, so the whole is looked at."""
        await self._view.end(organization_id, position)
        self._view.states[organization_id].take_changed()
        # It was read after the first question of this process, whenever that was answered.
        self._loaded = self._began
        self._sent = None
        self._fall_behind()

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        """Nothing lies between a change and its way to the interface, and nobody reads the next before it is there."""
        await self._view.change(organization_id, events, before, after)
        changed = self._view.states[organization_id].take_changed()
        if not self.reachable or self.admits is None:
            self._fall_behind()
            return
        try:
            # At once: between an old key and the new one there is no moment without any.
            await self._set(list(changed))
        except InterfaceUnavailable as error:
            self._lose(error)
            return
        self._sent = after
        if not self._behind:
            self._acknowledge(after)

    def _watch(self, requests: AsyncIterator[Any]) -> Any:
        return registry_pb2_grpc.RegistryFeedServiceStub(self._client.channel("registry")).Watch(requests)

    def _acknowledged(self) -> Mapping[str, Position]:
        return {self.organization_id: self.applied} if self.applied is not None else {}

    def _acknowledge(self, position: Position) -> None:
        self.applied = position
        self._follower.acknowledge()

    # What it keeps

    async def _keep(self) -> None:
        while True:
            await self.turn()
            if self.admits:
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            else:
                # Whatever proves that it knows enough ends the pause.
                await self._follower.fresh(self._clock.steady(), TICK_SECONDS)

    async def turn(self) -> None:
        """Judges how old what it knows is, and looks at the whole when that is called for, and every minute."""
        self._wake.clear()
        now = self._clock.steady()
        if self._judge_staleness(now) or self._behind or now >= self._due:
            self._due = now + LOOK
            await self._look()

    def _proven(self) -> int:
        """The steady time as of which it knows everything. 0: never."""
        return max(self._follower.fresh_as_of, self._loaded) if self._loaded else self._follower.fresh_as_of

    def _judge_staleness(self, now: int) -> bool:
        """Whether it has just begun or ceased to admit."""
        proven, before = self._proven(), self.admits
        if self._when_stale == "keep" or (proven and now - proven <= self.max_staleness):
            self.admits = True
        elif before or now - self._began > self.max_staleness:
            # What an older process has left goes on no longer than what is known, counted from the start.
            self.admits = False
        if self.admits == before:
            return False
        if self.admits and before is not None:
            log.warning("%s: the registry is heard of again; peers are admitted", self._interface.name)
        elif not self.admits:
            staleness = now - (proven or self._began)
            ago = format_duration(staleness - staleness % SECOND)
            log.warning("%s: the registry was last heard of %s ago; nobody is admitted", self._interface.name, ago)
        return True

    def _state(self) -> Peers | None:
        return self._view.states.get(self.organization_id)

    def _holder(self, public_key: bytes) -> str | None:
        state = self._state()
        return state.holder(public_key) if state is not None else None

    def _wanted(self) -> Wanted | None:
        """None while that is not known."""
        if self.admits is False:
            return NOBODY
        state = self._state()
        return state.wanted if state is not None and self.admits else None

    async def _look(self) -> None:
        """Makes the interface what is wanted, whatever it has."""
        positions = await self._view.positions()
        self._missed = False
        try:
            present = await self._interface.get()
            wanted = self._wanted()
            different = difference(wanted, present) if wanted is not None else []
            # Another's parts may come in between, so each is made of what is wanted when it is sent.
            for part in _parts(different):
                await self._set(part)
        except InterfaceUnavailable as error:
            self._lose(error)
            return
        if not self.reachable:
            self.reachable = True
            log.warning("%s: it answers again", self._interface.name)
        if wanted is None:
            return
        self.handshakes.hear(present)
        self.looks += 1
        self.set_right += len(different)
        if different:
            log.info("%s: %d peers set right; it has %d", self._interface.name, len(different), len(wanted))
        if not self._missed and (at := positions.get(self.organization_id)) is not None:
            self._behind = False
            # What came meanwhile was sent as it came.
            self._acknowledge(at if self._sent is None else max(at, self._sent, key=lambda it: it[1]))

    async def _set(self, keys: Sequence[bytes]) -> None:
        """Tells the interface, in one operation, what these peers are to be."""
        if not keys:
            return
        began = self._clock.steady()
        async with self._sending:
            await self._interface.set(operations(keys, self._wanted() or NOBODY))
        self.observe((self._clock.steady() - began) / SECOND)

    def _fall_behind(self) -> None:
        self._behind = self._missed = True
        if self.reachable:
            self._wake.set()

    def _lose(self, error: InterfaceUnavailable) -> None:
        self.errors += 1
        if self.reachable:
            log.error("%s; trying again", error)
        self.reachable = False
        self._fall_behind()

    # What it stores

    async def _restore(self, file: SnapshotFile) -> None:
        """Begins with what is in the file, as old as it is."""
        if (found := await file.found()) is None:
            return
        header, pages = found
        position = header.positions["registry"][self.organization_id]
        await self._view.begin(self.organization_id)
        for _, organization_id, events in pages:
            await self._view.page(organization_id, events)
        await self._view.end(self.organization_id, position)
        self._view.states[self.organization_id].take_changed()
        self._stored = header.proven(self._clock)
        self._follower.restore({self.organization_id: position}, self._stored)
        log.info("started from %s, which is %s old", file.path, format_duration(self._clock.now() - header.fresh_as_of))

    async def _keep_storing(self, file: SnapshotFile) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            await self._store(file)

    async def _store(self, file: SnapshotFile) -> None:
        """Writes what is known, unless nothing has been heard since it was written last."""
        proven, state = self._proven(), self._state()
        if state is None or not proven or proven == self._stored:
            return
        positions = {"registry": await self._view.positions()}
        captured = [("registry", self.organization_id, state.events())]
        fresh_as_of = self._clock.now() - (self._clock.steady() - proven)
        try:
            await asyncio.to_thread(file.write, fresh_as_of, positions, captured)
        except OSError as error:
            log.error("cannot write %s: %s", file.path, error)
        else:
            self._stored = proven


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + SET_PEERS] for start in range(0, len(keys), SET_PEERS))

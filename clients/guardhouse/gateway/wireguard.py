"""`guardhouse gateway wireguard`: keeps the peers of a WireGuard interface equal to the active registrations.

It follows the registry's feed for one organization, with a GATEWAY key of that organization. Once it knows everything
it looks at the whole interface and sends what differs; after that each change is sent as it comes, before the next is
taken. Every minute it looks at the whole again, because others may have changed it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import aio
from guardhouse.clock import Clock
from guardhouse.durations import HOUR, SECOND, format_duration, parse_within
from guardhouse.errors import GuardhouseError
from guardhouse.following import Follower, Position, View
from guardhouse.gateway.peers import NOBODY, Peer, Peers, Wanted, difference, operations
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable
from guardhouse.profile import Profile, ProfileInvalid
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc

log = logging.getLogger(__name__)

WhenStale = Literal["remove", "keep"]
"""What becomes of the peers when nothing has been heard for too long."""

MAX_STALENESS: Final = 2 * SECOND, 24 * HOUR
LOOK: Final = 60 * SECOND
"""How often the whole interface is looked at while nothing calls for it."""
TICK_SECONDS: Final = 1.0
"""How often an interface is tried that cannot be asked, and staleness is judged."""
SET_PEERS: Final = 1000
"""How many peers one set operation changes: a revocation waits for no more than this."""

REPORTED: Final = 1000
"""How many handshakes one report has."""


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
    ) -> None:
        if not profile.organization_id:
            raise ProfileInvalid("a gateway follows one organization: name its organization_id in the profile")
        if not profile.key:
            raise ProfileInvalid("a gateway needs a GATEWAY key of its organization: name its key_file in the profile")
        self.organization_id = profile.organization_id
        self.applied: Position | None = None
        """How far the interface has come."""
        self.looks = 0
        """How often the whole interface was looked at, and set right where that was needed."""
        self._clock = clock
        self._client = aio.Client(profile)
        self._interface = interface
        self._max_staleness = max_staleness
        self._when_stale = when_stale
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
        self._admits = True
        self._sent: Position | None = None
        """The newest change that the interface has been told."""
        self._behind = True
        """Whether only a look at the whole can tell what the interface lacks."""
        self._missed = False
        """Whether something could not be sent since the last look began."""
        self._reachable = True
        self._handshakes: dict[bytes, int] = {}
        """The newest that were seen."""
        self._unreported: dict[bytes, int] = {}
        self._heard = asyncio.Event()
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Goes on for ever, whatever is away for how long."""
        async with self._client, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follower.run())
            tasks.create_task(self._keep())
            tasks.create_task(self._report())

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
        self._sent = None
        self._fall_behind()

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        """Nothing lies between a change and its way to the interface, and nobody reads the next before it is there."""
        await self._view.change(organization_id, events, before, after)
        changed = self._view.states[organization_id].take_changed()
        if not self._reachable:
            self._fall_behind()
            return
        try:
            await self._send(list(changed))
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
        """Looks at the whole when that is called for, and every minute."""
        due = 0
        while True:
            self._wake.clear()
            now = self._clock.steady()
            if self._judge_staleness(now) or self._behind or now >= due:
                due = now + LOOK
                await self._look()
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _judge_staleness(self, now: int) -> bool:
        """Whether it has just begun or ceased to admit anybody."""
        # What has never been heard of counts from the start.
        staleness = now - (self._follower.fresh_as_of or self._began)
        admits = self._when_stale == "keep" or staleness <= self._max_staleness
        if admits == self._admits:
            return False
        self._admits = admits
        if admits:
            log.warning("%s: the registry is heard of again; peers are admitted", self._interface.name)
        else:
            ago = format_duration(staleness - staleness % SECOND)
            log.warning("%s: the registry was last heard of %s ago; nobody is admitted", self._interface.name, ago)
        return True

    def _wanted(self) -> Wanted | None:
        """None while that is not known."""
        if not self._admits:
            return NOBODY
        state = self._view.states.get(self.organization_id)
        return state.wanted if state is not None else None

    async def _look(self) -> None:
        """Makes the interface what is wanted, whatever it has."""
        positions = await self._view.positions()
        self._missed = False
        try:
            present = await self._interface.get()
            wanted = self._wanted()
            different = difference(wanted, present) if wanted is not None else []
            await self._send(different)
        except InterfaceUnavailable as error:
            self._lose(error)
            return
        if not self._reachable:
            self._reachable = True
            log.warning("%s: it answers again", self._interface.name)
        if wanted is None:
            return
        self._hear(present)
        self.looks += 1
        if different:
            log.info("%s: %d peers set right; it has %d", self._interface.name, len(different), len(wanted))
        if not self._missed and (at := positions.get(self.organization_id)) is not None:
            self._behind = False
            # What came meanwhile was sent as it came.
            self._acknowledge(at if self._sent is None else max(at, self._sent, key=lambda it: it[1]))

    async def _send(self, keys: Sequence[bytes]) -> None:
        """Tells the interface what these peers are to be. Another's parts may come in between, so each is made of what
        is wanted when it is sent."""
        for part in _parts(keys):
            async with self._sending:
                await self._interface.set(operations(part, self._wanted() or NOBODY))

    def _fall_behind(self) -> None:
        self._behind = self._missed = True
        if self._reachable:
            self._wake.set()

    def _lose(self, error: InterfaceUnavailable) -> None:
        if self._reachable:
            log.error("%s; trying again", error)
        self._reachable = False
        self._fall_behind()

    # What it says of devices

    def _hear(self, present: Mapping[bytes, Peer]) -> None:
        """Notes who has proved who it is since the last look."""
        heard = {key: peer.handshake_time for key, peer in present.items() if peer.handshake_time}
        news = {key: time for key, time in heard.items() if time > self._handshakes.get(key, 0)}
        self._handshakes = heard
        if news:
            self._unreported |= news
            self._heard.set()

    async def _report(self) -> None:
        """Tells the registry, which takes it for heartbeats. What cannot be said now is said with the next."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            heard, self._unreported = self._unreported, {}
            holder = self._view.states[self.organization_id].holder
            handshakes = [
                registry_pb2.Handshake(registration_id=registration_id, time=Timestamp(seconds=time))
                for key, time in heard.items()
                if (registration_id := holder(key)) is not None
            ]
            try:
                for start in range(0, len(handshakes), REPORTED):
                    request = registry_pb2.ReportHandshakesRequest(
                        organization_id=self.organization_id, handshakes=handshakes[start : start + REPORTED]
                    )
                    await self._client.gateways.ReportHandshakes(request)
            except GuardhouseError as error:
                log.info("%s: cannot report handshakes now: %s", self._interface.name, error.message)
                self._unreported = heard | self._unreported


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + SET_PEERS] for start in range(0, len(keys), SET_PEERS))

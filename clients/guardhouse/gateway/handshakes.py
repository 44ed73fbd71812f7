"""When devices were last heard of: what an interface knows, told to the registry, which takes it for heartbeats."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import aio
from guardhouse.errors import GuardhouseError
from guardhouse.gateway.peers import Peer
from guardhouse.registry.v1 import registry_pb2

log = logging.getLogger(__name__)

REPORTED: Final = 1000
"""How many handshakes one report has."""


class Handshakes:
    """Those of one interface. `holder` says whose a key is, now."""

    def __init__(self, client: aio.Client, organization_id: str, holder: Callable[[bytes], str | None]) -> None:
        self.heard = 0
        """How many were seen."""
        self._client = client
        self._organization_id = organization_id
        self._holder = holder
        self._newest: dict[bytes, int] = {}
        self._unreported: dict[bytes, int] = {}
        self._news = asyncio.Event()

    def hear(self, present: Mapping[bytes, Peer]) -> None:
        """Notes who has proved who it is since this was called last."""
        heard = {key: peer.handshake_time for key, peer in present.items() if peer.handshake_time}
        news = {key: time for key, time in heard.items() if time > self._newest.get(key, 0)}
        self._newest = heard
        if news:
            self.heard += len(news)
            self._unreported |= news
            self._news.set()

    async def report(self) -> None:
        """Tells the registry, for ever. What cannot be said now is said with the next."""
        while True:
            await self._news.wait()
            self._news.clear()
            heard, self._unreported = self._unreported, {}
            handshakes = [
                registry_pb2.Handshake(registration_id=registration_id, time=Timestamp(seconds=time))
                for key, time in heard.items()
                if (registration_id := self._holder(key)) is not None
            ]
            try:
                for start in range(0, len(handshakes), REPORTED):
                    request = registry_pb2.ReportHandshakesRequest(
                        organization_id=self._organization_id, handshakes=handshakes[start : start + REPORTED]
                    )
                    await self._client.gateways.ReportHandshakes(request)
            except GuardhouseError as error:
                log.info("cannot report handshakes now: %s", error.message)
                self._unreported = heard | self._unreported

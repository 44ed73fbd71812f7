"""Channels to the other services, as this one: mutual TLS, the request id handed on, errors typed."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc.aio

from guardhouse.channel import AioChannel, Policy
from guardhouse.errors import ServiceUnavailable
from guardhouse_services.calls import TRACE_ID_KEY
from guardhouse_services.config import Settings
from guardhouse_services.log import trace_id
from guardhouse_services.server import SERVICE_MESSAGE_BYTES
from guardhouse_services.tls import internal_name, peer_credentials

if TYPE_CHECKING:
    from guardhouse_services.tracing import Tracing

log = logging.getLogger(__name__)

# Only the outermost caller repeats a call: retries at every layer multiply, and keep a plane down that is down.
# Two calls, one behind the other, must end before an enrollment's 30 s do.
DEADLINE = 10.0


class Peers:
    """Opens a channel to each service that is asked for, once."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._credentials = peer_credentials(settings.tls_path, service)
        self._channels: dict[str, AioChannel] = {}
        self.tracing: Tracing | None = None
        """The replica's, for what it does besides calling others; None where traces are off."""
        if settings.traces != "off":
            # Without traces nothing of them is even imported.
            module = importlib.import_module("guardhouse_services.tracing")
            self.tracing = module.Tracing(service, settings.traces)

    def channel(self, service: str) -> AioChannel:
        """A channel for the generated stubs."""
        if service not in self._channels:
            options = [
                # The certificate must name the service that we mean to reach.
                ("grpc.ssl_target_name_override", internal_name(service)),
                ("grpc.max_receive_message_length", SERVICE_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2_000),
            ]
            channel = grpc.aio.secure_channel(self._settings.peer(service), self._credentials, options)
            policy = Policy(_metadata, DEADLINE, keep_tokens=False, attempts=1)
            make = AioChannel if self.tracing is None else self.tracing.channel
            self._channels[service] = make(channel, policy)
        return self._channels[service]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        if self.tracing is not None:
            await self.tracing.close()


@contextlib.contextmanager
def reaching(service: str) -> Iterator[None]:
    """Says which service did not answer, and nothing about where it is: the error goes on to our own caller."""
    try:
        yield
    except ServiceUnavailable as error:
        log.info("%s did not answer: %s", service, error.message)
        raise ServiceUnavailable(f"{service} did not answer; try again", service=service) from None


def _metadata() -> tuple[tuple[str, str], ...]:
    return ((TRACE_ID_KEY, found),) if (found := trace_id.get()) else ()

"""Channels to the other services, as this one: mutual TLS, the request id handed on, errors typed."""

import contextlib
import logging
from collections.abc import Iterator

import grpc.aio

from guardhouse.channel import AioChannel, Policy
from guardhouse.errors import ServiceUnavailable
from guardhouse_services.config import Settings
from guardhouse_services.log import trace_id
from guardhouse_services.server import SERVICE_MESSAGE_BYTES, TRACE_ID_KEY
from guardhouse_services.tls import internal_name, peer_credentials

log = logging.getLogger(__name__)

# Only the outermost caller repeats a call: retries at every layer multiply, and keep a plane down that is down.
DEADLINE = 5.0


class Peers:
    """Opens a channel to each service that is asked for, once."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._credentials = peer_credentials(settings.tls_path, service)
        self._channels: dict[str, AioChannel] = {}

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
            self._channels[service] = AioChannel(channel, Policy(_metadata, DEADLINE, keep_tokens=False, attempts=1))
        return self._channels[service]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


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

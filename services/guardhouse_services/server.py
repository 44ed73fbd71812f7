"""The gRPC side of a service: its listeners. What happens to a call is in calls.py."""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_channelz.v1._async import ChannelzServicer
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from guardhouse_services.calls import Handlers
from guardhouse_services.config import CannotStart

PUBLIC_MESSAGE_BYTES = 256 << 10
SERVICE_MESSAGE_BYTES = 4 << 20


class _Generic:
    """Where generated code adds a servicer to a server by its names only.

    It would register each method as well, and the server waits for calls of each registered method anew with every call
    that comes: the dozen of health, reflection and channelz would add a seventh to what every call costs.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, _service: str, _handlers: object) -> None:
        return None


class Listener:
    """One address with its handlers, health, and, where wanted, reflection and channelz."""

    def __init__(
        self,
        handlers: Handlers,
        names: Sequence[str],
        address: str,
        credentials: grpc.ServerCredentials,
        reflects: bool,
        message_bytes: int,
    ) -> None:
        self._names = [*names, ""]
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", SERVICE_MESSAGE_BYTES),
                # Only identity: a small compressed message can grow without bound in memory.
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.max_concurrent_streams", 1000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health_aio.HealthServicer()
        generic: Any = _Generic(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)
        if reflects:
            listed = [*names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(listed), generic)
            channelz_pb2_grpc.add_ChannelzServicer_to_server(ChannelzServicer(), generic)
        try:
            self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise CannotStart(f"cannot listen on {address}; is something else there?") from None

    async def start(self) -> None:
        await self.serving(False)
        await self._server.start()

    async def serving(self, value: bool) -> None:
        kinds = health_pb2.HealthCheckResponse.ServingStatus
        for name in self._names:
            await self._health.set(name, kinds.SERVING if value else kinds.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

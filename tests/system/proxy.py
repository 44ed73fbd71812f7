"""A proxy between clients and a plane that forwards every call to some replica, and loses some of the answers."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from guardhouse.channel import AioChannel, Policy
from tests.plane import Plane
from tests.system.contract import METHODS, Method

SECONDS = 30.0
_BY_PATH = {method.path: method for method in METHODS.values()}


class LossyProxy(grpc.GenericRpcHandler):
    """Started with `async with`. An answer is lost once the server has given it: the caller is told UNAVAILABLE."""

    def __init__(self, plane: Plane, replicas: Mapping[str, Sequence[str]], loss: float, seed: int) -> None:
        self.answers: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        """What the servers answered, heard or not, by the method's name and the request_id."""
        self.requests: dict[tuple[str, str], tuple[str, bytes]] = {}
        """The authorization and the bytes of each request."""
        self.calls = self.lost = 0
        self._plane = plane
        self._replicas = replicas
        self._loss = loss
        self._random = random.Random(seed)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._channel: grpc.aio.Channel

    async def __aenter__(self) -> Self:
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()
        await self._server.stop(None)

    def channel(self, bearer: str) -> AioChannel:
        """For a client who does not give up."""
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        return AioChannel(self._channel, Policy(lambda: metadata, deadline=60, attempts=1000))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method = _BY_PATH[handler_call_details.method]

        async def serve(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            return await self._forward(method, raw, context)

        return grpc.unary_unary_rpc_method_handler(serve)

    async def _forward(self, method: Method, raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.calls += 1
        authorization = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
        metadata = (("authorization", authorization),) if authorization else ()
        channel = self._plane.raw(method.service, "public", "", self._random.choice(self._replicas[method.service]))
        try:
            call: Any = channel.unary_unary(method.path)
            answer: bytes = await call(raw, timeout=SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        request: Any = method.request.FromString(raw)
        if method.takes("request_id"):
            key = method.name, request.request_id
            self.answers[key].append(answer)
            self.requests[key] = authorization.removeprefix("Bearer "), raw
        if self._random.random() < self._loss:
            self.lost += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return answer

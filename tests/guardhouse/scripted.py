"""A real gRPC server that answers as all four services at once, the way a test says."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from guardhouse.errors import GuardhouseError
from guardhouse.status import DETAILS_KEY, to_status

Answer = Callable[[Any], Message] | Message | GuardhouseError | grpc.StatusCode


@dataclass(frozen=True)
class Call:
    """A call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, Any]
    seconds_left: float


class ScriptedServer(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it is generic to type checkers only
    """`server.answers["GetUser"] = ...` is a response, an error, a status of gRPC's own, a function of the request, or
    a list of them, used up one by one. What has no answer is UNIMPLEMENTED. `calls` is what came."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.calls: list[Call] = []
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool)
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()

    def requests(self, method: str) -> list[Any]:
        return [call.request for call in self.calls if call.method == method]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        path = handler_call_details.method
        name = path.rpartition("/")[2]
        if name not in self.answers:
            return None
        method = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
        parse = GetMessageClass(method.input_type).FromString

        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            metadata = {str(key): value for key, value in context.invocation_metadata()}
            self.calls.append(Call(name, request, metadata, context.time_remaining()))
            return self._answer(name, request, context).SerializeToString()

        def serve_stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            yield serve(next(requests), context)

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(serve_stream, parse)
        return grpc.unary_unary_rpc_method_handler(serve, parse)

    def _answer(self, name: str, request: Any, context: grpc.ServicerContext) -> Message:
        answer = self.answers[name]
        if isinstance(answer, list):
            answer = answer.pop(0)
        try:
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "no more is known")
            elif isinstance(answer, GuardhouseError):
                raise answer
            return answer(request) if callable(answer) else answer
        except GuardhouseError as error:
            _abort(error, context)


def _abort(error: GuardhouseError, context: grpc.ServicerContext) -> NoReturn:
    details = ((DETAILS_KEY, to_status(error, "trace-1").SerializeToString()),)
    context.set_trailing_metadata(details)
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError("abort raises")

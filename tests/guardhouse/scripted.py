"""A real gRPC server that answers as all four services at once, the way a test says."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from guardhouse import errors, keys
from guardhouse.errors import GuardhouseError
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.status import DETAILS_KEY, to_status

Answer = Callable[[Any], Message] | Message | GuardhouseError | grpc.StatusCode


@dataclass(frozen=True)
class Call:
    """A call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, Any]
    seconds_left: float


class ScriptedServer(grpc.GenericRpcHandler):
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
            yield from (serve(request, context) for request in requests)

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


class DeviceRegistry:
    """The registry as a device sees it: makes the server enroll whoever proves possession of a key."""

    def __init__(self, server: ScriptedServer) -> None:
        self.private_key = keys.new_private_key()
        self.failures: list[errors.GuardhouseError] = []
        server.answers["GetEnrollmentInfo"] = registry.GetEnrollmentInfoResponse(
            challenge="challenge", proof_key=keys.public_key(self.private_key)
        )
        server.answers["Register"] = self.register

    def register(self, request: registry.RegisterRequest) -> Message:
        key_type = keys.KEY_TYPES[request.key_type]
        transcript = keys.enrollment_transcript(
            organization_id=request.organization_id,
            challenge=request.challenge,
            key_type=key_type,
            public_key=request.public_key,
            hardware_id=request.device.hardware_id,
            request_id=request.request_id,
        )
        if not key_type.verify(self.private_key, request.public_key, transcript, request.proof):
            raise errors.ProofInvalid("proof", "the proof is wrong")
        if self.failures:
            raise self.failures.pop()
        registration = registry.Registration(
            registration_id="reg_1", public_key=request.public_key, ipv4="100.96.0.1", ipv6="fd00::1"
        )
        return registry.RegisterResponse(registration=registration, token="ghr_token", device=registry.Device())

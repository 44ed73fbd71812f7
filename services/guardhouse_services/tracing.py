"""OpenTelemetry traces: a span for each call that is served, each call of another service and each transaction.

Imported only where the setting `traces` says so. The context crosses services by the W3C header `traceparent`. Span
attributes hold names and codes, never what a request or a header says.
"""

import asyncio
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from opentelemetry import context as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guardhouse.channel import AioChannel, Metadata, Policy
from guardhouse.errors import GuardhouseError
from guardhouse_services.calls import Serve
from guardhouse_services.database import Run, Transaction
from guardhouse_services.log import trace_id

T = TypeVar("T")

EXPORT_SECONDS = 5.0
# What gRPC's semantic conventions count as the server's failure, not the caller's.
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """One replica's spans, on their way to a collector."""

    def __init__(self, service: str, endpoint: str) -> None:
        resource = Resource.create({"service.name": f"guardhouse-{service}", "service.version": version("guardhouse")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("guardhouse")

    async def close(self) -> None:
        """Sends what is left, if the collector takes it."""
        await asyncio.to_thread(self._provider.shutdown)

    def around_call(self, path: str, serve: Serve) -> Serve:
        """A server span around a method."""
        attributes = _attributes(path)

        async def traced(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            parent = _propagator.extract(carrier, otel.Context())
            with self._span(path[1:], SpanKind.SERVER, attributes, parent) as span:
                span.set_attribute("guardhouse.request_id", trace_id.get())
                try:
                    answer = await serve(raw, context)
                except BaseException:
                    # The wrapper has aborted the call, or the caller has gone.
                    code: Any = context.code()
                    name = next((it.name for it in grpc.StatusCode if code in (it, it.value[0])), "CANCELLED")
                    _end(span, name if name != "OK" else "CANCELLED", SERVER_ERRORS)
                    raise
                _end(span, "OK", SERVER_ERRORS)
                return answer

        return traced

    def around_transaction(self, run: Run) -> Run:
        """A span around each transaction of a call; what jobs do in the background has none."""

        async def traced(kind: str, function: Callable[[Transaction], T], validate_only: bool) -> T:
            if get_current_span() is INVALID_SPAN:
                return await run(kind, function, validate_only)
            attributes = {"db.operation.name": kind}
            with self._tracer.start_as_current_span(
                f"transaction {kind}", kind=SpanKind.INTERNAL, attributes=attributes, record_exception=False
            ):
                return await run(kind, function, validate_only)

        return traced

    def channel(self, channel: grpc.aio.Channel, policy: Policy) -> AioChannel:
        """A channel whose unary calls have a client span and carry its context."""
        metadata = policy.metadata
        policy.metadata = lambda: (*metadata(), *_headers())
        return _TracedChannel(channel, policy, self._span)

    def _span(self, name: str, kind: SpanKind, attributes: dict[str, str], parent: otel.Context | None = None) -> Any:
        return self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes=attributes,
            # An exception's text may hold what a request said; the log has it, under the request id.
            record_exception=False,
            set_status_on_exception=False,
        )


class _TracedChannel(AioChannel):
    def __init__(self, channel: grpc.aio.Channel, policy: Policy, span: Callable[..., Any]) -> None:
        super().__init__(channel, policy)
        self._span = span

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        inner = super().unary_unary(method, *args, **options)
        attributes = _attributes(method)

        async def call(
            request: Message,
            timeout: float | None = None,
            metadata: Iterable[tuple[str, str]] = (),
            **options: Any,
        ) -> Message:
            with self._span(method[1:], SpanKind.CLIENT, attributes) as span:
                try:
                    response: Message = await inner(request, timeout=timeout, metadata=metadata, **options)
                except GuardhouseError as error:
                    _end(span, error.code, {error.code})
                    raise
                _end(span, "OK", set())
                return response

        return call


def _attributes(path: str) -> dict[str, str]:
    service, _, method = path[1:].partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _end(span: Span, code: str, errors: set[str]) -> None:
    span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    if code in errors:
        span.set_status(StatusCode.ERROR, code)


def _headers() -> Metadata:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return tuple(carrier.items())

"""OpenTelemetry traces: one enrollment is one trace over the services, and off is off."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from guardhouse.errors import GuardhouseError
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.clock import FakeClock
from tests.plane import Plane
from tests.system.people import World

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What takes spans, by OTLP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.raw = b""

    async def Export(self, request: Any, context: Any) -> Any:
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            names = [it.value.string_value for it in resource.resource.attributes if it.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    servicer, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    await server.stop(0)


def attributes(span: Span) -> dict[str, Any]:
    return {it.key: getattr(it.value, str(it.value.WhichOneof("value"))) for it in span.attributes}


async def test_one_enrollment_is_one_trace_over_the_services(
    tmp_path: Path, clock: FakeClock, collector: tuple[Collector, str]
) -> None:
    """It begins where the caller says, and nothing in it tells what the caller knows."""
    taken, endpoint = collector
    async with Plane(tmp_path, clock, traces=endpoint) as plane:
        world = World(plane, plane.organization)
        request = await world.request(world.id_token("alice"), "machine")
        enrollment = plane.stub(registry_pb2_grpc.EnrollmentServiceStub)
        answer = await enrollment.Register(request, metadata=(("traceparent", PARENT), ("x-request-id", "mine")))
        bad = registry_pb2.RegisterRequest()
        bad.CopyFrom(request)
        bad.request_id = "another"
        bad.proof = b"no proof of anything, in 32 bytes"
        with pytest.raises(GuardhouseError):
            await enrollment.Register(bad)
        admin_key = plane.admin_key
    spans = {span.span_id: (service, span) for service, span in taken.spans if span.trace_id.hex() == TRACE}
    seen = {
        (service, Span.SpanKind.Name(span.kind)[10:], span.name.rpartition("/")[2]) for service, span in spans.values()
    }
    assert {
        ("guardhouse-registry", "SERVER", "Register"),
        ("guardhouse-registry", "CLIENT", "AuthorizeEnrollment"),
        ("guardhouse-identity", "SERVER", "AuthorizeEnrollment"),
        ("guardhouse-registry", "CLIENT", "ReserveAddresses"),
        ("guardhouse-ipam", "SERVER", "ReserveAddresses"),
        ("guardhouse-registry", "INTERNAL", "transaction write"),
        ("guardhouse-identity", "INTERNAL", "transaction write"),
        ("guardhouse-ipam", "INTERNAL", "transaction write"),
    } <= seen
    outermost = [span for _, span in spans.values() if span.parent_span_id not in spans]
    assert [(span.name, span.parent_span_id.hex()) for span in outermost] == [
        ("guardhouse.registry.v1.EnrollmentService/Register", "b7ad6b7169203331")
    ]
    assert attributes(outermost[0]) == {
        "rpc.system": "grpc",
        "rpc.service": "guardhouse.registry.v1.EnrollmentService",
        "rpc.method": "Register",
        "rpc.grpc.status_code": 0,
        "guardhouse.request_id": "mine",
    }
    for secret in (request.credential.id_token, answer.token, admin_key, "alice@example.com"):
        assert secret
        assert secret.encode() not in taken.raw
    # The caller's fault is not the server's.
    failed = [
        span
        for service, span in taken.spans
        if span.name.endswith("/Register") and attributes(span)["rpc.grpc.status_code"] != 0
    ]
    assert [attributes(span)["rpc.grpc.status_code"] for span in failed] == [grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    assert failed[0].status.code == Status.STATUS_CODE_UNSET


def test_off_is_off() -> None:
    """Without the setting nothing of OpenTelemetry is even imported."""
    code = (
        "import sys, guardhouse_services.__main__;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

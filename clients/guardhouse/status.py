"""Errors on the wire: a GuardhouseError as google.rpc details (AIP-193), and back."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from guardhouse.errors import BY_REASON, Aborted, GuardhouseError, Internal, ServiceUnavailable, Unavailable

DOMAIN = "guardhouse"
DETAILS_KEY = "grpc-status-details-bin"


def to_status(error: GuardhouseError, request_id: str) -> status_pb2.Status:
    """The details that decision 36 asks for: ErrorInfo always, the others where they apply."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    status.details.add().Pack(info)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.code == "RESOURCE_EXHAUSTED":
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.reason, description=error.message)
        status.details.add().Pack(error_details_pb2.QuotaFailure(violations=[quota]))
    if error.code == "FAILED_PRECONDITION":
        condition = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=error.message)
        status.details.add().Pack(error_details_pb2.PreconditionFailure(violations=[condition]))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return status


def from_rpc_error(error: grpc.RpcError) -> GuardhouseError:
    """The class that the server raised; for a status of gRPC's own making, what comes nearest."""
    call: grpc.Call = error  # type: ignore[assignment]  # every RpcError of a stub is a Call as well
    metadata = dict(call.trailing_metadata() or ())
    message = call.details() or ""
    if DETAILS_KEY in metadata:
        status = status_pb2.Status.FromString(metadata[DETAILS_KEY])  # type: ignore[arg-type]  # "-bin" values are bytes
        if (found := _from_status(status)) is not None:
            return found
    if call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ServiceUnavailable(message or "the service did not answer")
    unknown = Internal(message)
    unknown.code = call.code().name  # type: ignore[misc]  # the code is the server's, whatever the class says
    return unknown


def _from_status(status: status_pb2.Status) -> GuardhouseError | None:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    if info.domain != DOMAIN:
        return None
    # A reason that this client does not know yet keeps its gRPC code.
    cls = BY_REASON.get(info.reason, GuardhouseError)
    error = cls.__new__(cls)
    GuardhouseError.__init__(error, status.message)
    error.metadata = dict(info.metadata)
    if cls is GuardhouseError:
        error.code = code_pb2.Code.keys()[code_pb2.Code.values().index(status.code)]  # type: ignore[misc]
        error.reason = info.reason  # type: ignore[misc]
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error


def is_transient(error: GuardhouseError) -> bool:
    """Whether the same call may succeed a moment later."""
    return isinstance(error, Unavailable | Aborted)

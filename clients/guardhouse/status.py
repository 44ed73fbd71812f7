"""Errors on the wire: a GuardhouseError as google.rpc details (AIP-193), and back."""

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from guardhouse.errors import BY_REASON, Aborted, EtagMismatch, GuardhouseError, ServiceUnavailable, Unavailable

DOMAIN = "guardhouse"
DETAILS_KEY = "grpc-status-details-bin"

# The classes that stand for a whole code.
_BY_CODE = {cls.code: cls for cls in GuardhouseError.__subclasses__() if "reason" not in vars(cls)}


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


def from_rpc_error(error: grpc.RpcError, peer: str = "the service") -> GuardhouseError:
    """The class that the server raised; for a status of gRPC's own making, what comes nearest.

    `peer` is what people call the server, for the message that it did not answer.
    """
    call: Any = error  # Every RpcError of a stub is a Call as well.
    code, message = call.code().name, call.details() or ""
    found = _from_details(code, dict(call.trailing_metadata() or ()).get(DETAILS_KEY, b""))
    if found is not None:
        return found
    if code == "DEADLINE_EXCEEDED":
        return ServiceUnavailable(f"{peer} did not answer in time")
    if code == "UNAVAILABLE":
        cause = message.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        return ServiceUnavailable(f"{peer} cannot be reached: {cause or 'no answer'}")
    return _unknown(code, code, message)


def _from_details(code: str, raw: bytes) -> GuardhouseError | None:
    info, retry, request = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    try:
        status = status_pb2.Status.FromString(raw)
        for detail in status.details:
            for known in (info, retry, request):
                detail.Unpack(known)
    except DecodeError:  # Something between us and the server made it.
        return None
    if info.domain != DOMAIN:
        return None
    cls = BY_REASON.get(info.reason)
    error = _made(cls, status.message) if cls else _unknown(code, info.reason, status.message)
    error.metadata = dict(info.metadata)
    error.request_id = request.request_id
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error


def _unknown(code: str, reason: str, message: str) -> GuardhouseError:
    """An error whose reason this client does not know (yet): it keeps its code, and the class of that code."""
    error = _made(_BY_CODE.get(code, GuardhouseError), message)
    error.code, error.reason = code, reason
    return error


def _made(cls: type[GuardhouseError], message: str) -> GuardhouseError:
    error = cls.__new__(cls)
    # Not its own __init__, which makes the message of other arguments: this one is made already.
    GuardhouseError.__init__(error, message)
    return error


def is_transient(error: GuardhouseError) -> bool:
    """Whether the same call may succeed a moment later."""
    return isinstance(error, Unavailable | Aborted) and not isinstance(error, EtagMismatch)

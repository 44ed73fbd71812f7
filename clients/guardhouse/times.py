"""Protobuf's Timestamp and Duration, and our microseconds."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.durations import SECOND


def to_timestamp(microseconds: int) -> Timestamp:
    return Timestamp(seconds=microseconds // SECOND, nanos=microseconds % SECOND * 1000)


def from_timestamp(timestamp: Timestamp) -> int:
    return timestamp.seconds * SECOND + timestamp.nanos // 1000


def set_time(field: Timestamp | Duration, microseconds: int | None) -> None:
    """Sets a message's field in place, which is the fastest way; None leaves it absent."""
    if microseconds is not None:
        field.seconds, rest = divmod(microseconds, SECOND)
        field.nanos = rest * 1000


def optional_timestamp(microseconds: int | None) -> Timestamp | None:
    """Absent is unset, never a zero value."""
    return None if microseconds is None else to_timestamp(microseconds)


def to_duration(microseconds: int) -> Duration:
    return Duration(seconds=microseconds // SECOND, nanos=microseconds % SECOND * 1000)

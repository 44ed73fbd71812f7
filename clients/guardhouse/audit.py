"""The audit log's chain and its checkpoints: how a hash and a signature are made, and what a verifier finds.

Nothing here asks a server: whoever holds the records and a checkpoint can tell whether they are what was written.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord

RECORD_CONTEXT: Final = b"guardhouse audit record v1"
CHECKPOINT_CONTEXT: Final = b"guardhouse audit checkpoint v1"
FIRST: Final = bytes(32)
"""What stands for the hash before the first record."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a log, and at which sequence."""

    sequence: int
    message: str


def record_hash(service: str, organization_id: str, record: AuditRecord, previous: bytes) -> bytes:
    """The hash of a record behind `previous`, as audit.proto spells it out. The record's own hash is not looked at.

    Raises OverflowError for a number that no record has.
    """
    parts = (
        service.encode(),
        organization_id.encode(),
        _number(record.sequence),
        _number(_microseconds(record.record_time)),
        record.actor.encode(),
        record.method.encode(),
        b"".join(_framed(found.encode()) for found in record.objects),
        _number(record.before_revision),
        _number(record.after_revision),
        record.request_id.encode(),
        record.trace_id.encode(),
        _number(record.reason),
    )
    return sha256(previous + RECORD_CONTEXT + b"".join(map(_framed, parts))).digest()


def sign(checkpoint: AuditCheckpoint, private: bytes) -> None:
    """Sets the signature, by an Ed25519 private key of 32 bytes."""
    checkpoint.signature = Ed25519PrivateKey.from_private_bytes(private).sign(_covered(checkpoint))


def public_key(private: bytes) -> bytes:
    """The 32 bytes that verify what the private key signs."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_signed(checkpoint: AuditCheckpoint, key: bytes) -> bool:
    """Whether the owner of the public key signed the checkpoint as it is."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(checkpoint.signature, _covered(checkpoint))
    except (InvalidSignature, ValueError, OverflowError):
        return False
    return True


def verify(
    service: str,
    organization_id: str,
    records: Iterable[AuditRecord],
    checkpoints: Iterable[AuditCheckpoint],
    key: bytes,
) -> Iterator[Fault]:
    """The faults of a log, from its first record on, against checkpoints that were kept elsewhere.

    The chain finds what was removed, changed, inserted or put in another order; a checkpoint finds what was cut off at
    the end, and a log that was written anew. Records are read once, so a log of any length can be verified.
    """
    expected: dict[int, set[bytes]] = {}
    for checkpoint in checkpoints:
        if not is_signed(checkpoint, key):
            yield Fault(checkpoint.sequence, "a checkpoint's signature is not of this key")
        elif (checkpoint.service, checkpoint.organization_id) == (service, organization_id):
            expected.setdefault(checkpoint.sequence, set()).add(checkpoint.hash)
    yield from _against(expected, 0, FIRST)
    last, previous = 0, FIRST
    for record in records:
        if record.sequence != last + 1:
            yield Fault(last + 1, f"record {last + 1} is missing; {record.sequence} stands in its place")
        elif not _follows(service, organization_id, record, previous):
            yield Fault(record.sequence, f"record {record.sequence} is not the one that was written")
        last, previous = record.sequence, record.hash
        yield from _against(expected, last, previous)
    cut_off = [sequence for sequence in expected if sequence > last]
    if cut_off:
        yield Fault(last + 1, f"the log ends at {last}, and a checkpoint knows {max(cut_off)} records")


def _follows(service: str, organization_id: str, record: AuditRecord, previous: bytes) -> bool:
    try:
        return record.hash == record_hash(service, organization_id, record, previous)
    except OverflowError:
        return False


def _against(expected: Mapping[int, set[bytes]], sequence: int, found: bytes) -> Iterator[Fault]:
    if expected.get(sequence, {found}) != {found}:
        yield Fault(sequence, f"a checkpoint knows another record {sequence}")


def _covered(checkpoint: AuditCheckpoint) -> bytes:
    parts = (
        checkpoint.service.encode(),
        checkpoint.organization_id.encode(),
        checkpoint.epoch.encode(),
        _number(checkpoint.sequence),
        checkpoint.hash,
        _number(_microseconds(checkpoint.checkpoint_time)),
    )
    return CHECKPOINT_CONTEXT + b"".join(map(_framed, parts))


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _microseconds(time: Timestamp) -> int:
    microseconds, rest = divmod(time.nanos, 1000)
    if rest or not 0 <= microseconds < 1_000_000:
        raise OverflowError("a time has whole microseconds")
    return time.seconds * 1_000_000 + microseconds

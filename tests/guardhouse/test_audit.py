"""The audit log's chain, as whoever holds its records and checkpoints verifies it."""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from guardhouse.audit import FIRST, Fault, is_signed, public_key, record_hash, sign, verify
from guardhouse.common.v1.audit_pb2 import AuditCheckpoint, AuditRecord

VECTORS = json.loads((Path(__file__).parents[2] / "docs/vectors/audit.json").read_text(encoding="utf-8"))
SERVICE, ORGANIZATION = VECTORS["service"], VECTORS["organization_id"]
PRIVATE, KEY = bytes.fromhex(VECTORS["private_key"]), bytes.fromhex(VECTORS["public_key"])


def framed(part: bytes) -> bytes:
    """Behind its length as four bytes, big-endian."""
    return struct.pack(">I", len(part)) + part


def number(value: int) -> bytes:
    return struct.pack(">Q", value)


@pytest.mark.parametrize("vector", VECTORS["records"], ids=lambda vector: str(vector["record"]["sequence"]))
def test_a_records_hash_is_made_as_the_contract_says(vector: dict[str, Any]) -> None:
    """By hand, from the words of audit.proto, and from the published bytes."""
    record = ParseDict(vector["record"], AuditRecord())
    parts = (
        SERVICE.encode(),
        ORGANIZATION.encode(),
        number(record.sequence),
        number(vector["record_time_microseconds"]),
        record.actor.encode(),
        record.method.encode(),
        b"".join(framed(each.encode()) for each in record.objects),
        number(record.before_revision),
        number(record.after_revision),
        record.request_id.encode(),
        record.trace_id.encode(),
        number(record.reason),
    )
    transcript = b"guardhouse audit record v1" + b"".join(map(framed, parts))
    previous = bytes.fromhex(vector["previous"])
    assert transcript.hex() == vector["transcript"]
    assert hashlib.sha256(previous + transcript).hexdigest() == vector["hash"]
    assert record_hash(SERVICE, ORGANIZATION, record, previous).hex() == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["checkpoints"], ids=lambda vector: str(vector["checkpoint"]["sequence"]))
def test_a_checkpoint_is_signed_as_the_contract_says(vector: dict[str, Any]) -> None:
    """RFC 8032: the signature of these bytes under this key is this one, and no other."""
    checkpoint = published(vector)
    parts = (
        SERVICE.encode(),
        ORGANIZATION.encode(),
        checkpoint.epoch.encode(),
        number(checkpoint.sequence),
        checkpoint.hash,
        number(vector["checkpoint_time_microseconds"]),
    )
    assert (b"guardhouse audit checkpoint v1" + b"".join(map(framed, parts))).hex() == vector["transcript"]
    assert public_key(PRIVATE) == KEY
    assert is_signed(checkpoint, KEY)
    assert not is_signed(checkpoint, public_key(bytes(32)))
    again = AuditCheckpoint()
    again.CopyFrom(checkpoint)
    sign(again, PRIVATE)
    assert again.signature.hex() == vector["signature"]


def published(vector: dict[str, Any]) -> AuditCheckpoint:
    fields = vector["checkpoint"] | {"hash": ""}
    checkpoint = ParseDict(fields, AuditCheckpoint())
    checkpoint.hash = bytes.fromhex(vector["checkpoint"]["hash"])
    checkpoint.signature = bytes.fromhex(vector["signature"])
    return checkpoint


def chain(count: int, word: str = "x") -> list[AuditRecord]:
    """A log of so many records."""
    made: list[AuditRecord] = []
    previous = FIRST
    for sequence in range(1, count + 1):
        record = AuditRecord(
            sequence=sequence,
            actor="key:a",
            method="/a.B/C",
            objects=[word, "ab", "c"],
            before_revision=sequence,
            after_revision=sequence + 1,
            request_id=f"r{sequence}",
            trace_id="t",
        )
        record.record_time.FromMicroseconds(1_795_251_600_000_000 + sequence)
        record.hash = previous = record_hash(SERVICE, ORGANIZATION, record, previous)
        made.append(record)
    return made


def checkpoint_of(records: Sequence[AuditRecord]) -> AuditCheckpoint:
    last = records[-1]
    checkpoint = AuditCheckpoint(
        service=SERVICE, organization_id=ORGANIZATION, epoch="e", sequence=last.sequence, hash=last.hash
    )
    checkpoint.checkpoint_time.FromMicroseconds(1_795_251_700_000_000)
    sign(checkpoint, PRIVATE)
    return checkpoint


def faults(records: Sequence[AuditRecord], *checkpoints: AuditCheckpoint) -> list[int]:
    return [fault.sequence for fault in verify(SERVICE, ORGANIZATION, records, checkpoints, KEY)]


def test_a_log_that_is_as_it_was_written_has_no_fault() -> None:
    records = chain(9)
    assert faults(records) == []
    assert faults(records, *(checkpoint_of(records[:end]) for end in range(1, 10))) == []
    assert faults([], published(VECTORS["checkpoints"][0])) == []


CHANGES: dict[str, Callable[[AuditRecord], None]] = {
    "sequence": lambda it: setattr(it, "sequence", 40),
    "record_time": lambda it: setattr(it.record_time, "nanos", it.record_time.nanos + 1000),
    "record_time, finer than it can be": lambda it: setattr(it.record_time, "nanos", it.record_time.nanos + 1),
    "record_time, so late that it wraps": lambda it: setattr(it.record_time, "seconds", it.record_time.seconds + 2**58),
    "actor": lambda it: setattr(it, "actor", "key:b"),
    "method": lambda it: setattr(it, "method", "/a.B/D"),
    "objects": lambda it: it.objects.__setitem__(0, "y"),
    "objects, fewer": lambda it: it.objects.__delitem__(0),
    "objects, divided otherwise": lambda it: it.objects.__setitem__(slice(1, 3), ["a", "bc"]),
    "before_revision": lambda it: setattr(it, "before_revision", 0),
    "before_revision, negative": lambda it: setattr(it, "before_revision", -1),
    "after_revision": lambda it: setattr(it, "after_revision", 40),
    "request_id": lambda it: setattr(it, "request_id", ""),
    "trace_id": lambda it: setattr(it, "trace_id", "u"),
    "reason": lambda it: setattr(it, "reason", 80),
    "hash": lambda it: setattr(it, "hash", bytes(32)),
    "hash, shorter": lambda it: setattr(it, "hash", it.hash[:31]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_any_field_is_found(change: str) -> None:
    """I-33: at that record, wherever it is."""
    assert {field.name for field in AuditRecord.DESCRIPTOR.fields} == {name.partition(",")[0] for name in CHANGES}
    for place in (0, 4, 8):
        records = chain(9)
        CHANGES[change](records[place])
        assert faults(records)[0] == place + 1


def test_a_log_of_another_service_or_organization_is_another_one() -> None:
    records = chain(2)
    assert next(verify("registry", ORGANIZATION, records, [], KEY)).sequence == 1
    assert next(verify(SERVICE, "", records, [], KEY)).sequence == 1


@pytest.mark.parametrize("place", [0, 4, 7])
def test_what_is_removed_inserted_or_exchanged_is_found(place: int) -> None:
    """I-33."""
    records = chain(9)
    del records[place]
    assert faults(records)[0] == place + 1
    records = chain(9)
    records.insert(place, chain(9, "other")[place])
    # A first record has nothing before it to contradict: the one behind it does.
    assert faults(records)[0] == (place + 1 if place else 2)
    records = chain(9)
    records[place : place + 2] = reversed(records[place : place + 2])
    assert faults(records)[0] == place + 1


def test_what_is_cut_off_or_written_anew_is_found_by_a_checkpoint() -> None:
    """I-33: the chain alone cannot tell."""
    records = chain(9)
    kept = checkpoint_of(records)
    assert faults(records[:6]) == []
    assert faults(records[:6], kept) == [7]
    assert faults([], kept) == [1]
    anew = chain(12, "other")
    assert faults(anew) == []
    assert faults(anew, kept) == [9]
    # What came after it, it cannot know.
    assert faults([*records, *chain(12)[9:]], kept) == []


def test_a_checkpoint_that_is_forged_is_found_and_proves_nothing() -> None:
    records = chain(9)
    forged = checkpoint_of(records)
    sign(forged, bytes(32))
    moved = checkpoint_of(records[:6])
    moved.sequence = 5
    unsigned = checkpoint_of(records)
    unsigned.signature = b""
    negative = checkpoint_of(records)
    negative.sequence = -1
    assert faults(records, forged, moved, unsigned, negative) == [9, 5, 9, -1]
    assert faults(records[:3], forged) == [9]


def test_two_checkpoints_that_contradict_each_other_are_found() -> None:
    """A server that shows one log to one and another to another has signed both."""
    records, other = chain(9), chain(9, "other")
    assert faults(records, checkpoint_of(records), checkpoint_of(other)) == [9]


def test_another_logs_checkpoints_may_lie_beside() -> None:
    other = checkpoint_of(chain(20))
    other.organization_id = ""
    sign(other, PRIVATE)
    assert faults(chain(9), other) == []


def test_a_fault_says_what_is_wrong() -> None:
    records = chain(3)
    del records[1]
    assert next(iter(verify(SERVICE, ORGANIZATION, records, [], KEY))) == Fault(
        2, "record 2 is missing; 3 stands in its place"
    )

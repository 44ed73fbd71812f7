"""Messages at random: of any shape that a descriptor allows, and bytes that were messages once. A seed decides all."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from guardhouse.expressions import FIELDS

TEXTS = (
    *(
        "",
        " ",
        "x",
        "a\x00b",
        "a\nb",
        "x" * 300,
        "\N{SNOWMAN}" * 90,
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "'; DROP TABLE users; --",
    ),
    *("1h", "0s", "-5m", "9999999h", "create_time desc", "display_name", "alice@example.com", "@example.com", "null"),
    *(
        "100.96.0.1",
        "::1",
        "https://issuer.example",
        "org_" + "0" * 32,
        "reg_" + "f" * 32,
        "AAAA",
        "1.AAAA",
        "*",
        "%s%n",
    ),
)
NUMBERS = (0, 1, 2, 10, 999, 1000, 1001, -1, 2**31 - 1, -(2**31))
BIG_NUMBERS = (*NUMBERS, 2**62, 2**63 - 1, -(2**63), 1_800_000_000)


def random_request(rng: random.Random, given: Message, ids: Mapping[str, str]) -> Message:
    """As it was given, or with a few fields at random, or with all. What names things often names one that exists."""
    message = type(given)()
    message.CopyFrom(given)
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    part = rng.choice((0.1, 0.4, 0.9))
    for field in fields:
        if rng.random() < part:
            message.ClearField(field.name)
            _fill(rng, message, field, ids)
    return message


def _fill(rng: random.Random, message: Any, field: FieldDescriptor, ids: Mapping[str, str]) -> None:
    nested = GetMessageClass(field.message_type) if field.message_type is not None else None
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _fill_map(rng, message, field, ids)
    elif field.is_repeated:
        for _ in range(rng.choice((0, 1, 1, 2, 3, 40))):
            element = random_request(rng, nested(), ids) if nested else _scalar(rng, field, ids)
            getattr(message, field.name).append(element)
    elif nested:
        getattr(message, field.name).CopyFrom(random_request(rng, nested(), ids))
    else:
        setattr(message, field.name, _scalar(rng, field, ids))


def _fill_map(rng: random.Random, message: Any, field: FieldDescriptor, ids: Mapping[str, str]) -> None:
    """Keys are mostly fields of traffic."""
    assert field.message_type is not None
    entry = field.message_type.fields_by_name["value"]
    for _ in range(rng.choice((0, 1, 2, 3, 40))):
        key = rng.choice((*FIELDS, *FIELDS, *TEXTS))
        if entry.message_type is None:
            getattr(message, field.name)[key] = _scalar(rng, entry, ids)
        else:
            value = random_request(rng, GetMessageClass(entry.message_type)(), ids)
            getattr(message, field.name)[key].CopyFrom(value)


def _scalar(rng: random.Random, field: FieldDescriptor, ids: Mapping[str, str]) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return rng.choice([*(value.number for value in field.enum_type.values), 77])
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice(NUMBERS)
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice(BIG_NUMBERS)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice((0.0, -1.5, 1e308, float("inf"), float("nan")))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 31, 32, 64, 91)))
    known = ids.get(field.name) or ids.get(field.name.removesuffix("s"))
    if known and rng.random() < 0.8:
        return known
    return rng.choice([*TEXTS, *ids.values()])


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """The bytes with one to four of them, or stretches of them, changed, lost, repeated or put in."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        end = min(at + rng.randint(1, 12), len(raw))
        change = rng.choice(
            (bytes([rng.randrange(256)]), b"", raw[at:end] * 2, rng.randbytes(rng.randint(1, 8)), b"\xff")
        )
        raw = raw[:at] + change + raw[end:]
    return raw

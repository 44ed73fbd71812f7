"""What commands print: tables and records of protobuf messages for people, JSON for programs.

Answers go to stdout, everything else to stderr. What a message holds is shown by its fields' types, so that a command
only names the fields.
"""

import base64
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.style import Style
from rich.text import Text

from guardhouse.durations import format_duration

NOTHING: Final = "-"
# What it means that a field is absent, where that is more than nothing.
ABSENT: Final = {
    "seat_limit": "unlimited",
    "purchased": "unlimited",
    "available": "unlimited",
    "expire_time": "never",
    "check_session": "unlimited",
    "staleness": "closed",
    "schedule": "always",
}
STYLES: Final = {
    "active": "green",
    "allow": "green",
    "serving": "green",
    "revoked": "yellow",
    "reauthenticate": "yellow",
    "inactive": "yellow",
    "block": "red",
    "not-serving": "red",
    "unreachable": "red",
}


def print_json(answer: Message | Mapping[str, Any]) -> None:
    """One document."""
    print(json.dumps(as_dict(answer) if isinstance(answer, Message) else answer, indent=2))


def print_json_line(answer: Mapping[str, Any]) -> None:
    """One document of many, at once: whoever reads may be waiting for it."""
    print(json.dumps(answer), flush=True)


def as_dict(message: Message) -> dict[str, Any]:
    """By the field names of the contract; fields without presence are there even when empty."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_table(messages: Sequence[Message], columns: str) -> None:
    """A row for each message. The columns are names of fields, or of oneofs, with dots: "user_id claims.model"."""
    names = columns.split()
    print_rows([heading(name) for name in names], [[cell(message, name) for name in names] for message in messages])
    if not messages:
        note("There is none.")


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    _print([[name.upper() for name in headings], *rows], lambda row, _: "bold" if row == 0 else "")


def print_record(message: Message, more: Mapping[str, str]) -> None:
    """A line for each field."""
    print_pairs([(heading(name), value) for name, value in (*_fields(message), *more.items())])


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """A line for each: what it is, and its text."""
    _print(pairs, lambda _, column: "bold" if column == 0 else "")


def print_line(text: str) -> None:
    print(printable(text))


def note(text: str) -> None:
    """Beside the answer, for people."""
    print(printable(text), file=sys.stderr)


def error(text: str) -> None:
    note(f"error: {text}")


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Turns a wheel while it takes longer, where somebody looks; what it gives changes the text."""
    with stderr().status(Text(printable(text))) as status:
        yield lambda more: status.update(Text(printable(more)))


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars for what takes long, where somebody looks; they are gone afterwards."""
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars


def stderr() -> Console:
    return Console(stderr=True)


def count(number: int, noun: str) -> str:
    """`1 address`, `3 addresses`, `3 policies`."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def content(response: Message) -> Message:
    """The message of the contract that an answer is about, its first; else the answer itself."""
    for field in response.DESCRIPTOR.fields:
        if not _is_plain(field):
            found: Message = getattr(response, field.name)
            return found
    return response


def items(response: Message) -> Sequence[Any]:
    """The items that an answer lists: its only repeated field."""
    (name,) = (field.name for field in response.DESCRIPTOR.fields if field.is_repeated)
    found: Sequence[Any] = getattr(response, name)
    return found


def heading(path: str) -> str:
    return path.rpartition(".")[2].replace("_", " ")


def cell(message: Message, path: str) -> str:
    """A field as people read it; of a oneof the one that is set."""
    name, _, rest = path.partition(".")
    if rest:
        return cell(getattr(message, name), rest)
    if name in message.DESCRIPTOR.oneofs_by_name:
        name = message.WhichOneof(name) or ""
        return cell(message, name) if name else NOTHING
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.has_presence and not message.HasField(name):
        return ABSENT.get(name, NOTHING)
    return _texts(field, value) or NOTHING


def word(enum: EnumDescriptor, number: int) -> str:
    """The short name of a value: PLATFORM_MAC is mac. One that we do not know yet is its number."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(_prefix(enum)).replace("_", "-").lower() if value else str(number)


def value(enum: Any, word: str) -> Any:
    """The value of an enum, as the contract generates it, that has the short name."""
    return enum.Value(_prefix(enum.DESCRIPTOR) + word.replace("-", "_").upper())


def printable(text: str) -> str:
    """Without what would steer a terminal: names come from identity providers and devices."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def local_time(time: Timestamp) -> str:
    return f"{time.ToDatetime(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _fields(message: Message) -> Iterator[tuple[str, str]]:
    """Each field's path and text, those of messages in it included; of a oneof only what is set."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1 and message.WhichOneof(oneof.name) != field.name:
            continue
        value = getattr(message, field.name)
        if _is_plain(field) or not message.HasField(field.name):
            yield field.name, cell(message, field.name)
        else:
            yield from _fields(value)


def _is_plain(field: Any) -> bool:
    kind = field.message_type
    return kind is None or field.is_repeated or kind.file.package == "google.protobuf"


def _text(field: Any, value: Any) -> str:
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Timestamp):
        return local_time(value)
    if isinstance(value, Duration):
        return format_duration(value.ToMicroseconds())
    if isinstance(value, Message):
        # As an option of the command line says it: email=alice@example.com, or everyone.
        return " ".join(_pair(name.name, _texts(name, inner)) for name, inner in value.ListFields())
    return printable(str(value))


def _texts(field: Any, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(printable(f"{key}={value[key]}") for key in sorted(value))
    return ", ".join(_text(field, one) for one in value) if field.is_repeated else _text(field, value)


def _pair(name: str, text: str) -> str:
    return f"{name.replace('_', '-')}={text}" if text else name.replace("_", "-")


def _prefix(enum: EnumDescriptor) -> str:
    """RegistrationState gives REGISTRATION_STATE_, as the contract's linter wants it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"


def _print(rows: Sequence[Sequence[str]], style: Callable[[int, int], str]) -> None:
    """Columns as wide as what is in them: ids stay whole, and a terminal that is narrower breaks the line."""
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    paint = _painter()
    for number, row in enumerate(rows):
        cells = (
            paint(text, style(number, column) or STYLES.get(text, "")) + " " * (width - cell_len(text))
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def _painter() -> Callable[[str, str], str]:
    """Colours text where stdout is a terminal that wants it (https://no-color.org)."""
    console = Console()
    if console.color_system is None or console.no_color:
        return lambda text, style: text
    return lambda text, style: Style.parse(style).render(text) if style else text

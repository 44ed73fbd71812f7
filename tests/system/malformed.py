"""Requests that are wrong in one place: every field of a request's descriptor, in every way that its kind can be."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from guardhouse.common.v1 import feed_pb2
from guardhouse.common.v1.credential_pb2 import ServiceTokenCredential
from guardhouse.ids import (
    API_KEY,
    APPLICATION,
    DEVICE,
    DEVICE_PROFILE,
    ENROLLMENT_POLICY,
    HELD_ACTION,
    IDENTITY_PROVIDER,
    IP_PROFILE,
    LIST,
    ORGANIZATION,
    PIN,
    POLICY,
    REGISTRATION,
    REMOVAL,
    RULE_GROUP,
    SERVICE_TOKEN,
    SIGNING_KEY,
    SUBNET,
    USER,
)
from guardhouse.session.v1.session_pb2 import Schedule, TrafficValues
from tests.system.contract import Method, comments

PREFIXES = {
    "organization_id": ORGANIZATION,
    "user_id": USER,
    "last_seen_user_id": USER,
    "api_key_id": API_KEY,
    "identity_provider_id": IDENTITY_PROVIDER,
    "service_token_id": SERVICE_TOKEN,
    "enrollment_policy_id": ENROLLMENT_POLICY,
    "removal_id": REMOVAL,
    "rule_group_id": RULE_GROUP,
    "pin_id": PIN,
    "held_action_id": HELD_ACTION,
    "device_id": DEVICE,
    "device_profile_id": DEVICE_PROFILE,
    "registration_id": REGISTRATION,
    "intent_id": REGISTRATION,
    "subnet_id": SUBNET,
    "ip_profile_id": IP_PROFILE,
    "policy_id": POLICY,
    "deleted_policy_id": POLICY,
    "list_id": LIST,
    "application_id": APPLICATION,
    "key_id": SIGNING_KEY,
    "login_method": IDENTITY_PROVIDER,
}
LONG = "x" * 20_000
"""Longer than any field."""
HUGE = "x" * (1 << 20)
MARK, NOT_UTF8 = "MARK-OF-THE-FIELD", b"\xff\xc0\x80\xed\xa0\x80 not UTF-8."
"""Of one length, so that bytes can stand for text."""
MANY = 1001
# What a follower says of itself; it harms nobody else, and is resumed from nowhere when it makes no sense.
OWN_BUSINESS = {feed_pb2.Start.DESCRIPTOR, feed_pb2.Ping.DESCRIPTOR, feed_pb2.Position.DESCRIPTOR}
OWN_BUSINESS |= {feed_pb2.OrganizationPosition.DESCRIPTOR}
OUTPUT = {"guardhouse.identity.v1.ApiKey.organization_id", "guardhouse.identity.v1.ApiKey.revoke_time"}


@dataclass(frozen=True)
class Bad:
    """A request, and whether it must be refused: always, or when it does not happen to be valid."""

    name: str
    raw: bytes
    field: str | None = None
    """The field that the refusal names; empty when the bytes are no message; None when it may be accepted."""
    reason: str = ""
    """The reason, where there can be only one."""


@dataclass(frozen=True)
class Place:
    """A field, at any depth; the first element of what is repeated."""

    path: tuple[FieldDescriptor, ...]

    @property
    def field(self) -> FieldDescriptor:
        return self.path[-1]

    @property
    def name(self) -> str:
        """As in enrollment_policy.include[0].email."""
        return ".".join(f"{it.name}[0]" if it.is_repeated else it.name for it in self.path).removesuffix("[0]")

    @property
    def of(self) -> str:
        """The kind of message that it is a field of."""
        assert self.field.containing_type is not None
        return self.field.containing_type.name

    @property
    def comment(self) -> str:
        return _comment(self.field)

    @property
    def required(self) -> bool:
        """Whether its comment says so, or that of the message around it."""
        if self.comment.startswith("Required") or self.comment.endswith(("Required.", "required.")):
            return True
        if len(self.path) == 1:
            return "Required" in self.comment
        named = re.match(r"([\w, ]+) (?:is|are) required", _comment(self.path[-2]))
        return named is not None and self.field.name in re.findall(r"\w+", named[1])

    @property
    def ignored(self) -> bool:
        """Whether the server overlooks what callers write here."""
        if self.path[0].name == "ping":
            return True  # the first message of a Watch is another one, whatever stands in it
        own = self.field.containing_type in OWN_BUSINESS and not self.field.name.startswith("organization_id")
        request = self.path[0].containing_type
        assert request is not None
        own |= self.comment.endswith("It cannot be changed.") and "update_mask" in request.fields_by_name
        return own or any(it.full_name in OUTPUT or "Set by the server" in _comment(it) for it in self.path)

    def parent(self, request: Message) -> Any:
        """The message that holds the field, made where it is not there."""
        at: Any = request
        for field in self.path[:-1]:
            at = getattr(at, field.name)
            if field.is_repeated:
                at = at[0] if at else at.add()
        if at.DESCRIPTOR is ServiceTokenCredential.DESCRIPTOR and not at.ByteSize():
            # One half of it is not missed before the other is looked at.
            at.client_id = at.client_secret = "x"
        if at.DESCRIPTOR is Schedule.DESCRIPTOR and not at.ByteSize():
            at.time_zone = "UTC"  # Nor is a day looked at before the zone.
        return at

    def changed(self, request: Message, value: Any) -> Message:
        """The request with another value here."""
        copy = type(request)()
        copy.CopyFrom(request)
        parent, name = self.parent(copy), self.field.name
        if self.field.is_repeated:
            others = getattr(parent, name)[1:]
            parent.ClearField(name)
            getattr(parent, name).extend(value if isinstance(value, list) else [value, *others])
        else:
            setattr(parent, name, value)
        return copy


def places(descriptor: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[Place]:
    """Every field of a message and of the messages in it."""
    for field in descriptor.fields:
        yield Place((*above, field))
        if field.message_type is not None and not is_map(field):
            yield from places(field.message_type, (*above, field))


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def malformed(method: Method, request: Message) -> Iterator[Bad]:
    """Everything that is wrong with one field of a valid request, and what is no message at all."""
    for place in places(method.descriptor.input_type):
        yield from _wrong(place, request)
    whole = request.SerializeToString()
    yield Bad("cut off in a field", whole + b"\x0a\x05ab", "")
    yield Bad("a group that never ends", whole + b"\xa3\x06", "")
    yield Bad("nested too deep", whole + b"\xa3\x06" * 5000 + b"\xa4\x06" * 5000, "")
    yield Bad("an unknown field", whole + b"\xa2\x06\x05hello")
    yield Bad("the same fields twice", whole + whole)
    yield Bad("empty", b"")
    yield Bad("noise", random.Random(1).randbytes(64))


def _wrong(place: Place, request: Message) -> Iterator[Bad]:
    field, name = place.field, place.name
    named = None if place.ignored else name

    if is_map(field):
        yield from _wrong_map(place, request)
        return

    def bad(what: str, value: Any, refused: bool = True, at: str = name, reason: str = "") -> Bad:
        raw = place.changed(request, value).SerializeToString()
        return Bad(f"{name}: {what}", raw, at if refused and named else None, reason)

    cleared = type(request)()
    cleared.CopyFrom(request)
    place.parent(cleared).ClearField(field.name)
    needed = named if place.required and place.parent(_copy(request)).ByteSize() else None
    yield Bad(f"{name}: missing", cleared.SerializeToString(), needed, "FIELD_REQUIRED" if needed else "")
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_STRING:
            for what, text, refused in _texts(place):
                at = f"{name}[0]" if field.is_repeated and field.name not in ("at_least", "paths") else name
                yield bad(what, text, refused, at.removesuffix(".paths"))
            yield Bad(f"{name}: no UTF-8", _not_utf8(place, request), "", "MESSAGE_INVALID")
            if field.is_repeated:
                limit = re.match(r"At most (\d+)", place.comment)
                many = max(MANY, int(limit[1]) + 1 if limit else 0)
                yield bad("too many", ["x"] * many, field.name != "paths", name.removesuffix(".paths"))
        case FieldDescriptor.CPPTYPE_STRING:
            yield bad("another value", b"\x07" * 32, refused=False)
            yield bad("empty", b"", refused=False)
            # Of the key that is replaced only the proof knows.
            yield bad("too long", LONG.encode(), field.name != "current_public_key")
        case FieldDescriptor.CPPTYPE_ENUM:
            for value in (99, -1, 2**31 - 1):
                yield bad(f"unknown value {value}", value)
            yield bad("unspecified", 0, refused=False)
        case FieldDescriptor.CPPTYPE_INT32:
            for value in (-1, -(2**31)):
                yield bad(str(value), value, field.name in ("page_size", "precedence"))
            for value in (0, 2**31 - 1):
                yield bad(str(value), value, refused=False)
        case FieldDescriptor.CPPTYPE_INT64:
            of_time = (
                field.containing_type is not None and field.containing_type.full_name == "google.protobuf.Timestamp"
            )
            for value in (-1, -(2**63), 2**63 - 1):
                at = name.removesuffix(".seconds")
                yield bad(str(value), value, of_time or (value < 0 and field.name in COUNTS), at)
            yield bad("0", 0, refused=False)
        case FieldDescriptor.CPPTYPE_BOOL:
            yield bad("the other one", not getattr(place.parent(_copy(request)), field.name), refused=False)
        case FieldDescriptor.CPPTYPE_MESSAGE if field.is_repeated:
            elements = getattr(place.parent(_copy(request)), field.name)
            element = elements[0] if elements else elements.add()
            yield bad("too many", [element] * MANY)
            yield bad("twice", [element] * 2, refused=False)
            yield bad("an empty one", [type(element)()])


COUNTS = ("seat_limit", "after_sequence")
SESSION = ("session_token", "binding")

TEXTS: dict[str, str] = {
    **dict.fromkeys(("nothing", "", " ", "net.dst.ip ", "Net.Dst.Ip", "net.dst.ip[*]", "a\x00b", LONG), "10.0.0.1"),
    "app.ids": "17",
    "net.dst.ip": "1.2.3",
    "net.src.ip": "fe80::1%eth0",
    "net.src.internal_src_ip": "10.0.0.0/8",
    "http.conn.internal_src_ip": "",
    "net.dst.port": "65536",
    "net.src.port": "-1",
    "http.response.status_code": "2e2",
    "http.upload.file.size": "\N{FULLWIDTH DIGIT ONE}",
    "http.download.file.size": "9" * 5000,
    "access.target": "yes",
    "access.private_app": "1",
    "http.request.uri": LONG,
}
"""Fields of traffic with one value, and what they cannot hold."""
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("nothing", "", "app.ids[0]", "a\nb", LONG), ("17",)),
    "net.dst.ip": ("10.0.0.1",),
    "app.ids": ("x",),
    "http.conn.dst_ip": ("10.0.0.1", ""),
    "dns.resolved_ips": ("10.0.0.1",) * MANY,
    "dlp.profiles": (LONG,),
}
"""Fields with several."""
TAGS = {"": "x", "a:b": "x", LONG: "x", "site": LONG}
"""What a tag cannot be."""


def _wrong_map(place: Place, request: Message) -> Iterator[Bad]:
    """Tags, and traffic: a name that there is not, or a value that it cannot hold."""
    field, name = place.field, place.name

    def bad(what: str, entries: dict[str, Any], refused: str | None = name) -> Bad:
        copy = _copy(request)
        parent = place.parent(copy)
        # A map whose values are messages is only merged into.
        parent.ClearField(field.name)
        parent.MergeFrom(type(parent)(**{field.name: entries}))
        return Bad(f"{name}: {what}", copy.SerializeToString(), refused)

    assert field.message_type is not None
    several = field.message_type.fields_by_name["value"].message_type is not None

    def value(of: Any) -> Any:
        return TrafficValues(values=of) if several else of

    yield bad("missing", {}, None)
    wrongs = TAGS if field.name == "tags" else VALUES if several else TEXTS
    for key, wrong in wrongs.items():
        yield bad(f"{key[:30]!r} with {wrong[:1]!r}", {key: value(wrong)})
    yield bad("too many", {f"x{number}": value(["x"] if several else "x") for number in range(MANY)})
    for what, entry in (
        ("key", {MARK: value([])} if several else {MARK: ""}),
        ("value", {"app.ids": value([MARK] if several else MARK)}),
    ):
        raw = bad("", entry).raw.replace(MARK.encode(), NOT_UTF8)
        yield Bad(f"{name}: no UTF-8 as {what}", raw, "", "MESSAGE_INVALID")


def _texts(place: Place) -> Iterator[tuple[str, str, bool]]:
    """What, the value, and whether it must be refused."""
    name = place.field.name
    yield "too long", LONG, name not in ("etag", *SESSION)
    yield "blank", " ", place.required
    kind = PREFIXES.get(name) or PREFIXES.get(name.removesuffix("s"))
    if kind:
        digits = "0198c0de5a3c7f1e8a2b4c6d8e0f1234"
        yield "another kind of id", f"{DEVICE if kind != DEVICE else REGISTRATION}_{digits}", True
        yield "upper case", f"{kind}_{digits.upper()}", True
        yield "a line break behind it", f"{kind}_{digits}\n", True
        yield "with wide digits", f"{kind}_{digits}".replace("0", "\N{FULLWIDTH DIGIT ZERO}"), True
        yield "too short", f"{kind}_{digits[:-1]}", True
        yield "longer by one", f"{kind}_{digits}0", True
        yield "unknown", f"{kind}_{digits}", False
        return
    # An etag that is not the present one is refused for that, and an ID token that is none by whoever verifies it; what
    # is no session is answered as such.
    strict = name not in ("etag", "id_token", *SESSION)
    yield "a control character", "a\x00b", strict
    yield "a line break", "a\nb", strict
    yield "a separator of lines", "a\u2028b", strict
    match name:
        case "request_id":
            for text in ("a b", "x" * 65):
                yield repr(text), text, True
        case "duration" | "max_open":
            for text in ("1d", "90", "-1h", "0s", "1h30", "h", "1e3s", "9" * 60 + "h", "\N{FULLWIDTH DIGIT ONE}h"):
                yield repr(text), text, True
            yield "1000000h", "1000000h", "polic" in place.path[0].name
        case "seat_expiration":
            for text in ("1d", "90", "-2160h", "0s", "729h59m", "8760h0m1s", "9" * 60 + "h"):
                yield repr(text), text, True
        case "delete_revoked_after":
            for text in ("1d", "90", "-1h", "0s", "59m59s", "9" * 60 + "h"):
                yield repr(text), text, True
        case "session_age" | "posture_age":
            for text in ("1d", "90", "-1h", "1h30", "h", "1e3s", "9" * 60 + "h", "\N{FULLWIDTH DIGIT ONE}h"):
                yield repr(text), text, True
        case "session_duration":
            for text in ("1d", "90", "-1h", "1h30", "h", "1e3s", "9" * 60 + "h", "87600h0m0.001s"):
                yield repr(text), text, True
        case "ip_range":
            for text in ("1.2.3", "10.0.0.1/8", "::g", "10.0.0.0/33", "10.0.0.1-10.0.0.9", "fe80::1%eth0"):
                yield repr(text), text, True
        case "ip":
            for text in ("1.2.3", "10.0.0.0/8", "::g", "fe80::1%eth0", "0x7f.1"):
                yield repr(text), text, True
        case "country":
            for text in ("D", "DEU", "D1", "\N{LATIN CAPITAL LETTER A WITH DIAERESIS}T"):
                yield repr(text), text, True
        case "oidc_claim":
            for text in ("level", "=7"):
                yield repr(text), text, True
        case "time_zone":
            for text in ("Nowhere/Nothing", "localtime", "../UTC", "/etc/passwd", "europe/berlin"):
                yield repr(text), text, True
        case "monday" | "sunday":
            for text in ("8", "08:00", "08:00-07:00", "08:00-24:01", "08:60-09:00", "10:00-11:00,10:30-12:00", "-"):
                yield repr(text), text, True
        case "traffic" | "identity" | "device_posture" if "polic" in place.path[0].name:
            for text in ("nothing == 1", "os.version", '"a" == "b"', "net.dst.ip in $", "(" * 500, "not not", "or"):
                yield repr(text[:20]), text, True
        case "match":
            for text in ("nothing == 1", "net.dst.ip == 10.0.0.1", '"a" == "b"', "identity.email in $us", "not not"):
                yield repr(text), text, True
        case "auto_connect" | "captive_portal" | "lan_allow":
            for text in ("1d", "90", "-1h", "24h0m1s", "h", "9" * 60 + "h"):
                yield repr(text), text, True
        case "support_url":
            for text in ("nothing", "javascript:alert(1)", "ftp://x.example", "https://", "//x.example"):
                yield repr(text), text, True
        case "suffix" | "suffixes" | "host":
            for text in (
                "a b",
                ".",
                "a..b",
                "-a",
                "*",
                "a.*.b",
                "x" * 64,
                "\u00e4.example",
            ):
                yield repr(text), text, True
        case "name" if place.of == "List":
            for text in ("a b", "-a", "$a", "a.b", "x" * 51, "\N{CYRILLIC SMALL LETTER A}"):
                yield repr(text), text, True
        case "page_token" | "at_least":
            for text in ("x", "AAAA"):
                yield repr(text), text, True
        case "address" if place.of == "Route":
            for text in ("1.2.3", "10.0.0.1/8", "::g", "10.0.0.0/33", "fe80::1%eth0"):
                yield repr(text), text, True
        case "address":
            for text in ("1.2.3", "1.2.3.4.5", "::g", "100.96.0.1/32", "fe80::1%eth0", "0x7f.1"):
                yield repr(text), text, True
        case "network" if place.of not in ("ProfileSubject", "HeartbeatRequest"):
            for text in ("1.2.3", "10.0.0.1/8", "::g", "10.0.0.0/33", "10.0.0.1-10.0.0.9", "fe80::1%eth0"):
                yield repr(text), text, True
        case "order_by":
            for text in ("name", "create_time descending", "create_time, seen_time", "create_time;", "1 desc"):
                yield repr(text), text, True
        case "paths":
            for text in ("nothing", "*", "", "organization_id", "display_name.x", "__class__"):
                yield repr(text), text, True
        case "issuer":
            for text in ("nothing", "ftp://x.example", "http://x.example", "https://", "https://a@x.example"):
                yield repr(text), text, True
        case "email_domain":
            for text in ("@", "a@b"):
                yield repr(text), text, True


def _not_utf8(place: Place, request: Message) -> bytes:
    """The request with bytes in this field that are no UTF-8; protobuf's own encoder would refuse to write them."""
    return place.changed(request, MARK).SerializeToString().replace(MARK.encode(), NOT_UTF8)


def _copy(request: Message) -> Message:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def _comment(field: FieldDescriptor) -> str:
    assert field.containing_type is not None
    package = field.containing_type.file.package
    if not package.startswith("guardhouse."):
        return ""
    name = field.full_name.removeprefix(f"{package}.")
    return comments(package.split(".")[1])[name]

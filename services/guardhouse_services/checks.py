"""Checks of request fields that every service makes; each names the field."""

import ipaddress
import re
from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.ids import check_id
from guardhouse.times import from_timestamp

# 9999-12-31T23:59:59Z, the last that a Timestamp may hold.
LAST_SECOND = 253_402_300_799
REQUEST_ID = re.compile(r"[!-~]{1,64}")
MAX_BATCH = 1000
EMAIL = 254
"""Characters of an address that mail is sent to (RFC 5321, section 4.5.3.1.3, without the brackets)."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def text(value: str, field: str, limit: int, *, required: bool = True) -> str:
    """A line that people read."""
    if required and not value.strip():
        raise FieldRequired(field)
    if len(value) > limit:
        raise InvalidField(field, f"{field} has {len(value)} characters; at most {limit} are allowed")
    if CONTROL.search(value):
        raise InvalidField(field, f"{field} holds a control character")
    return value


def email(value: str, field: str) -> str:
    text(value, field, EMAIL)
    if value.count("@") != 1 or value.startswith("@") or value.endswith("@"):
        raise InvalidField(field, f"{field} is an address such as ada@example.com")
    return value


def email_domain(value: str, field: str) -> str:
    """With or without the @."""
    text(value, field, EMAIL)
    if value.removeprefix("@") == "" or "@" in value[1:]:
        raise InvalidField(field, f"{field} is what stands behind the @, such as example.com")
    return value


def request_id(value: str, *, required: bool = False) -> str:
    if required and not value:
        raise FieldRequired("request_id", "request_id is required: make one up, and repeat it when you retry")
    if value and not REQUEST_ID.fullmatch(value):
        raise InvalidField("request_id", "request_id is 1 to 64 printable ASCII characters without spaces")
    return value


def choice(value: int, allowed: Sequence[int], field: str) -> int:
    """A value of an enum that is neither unset nor unknown."""
    if value == 0:
        raise FieldRequired(field)
    if value not in allowed:
        raise InvalidField(field, f"{value} is no value of {field}")
    return value


def count(items: Sequence[object], field: str, limit: int, *, least: int = 1) -> None:
    if len(items) < least:
        raise FieldRequired(field, f"{field} needs at least {least}")
    if len(items) > limit:
        raise InvalidField(field, f"{field} has {len(items)} entries; at most {limit} are allowed")


def ids(values: Sequence[str], field: str, prefix: str, limit: int = MAX_BATCH, *, least: int = 0) -> list[str]:
    """Ids of a kind, each once."""
    count(values, field, limit, least=least)
    return list(dict.fromkeys(check_id(each, prefix, f"{field}[{at}]") for at, each in enumerate(values)))


def mask(update_mask: FieldMask, allowed: Sequence[str]) -> frozenset[str]:
    """The paths of an update (AIP-134)."""
    if not update_mask.paths:
        raise FieldRequired("update_mask", f"update_mask is required; it may name {', '.join(allowed)}")
    for path in update_mask.paths:
        if path not in allowed:
            raise InvalidField(
                "update_mask", f"{path[:64]!r} cannot be updated; update_mask may name {', '.join(allowed)}"
            )
    return frozenset(update_mask.paths)


def timestamp(value: Timestamp, field: str) -> int:
    """A time that a Timestamp may hold, not before the Unix epoch, in microseconds since that."""
    if not (0 <= value.seconds <= LAST_SECOND and 0 <= value.nanos < 1_000_000_000):
        raise InvalidField(field, f"{field} is not between the years 1970 and 9999")
    return from_timestamp(value)


def network(value: str, field: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network, or an address as the network that holds it alone."""
    if not value:
        raise FieldRequired(field)
    try:
        return ipaddress.ip_network(value.replace("%", " "))
    except ValueError:
        message = f"{value[:64]!r} is neither an address nor a network such as 100.96.4.0/24"
        raise InvalidField(field, message) from None


def address(value: str, field: str) -> str:
    """An IPv4 or IPv6 address in its normal form."""
    if not value:
        raise FieldRequired(field)
    try:
        # A zone (RFC 4007) is a machine's own name for a link, and no part of an address.
        return str(ipaddress.ip_address(value.replace("%", " ")))
    except ValueError:
        raise InvalidField(field, f"{value[:64]!r} is no IPv4 or IPv6 address") from None

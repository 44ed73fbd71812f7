"""What an expression is asked about: the values of fields, in the form in which they are compared.

They are brought into that form once for a request, not once for each rule.
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from guardhouse.expressions.errors import TrafficInvalid
from guardhouse.expressions.fields import FIELDS, OTHER_NAMES, Field, Type, find, folded, nearest
from guardhouse.expressions.limits import MAX_VALUE
from guardhouse.expressions.ranges import address_number, read_address

Traffic = Mapping[str, Any]
"""Values by the name of the field. A text is folded as its field folds, an address is an integer of
guardhouse.expressions.ranges, several values are a tuple, and a field that is missing has no key."""

DOMAINS: Final = {
    "net.sni.domains": "net.sni.host",
    "http.request.domains": "http.request.host",
    "dns.domains": "dns.fqdn",
}
"""Fields that hold a host and every domain above it, by which a rule matches a domain with all that is below."""


_NO_LISTS: Final[Mapping[str, Iterable[str]]] = {}


def read_traffic(values: Mapping[str, object]) -> Traffic:
    """Bring values into the form in which they are compared.

    An address is text or an object of ipaddress; several values are an iterable, keyed ones "key=value" or a mapping;
    None is a missing value. The domains above a host come from the host, unless they are given. Raises TrafficInvalid
    for a field that does not exist and for a value that it cannot hold.
    """
    traffic: dict[str, Any] = {}
    for spelling, value in values.items():
        field = find(spelling)
        if field is None:
            name = nearest(spelling)
            raise TrafficInvalid(f"no such field; did you mean {name}?" if name else "no such field", spelling)
        if value is not None:
            traffic[field.name] = _several(value, field) if field.many else _READERS[field.type](value, field)
    for name, host in DOMAINS.items():
        if host in traffic and name not in traffic:
            traffic[name] = _domains(traffic[host])
    return traffic


def read_texts(fields: Mapping[str, str], lists: Mapping[str, Iterable[str]] = _NO_LISTS) -> Traffic:
    """The same for values that are all text: numbers in decimal digits, `true` and `false`. `fields` have one value and
    `lists` several.

    It is made for one request after the other, so it looks up in one step how a field is read. Raises TrafficInvalid.
    """
    traffic: dict[str, Any] = {}
    # For the map of a message this takes a quarter less than its items().
    for spelling in fields:
        known = _FROM_TEXT.get(spelling)
        if known is None:
            raise _unknown(spelling, several=False)
        name, read_one, field, domains = known
        value = traffic[name] = read_one(fields[spelling], field)
        if domains:
            traffic[domains] = _domains(value)
    for spelling, texts in lists.items():
        found = find(spelling)
        if found is None or not found.many:
            raise _unknown(spelling, several=True)
        read_one = _TEXT_READERS[found.type]
        traffic[found.name] = tuple([read_one(text, found) for text in texts])
    return traffic


def _unknown(spelling: str, *, several: bool) -> TrafficInvalid:
    if find(spelling) is not None:
        return TrafficInvalid("has one value" if several else "has several values: it belongs into lists", spelling)
    name = nearest(spelling)
    return TrafficInvalid(f"no such field; did you mean {name}?" if name else "no such field", spelling[:64])


def _several(value: object, field: Field) -> tuple[Any, ...]:
    if field.keyed and isinstance(value, Mapping):
        value = [f"{key}={part}" for key, parts in value.items() for part in _parts(parts)]
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TrafficInvalid("several values are a list", field.name)
    read = _READERS[field.type]
    return tuple(read(part, field) for part in value)


def _parts(value: object) -> Iterable[object]:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else value


def _domains(host: str) -> tuple[str, ...]:
    domains = [host]
    while "." in host:
        host = host[host.index(".") + 1 :]
        domains.append(host)
    return tuple(domains)


def _text(value: object, field: Field) -> str:
    if not isinstance(value, str):
        raise TrafficInvalid("holds text", field.name)
    if len(value) > MAX_VALUE:
        raise TrafficInvalid(f"holds at most {MAX_VALUE} characters", field.name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise TrafficInvalid("half of a surrogate pair is no character", field.name) from None
    return folded(value, field.type)


def _integer(value: object, field: Field) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= field.maximum:
        raise TrafficInvalid(f"holds a number from 0 to {field.maximum}", field.name)
    return value


def _boolean(value: object, field: Field) -> bool:
    if not isinstance(value, bool):
        raise TrafficInvalid("holds true or false", field.name)
    return value


def _address(value: object, field: Field) -> int:
    if isinstance(value, IPv4Address | IPv6Address):
        return address_number(value)
    try:
        if isinstance(value, str):
            return read_address(value)
    except (OSError, ValueError):
        pass
    raise TrafficInvalid("holds an IP address, such as 10.0.0.1 or 2001:db8::1", field.name)


_READERS: Final[Mapping[Type, Callable[[object, Field], Any]]] = {
    Type.ADDRESS: _address,
    Type.INTEGER: _integer,
    Type.BOOLEAN: _boolean,
    Type.TEXT: _text,
    Type.WORD: _text,
    Type.EMAIL: _text,
    Type.HOST: _text,
}


def _integer_text(text: str, field: Field) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > MAX_DIGITS:
        raise TrafficInvalid(f"holds a number from 0 to {field.maximum}", field.name)
    return _integer(int(text), field)


def _boolean_text(text: str, field: Field) -> bool:
    if text not in ("true", "false"):
        raise TrafficInvalid("holds true or false", field.name)
    return text == "true"


def _plain_text(text: str, field: Field) -> str:
    return text if text.isascii() and len(text) <= MAX_VALUE else _text(text, field)


def _word_text(text: str, field: Field) -> str:
    return text.lower() if text.isascii() and len(text) <= MAX_VALUE else _text(text, field)


def _host_text(text: str, field: Field) -> str:
    return text.lower().removesuffix(".") if text.isascii() and len(text) <= MAX_VALUE else _text(text, field)


MAX_DIGITS: Final = 19

_TEXT_READERS: Final[Mapping[Type, Callable[[str, Field], Any]]] = {
    Type.ADDRESS: _address,
    Type.INTEGER: _integer_text,
    Type.BOOLEAN: _boolean_text,
    # Of ASCII alone, texts are folded in a third of the time.
    Type.TEXT: _plain_text,
    Type.WORD: _word_text,
    Type.EMAIL: _word_text,
    Type.HOST: _host_text,
}

_DOMAINS_OF: Final = {host: domains for domains, host in DOMAINS.items()}

_FROM_TEXT: Final = {
    spelling: (field.name, _TEXT_READERS[field.type], field, _DOMAINS_OF.get(field.name))
    for spelling in (*FIELDS, *OTHER_NAMES)
    if (field := find(spelling)) is not None and not field.many
}
"""How a field with one value is read, by each of its names: its name, what reads it, itself, and the field that holds
the domains above it."""

"""What an expression is asked about: the values of fields, in the form in which they are compared.

They are brought into that form once for a request, not once for each rule.
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from guardhouse.expressions.errors import TrafficInvalid
from guardhouse.expressions.fields import Field, Type, find, folded, nearest
from guardhouse.expressions.limits import MAX_VALUE
from guardhouse.expressions.ranges import address_number, read_address

Traffic = Mapping[str, Any]
"""Values by the name of the field. A text is folded as its field folds, an address is an integer of
guardhouse.expressions.ranges, several values are a tuple, and a field that is missing has no key."""

_DOMAINS: Final = {
    "net.sni.domains": "net.sni.host",
    "http.request.domains": "http.request.host",
    "dns.domains": "dns.fqdn",
}
"""Fields that hold a host and every domain above it, by which a rule matches a domain with all that is below."""


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
    for name, host in _DOMAINS.items():
        if host in traffic and name not in traffic:
            traffic[name] = _domains(traffic[host])
    return traffic


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
    labels = host.split(".")
    return tuple(".".join(labels[place:]) for place in range(len(labels)))


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

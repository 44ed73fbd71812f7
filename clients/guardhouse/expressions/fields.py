"""The fields: what each holds, and where it may be used.

One table serves every kind of rule. A field that holds several values is compared with `any(field[*] ...)`; without
`any`, as the documentation of device profiles writes it, the comparison is the same.
"""

import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Final


class Scope(Enum):
    """An expression's place. The value is how messages call it."""

    L4_TRAFFIC = "the traffic of a network policy"
    HTTP_TRAFFIC = "the traffic of an HTTP policy"
    DNS_TRAFFIC = "the traffic of a DNS policy"
    IDENTITY = "the identity of a policy"
    DEVICE_POSTURE = "the device posture of a policy"
    DEVICE_PROFILE = "the match of a device profile"
    IP_PROFILE = "the match of an IP profile"


class Type(Enum):
    """What a value is. The value is how messages call it.

    Texts differ in how they compare: TEXT to the letter, as groups do when somebody enrolls; WORD, EMAIL and HOST with
    letters of either case equal (RFC 4343 for hosts), and a HOST with or without the full stop of the root.
    """

    ADDRESS = "an IP address"
    INTEGER = "a number"
    BOOLEAN = "true or false"
    TEXT = "text"
    WORD = "a word"
    EMAIL = "an e-mail address"
    HOST = "a host name"

    @property
    def is_text(self) -> bool:
        return self not in (Type.ADDRESS, Type.INTEGER, Type.BOOLEAN)

    @property
    def ignores_case(self) -> bool:
        return self in (Type.WORD, Type.EMAIL, Type.HOST)


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table.

    `many`: it holds several values. `keyed`: each of them reads "key=value", and field["key"] selects by the key.
    `maximum` is the largest number that it can hold, and `source` who says that it exists.
    """

    name: str
    type: Type
    scopes: frozenset[Scope]
    source: str
    many: bool = False
    keyed: bool = False
    maximum: int = 2**63 - 1


POSTURE_AGE: Final = "device_posture.age"
"""Seconds since the device said what it passed and failed. It changes without anything happening."""

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_L4: Final = (Scope.L4_TRAFFIC,)
_HTTP: Final = (Scope.HTTP_TRAFFIC,)
_DNS: Final = (Scope.DNS_TRAFFIC,)
_L4_HTTP: Final = (*_L4, *_HTTP)
_POLICY: Final = (Scope.IDENTITY,)
_PROFILE: Final = (Scope.DEVICE_PROFILE,)
_PEOPLE: Final = (Scope.IDENTITY, Scope.DEVICE_PROFILE, Scope.IP_PROFILE)

_NETWORK_PAGE: Final = "Cloudflare One docs, network policies"
_HTTP_PAGE: Final = "Cloudflare One docs, HTTP policies"
_DNS_PAGE: Final = "Cloudflare One docs, DNS policies"
_IDENTITY_PAGE: Final = "Cloudflare One docs, identity-based policies"
_PROFILE_PAGE: Final = "Cloudflare One docs, device profiles"
_IP_PROFILE_API: Final = "public API, IP profiles"
_OURS: Final = "decision 32a: our own, beside those of the public documentation"


def _rows(
    scopes: Iterable[Scope],
    source: str,
    type_: Type,
    *names: str,
    many: bool = False,
    keyed: bool = False,
    maximum: int = 2**63 - 1,
) -> Iterator[Field]:
    for name in names:
        yield Field(name, type_, frozenset(scopes), source, many, keyed, maximum)


FIELDS: Final[Mapping[str, Field]] = {
    field.name: field
    for rows in (
        _rows(_L4, _NETWORK_PAGE, Type.ADDRESS, "net.dst.ip", "net.src.ip", "net.src.internal_src_ip"),
        _rows(_L4, _NETWORK_PAGE, Type.INTEGER, "net.dst.port", "net.src.port", maximum=65_535),
        _rows(_L4, _NETWORK_PAGE, Type.WORD, "net.dst.geo.country", "net.dst.geo.continent"),
        _rows(_L4, _NETWORK_PAGE, Type.WORD, "net.src.geo.country", "net.src.geo.continent"),
        _rows(_L4, _NETWORK_PAGE, Type.WORD, "net.protocol", "net.protocol.detection"),
        _rows(_L4, _NETWORK_PAGE, Type.HOST, "net.sni.host"),
        _rows(_L4, _NETWORK_PAGE, Type.HOST, "net.sni.domains", many=True),
        _rows(_L4, _NETWORK_PAGE, Type.INTEGER, "net.fqdn.content_category", "net.fqdn.security_category", many=True),
        _rows(_L4, _NETWORK_PAGE, Type.TEXT, "net.vnet_id"),
        _rows(_L4_HTTP, _NETWORK_PAGE, Type.WORD, "net.onramp.type"),
        _rows(_L4_HTTP, _NETWORK_PAGE, Type.BOOLEAN, "access.target", "access.private_app"),
        _rows(_L4_HTTP, _NETWORK_PAGE, Type.HOST, "proxy.endpoint"),
        _rows((*_L4_HTTP, *_DNS), _NETWORK_PAGE, Type.INTEGER, "app.ids", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.HOST, "http.request.host"),
        _rows(_HTTP, _HTTP_PAGE, Type.HOST, "http.request.domains", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.TEXT, "http.request.uri", "http.request.uri.path", "http.request.uri.query"),
        _rows(_HTTP, _HTTP_PAGE, Type.TEXT, "http.request.uri.path_and_query", "http.request.method"),
        _rows(_HTTP, _HTTP_PAGE, Type.INTEGER, "http.request.uri.content_category", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.INTEGER, "http.request.uri.security_category", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.INTEGER, "http.response.status_code", maximum=999),
        _rows(_HTTP, _HTTP_PAGE, Type.ADDRESS, "http.conn.dst_ip", "http.conn.src_ip", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.ADDRESS, "http.conn.internal_src_ip"),
        _rows(_HTTP, _HTTP_PAGE, Type.WORD, "http.dst_ip.geo.country", "http.dst_ip.geo.continent"),
        _rows(_HTTP, _HTTP_PAGE, Type.WORD, "http.src_ip.geo.country", "http.src_ip.geo.continent"),
        _rows(_HTTP, _HTTP_PAGE, Type.TEXT, "http.conn.vnet_id"),
        _rows(_HTTP, _HTTP_PAGE, Type.WORD, "app.statuses", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.TEXT, "dlp.profiles", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.WORD, "http.upload.mime", "http.download.mime", "http.body_phase"),
        _rows(_HTTP, _HTTP_PAGE, Type.WORD, "http.upload.file.types", "http.download.file.types", many=True),
        _rows(_HTTP, _HTTP_PAGE, Type.INTEGER, "http.upload.file.size", "http.download.file.size"),
        _rows(_DNS, _DNS_PAGE, Type.HOST, "dns.fqdn"),
        _rows(_DNS, _DNS_PAGE, Type.HOST, "dns.domains", many=True),
        _rows(_DNS, _DNS_PAGE, Type.HOST, "dns.response.cname", "dns.response.mx", "dns.response.ptr", many=True),
        _rows(_DNS, _DNS_PAGE, Type.TEXT, "dns.response.txt", many=True),
        _rows(_DNS, _DNS_PAGE, Type.INTEGER, "dns.content_category", "dns.security_category", many=True),
        _rows(_DNS, _DNS_PAGE, Type.ADDRESS, "dns.src_ip", "dns.src_internal_ip"),
        _rows(_DNS, _DNS_PAGE, Type.ADDRESS, "dns.resolved_ip", "dns.resolved_ips", many=True),
        _rows(_DNS, _DNS_PAGE, Type.ADDRESS, "dns.authoritative_ns_ips", many=True),
        _rows(_DNS, _DNS_PAGE, Type.WORD, "dns.query_rtype", "dns.doh_subdomain"),
        _rows(_DNS, _DNS_PAGE, Type.WORD, "dns.dst.geo.country", "dns.dst.geo.continent"),
        _rows(_DNS, _DNS_PAGE, Type.WORD, "dns.src.geo.country", "dns.src.geo.continent"),
        _rows(_DNS, _DNS_PAGE, Type.TEXT, "dns.location"),
        _rows(_PEOPLE, _IDENTITY_PAGE, Type.EMAIL, "identity.email"),
        _rows((Scope.IDENTITY, Scope.IP_PROFILE), _IP_PROFILE_API, Type.TEXT, "identity.name"),
        _rows(_PEOPLE, _IDENTITY_PAGE, Type.TEXT, "identity.groups.id", "identity.groups.name", many=True),
        _rows(_PEOPLE, _IDENTITY_PAGE, Type.EMAIL, "identity.groups.email", many=True),
        _rows(_PEOPLE, _IDENTITY_PAGE, Type.TEXT, "identity.saml_attributes", many=True, keyed=True),
        _rows(_PEOPLE, _IDENTITY_PAGE, Type.TEXT, "identity.oidc_claims", many=True, keyed=True),
        _rows((*_PROFILE, Scope.IP_PROFILE), _PROFILE_PAGE, Type.TEXT, "identity.service_token_uuid"),
        _rows(_PROFILE, _PROFILE_PAGE, Type.TEXT, "network", "os.version"),
        _rows(_PROFILE, _PROFILE_PAGE, Type.WORD, "os.name"),
        _rows(
            (Scope.DEVICE_POSTURE,),
            _NETWORK_PAGE,
            Type.TEXT,
            "device_posture.checks.passed",
            "device_posture.checks.failed",
            many=True,
        ),
        _rows((Scope.DEVICE_POSTURE,), _OURS, Type.INTEGER, POSTURE_AGE),
    )
    for field in rows
}
"""The table, by name."""

OTHER_NAMES: Final[Mapping[str, str]] = {
    "http.conn.hostname": "http.request.host",
    "http.conn.domains": "http.request.domains",
    "net.detected_protocol": "net.protocol.detection",
}
"""Second names that public expressions use, each with the field that it stands for."""

_EACH: Final[Mapping[str, Field]] = {
    **{f"{name}[*]": field for name, field in FIELDS.items() if field.many},
    **{f"{name}[*]": FIELDS[other] for name, other in OTHER_NAMES.items() if FIELDS[other].many},
    **{f"identity.groups[*].{part}": FIELDS[f"identity.groups.{part}"] for part in ("id", "name", "email")},
}


def find(name: str) -> Field | None:
    """The field of that name or second name, without [*]."""
    return FIELDS.get(OTHER_NAMES.get(name, name))


def find_each(spelling: str) -> Field | None:
    """The field that holds several values and is written like this, with [*]."""
    return _EACH.get(spelling)


def nearest(name: str, scope: Scope | None = None) -> str:
    """The name that was probably meant, of those that the scope allows if there is one, or an empty string."""
    names = [name for name, field in FIELDS.items() if scope is None or scope in field.scopes]
    return next(iter(get_close_matches(name.replace("[*]", ""), names, n=1)), "")


def folded(value: str, type_: Type) -> str:
    """The text as it is compared. Only ASCII letters lose their case: Unicode would make the Kelvin sign a k."""
    if not type_.ignores_case:
        return value
    # Of ASCII alone this is the same, in a fifth of the time.
    lower = value.lower() if value.isascii() else value.translate(_LOWER)
    return lower.removesuffix(".") if type_ is Type.HOST else lower

"""Device profiles: which one a registration has, and what it says.

    rules = [Rule("dpr_1", 100, 'identity.email == "ada@example.com"'), Rule("dpr_2", 200, 'os.name == "windows"')]
    first_match(rules, facts(Subject(os_name="windows")))  # "dpr_2"; None where the default is the one

It is pure, so that a gateway or an agent says the same as the registry. It needs the libraries of the extra `checker`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from guardhouse.decisions import Profile
from guardhouse.durations import DAY, MINUTE, SECOND
from guardhouse.expressions import (
    Expression,
    ExpressionInvalid,
    InList,
    Predicate,
    Scope,
    Traffic,
    compile_expression,
    conditions,
    identity_facts,
    parse_expression,
    read_traffic,
)

MAX_ROUTES: Final = 1000
"""In an exclude or include list: the entries of a list in the public account limits."""
MAX_SEARCH_SUFFIXES: Final = 25
MAX_FALLBACK_DOMAINS: Final = 100
MAX_DNS_SERVERS: Final = 10
"""Of one fallback domain."""
MAX_VIRTUAL_NETWORKS: Final = 100
AUTO_CONNECT: Final = (MINUTE, DAY)
"""1 to 1440 minutes, where it is not off."""
CAPTIVE_PORTAL: Final = (0, DAY)
LAN_ALLOW: Final = (MINUTE, DAY)
"""Where it is not until the client reconnects."""
LAN_SUBNET_SIZES: Final = (24, 32)
"""Bits of the mask: at most a /24 is let out."""
PROXY_PORT: Final = 40_000

OS_NAMES: Final[Mapping[int, str]] = {1: "windows", 2: "mac", 3: "linux", 4: "ios", 5: "android", 6: "chromeos"}
"""What `os.name` is, by the numbers of guardhouse.registry.v1.Platform."""

_COMPILED: Final = 4_096
"""Matches of all organizations that are kept compiled."""


class Subject(NamedTuple):
    """Whose registration, and on what. What is not known is empty; a service token's has no person."""

    person: Profile | None = None
    service_token_id: str = ""
    os_name: str = ""
    os_version: str = ""
    network: str = ""


class Rule(NamedTuple):
    """What of a profile decides whose it is. The default has none: it is whatever is left."""

    device_profile_id: str
    precedence: int
    match: str
    enabled: bool = True


class Step(NamedTuple):
    """What one profile makes of a subject."""

    rule: Rule
    matched: bool
    decides: bool
    missing: tuple[str, ...]
    """The fields that it asks for and nobody gave, which makes every comparison but != false (decision 30a)."""


def facts(subject: Subject) -> Traffic:
    """What `match` asks about. Raises TrafficInvalid for a text that is too long."""
    about = {
        "identity.service_token_uuid": subject.service_token_id,
        "os.name": subject.os_name,
        "os.version": subject.os_version,
        "network": subject.network,
    }
    device = read_traffic({name: value for name, value in about.items() if value})
    return {**identity_facts(subject.person), **device}


def parse_match(text: str) -> Expression:
    """Raises ExpressionInvalid for what cannot be used, named lists among it: they belong to policies."""
    expression = parse_expression(text, Scope.DEVICE_PROFILE)
    for condition in conditions(expression.root):
        if isinstance(condition, InList):
            raise ExpressionInvalid(
                f"${condition.name} is a named list, which only policies have: write its values", condition.column
            )
    return expression


def first_match(rules: Iterable[Rule], about: Traffic) -> str | None:
    """The id of the first of the rules, by ascending precedence, that is enabled and holds. None: the default."""
    for rule in sorted(rules, key=_precedence):
        if rule.enabled and _compiled(rule.match)[0](about):
            return rule.device_profile_id
    return None


def trace(rules: Iterable[Rule], about: Traffic) -> Iterator[Step]:
    """What each makes of it, in the order in which they are asked; those behind the first are asked, too."""
    decided = False
    for rule in sorted(rules, key=_precedence):
        holds, asked = _compiled(rule.match)
        matched = holds(about)
        decides = matched and rule.enabled and not decided
        decided = decided or decides
        yield Step(rule, matched, decides, tuple(name for name in asked if name not in about))


def _precedence(rule: Rule) -> int:
    return rule.precedence


@lru_cache(_COMPILED)
def _compiled(match: str) -> tuple[Predicate, tuple[str, ...]]:
    """What decides, and the fields that it asks for. What only a later release can read holds for nobody."""
    try:
        expression = parse_match(match)
    except ExpressionInvalid:
        return lambda _: False, ()
    asked = dict.fromkeys(condition.field.name for condition in conditions(expression.root))
    return compile_expression(expression), tuple(asked)


# What a profile says


class TunnelProtocol(IntEnum):
    """The values of guardhouse.registry.v1.TunnelType; ANY leaves it to the client."""

    ANY = 0
    WIREGUARD = 1
    MASQUE = 2


class Mode(IntEnum):
    """The values of guardhouse.registry.v1.ServiceMode.Mode."""

    WARP = 1
    DNS_ONLY = 2
    PROXY = 3
    POSTURE_ONLY = 4
    TUNNEL_ONLY = 5


@dataclass(frozen=True, slots=True)
class ServiceMode:
    """What the client does with traffic; the port is a proxy's."""

    mode: Mode = Mode.WARP
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A network, or a host name: the other is empty."""

    address: str = ""
    host: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class SplitTunnel:
    """What does not go through the tunnel, or all that does."""

    includes: bool
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class FallbackDomain:
    """A domain that the device's own resolvers, or these, are asked for."""

    suffix: str
    description: str = ""
    dns_servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualNetworks:
    """Those that a person may choose from, and which one at first."""

    allowed: tuple[str, ...]
    default: str


DEFAULT_EXCLUDE: Final = SplitTunnel(
    includes=False,
    routes=tuple(
        Route(address=network)
        for network in (
            *("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16"),
            *("224.0.0.0/24", "240.0.0.0/4", "255.255.255.255/32", "fe80::/10", "fd00::/8"),
            *("ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16"),
        )
    ),
)
"""It has the devices' own addresses in it, 100.64.0.0/10: who wants devices to reach each other takes that out."""

DEFAULT_FALLBACK_DOMAINS: Final = tuple(
    FallbackDomain(suffix)
    for suffix in (
        *("intranet", "internal", "private", "localdomain", "domain", "lan", "home", "host", "corp", "local"),
        *("localhost", "home.arpa", "invalid", "test"),
    )
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a device is told. The defaults are those of the public API; durations are microseconds."""

    allow_mode_switch: bool = False
    allow_updates: bool = False
    allowed_to_leave: bool = True
    auto_connect: int = 0
    captive_portal: int = 180 * SECOND
    disable_auto_fallback: bool = False
    exclude_office_ips: bool = False
    register_interface_ip_with_dns: bool = True
    sccm_vpn_boundary_support: bool = False
    support_url: str = ""
    switch_locked: bool = False
    uninstall_protection: bool = False
    tunnel_protocol: TunnelProtocol = TunnelProtocol.ANY
    service_mode: ServiceMode = ServiceMode()
    lan_allow: int | None = None
    """None: not at all; 0: until the client reconnects."""
    lan_allow_subnet_size: int | None = None
    dns_search_suffixes: tuple[str, ...] = ()
    virtual_networks: VirtualNetworks | None = None
    split_tunnel: SplitTunnel = DEFAULT_EXCLUDE
    fallback_domains: tuple[FallbackDomain, ...] = DEFAULT_FALLBACK_DOMAINS


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A profile as it is stored. The default has no precedence and no match, and is nowhere until it is changed."""

    device_profile_id: str
    name: str
    precedence: int | None
    match: str = ""
    description: str = ""
    enabled: bool = True
    settings: Settings = Settings()
    settings_etag: str = ""
    """Which state of the settings it is, for devices; empty for a default that is nowhere yet."""
    create_time: int | None = None
    update_time: int | None = None

    @property
    def is_default(self) -> bool:
        return self.precedence is None

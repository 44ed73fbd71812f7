"""Device profiles of requests as domain values: syntax, and which field is at fault."""

import re
from collections.abc import Collection
from dataclasses import fields, replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from guardhouse.decisions import Profile
from guardhouse.device_profiles import (
    AUTO_CONNECT,
    CAPTIVE_PORTAL,
    LAN_ALLOW,
    LAN_SUBNET_SIZES,
    MAX_DNS_SERVERS,
    MAX_FALLBACK_DOMAINS,
    MAX_ROUTES,
    MAX_SEARCH_SUFFIXES,
    MAX_VIRTUAL_NETWORKS,
    OS_NAMES,
    PROXY_PORT,
    DeviceProfile,
    FallbackDomain,
    Mode,
    Route,
    ServiceMode,
    Settings,
    SplitTunnel,
    Subject,
    TunnelProtocol,
    VirtualNetworks,
    parse_match,
)
from guardhouse.durations import format_duration, parse_duration
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.expressions import ExpressionInvalid, advise
from guardhouse.ids import SERVICE_TOKEN, check_id
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services import checks

NAME, DESCRIPTION, ROUTE_DESCRIPTION = 100, 500, 100
MAX_PRECEDENCE = 2**31 - 1
MAX_URL = 2048
MAX_HOST = 253
MAX_GROUPS, MAX_CLAIMS = 1000, 100
TEXT, NETWORK = 255, 100
SCHEMES = ("http", "https", "mailto")
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_PLAIN = tuple(it.name for it in fields(Settings) if isinstance(it.default, bool))
"""The settings that are true or false."""

PATHS = (
    *("name", "description", "enabled", "precedence", "match", "settings"),
    *(f"settings.{field.name}" for field in pb.DeviceProfileSettings.DESCRIPTOR.fields),
)
"""What an update may name."""


def custom(sent: pb.DeviceProfile, base: Settings) -> DeviceProfile:
    """A profile that is not the default, whose absent settings are as in `base`. Raises InvalidField."""
    field = "device_profile"
    if not sent.HasField("precedence"):
        raise FieldRequired(f"{field}.precedence")
    if not 1 <= sent.precedence <= MAX_PRECEDENCE:
        raise InvalidField(f"{field}.precedence", f"{field}.precedence is 1 to {MAX_PRECEDENCE}")
    return DeviceProfile(
        device_profile_id="",
        name=checks.text(sent.name, f"{field}.name", NAME),
        precedence=sent.precedence,
        match=_match(sent.match, f"{field}.match"),
        description=checks.text(sent.description, f"{field}.description", DESCRIPTION, required=False),
        enabled=sent.enabled or not sent.HasField("enabled"),
        settings=settings(sent.settings, f"{field}.settings", base),
    )


def default(sent: pb.DeviceProfile, found: DeviceProfile, mask: Collection[str]) -> DeviceProfile:
    """The default profile with the settings that are sent. Raises InvalidField when more than those is to change."""
    for path in sorted(mask):
        if not path.startswith("settings"):
            raise InvalidField("update_mask", f"of the default device profile only settings can be changed, not {path}")
    return replace(found, settings=settings(sent.settings, "device_profile.settings", Settings()))


def warnings(match: str) -> list[str]:
    """What is allowed but probably not meant (decision 30a)."""
    return [f"match, column {advice.column}: {advice.message}" for advice in advise(parse_match(match))]


def subject(sent: pb.ProfileSubject, field: str) -> Subject:
    """Raises InvalidField."""

    def texts(name: str, limit: int) -> tuple[str, ...]:
        values = getattr(sent, name)
        checks.count(values, f"{field}.{name}", limit, least=0)
        return tuple(checks.text(value, f"{field}.{name}[{place}]", 1000) for place, value in enumerate(values))

    person = Profile(
        checks.text(sent.email, f"{field}.email", 320, required=False),
        "",
        texts("groups", MAX_GROUPS),
        texts("oidc_claims", MAX_CLAIMS),
    )
    token_id = sent.service_token_id and check_id(sent.service_token_id, SERVICE_TOKEN, f"{field}.service_token_id")
    if token_id and (person.email or person.groups or person.claims):
        raise InvalidField(f"{field}.service_token_id", "a service token has no email, groups or oidc_claims")
    if sent.platform:
        checks.choice(sent.platform, list(OS_NAMES), f"{field}.platform")
    return Subject(
        person=None if token_id else person,
        service_token_id=token_id,
        os_name=OS_NAMES.get(sent.platform, ""),
        os_version=checks.text(sent.os_version, f"{field}.os_version", TEXT, required=False),
        network=checks.text(sent.network, f"{field}.network", NETWORK, required=False),
    )


def settings(sent: pb.DeviceProfileSettings, field: str, base: Settings) -> Settings:
    """What is sent, and the rest as in `base`. Raises InvalidField and DurationInvalid."""
    found: dict[str, Any] = {name: getattr(sent, name) for name in _PLAIN if sent.HasField(name)}  # type: ignore[arg-type]
    if sent.HasField("auto_connect"):
        found["auto_connect"] = _duration(sent.auto_connect, f"{field}.auto_connect", *AUTO_CONNECT, or_zero=True)
    if sent.HasField("captive_portal"):
        found["captive_portal"] = _duration(sent.captive_portal, f"{field}.captive_portal", *CAPTIVE_PORTAL)
    if sent.HasField("support_url"):
        found["support_url"] = _url(sent.support_url, f"{field}.support_url")
    if sent.tunnel_protocol:
        found["tunnel_protocol"] = TunnelProtocol(
            checks.choice(sent.tunnel_protocol, list(TunnelProtocol), f"{field}.tunnel_protocol")
        )
    elif sent.HasField("tunnel_protocol"):
        found["tunnel_protocol"] = TunnelProtocol.ANY
    if sent.HasField("service_mode"):
        found["service_mode"] = _service_mode(sent.service_mode, f"{field}.service_mode")
    if sent.HasField("lan_allow"):
        found["lan_allow"] = _duration(sent.lan_allow, f"{field}.lan_allow", *LAN_ALLOW, or_zero=True)
    if sent.HasField("lan_allow_subnet_size"):
        least, most = LAN_SUBNET_SIZES
        if not least <= sent.lan_allow_subnet_size <= most:
            name = f"{field}.lan_allow_subnet_size"
            raise InvalidField(name, f"{name} is {least} to {most}: at most a /{least} is let out")
        found["lan_allow_subnet_size"] = sent.lan_allow_subnet_size
    if sent.HasField("dns_search_suffixes"):
        found["dns_search_suffixes"] = _suffixes(sent.dns_search_suffixes, f"{field}.dns_search_suffixes.suffixes")
    if sent.HasField("virtual_networks"):
        found["virtual_networks"] = _virtual_networks(sent.virtual_networks, f"{field}.virtual_networks")
    if sent.HasField("fallback_domains"):
        found["fallback_domains"] = _fallback_domains(sent.fallback_domains, f"{field}.fallback_domains.domains")
    if kind := sent.WhichOneof("split_tunnel"):
        routes = _routes(getattr(sent, kind), f"{field}.{kind}.routes")
        found["split_tunnel"] = SplitTunnel(kind == "include", routes)
    return replace(base, **found)


def _match(text: str, field: str) -> str:
    """As it is written."""
    if not text.strip():
        raise FieldRequired(field, f'{field} is required, such as identity.email == "ada@example.com"')
    try:
        parse_match(text)
    except ExpressionInvalid as refusal:
        raise InvalidField(field, f"{field}: {refusal}") from None
    return text


def _duration(text: str, field: str, least: int, most: int, *, or_zero: bool = False) -> int:
    found = parse_duration(text, field)
    if not (least <= found <= most or (or_zero and not found)):
        zero = "0s, or " if or_zero else ""
        raise DurationInvalid(field, f"{field} is {zero}{format_duration(least)} to {format_duration(most)}")
    return found


def _url(text: str, field: str) -> str:
    checks.text(text, field, MAX_URL, required=False)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InvalidField(field, f"{field} is no URL") from None
    if text and (parts.scheme not in SCHEMES or not (parts.netloc or (parts.scheme == "mailto" and parts.path))):
        raise InvalidField(field, f"{field} is a URL that begins with https://, http:// or mailto:")
    return text


def _service_mode(sent: pb.ServiceMode, field: str) -> ServiceMode:
    mode = Mode(checks.choice(sent.mode, list(Mode), f"{field}.mode"))
    if mode is not Mode.PROXY:
        if sent.HasField("port"):
            raise InvalidField(f"{field}.port", f"{field}.port is for MODE_PROXY only")
        return ServiceMode(mode)
    port = sent.port if sent.HasField("port") else PROXY_PORT
    if not 1 <= port <= 65_535:
        raise InvalidField(f"{field}.port", f"{field}.port is 1 to 65535")
    return ServiceMode(mode, port)


def _suffixes(sent: pb.SearchSuffixes, field: str) -> tuple[str, ...]:
    checks.count(sent.suffixes, field, MAX_SEARCH_SUFFIXES, least=0)
    found = [_domain(suffix, f"{field}[{place}]") for place, suffix in enumerate(sent.suffixes)]
    return tuple(dict.fromkeys(found))


def _virtual_networks(sent: pb.VirtualNetworks, field: str) -> VirtualNetworks:
    checks.count(sent.allowed, f"{field}.allowed", MAX_VIRTUAL_NETWORKS)
    allowed = [checks.text(name, f"{field}.allowed[{place}]", NETWORK) for place, name in enumerate(sent.allowed)]
    checks.text(sent.default, f"{field}.default", NETWORK)
    if sent.default not in allowed:
        raise InvalidField(f"{field}.default", f"{field}.default is one of those that are allowed")
    return VirtualNetworks(tuple(dict.fromkeys(allowed)), sent.default)


def _fallback_domains(sent: pb.FallbackDomains, field: str) -> tuple[FallbackDomain, ...]:
    checks.count(sent.domains, field, MAX_FALLBACK_DOMAINS, least=0)
    found: dict[str, FallbackDomain] = {}
    for place, domain in enumerate(sent.domains):
        here = f"{field}[{place}]"
        suffix = _domain(domain.suffix, f"{here}.suffix")
        if suffix in found:
            raise InvalidField(f"{here}.suffix", f"{suffix} is named twice")
        checks.count(domain.dns_servers, f"{here}.dns_servers", MAX_DNS_SERVERS, least=0)
        servers = (checks.address(server, f"{here}.dns_servers[{at}]") for at, server in enumerate(domain.dns_servers))
        description = checks.text(domain.description, f"{here}.description", ROUTE_DESCRIPTION, required=False)
        found[suffix] = FallbackDomain(suffix, description, tuple(dict.fromkeys(servers)))
    return tuple(found.values())


def _routes(sent: pb.Routes, field: str) -> tuple[Route, ...]:
    checks.count(sent.routes, field, MAX_ROUTES, least=0)
    found: dict[str, Route] = {}
    for place, route in enumerate(sent.routes):
        here = f"{field}[{place}]"
        description = checks.text(route.description, f"{here}.description", ROUTE_DESCRIPTION, required=False)
        kind = route.WhichOneof("target")
        if kind is None:
            raise FieldRequired(f"{here}.address", f"{here} needs an address or a host")
        target = f"{here}.{kind}"
        text = _network(route.address, target) if kind == "address" else _host(route.host, target)
        if text in found:
            raise InvalidField(target, f"{text} is named twice")
        found[text] = Route(**{kind: text}, description=description)
    return tuple(found.values())


def _network(text: str, field: str) -> str:
    """In its normal form."""
    if not text:
        raise FieldRequired(field)
    try:
        # A zone (RFC 4007) is a machine's own name for a link, and no part of a network.
        return str(ip_network(text.replace("%", " ")))
    except ValueError:
        raise InvalidField(field, f"{field} is an address or a network without host bits, such as 10.0.0.0/8") from None


def _host(text: str, field: str) -> str:
    """A name, or all names below one."""
    wildcard = "*." if text.startswith("*.") else ""
    return wildcard + _domain(text.removeprefix("*."), field)


def _domain(text: str, field: str) -> str:
    """In small letters, without the full stop of the root."""
    if not text:
        raise FieldRequired(field)
    name = text.removesuffix(".")
    if len(name) > MAX_HOST or not _DOMAIN.fullmatch(name):
        raise InvalidField(field, f"{field} is a domain name such as corp.example.com; of others its form in ASCII")
    return name.lower()

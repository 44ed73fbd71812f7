"""The file by which device management (MDM) sets up clients, a property list: reading it, checking it and writing it.

A file is taken as a whole or refused as a whole, with every fault by the path of its key. Which keys there are is what
the dataclasses below have; a default is what a client does that is not told otherwise.
"""

import dataclasses
import difflib
import ipaddress
import plistlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

MAX_SIZE: Final = 256 << 10
"""The longest file that is read, in bytes."""
MAX_CONFIGS: Final = 25
MAX_TEXT: Final = 255
MAX_FAULTS: Final = 20
"""How many faults are told of; whoever has so many has another kind of file."""
MAX_CONNECT_MINUTES: Final = 1440
LEAST_SIGNAL_SECONDS: Final = 30
MAX_KEY: Final = 64
"""Of longer keys nobody meant one of ours."""

# Apple's own, which every tool writes. Nothing is fetched by it, and it declares nothing here.
_DOCTYPE: Final = re.compile(
    r'<!DOCTYPE plist PUBLIC "-//Apple(?: Computer)?//DTD PLIST 1\.0//EN"'
    r'\s+"https?://www\.apple\.com/DTDs/PropertyList-1\.0\.dtd"\s*>'
)
_CLIENT_ID: Final = re.compile(r"[0-9a-f]{32}\.access")
_FINGERPRINT: Final = re.compile(r"[0-9A-Fa-f]{64}")
_ENDPOINT: Final = re.compile(r"(\[[^\]]+\]|[^:]+):([0-9]{1,5})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a key. Its path is as in configs[1].auto_connect; an empty one is the file itself."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class MdmInvalid(ValueError):
    """The file is refused as a whole."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class _At:
    """A place in the file, and where its faults go."""

    faults: list[Fault]
    path: str = ""

    def key(self, name: str) -> "_At":
        name = name[:MAX_KEY]
        return _At(self.faults, f"{self.path}.{name}" if self.path else name)

    def item(self, number: int) -> "_At":
        return _At(self.faults, f"{self.path}[{number}]")

    def wrong(self, message: str) -> None:
        self.faults.append(Fault(self.path, message))
        if len(self.faults) == MAX_FAULTS:
            raise MdmInvalid(tuple(self.faults))


Kind = Callable[[Any, _At], Any]
"""Takes what the file has, tells what is wrong with it, and answers what is kept of it."""


def _key(kind: Kind, meaning: str, default: Any = None, *, is_secret: bool = False) -> Any:
    return field(default=default, repr=not is_secret, metadata={"kind": kind, "meaning": meaning, "secret": is_secret})


def _of(kind: type[T], noun: str, is_right: Callable[[T], bool] = lambda _value: True, form: str = "") -> Kind:
    """A kind of plain values: their type, which holds exactly, and a rule."""

    def read(value: Any, at: _At) -> Any:
        if type(value) is not kind:
            at.wrong(f"it is {noun}")
        elif not is_right(value):
            at.wrong(f"it is {form or noun}")
        return value

    return read


def _is_text(value: str) -> bool:
    return 0 < len(value) <= MAX_TEXT and value.isprintable()


def _text(noun: str, is_right: Callable[[str], bool] = lambda _value: True) -> Kind:
    return _of(str, noun, lambda value: _is_text(value) and is_right(value))


def _choice(*words: str) -> Kind:
    return _of(str, "a string", words.__contains__, f"one of {', '.join(words)}")


def _whole(least: int, most: int) -> Kind:
    return _of(int, "an integer", lambda value: least <= value <= most, f"an integer from {least} to {most}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_endpoint(text: str) -> bool:
    found = _ENDPOINT.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        return False
    host = found[1]
    return _is_address(host[1:-1]) and ":" in host if host.startswith("[") else _is_address(host)


def _host(text: str, *schemes: str) -> str:
    """The host of an address of one of these schemes; empty for anything else."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in schemes and " " not in text else ""


def _is_support(text: str) -> bool:
    return bool(_host(text, "https", "http")) or (text.startswith("mailto:") and "@" in text)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


_FLAG = _of(bool, "true or false")
_TEXT = _text(f"a string of 1 to {MAX_TEXT} characters")
_ADDRESS = _text("an IP address, such as 203.0.113.1 or 2001:db8::1", _is_address)
_MODES = _choice("warp", "1dot1", "proxy", "postureonly", "tunnelonly")
_ENVIRONMENT = _choice("normal", "fedramp_high")
_CLIENT = _text("32 lower-case hex digits and .access", lambda text: bool(_CLIENT_ID.fullmatch(text)))


@dataclass(frozen=True, slots=True)
class TunneledApp:
    """An Android app whose traffic goes through the tunnel; where none is named, all do."""

    app_identifier: str = _key(_TEXT, "The app.", "")
    is_browser: bool = _key(_FLAG, "Whether it is a browser.", False)


@dataclass(frozen=True, slots=True)
class PreLogin:
    """What a Windows device is registered as while nobody is logged in. The secret is in no representation."""

    organization: str = _key(_TEXT, "The organization.", "")
    auth_client_id: str = _key(_CLIENT, "The service token that it is registered with.", "")
    auth_client_secret: str = _key(_TEXT, "The service token's secret.", "", is_secret=True)


@dataclass(frozen=True, slots=True)
class OrganizationConfig:
    """What holds for an organization, whichever of `configs` it is entered by."""

    environment: str | None = _key(_ENVIRONMENT, "Which cloud the organization is in.")
    hardware_backed_registration: bool = _key(_FLAG, "The key is kept in the device's hardware.", False)


def _tuple(of: type, most: int) -> Kind:
    def read(value: Any, at: _At) -> Any:
        if type(value) is not list or not 0 < len(value) <= most:
            at.wrong(f"it is an array of 1 to {most} dictionaries")
            return ()
        return tuple(_read(of, one, at.item(number)) for number, one in enumerate(value))

    return read


def _nested(of: type) -> Kind:
    return lambda value, at: _read(of, value, at)


def _by_organization(value: Any, at: _At) -> Any:
    if not isinstance(value, dict):
        at.wrong("it is a dictionary by organization")
        return ()
    for name in value:
        if not _is_text(name):
            at.wrong("an organization is named by a string of 1 to 255 characters")
    return tuple((name, _read(OrganizationConfig, one, at.key(name))) for name, one in sorted(value.items()))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client joins one organization, and what it does there. Secrets are in no representation.

    What has no default is left to the organization's device profiles.
    """

    organization: str = _key(_TEXT, "The organization that the device joins.", "")
    display_name: str = _key(_TEXT, "What people choose it by, among several.", "")
    auth_client_id: str = _key(_CLIENT, "The device joins by itself, with this service token.", "")
    auth_client_secret: str = _key(_TEXT, "The service token's secret.", "", is_secret=True)
    auto_connect: int | None = _key(
        _whole(0, MAX_CONNECT_MINUTES), "The client turns itself on again after so many minutes; 0 is never."
    )
    switch_locked: bool = _key(_FLAG, "People cannot turn the client off.", False)
    service_mode: str = _key(_MODES, "What the client does with traffic.", "warp")
    proxy_port: int | None = _key(_whole(1, 65535), "The port of the proxy, with service_mode proxy. Default: 40000.")
    warp_tunnel_protocol: str = _key(_choice("masque", "wireguard"), "The protocol of the tunnel.", "masque")
    onboarding: bool = _key(_FLAG, "People are shown the screens of the first start.", True)
    support_url: str = _key(_text("an address: https://..., http://... or mailto:...", _is_support), "Who helps.", "")
    gateway_unique_id: str = _key(_TEXT, "Where DNS is asked, for DNS alone.", "")
    override_api_endpoint: str = _key(_ADDRESS, "The address of the control plane.", "")
    override_doh_endpoint: str = _key(_ADDRESS, "The address of DNS over HTTPS.", "")
    override_warp_endpoint: str = _key(
        _text("an IP address and a port, such as 203.0.113.1:2408", _is_endpoint), "Where the tunnel ends.", ""
    )
    unique_client_id: str = _key(_text("a UUID", _is_uuid), "Identifies a mobile device to posture checks.", "")
    environment: str | None = _key(_ENVIRONMENT, "Which cloud the organization is in. Default: normal.")
    enable_netbt: bool = _key(_FLAG, "NetBIOS over TCP/IP on the tunnel (Windows).", False)
    enable_pmtud: bool | None = _key(_FLAG, "The tunnel finds out how long packets may be.")
    enable_post_quantum: bool | None = _key(_FLAG, "Keys are agreed on with post-quantum cryptography.")
    allow_managed_deployments: bool = _key(_FLAG, "The organization may update the client.", True)
    local_emergency_signal_enabled: bool | None = _key(_FLAG, "A local signal can disconnect the client.")
    external_emergency_signal_url: str = _key(
        _text("an https address whose host is an IP address", lambda text: _is_address(_host(text, "https"))),
        "Where the client asks whether to disconnect.",
        "",
    )
    external_emergency_signal_fingerprint: str = _key(
        _text("64 hex digits", lambda text: bool(_FINGERPRINT.fullmatch(text))), "SHA-256 of its certificate.", ""
    )
    external_emergency_signal_interval: int = _key(
        _whole(LEAST_SIGNAL_SECONDS, 86_400), "How often it asks, in seconds.", 300
    )
    warp_connector_token: str = _key(_TEXT, "The device is a connector, with this token.", "", is_secret=True)
    tunneled_apps: tuple[TunneledApp, ...] = _key(
        _tuple(TunneledApp, 1000), "The apps that are tunneled (Android).", ()
    )
    enabled: bool | None = _key(_FLAG, "Obsolete: clients pass over it.")


@dataclass(frozen=True, slots=True)
class Mdm:
    """A whole file. One without `configs` has the settings of a single organization at its top."""

    multi_user: bool = _key(_FLAG, "Each person who logs in to Windows has a registration of their own.", False)
    pre_login: PreLogin | None = _key(  # noqa: RUF009  # it makes a field
        _nested(PreLogin), "What is used while nobody is logged in (Windows)."
    )
    configs: tuple[Settings, ...] = _key(
        _tuple(Settings, MAX_CONFIGS), "The organizations that people choose from.", ()
    )
    organization_configs: tuple[tuple[str, OrganizationConfig], ...] = _key(
        _by_organization, "What holds for an organization.", ()
    )
    no_auth_no_internet: bool = _key(_FLAG, "Without a registration there is no internet.", False)
    no_auth_no_internet_block_rfc_1918: bool = _key(_FLAG, "That goes for private addresses, too.", False)


KEYS: Final = tuple(
    it.name
    for it in dataclasses.fields(Settings)
    if it.name not in ("organization", "display_name", "auth_client_id", "tunneled_apps", "enabled")
    and not it.metadata["secret"]
)
"""What several organizations may share: settings that are words, no names and no secrets."""


def parse(data: bytes) -> Mdm:
    """What the file says. Its dictionary may stand without the frame of a property list. Raises MdmInvalid."""
    return _check(_plist(data), _At([]))


def render(mdm: Mdm) -> bytes:
    """The file; what is as by default is left out. Read again it says the same. Raises MdmInvalid as parse would."""
    entries = _entries(mdm)
    single = mdm.configs[0] if len(mdm.configs) == 1 else None
    if entries.keys() == {"configs"} and single is not None and not single.display_name:
        entries = _entries(single)
    _check(entries, _At([]))
    return plistlib.dumps(entries, fmt=plistlib.FMT_XML, sort_keys=False)


def described(mdm: Mdm) -> Iterator[tuple[str, str, str]]:
    """Each key that is not as by default: its path, its value and what it means. A secret's value is not told."""
    yield from _described(mdm, "")


def advice(mdm: Mdm) -> Iterator[str]:
    """What is allowed but probably not meant."""
    if mdm.multi_user and mdm.pre_login is None:
        yield (
            "multi_user without pre_login: after somebody logs out, traffic goes on as theirs until the next person"
            " logs in; disable fast user switching, or set pre_login"
        )
    if mdm.no_auth_no_internet_block_rfc_1918 and not mdm.no_auth_no_internet:
        yield "no_auth_no_internet_block_rfc_1918 does nothing without no_auth_no_internet"
    for number, settings in enumerate(mdm.configs):
        if settings.enabled is not None:
            yield f"configs[{number}].enabled is obsolete: use switch_locked and auto_connect"
    named = {settings.organization for settings in mdm.configs}
    for organization, _ in mdm.organization_configs:
        if organization not in named:
            yield f"organization_configs.{organization} is of no organization in configs"


def has_secrets(mdm: Mdm) -> bool:
    """Whether the file must not be read by everybody."""
    return mdm.pre_login is not None or any(it.auth_client_secret or it.warp_connector_token for it in mdm.configs)


class _Once(dict[str, Any]):
    """A dictionary of the file. Of a key that is there twice nobody could tell which of the two counts."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            raise ValueError(f"the key {key!r} is there twice")
        super().__setitem__(key, value)


def _plist(data: bytes) -> Any:
    """The values of a property list in XML. Neither entities nor declarations of a document type are read."""
    if len(data) > MAX_SIZE:
        raise _refused(f"the file is longer than {MAX_SIZE} bytes")
    if not data.strip():
        raise _refused("the file is empty")
    try:
        text = _DOCTYPE.sub("", data.decode("utf-8-sig"), count=1)
        if "<!DOCTYPE" in text:
            raise _refused("it declares a document type of its own, which no property list needs")
        return plistlib.loads(text.encode(), fmt=plistlib.FMT_XML, dict_type=_Once)
    except MdmInvalid:
        raise
    # What plistlib and the parser below it raise for bytes that are no property list.
    except (ValueError, ExpatError, AttributeError, LookupError, TypeError) as error:
        raise _refused(f"it is not a property list in XML: {error}") from None


def _refused(message: str) -> MdmInvalid:
    return MdmInvalid((Fault("", message),))


def _check(value: Any, at: _At) -> Mdm:
    mdm = _top(value, at)
    if at.faults:
        raise MdmInvalid(tuple(at.faults))
    return mdm


def _top(value: Any, at: _At) -> Mdm:
    """The file with `configs`, or the settings of one organization at its top."""
    entries = value if isinstance(value, dict) else {}
    single, whole = _names(Settings), _names(Mdm)
    if "configs" in entries:
        for name in entries.keys() & single:
            at.key(name).wrong("beside configs it belongs into each of its entries")
        mdm: Mdm = _read(Mdm, {name: one for name, one in entries.items() if name not in single}, at)
        for number, settings in enumerate(mdm.configs):
            # One that could not be read has been told of.
            if settings != Settings() and not settings.display_name:
                at.key("configs").item(number).key("display_name").wrong("it is required")
        _check_environments(mdm, at)
        return mdm
    if alone := sorted(entries.keys() & whole):
        at.key("configs").wrong(f"it is required beside {alone[0]}")
        return Mdm()
    return Mdm(configs=(_read(Settings, value, at, also=whole),))


def _read(of: type[T], value: Any, at: _At, also: frozenset[str] = frozenset()) -> T:
    """The dictionary as a dataclass; `also` are names that were meant where a key is unknown."""
    if not isinstance(value, dict):
        at.wrong("it is a dictionary")
        return of()
    if not value and not at.path:
        at.wrong("it is empty")
        return of()
    kinds = {it.name: it.metadata["kind"] for it in dataclasses.fields(of)}  # type: ignore[arg-type]
    entries = {}
    for name, given in value.items():
        if (kind := kinds.get(name)) is None:
            at.key(name).wrong(_unknown(name, {*kinds, *also}))
        else:
            entries[name] = kind(given, at.key(name))
    read = of(**entries)
    if (check := _CHECKS.get(of)) is not None:
        check(read, at)
    return read


def _unknown(name: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), 1) if len(name) <= MAX_KEY else []
    return f"there is no such key; is {nearest[0]} meant?" if nearest else "there is no such key"


def _check_settings(it: Settings, at: _At) -> None:
    if not (it.organization or it.gateway_unique_id or it.warp_connector_token):
        at.key("organization").wrong("it is required")
    _check_pair(it.auth_client_id, it.auth_client_secret, at)
    if it.proxy_port is not None and it.service_mode != "proxy":
        at.key("proxy_port").wrong("it is for service_mode proxy alone")
    if it.external_emergency_signal_fingerprint and not it.external_emergency_signal_url:
        at.key("external_emergency_signal_url").wrong("it is required beside external_emergency_signal_fingerprint")


def _check_pair(client_id: str, client_secret: str, at: _At) -> None:
    if bool(client_id) != bool(client_secret):
        missing = "auth_client_secret" if client_id else "auth_client_id"
        at.key(missing).wrong("auth_client_id and auth_client_secret come together")


def _check_pre_login(it: PreLogin, at: _At) -> None:
    for name in ("organization", "auth_client_id", "auth_client_secret"):
        if not getattr(it, name):
            at.key(name).wrong("it is required")


def _check_app(it: TunneledApp, at: _At) -> None:
    if not it.app_identifier:
        at.key("app_identifier").wrong("it is required")


_CHECKS: Final[Mapping[type, Callable[[Any, _At], None]]] = {
    Settings: _check_settings,
    PreLogin: _check_pre_login,
    TunneledApp: _check_app,
}


def _check_environments(mdm: Mdm, at: _At) -> None:
    """One organization is in one cloud."""
    seen = {name: it.environment for name, it in mdm.organization_configs if it.environment is not None}
    said = dict(seen)
    for number, settings in enumerate(mdm.configs):
        own = settings.environment or said.get(settings.organization) or "normal"
        if seen.setdefault(settings.organization, own) != own:
            at.key("configs").item(number).key("environment").wrong("an organization is in one environment")


def _names(of: type) -> frozenset[str]:
    return frozenset(it.name for it in dataclasses.fields(of))


def _changed(value: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields that are not as by default."""
    for it in dataclasses.fields(value):
        if (now := getattr(value, it.name)) != it.default:
            yield it, now


def _entries(value: Any) -> dict[str, Any]:
    return {it.name: _plain(now) for it, now in _changed(value)}


def _plain(value: Any) -> Any:
    """As a property list has it."""
    if dataclasses.is_dataclass(value):
        return _entries(value)
    if not isinstance(value, tuple):
        return value
    if value and isinstance(value[0], tuple):
        return {name: _entries(one) for name, one in value}
    return [_entries(one) for one in value]


def _described(value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    for it, now in _changed(value):
        where, meaning = f"{path}.{it.name}" if path else it.name, it.metadata["meaning"]
        if it.metadata["secret"]:
            yield where, "(hidden)", meaning
        elif dataclasses.is_dataclass(now):
            yield from _described(now, where)
        elif isinstance(now, tuple):
            for number, one in enumerate(now):
                inner = (f"{where}.{one[0]}", one[1]) if isinstance(one, tuple) else (f"{where}[{number}]", one)
                yield from _described(inner[1], inner[0])
        else:
            yield where, ("yes" if now else "no") if isinstance(now, bool) else str(now), meaning

"""What a device's interface has to be, and what makes it so. Pure: no socket, no process, no clock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)
from typing import Any, Final

from guardhouse.registry.v1 import registry_pb2 as registry

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

EVERYTHING: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
TUNNELED: Final = (registry.ServiceMode.MODE_UNSPECIFIED, registry.ServiceMode.MODE_WARP)
NO_KEY: Final = bytes(32)
"""What takes an interface's private key away."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Whom a device's tunnel leads to."""

    public_key: bytes
    endpoint: str
    """HOST:PORT; the host may be a name."""
    keepalive: int = 25
    """Seconds between packets that keep the way through a NAT open. 0: none."""
    mtu: int = 1420


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An interface that leads to a gateway."""

    private_key: bytes = field(repr=False)
    public_key: bytes
    """The gateway's."""
    endpoints: tuple[str, ...]
    """Where it is, as WireGuard writes it: the interface keeps any of these, and is given the first."""
    keepalive: int
    mtu: int
    addresses: frozenset[str]
    networks: frozenset[str]
    """What is sent through it, and taken from it."""


@dataclass(frozen=True, slots=True)
class Present:
    """What an interface has of WireGuard."""

    private_key: bytes = field(default=NO_KEY, repr=False)
    peers: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)
    """`endpoint`, `keepalive`, `networks` and the `time` of the last handshake of each, by its key."""


@dataclass(frozen=True, slots=True)
class Link:
    """What an interface has of addresses and routes."""

    mtu: int = 0
    is_up: bool = False
    addresses: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()


def is_tunneled(configuration: registry.DeviceConfiguration) -> bool:
    """Whether the profile sends traffic through a tunnel of WireGuard."""
    settings = configuration.settings
    modes = (*TUNNELED, registry.ServiceMode.MODE_TUNNEL_ONLY)
    return settings.service_mode.mode in modes and settings.tunnel_protocol != registry.TUNNEL_TYPE_MASQUE


def networks(
    settings: registry.DeviceProfileSettings, gateway: Iterable[Address], control_plane: Iterable[Address]
) -> list[Network]:
    """What goes through the tunnel by a split tunnel.

    The gateway itself is reached outside of it, and so is the control plane where everything goes through it but what
    is named. Host names are not resolved: see `hosts`.
    """
    includes = settings.WhichOneof("split_tunnel") == "include"
    named = [ip_network(it.address) for it in _routes(settings) if it.WhichOneof("target") == "address"]
    if includes:
        return _without(named, map(ip_network, gateway))
    return _without(EVERYTHING, [*named, *map(ip_network, gateway), *map(ip_network, control_plane)])


def hosts(settings: registry.DeviceProfileSettings) -> list[str]:
    """The host names of a split tunnel, which an interface's routes cannot have."""
    return [it.host for it in _routes(settings) if it.WhichOneof("target") == "host"]


def _routes(settings: registry.DeviceProfileSettings) -> Sequence[registry.Route]:
    kind = settings.WhichOneof("split_tunnel")
    return getattr(settings, kind).routes if kind else ()


def _without(wanted: Iterable[Network], left_out: Iterable[Network]) -> list[Network]:
    """The networks with others taken out, as few as can be."""
    wanted, left_out = list(wanted), list(left_out)
    found: list[Network] = []
    for version, address in ((4, IPv4Address), (6, IPv6Address)):
        holes = sorted((int(it[0]), int(it[-1])) for it in left_out if it.version == version)
        for first, last in _merged((int(it[0]), int(it[-1])) for it in wanted if it.version == version):
            for begin, end in _gaps(first, last, holes):
                found += summarize_address_range(address(begin), address(end))
    return found


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _gaps(first: int, last: int, holes: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """What is left of a range; the holes are sorted and may overlap."""
    for begin, end in holes:
        if end < first:
            continue
        if begin > last:
            break
        if begin > first:
            yield first, begin - 1
        first = end + 1
    if first <= last:
        yield first, last


# What is said to the interface


def parse(answer: bytes) -> Present:
    """What an answer to get=1 says."""
    private_key, peers = NO_KEY, {}
    peer: dict[str, Any] = {}
    for line in answer.decode().splitlines():
        name, _, value = line.partition("=")
        match name:
            case "private_key":
                private_key = bytes.fromhex(value)
            case "public_key":
                peer = peers[bytes.fromhex(value)] = {"endpoint": "", "keepalive": 0, "networks": set(), "time": 0}
            case "endpoint":
                peer["endpoint"] = value
            case "persistent_keepalive_interval":
                peer["keepalive"] = int(value)
            case "allowed_ip":
                peer["networks"].add(value)
            case "last_handshake_time_sec":
                peer["time"] = int(value)
    return Present(private_key, peers)


def configuration(wanted: Tunnel | None, present: Present) -> bytes | None:
    """The operation that makes an interface what is wanted; None where it is so. Without a tunnel it has no key and no
    peer."""
    if wanted is None:
        if present.private_key == NO_KEY and not present.peers:
            return None
        return f"set=1\nprivate_key={NO_KEY.hex()}\nreplace_peers=true\n\n".encode()
    peer = present.peers.get(wanted.public_key)
    if (
        peer is not None
        and len(present.peers) == 1
        and present.private_key == clamped(wanted.private_key)
        and peer["endpoint"] in wanted.endpoints
        and peer["keepalive"] == wanted.keepalive
        and peer["networks"] == wanted.networks
    ):
        return None
    # A peer that stays keeps its session: what changes its networks does not wait for a handshake. With another key of
    # its own an interface has no session left, and only a peer that is new asks for one before there is traffic.
    stays = present.private_key == clamped(wanted.private_key)
    gone = [key for key in present.peers if key != wanted.public_key or not stays]
    return _encoded([f"private_key={wanted.private_key.hex()}", *_removed(gone), *_peer(wanted)])


def again(wanted: Tunnel) -> bytes:
    """The operation that has an interface ask its peer for a handshake now: one that is new does not wait until the
    last attempt has come to nothing."""
    return _encoded([*_removed([wanted.public_key]), *_peer(wanted)])


def _removed(keys: Iterable[bytes]) -> list[str]:
    return [line for key in keys for line in (f"public_key={key.hex()}", "remove=true")]


def _peer(of: Tunnel) -> list[str]:
    return [
        f"public_key={of.public_key.hex()}",
        f"endpoint={of.endpoints[0]}",
        f"persistent_keepalive_interval={of.keepalive}",
        "replace_allowed_ips=true",
        *(f"allowed_ip={network}" for network in sorted(of.networks)),
    ]


def _encoded(lines: Iterable[str]) -> bytes:
    return "\n".join(["set=1", *lines, "", ""]).encode()


def clamped(private_key: bytes) -> bytes:
    """As an interface keeps it (RFC 7748, section 5)."""
    return bytes([private_key[0] & 248, *private_key[1:31], private_key[31] & 127 | 64])


def commands(name: str, wanted: Tunnel | None, present: Link) -> list[str]:
    """Lines for `ip -batch` that make an interface's addresses and routes what is wanted; what goes, goes first."""
    addresses = wanted.addresses if wanted else frozenset()
    routed = wanted.networks if wanted else frozenset()
    lines = [f"route del {it} dev {name}" for it in sorted(present.networks - routed)]
    lines += [f"address del {it} dev {name}" for it in sorted(present.addresses - addresses)]
    if wanted and (present.mtu != wanted.mtu or not present.is_up):
        lines.append(f"link set dev {name} mtu {wanted.mtu} up")
    lines += [f"address add {it} dev {name}" for it in sorted(addresses - present.addresses)]
    # Taking an address away, or the interface down, takes routes with it.
    lines += [f"route replace {it} dev {name}" for it in sorted(routed - present.networks)]
    return lines


def parse_link(addresses: Sequence[Mapping[str, Any]], *routes: Sequence[Mapping[str, Any]]) -> Link:
    """What `ip -json address show dev NAME` and `ip -json route show dev NAME` say; of the latter one for each family.

    Without what the kernel has made by itself.
    """
    (link,) = addresses
    own = frozenset(
        f"{it['local']}/{it['prefixlen']}" for it in link.get("addr_info", []) if it.get("scope") == "global"
    )
    found = set()
    for everything, family in zip(EVERYTHING, routes, strict=True):
        for it in family:
            if it.get("protocol") != "kernel":
                found.add(str(everything if it["dst"] == "default" else ip_network(it["dst"])))
    return Link(link.get("mtu", 0), "UP" in link.get("flags", []), own, frozenset(found))


def without_ipv6(tunnel: Tunnel) -> Tunnel:
    """For a machine that has none."""

    def keep(texts: frozenset[str]) -> frozenset[str]:
        return frozenset(it for it in texts if ":" not in it)

    return replace(tunnel, addresses=keep(tunnel.addresses), networks=keep(tunnel.networks))


def endpoint_of(address: Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT or [ADDRESS]:PORT. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [2001:db8::1]:51820")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{text!r} is no HOST:PORT, such as gateway.example.com:51820")
    return host, int(port)

"""What an interface has to be, and the least that makes it so."""

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.agent.tunnel import (
    Link,
    Present,
    Tunnel,
    again,
    clamped,
    commands,
    configuration,
    hosts,
    is_tunneled,
    networks,
    parse,
    parse_link,
    split_endpoint,
    without_ipv6,
)
from guardhouse.registry.v1 import registry_pb2 as pb

GATEWAY = ip_address("203.0.113.1")
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
TUNNEL = Tunnel(
    private_key=OTHER,
    public_key=KEY,
    endpoints=("203.0.113.1:51820", "[2001:db8::1]:51820"),
    keepalive=25,
    mtu=1420,
    addresses=frozenset({"100.96.0.1/32", "fd00::1/128"}),
    networks=frozenset({"100.96.0.0/12", "fd00::/64"}),
)
SUBNETS = st.one_of(
    st.builds(lambda number, bits: f"{ip_address(number)}/{bits}", st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda number, bits: f"{ip_address(number)}/{bits}", st.integers(2**32, 2**128 - 1), st.integers(0, 128)),
).map(lambda text: str(ip_network(text, strict=False)))


def split(kind: str, *targets: str) -> pb.DeviceProfileSettings:
    made = pb.DeviceProfileSettings()
    routes = getattr(made, kind)
    routes.SetInParent()
    for target in targets:
        routes.routes.add(**{"host" if target[-1].isalpha() else "address": target})
    return made


@given(st.sampled_from(["include", "exclude"]), st.lists(SUBNETS, max_size=20), st.data())
def test_a_split_tunnel_holds_what_it_says(kind: str, named: list[str], data: st.DataObject) -> None:
    control_plane = ip_address("198.51.100.7")
    found = networks(split(kind, *named), [GATEWAY], [control_plane])
    wanted = [ip_network(it) for it in named]
    probes = [GATEWAY, control_plane, *(edge for it in wanted for edge in (it[0], it[-1]))]
    probes += [ip_address(data.draw(st.integers(0, 2**32 - 1))), ip_address(data.draw(st.integers(2**33, 2**128 - 1)))]
    for probe in probes:
        is_named = any(probe in it for it in wanted)
        expected = probe != GATEWAY and (is_named if kind == "include" else not is_named and probe != control_plane)
        assert any(probe in it for it in found) == expected, probe
    # None is in another.
    assert (
        sum(it.num_addresses for it in found) == len({it[0] for it in found})
        or len(found) <= 1
        or not any(
            one != two and one.version == two.version and one.overlaps(two)
            for one in random.sample(found, min(20, len(found)))
            for two in found
        )
    )


def test_a_thousand_exclusions_take_no_time() -> None:
    named = [f"{number >> 8}.{number & 255}.7.0/24" for number in range(256, 1256)]
    found = networks(split("exclude", *named), [GATEWAY], [])
    assert len(found) > 1000


def test_names_are_told_and_not_taken_for_networks() -> None:
    said = split("include", "10.0.0.0/8", "*.example.com", "wiki.example.com")
    assert hosts(said) == ["*.example.com", "wiki.example.com"]
    assert list(map(str, networks(said, [GATEWAY], []))) == ["10.0.0.0/8"]


def test_only_some_profiles_make_a_tunnel() -> None:
    for mode, protocol, expected in (
        (pb.ServiceMode.MODE_WARP, pb.TUNNEL_TYPE_UNSPECIFIED, True),
        (pb.ServiceMode.MODE_TUNNEL_ONLY, pb.TUNNEL_TYPE_WIREGUARD, True),
        (pb.ServiceMode.MODE_WARP, pb.TUNNEL_TYPE_MASQUE, False),
        (pb.ServiceMode.MODE_POSTURE_ONLY, pb.TUNNEL_TYPE_WIREGUARD, False),
    ):
        said = pb.DeviceProfileSettings(service_mode=pb.ServiceMode(mode=mode), tunnel_protocol=protocol)
        assert is_tunneled(pb.DeviceConfiguration(settings=said)) == expected


def answered(tunnel: Tunnel, endpoint: str = "203.0.113.1:51820") -> Present:
    """What an interface answers that was set up so."""
    lines = [
        f"private_key={clamped(tunnel.private_key).hex()}",
        "listen_port=1",
        f"public_key={tunnel.public_key.hex()}",
    ]
    lines += [f"endpoint={endpoint}", "last_handshake_time_sec=7", f"persistent_keepalive_interval={tunnel.keepalive}"]
    return parse("\n".join([*lines, *(f"allowed_ip={it}" for it in tunnel.networks), "errno=0", "", ""]).encode())


def test_an_interface_is_told_only_what_it_is_not() -> None:
    assert configuration(TUNNEL, answered(TUNNEL)) is None
    # Of several addresses of a gateway it keeps the one that it has.
    assert configuration(TUNNEL, answered(TUNNEL, "[2001:db8::1]:51820")) is None
    assert configuration(None, Present()) is None
    for other in (
        replace(TUNNEL, private_key=KEY),
        replace(TUNNEL, public_key=OTHER),
        replace(TUNNEL, endpoints=("203.0.113.2:1",)),
        replace(TUNNEL, keepalive=0),
        replace(TUNNEL, networks=frozenset({"0.0.0.0/0"})),
    ):
        assert configuration(other, answered(TUNNEL)) is not None
    said = (configuration(replace(TUNNEL, public_key=OTHER), answered(TUNNEL)) or b"").decode().splitlines()
    assert said[said.index(f"public_key={KEY.hex()}") + 1] == "remove=true"
    assert said[-2:] != ["", ""]
    # With another key it asks for a handshake at once; with other networks it keeps the session that it has.
    removed = f"public_key={KEY.hex()}\nremove=true\n".encode()
    assert removed in (configuration(replace(TUNNEL, private_key=KEY), answered(TUNNEL)) or b"")
    assert removed not in (configuration(replace(TUNNEL, keepalive=0), answered(TUNNEL)) or b"")
    assert removed + f"public_key={KEY.hex()}\nendpoint=".encode() in again(TUNNEL)
    gone = (configuration(None, answered(TUNNEL)) or b"").decode()
    assert f"private_key={bytes(32).hex()}\nreplace_peers=true\n" in gone


def test_addresses_and_routes_are_what_differs() -> None:
    up = Link(1420, True, TUNNEL.addresses, TUNNEL.networks)
    assert commands("wg0", TUNNEL, up) == []
    assert commands("wg0", None, Link(1420, True)) == []
    assert commands("wg0", TUNNEL, Link())[0] == "link set dev wg0 mtu 1420 up"
    foreign = replace(up, addresses=up.addresses | {"10.0.0.1/24"}, networks=up.networks | {"10.0.0.0/8"})
    assert commands("wg0", TUNNEL, foreign) == ["route del 10.0.0.0/8 dev wg0", "address del 10.0.0.1/24 dev wg0"]
    assert sorted(commands("wg0", None, up)) == sorted(
        [f"route del {it} dev wg0" for it in up.networks] + [f"address del {it} dev wg0" for it in up.addresses]
    )
    assert all(":" not in line for line in commands("wg0", without_ipv6(TUNNEL), Link()))


def test_what_ip_says_is_read() -> None:
    addresses = [
        {
            "mtu": 1420,
            "flags": ["POINTOPOINT", "UP"],
            "addr_info": [
                {"family": "inet", "local": "100.96.0.1", "prefixlen": 32, "scope": "global"},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        }
    ]
    four = [{"dst": "default"}, {"dst": "10.1.2.3", "protocol": "static"}, {"dst": "10.0.0.0/8", "protocol": "kernel"}]
    six = [{"dst": "default"}, {"dst": "fe80::/64", "protocol": "kernel"}]
    found = parse_link(addresses, four, six)
    assert found == Link(1420, True, frozenset({"100.96.0.1/32"}), frozenset({"0.0.0.0/0", "10.1.2.3/32", "::/0"}))


def test_an_endpoint_is_a_host_and_a_port() -> None:
    assert split_endpoint("gateway.example.com:51820") == ("gateway.example.com", 51820)
    assert split_endpoint("[2001:db8::1]:1") == ("2001:db8::1", 1)
    for text in ("gateway.example.com", "2001:db8::1:51820", "host:0", "host:65536", ":1", "host:x", "[x]:1"):
        with pytest.raises(ValueError, match=r"."):
            split_endpoint(text)


def test_secrets_are_in_no_representation() -> None:
    assert str(TUNNEL.private_key) not in repr(TUNNEL)
    assert str(answered(TUNNEL).private_key) not in repr(answered(TUNNEL))

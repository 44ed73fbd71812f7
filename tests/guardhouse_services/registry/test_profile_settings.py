"""The settings of device profiles: their defaults, their limits, and which field is at fault (domain 2)."""

from typing import Any

import pytest

from guardhouse.device_profiles import DeviceProfile, Mode, Settings
from guardhouse.errors import DurationInvalid, FieldRequired, InvalidField
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services import requests
from guardhouse_services.registry import reading
from guardhouse_services.registry.messages import to_configuration, to_settings
from guardhouse_services.registry.store.device_profiles import default

ORGANIZATION = "org_" + "1" * 32
EXCLUDED = (
    "10.0.0.0/8 100.64.0.0/10 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.168.0.0/16 224.0.0.0/24 240.0.0.0/4"
    " 255.255.255.255/32 fe80::/10 fd00::/8 ff01::/16 ff02::/16 ff03::/16 ff04::/16 ff05::/16"
)
SUFFIXES = "intranet internal private localdomain domain lan home host corp local localhost home.arpa invalid test"


UNSET = Settings()


def read(base: Settings = UNSET, **sent: Any) -> Settings:
    return reading.settings(pb.DeviceProfileSettings(**sent), "settings", base)


def routes(*targets: str, **fields: str) -> pb.Routes:
    return pb.Routes(routes=[pb.Route(address=target, **fields) for target in targets])


def hosts(*targets: str) -> pb.Routes:
    return pb.Routes(routes=[pb.Route(host=target) for target in targets])


def suffixes(*names: str) -> pb.SearchSuffixes:
    return pb.SearchSuffixes(suffixes=names)


def fallback(*names: str, **fields: Any) -> pb.FallbackDomains:
    return pb.FallbackDomains(domains=[pb.FallbackDomain(suffix=name, **fields) for name in names])


def mode(value: Any, port: int | None = None) -> pb.ServiceMode:
    return pb.ServiceMode(mode=value, port=port)


def test_the_defaults_are_those_of_the_public_api() -> None:
    """domain 2: the table of settings, field by field."""
    told = to_settings(Settings())
    plain = {
        "allow_mode_switch": False,
        "allow_updates": False,
        "allowed_to_leave": True,
        "auto_connect": "0s",
        "captive_portal": "3m0s",
        "disable_auto_fallback": False,
        "exclude_office_ips": False,
        "register_interface_ip_with_dns": True,
        "sccm_vpn_boundary_support": False,
        "support_url": "",
        "switch_locked": False,
        "uninstall_protection": False,
        "tunnel_protocol": pb.TUNNEL_TYPE_UNSPECIFIED,
    }
    assert {name: getattr(told, name) for name in plain} == plain
    assert told.service_mode == mode(pb.ServiceMode.MODE_WARP)
    assert not list(told.dns_search_suffixes.suffixes)
    assert " ".join(route.address for route in told.exclude.routes) == EXCLUDED
    assert " ".join(it.suffix for it in told.fallback_domains.domains) == SUFFIXES
    absent = ("lan_allow", "lan_allow_subnet_size", "virtual_networks", "include")
    assert not {field.name for field, _ in told.ListFields()} & set(absent)
    # Nothing is left out.
    fields = {field.name for field in pb.DeviceProfileSettings.DESCRIPTOR.fields}
    lists = {"dns_search_suffixes", "fallback_domains", "exclude", "service_mode"}
    assert fields == {*plain, *absent, *lists}


WHOLE: dict[str, Any] = {
    "allow_mode_switch": True,
    "allow_updates": True,
    "allowed_to_leave": False,
    "auto_connect": "10m0s",
    "captive_portal": "1m30s",
    "disable_auto_fallback": True,
    "exclude_office_ips": True,
    "register_interface_ip_with_dns": False,
    "sccm_vpn_boundary_support": True,
    "support_url": "https://help.example.com/vpn?from=client",
    "switch_locked": True,
    "uninstall_protection": True,
    "tunnel_protocol": pb.TUNNEL_TYPE_MASQUE,
    "service_mode": mode(pb.ServiceMode.MODE_PROXY, 8080),
    "lan_allow": "0s",
    "lan_allow_subnet_size": 28,
    "dns_search_suffixes": suffixes("corp.example.com", "example.com"),
    "virtual_networks": pb.VirtualNetworks(allowed=["berlin", "paris"], default="paris"),
    "fallback_domains": fallback("corp.example.com", description="Ours", dns_servers=["10.0.0.53", "fd00::53"]),
    "include": hosts("wiki.example.com", "*.corp.example.com"),
}


def test_what_is_written_is_read_again_to_the_letter() -> None:
    """By devices, and from the database, where an older release may have left out what it did not know."""
    settings = read(**WHOLE)
    assert to_settings(settings) == pb.DeviceProfileSettings(**WHOLE)
    stored = requests.remember(settings)
    assert requests.recall(Settings, {"value": stored}) == settings
    del stored["switch_locked"]
    assert requests.recall(Settings, {"value": {**stored, "of_a_later_release": 1}}) == read(
        **{**WHOLE, "switch_locked": False}
    )


@pytest.mark.parametrize("name", WHOLE)
def test_a_setting_that_is_absent_is_as_in_the_base(name: str) -> None:
    base = read(**WHOLE)
    assert read(base) == base
    sent = {name: WHOLE[name]}
    changed = to_settings(read(**sent))
    assert getattr(changed, name) == WHOLE[name]
    others = [it for it in WHOLE if it != name and changed.HasField(it)]  # type: ignore[arg-type]
    assert all(getattr(changed, it) == getattr(to_settings(Settings()), it) for it in others)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"auto_connect": "1m"}, {"auto_connect": "1m0s"}),
        ({"auto_connect": "24h"}, {"auto_connect": "24h0m0s"}),
        ({"auto_connect": "0"}, {"auto_connect": "0s"}),
        ({"captive_portal": "0s"}, {"captive_portal": "0s"}),
        ({"captive_portal": "180s"}, {"captive_portal": "3m0s"}),
        ({"lan_allow": "0s"}, {"lan_allow": "0s"}),
        ({"lan_allow": "1440m"}, {"lan_allow": "24h0m0s"}),
        ({"lan_allow_subnet_size": 24}, {"lan_allow_subnet_size": 24}),
        ({"lan_allow_subnet_size": 32}, {"lan_allow_subnet_size": 32}),
        ({"support_url": ""}, {"support_url": ""}),
        ({"support_url": "mailto:help@example.com"}, {"support_url": "mailto:help@example.com"}),
        (
            {"service_mode": mode(pb.ServiceMode.MODE_PROXY)},
            {"service_mode": mode(pb.ServiceMode.MODE_PROXY, 40_000)},
        ),
        (
            {"dns_search_suffixes": suffixes("Corp.", "corp", "B.Example")},
            {"dns_search_suffixes": suffixes("corp", "b.example")},
        ),
        ({"exclude": routes("2001:DB8::/32", "10.0.0.7")}, {"exclude": routes("2001:db8::/32", "10.0.0.7/32")}),
        ({"exclude": pb.Routes()}, {"exclude": pb.Routes()}),
        ({"include": hosts("*.Example.com.")}, {"include": hosts("*.example.com")}),
        ({"dns_search_suffixes": suffixes(*(f"n{it}.example" for it in range(25)))}, {}),
        ({"exclude": routes(*(f"10.{it // 256}.{it % 256}.0/24" for it in range(1000)))}, {}),
        ({"fallback_domains": fallback(*(f"n{it}.example" for it in range(100)))}, {}),
        (
            {"virtual_networks": pb.VirtualNetworks(allowed=["v", "v"], default="v")},
            {"virtual_networks": pb.VirtualNetworks(allowed=["v"], default="v")},
        ),
    ],
)
def test_what_is_within_its_limits_has_a_normal_form(sent: dict[str, Any], shown: dict[str, Any]) -> None:
    told = to_settings(read(**sent))
    assert {name: getattr(told, name) for name in shown} == shown


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"auto_connect": "59s"}, "auto_connect"),
        ({"auto_connect": "24h0m1s"}, "auto_connect"),
        ({"auto_connect": "-1m"}, "auto_connect"),
        ({"auto_connect": "10"}, "auto_connect"),
        ({"captive_portal": "24h0m1s"}, "captive_portal"),
        ({"captive_portal": ""}, "captive_portal"),
        ({"lan_allow": "30s"}, "lan_allow"),
        ({"lan_allow": "25h"}, "lan_allow"),
        ({"lan_allow_subnet_size": 23}, "lan_allow_subnet_size"),
        ({"lan_allow_subnet_size": 33}, "lan_allow_subnet_size"),
        ({"support_url": "javascript:alert(1)"}, "support_url"),
        ({"support_url": "https://"}, "support_url"),
        ({"support_url": "help.example.com"}, "support_url"),
        ({"support_url": "https://[::1"}, "support_url"),
        ({"support_url": "https://x.example/" + "a" * 2048}, "support_url"),
        ({"tunnel_protocol": 9}, "tunnel_protocol"),
        ({"service_mode": mode(0)}, "service_mode.mode"),
        ({"service_mode": mode(9)}, "service_mode.mode"),
        ({"service_mode": mode(pb.ServiceMode.MODE_WARP, 1)}, "service_mode.port"),
        ({"service_mode": mode(pb.ServiceMode.MODE_PROXY, 0)}, "service_mode.port"),
        ({"service_mode": mode(pb.ServiceMode.MODE_PROXY, 65_536)}, "service_mode.port"),
        ({"dns_search_suffixes": suffixes(*["a.example"] * 26)}, "dns_search_suffixes.suffixes"),
        ({"dns_search_suffixes": suffixes("a", "b c")}, "dns_search_suffixes.suffixes[1]"),
        ({"dns_search_suffixes": suffixes("x" * 64)}, "dns_search_suffixes.suffixes[0]"),
        ({"dns_search_suffixes": suffixes(".".join(["x" * 60] * 5))}, "dns_search_suffixes.suffixes[0]"),
        ({"virtual_networks": pb.VirtualNetworks(default="a")}, "virtual_networks.allowed"),
        ({"virtual_networks": pb.VirtualNetworks(allowed=["a"])}, "virtual_networks.default"),
        ({"virtual_networks": pb.VirtualNetworks(allowed=["a"], default="b")}, "virtual_networks.default"),
        ({"virtual_networks": pb.VirtualNetworks(allowed=["a"] * 101, default="a")}, "virtual_networks.allowed"),
        ({"fallback_domains": fallback(*["a.example"] * 101)}, "fallback_domains.domains"),
        ({"fallback_domains": fallback("a.example", "A.example.")}, "fallback_domains.domains[1].suffix"),
        ({"fallback_domains": fallback("")}, "fallback_domains.domains[0].suffix"),
        ({"fallback_domains": fallback("a", dns_servers=["10.0.0.0/8"])}, "fallback_domains.domains[0].dns_servers[0]"),
        ({"fallback_domains": fallback("a", dns_servers=["10.0.0.1"] * 11)}, "fallback_domains.domains[0].dns_servers"),
        ({"fallback_domains": fallback("a", description="x" * 101)}, "fallback_domains.domains[0].description"),
        ({"exclude": routes("10.0.0.1/8")}, "exclude.routes[0].address"),
        ({"exclude": routes("10.0.0.0/8", "10.0.0.0/8")}, "exclude.routes[1].address"),
        ({"exclude": routes("fe80::1%eth0")}, "exclude.routes[0].address"),
        ({"exclude": routes(*["10.0.0.0/8"] * 1001)}, "exclude.routes"),
        ({"exclude": routes("10.0.0.0/8", description="x" * 101)}, "exclude.routes[0].description"),
        ({"include": pb.Routes(routes=[pb.Route()])}, "include.routes[0].address"),
        ({"include": hosts("*")}, "include.routes[0].host"),
        ({"include": hosts("a.*.example")}, "include.routes[0].host"),
        ({"include": hosts("a.example", "A.example")}, "include.routes[1].host"),
    ],
)
def test_what_is_beyond_its_limits_is_refused_by_name(sent: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read(**sent)
    assert refused.value.field == f"settings.{field}"
    if field in ("auto_connect", "captive_portal", "lan_allow"):
        assert isinstance(refused.value, DurationInvalid)


def profile(**fields: Any) -> pb.DeviceProfile:
    whole: dict[str, Any] = {"name": "Staff", "precedence": 1, "match": 'os.name == "mac"'} | fields
    return pb.DeviceProfile(**whole)


@pytest.mark.parametrize(
    ("fields", "field", "refusal"),
    [
        ({"name": ""}, "name", FieldRequired),
        ({"name": "x" * 101}, "name", InvalidField),
        ({"name": "a\nb"}, "name", InvalidField),
        ({"description": "x" * 501}, "description", InvalidField),
        ({"precedence": None}, "precedence", FieldRequired),
        ({"precedence": 0}, "precedence", InvalidField),
        ({"precedence": -1}, "precedence", InvalidField),
        ({"match": " "}, "match", FieldRequired),
        ({"match": 'os.name == "mac" ' + 'or os.name == "mac" ' * 30}, "match", InvalidField),
        ({"match": "net.dst.ip == 10.0.0.1"}, "match", InvalidField),
        ({"match": "identity.email in $staff"}, "match", InvalidField),
        ({"match": 'identity.email matches "("'}, "match", InvalidField),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_name(
    fields: dict[str, Any], field: str, refusal: type[InvalidField]
) -> None:
    """domain 2: name of at most 100 characters, description and match of at most 500."""
    with pytest.raises(InvalidField) as refused:
        reading.custom(profile(**fields), Settings())
    assert (refused.value.field, type(refused.value)) == (f"device_profile.{field}", refusal)
    if field == "match" and refusal is InvalidField:
        assert "column" in refused.value.message


def test_a_match_is_kept_as_it_is_written() -> None:
    """contracts: as it is written, at the limits, too. The examples are those of the public documentation."""
    longest = 'os.name == "mac"' + " " * 484
    for match in (
        longest,
        (
            'identity.email in {"jdoe@example.com"} or any(identity.groups.name[*] in {"developers"})'
            ' and os.name == "windows"'
        ),
        'identity.email == "x"',
    ):
        made = reading.custom(profile(match=match, name="x" * 100, description="x" * 500), Settings())
        assert made.match == match
    assert len(longest) == 500


def test_a_profile_is_enabled_unless_it_says_otherwise() -> None:
    """domain 2: the default of `enabled` is true."""
    assert reading.custom(profile(), Settings()).enabled
    assert not reading.custom(profile(enabled=False), Settings()).enabled


def test_the_etag_of_a_configuration_is_that_of_its_settings() -> None:
    """The same settings of the same profile have the same one on every replica; the stored one counts."""
    one = DeviceProfile("dpr_1", "One", 1, settings=Settings(switch_locked=True))
    same = DeviceProfile("dpr_1", "Other", 2, match="x", settings=Settings(switch_locked=True))
    assert to_configuration(one).etag == to_configuration(same).etag
    for other in (DeviceProfile("dpr_2", "One", 1, settings=one.settings), DeviceProfile("dpr_1", "One", 1)):
        assert to_configuration(other).etag != to_configuration(one).etag
    assert to_configuration(DeviceProfile("dpr_1", "One", 1, settings_etag="stored")).etag == "stored"
    assert to_configuration(default(ORGANIZATION)).device_profile_id == f"dpr_{'1' * 32}"


def test_the_numbers_of_modes_are_those_of_the_contract() -> None:
    """Pure rules import no messages, so they say the numbers again."""
    assert {0, *map(int, Mode)} == set(pb.ServiceMode.Mode.values())

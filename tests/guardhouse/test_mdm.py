"""The MDM file: what it may say, and that an invalid one is refused as a whole."""

import contextlib
import dataclasses
import plistlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from guardhouse import mdm
from guardhouse.mdm import Mdm, MdmInvalid, OrganizationConfig, PreLogin, Settings, TunneledApp, parse, render

# The two examples of the product that is the model, to the letter.
MULTI_USER = (
    "<dict> <key>multi_user</key> <true/> <key>configs</key> <array> <dict> <key>organization</key>"
    " <string>your-team-name</string> <key>display_name</key> <string>Default</string> </dict> </array></dict>"
)
CLIENT_ID = "88bf3b6d86161464f6509f7219099e57.access"
CLIENT_SECRET = "bdd31cbc4dec990953e39163fbbb194c93313ca9f0a6e420346af9d326b1d2a5"
WITH_PRE_LOGIN = (
    "<dict> <key>multi_user</key> <true/> <key>pre_login</key> <dict>"
    " <key>organization</key> <string>mycompany</string>"
    f" <key>auth_client_id</key> <string>{CLIENT_ID}</string>"
    f" <key>auth_client_secret</key> <string>{CLIENT_SECRET}</string>"
    " </dict> <key>configs</key> <array> <dict> <key>organization</key> <string>mycompany</string>"
    " <key>display_name</key> <string>Production environment</string> </dict> <dict> <key>organization</key>"
    " <string>test-org</string> <key>display_name</key> <string>Test environment</string> </dict> </array></dict>"
)


def plist(**entries: Any) -> bytes:
    return plistlib.dumps(entries, fmt=plistlib.FMT_XML)


def faults(data: bytes) -> dict[str, str]:
    with pytest.raises(MdmInvalid) as refused:
        parse(data)
    return {fault.path: fault.message for fault in refused.value.faults}


def config(**entries: Any) -> dict[str, Any]:
    return {"organization": "acme", "display_name": "Acme", **entries}


def test_the_examples_of_multi_user_mode_are_read_to_the_letter() -> None:
    """Decision 19: a bare dictionary, without the frame of a property list."""
    assert parse(MULTI_USER.encode()) == Mdm(
        multi_user=True, configs=(Settings(organization="your-team-name", display_name="Default"),)
    )
    assert parse(WITH_PRE_LOGIN.encode()) == Mdm(
        multi_user=True,
        pre_login=PreLogin("mycompany", CLIENT_ID, CLIENT_SECRET),
        configs=(
            Settings(organization="mycompany", display_name="Production environment"),
            Settings(organization="test-org", display_name="Test environment"),
        ),
    )


def test_a_file_of_one_organization_has_its_settings_at_the_top() -> None:
    read = parse(plist(organization="acme", auto_connect=0, switch_locked=True))
    assert read == Mdm(configs=(Settings(organization="acme", auto_connect=0, switch_locked=True),))
    assert not read.multi_user
    assert b"configs" not in render(read)


def test_what_is_not_said_is_as_by_default() -> None:
    (it,) = parse(plist(organization="acme")).configs
    assert (it.auto_connect, it.switch_locked, it.onboarding, it.allow_managed_deployments) == (None, False, True, True)
    assert (it.service_mode, it.warp_tunnel_protocol, it.external_emergency_signal_interval) == ("warp", "masque", 300)
    assert (it.enable_netbt, it.enable_pmtud, it.environment) == (False, None, None)


@pytest.mark.parametrize("data", [b"", b" \n\t", "\ufeff".encode()])
def test_an_empty_file_is_refused(data: bytes) -> None:
    assert list(faults(data)) == [""]


@pytest.mark.parametrize(
    "data",
    [
        b"<dict/>",
        b"<plist version='1.0'><dict></dict></plist>",
        b"<plist version='1.0'><array/></plist>",
        b"<plist version='1.0'></plist>",
        b"<dict><key>organization</key></dict>",
        b"<dict><string>organization</string><string>acme</string></dict>",
        b"<dict><key>organization</key><string>acme</string>",
        b"<dict><key>organization</key><date>never</date></dict>",
        b"<dict><key>organization</key><integer>" + b"9" * 5000 + b"</integer></dict>",
        b"<?xml version='1.0' encoding='klingon'?><dict><key>organization</key><string>acme</string></dict>",
        MULTI_USER.encode("utf-16"),
        plistlib.dumps({"organization": "acme"}, fmt=plistlib.FMT_BINARY),
        b'{"organization": "acme"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_property_list_with_a_dictionary_is_refused(data: bytes) -> None:
    assert list(faults(data)) == [""]


def test_a_key_that_is_there_twice_is_refused() -> None:
    twice = "<dict><key>organization</key><string>a</string><key>organization</key><string>b</string></dict>"
    assert "twice" in faults(twice.encode())[""]


def test_neither_entities_nor_another_document_type_are_read() -> None:
    """A file of a few bytes must not become gigabytes, and none makes us read another file."""
    bomb = '<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    apples = 'PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd"'
    for doctype in (
        f"<!DOCTYPE plist [{bomb}]>",
        '<!DOCTYPE plist SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "https://example.com/other.dtd">',
        f"<!DOCTYPE plist {apples} [{bomb}]>",
        f"<!DOCTYPE plist {apples}><!DOCTYPE plist [{bomb}]>",
    ):
        text = f"{doctype}<plist><dict><key>organization</key><string>&b;</string></dict></plist>"
        assert list(faults(text.encode())) == [""]
    assert b"<!DOCTYPE" in plist(organization="acme")
    assert parse(plist(organization="acme")).configs  # Apple's own is what every tool writes.


def test_a_file_that_is_too_long_is_refused_unread() -> None:
    padded = plist(organization="acme") + b" " * mdm.MAX_SIZE
    assert "longer than" in faults(padded)[""]


def test_deep_nesting_costs_nothing() -> None:
    deep = b"<dict><key>configs</key>" + b"<array>" * 15_000 + b"</array>" * 15_000 + b"</dict>"
    assert list(faults(deep)) == ["configs[0]"]


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ({"auto_connect": 1441}, "auto_connect"),
        ({"auto_connect": -1}, "auto_connect"),
        ({"auto_connect": True}, "auto_connect"),
        ({"auto_connect": "5"}, "auto_connect"),
        ({"switch_locked": 1}, "switch_locked"),
        ({"switch_locked": "true"}, "switch_locked"),
        ({"organization": ""}, "organization"),
        ({"organization": "a" * 256}, "organization"),
        ({"display_name": "two\nlines"}, "display_name"),
        ({"auth_client_id": CLIENT_ID}, "auth_client_secret"),
        ({"auth_client_secret": "x"}, "auth_client_id"),
        ({"auth_client_id": "x", "auth_client_secret": "x"}, "auth_client_id"),
        ({"service_mode": "off"}, "service_mode"),
        ({"service_mode": "proxy", "proxy_port": 0}, "proxy_port"),
        ({"service_mode": "proxy", "proxy_port": 65536}, "proxy_port"),
        ({"proxy_port": 40000}, "proxy_port"),
        ({"warp_tunnel_protocol": "ipsec"}, "warp_tunnel_protocol"),
        ({"support_url": "example.com"}, "support_url"),
        ({"support_url": "javascript:alert(1)"}, "support_url"),
        ({"override_api_endpoint": "1.2.3"}, "override_api_endpoint"),
        ({"override_doh_endpoint": "1.2.3.4:53"}, "override_doh_endpoint"),
        ({"override_warp_endpoint": "1.2.3.4"}, "override_warp_endpoint"),
        ({"override_warp_endpoint": "2001:db8::1:2408"}, "override_warp_endpoint"),
        ({"override_warp_endpoint": "1.2.3.4:0"}, "override_warp_endpoint"),
        ({"unique_client_id": "1234"}, "unique_client_id"),
        ({"environment": "moon"}, "environment"),
        ({"external_emergency_signal_url": "http://192.0.2.1/"}, "external_emergency_signal_url"),
        ({"external_emergency_signal_url": "https://example.com/"}, "external_emergency_signal_url"),
        ({"external_emergency_signal_fingerprint": "0" * 64}, "external_emergency_signal_url"),
        ({"external_emergency_signal_interval": 29}, "external_emergency_signal_interval"),
        ({"tunneled_apps": [{"is_browser": True}]}, "tunneled_apps[0].app_identifier"),
        ({"tunneled_apps": []}, "tunneled_apps"),
    ],
)
def test_a_value_that_its_key_cannot_have_is_named_by_its_path(entries: dict[str, Any], path: str) -> None:
    """One invalid value refuses the whole file."""
    at_the_top = {"organization": "acme", **entries}
    assert list(faults(plist(**at_the_top))) == [path]
    assert list(faults(plist(configs=[config(), config(**entries)]))) == [f"configs[1].{path}"]


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ({"configs": []}, "configs"),
        ({"configs": [config()] * 26}, "configs"),
        ({"configs": ["acme"]}, "configs[0]"),
        ({"configs": [{"organization": "acme"}]}, "configs[0].display_name"),
        ({"configs": [{"display_name": "Acme"}]}, "configs[0].organization"),
        ({"multi_user": True}, "configs"),
        ({"multi_user": True, "organization": "acme"}, "configs"),
        ({"configs": [config()], "organization": "acme"}, "organization"),
        ({"configs": [config()], "multi_user": "yes"}, "multi_user"),
        ({"configs": [config()], "pre_login": {"organization": "acme", "auth_client_id": CLIENT_ID}}, "pre_login"),
        ({"configs": [config()], "organization_configs": {"acme": {"environment": "x"}}}, "organization_configs.acme"),
        ({"configs": [config()], "organization_configs": {"": {}}}, "organization_configs"),
        ({"configs": [config(environment="fedramp_high"), config()]}, "configs[1].environment"),
        (
            {
                "configs": [config(), config(environment="normal")],
                "organization_configs": {"acme": {"environment": "fedramp_high"}},
            },
            "configs[1].environment",
        ),
    ],
)
def test_the_keys_fit_together(entries: dict[str, Any], path: str) -> None:
    (found,) = faults(plist(**entries))
    assert found.startswith(path)


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    found = faults(plist(configs=[config(auto_conect=5)], multiuser=True))
    assert found == {
        "multiuser": "there is no such key; is multi_user meant?",
        "configs[0].auto_conect": "there is no such key; is auto_connect meant?",
    }
    assert faults(plist(organization="acme", zzz=1)) == {"zzz": "there is no such key"}
    (path,) = faults(plist(organization="acme", **{"a" * 10_000: 1}))
    assert len(path) == mdm.MAX_KEY


def test_of_many_faults_the_first_are_told() -> None:
    assert len(faults(plist(organization="acme", **{f"key{number}": 1 for number in range(1000)}))) == mdm.MAX_FAULTS


def test_what_is_probably_not_meant_is_said() -> None:
    said = " ".join(mdm.advice(parse(MULTI_USER.encode())))
    assert "fast user switching" in said
    assert not list(mdm.advice(parse(WITH_PRE_LOGIN.encode())))
    obsolete = parse(plist(organization="acme", enabled=True))
    assert list(mdm.advice(obsolete)) == ["configs[0].enabled is obsolete: use switch_locked and auto_connect"]
    nobody = parse(plist(configs=[config()], organization_configs={"other": {"hardware_backed_registration": True}}))
    assert "other" in " ".join(mdm.advice(nobody))
    alone = parse(plist(configs=[config()], no_auth_no_internet_block_rfc_1918=True))
    assert "does nothing" in " ".join(mdm.advice(alone))


def test_no_secret_is_described_or_represented() -> None:
    """Neither pre_login's, nor a service token's, nor a connector's."""
    for data in (
        WITH_PRE_LOGIN.encode(),
        plist(organization="acme", auth_client_id=CLIENT_ID, auth_client_secret=CLIENT_SECRET),
        plist(warp_connector_token=CLIENT_SECRET),
    ):
        read = parse(data)
        assert mdm.has_secrets(read)
        assert CLIENT_SECRET not in f"{read!r} {list(mdm.described(read))}"
        assert CLIENT_SECRET.encode() in render(read)
    assert not mdm.has_secrets(parse(MULTI_USER.encode()))


def test_every_key_is_described_that_is_not_as_by_default() -> None:
    rows = {path: value for path, value, meaning in mdm.described(parse(WITH_PRE_LOGIN.encode())) if meaning}
    assert rows["multi_user"] == "yes"
    assert rows["configs[1].display_name"] == "Test environment"
    assert rows["pre_login.auth_client_secret"] == "(hidden)"


def test_what_clients_would_refuse_is_not_written() -> None:
    for made in (Mdm(), Mdm(multi_user=True), Mdm(configs=(Settings(organization="a\0"),))):
        with pytest.raises(MdmInvalid):
            render(made)


TEXTS = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=20)
ADDRESSES = st.ip_addresses().map(str)
FLAGS = st.booleans()
ENVIRONMENTS = st.sampled_from(["normal", "fedramp_high"])


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    token = draw(st.booleans())
    url = draw(st.one_of(st.just(""), st.ip_addresses(v=4).map("https://{}/signal".format)))
    mode = draw(st.sampled_from(["warp", "1dot1", "proxy", "postureonly", "tunnelonly"]))
    return Settings(
        organization=f"c{draw(TEXTS)}",
        display_name=draw(TEXTS),
        auth_client_id=CLIENT_ID if token else "",
        auth_client_secret=draw(TEXTS) if token else "",
        auto_connect=draw(st.none() | st.integers(0, 1440)),
        switch_locked=draw(FLAGS),
        service_mode=mode,
        proxy_port=draw(st.none() | st.integers(1, 65535)) if mode == "proxy" else None,
        warp_tunnel_protocol=draw(st.sampled_from(["masque", "wireguard"])),
        onboarding=draw(FLAGS),
        support_url=draw(st.sampled_from(["", "https://help.example/?a=b&c", "mailto:help@example.com"])),
        gateway_unique_id=draw(st.just("") | TEXTS),
        override_api_endpoint=draw(st.just("") | ADDRESSES),
        override_doh_endpoint=draw(st.just("") | ADDRESSES),
        override_warp_endpoint=draw(st.sampled_from(["", "203.0.113.1:2408", "[2001:db8::1]:443"])),
        unique_client_id=draw(st.just("") | st.uuids().map(str)),
        enable_netbt=draw(FLAGS),
        enable_pmtud=draw(st.none() | FLAGS),
        enable_post_quantum=draw(st.none() | FLAGS),
        allow_managed_deployments=draw(FLAGS),
        local_emergency_signal_enabled=draw(st.none() | FLAGS),
        external_emergency_signal_url=url,
        external_emergency_signal_fingerprint="ab" * 32 if url and draw(FLAGS) else "",
        external_emergency_signal_interval=draw(st.integers(30, 86_400)),
        warp_connector_token=draw(st.just("") | TEXTS),
        tunneled_apps=tuple(draw(st.lists(st.builds(TunneledApp, TEXTS, FLAGS), max_size=3))),
        enabled=draw(st.none() | FLAGS),
    )


ORGANIZATION_CONFIGS = st.dictionaries(
    TEXTS, st.builds(OrganizationConfig, st.none() | ENVIRONMENTS, FLAGS), max_size=3
)
FILES = st.builds(
    Mdm,
    multi_user=FLAGS,
    pre_login=st.none() | st.builds(PreLogin, TEXTS, st.just(CLIENT_ID), TEXTS),
    configs=st.lists(settings(), min_size=1, max_size=4).map(tuple),
    # Of other organizations than the configs, whose environments must fit.
    organization_configs=ORGANIZATION_CONFIGS.map(
        lambda it: tuple(sorted((f"o{name}", one) for name, one in it.items()))
    ),
    no_auth_no_internet=FLAGS,
    no_auth_no_internet_block_rfc_1918=FLAGS,
)


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FILES)
def test_what_is_written_reads_the_same(made: Mdm) -> None:
    assert parse(render(made)) == made
    assert parse(render(made).replace(b"\n", b" ")) == made
    list(mdm.described(made))
    list(mdm.advice(made))


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(settings())
def test_a_single_organization_reads_the_same(one: Settings) -> None:
    made = Mdm(configs=(dataclasses.replace(one, display_name=""),))
    assert parse(render(made)) == made


@given(st.binary(max_size=300) | st.text(alphabet="<>/!?&;dictkeyarsnguo0 \n\"'-", max_size=300).map(str.encode))
def test_no_bytes_are_read_as_anything_but_a_file(data: bytes) -> None:
    for text in (data, b"<dict>" + data + b"</dict>", MULTI_USER.encode().replace(b"Default", data)):
        with contextlib.suppress(MdmInvalid):
            assert isinstance(parse(text), Mdm)


def test_the_guide_names_every_key() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "mdm.md").read_text()
    for of in (Mdm, Settings, PreLogin, OrganizationConfig, TunneledApp):
        for key in dataclasses.fields(of):
            assert f"`{key.name}`" in guide, key.name

"""`devices show`: what an administrator of a device looks at, on one screen."""

import json

from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.cli.commands import NOON, ORGANIZATION, USER, Run
from tests.guardhouse.scripted import ScriptedServer

TOKEN = "svt_" + "5" * 32
LAPTOP = registry.Device(
    device_id="dev_1",
    claims=registry.DeviceClaims(hardware_id="HW-1", display_name="Ada's laptop", mac_address="02:42:ac:11:00:02"),
    active_registrations=2,
    tags={"site": "Ulm"},
    create_time=NOON,
)
OF_USER = registry.Registration(
    registration_id="reg_1",
    device_id="dev_1",
    user_id=USER,
    state=registry.REGISTRATION_STATE_ACTIVE,
    public_key=bytes(32),
    ipv4="100.96.0.1",
    ipv6="fd00::1",
    tunnel_type=registry.TUNNEL_TYPE_WIREGUARD,
    create_time=NOON,
)
OF_TOKEN = registry.Registration(
    registration_id="reg_2",
    device_id="dev_1",
    service_token_id=TOKEN,
    state=registry.REGISTRATION_STATE_REVOKED,
    public_key=bytes(91),
    ipv4="100.96.0.2",
    ipv6="fd00::2",
    tunnel_type=registry.TUNNEL_TYPE_MASQUE,
    revoke_time=NOON,
)


def prepare(installation: ScriptedServer, *registrations: registry.Registration) -> None:
    installation.answers |= {
        "GetDevice": registry.GetDeviceResponse(device=LAPTOP),
        "ListRegistrations": registry.ListRegistrationsResponse(registrations=registrations),
        "GetUser": identity.GetUserResponse(user=identity.User(user_id=USER, email="ada@example.com")),
        "GetServiceToken": identity.GetServiceTokenResponse(
            service_token=identity.ServiceToken(service_token_id=TOKEN, display_name="CI runners")
        ),
    }


def test_a_device_is_shown_with_whose_it_is(run: Run, installation: ScriptedServer) -> None:
    prepare(installation, OF_USER, OF_TOKEN, OF_USER)
    lines = [" ".join(line.split()) for line in run("devices show dev_1").stdout.splitlines()]
    assert "display name Ada's laptop" in lines
    assert "tags site=Ulm" in lines
    states = lines.index("HOLDER STATE REGISTRATION ID SEEN TIME CREATE TIME REVOKE TIME")
    assert lines[states + 1].startswith("ada@example.com active reg_1 - 2026")
    assert lines[states + 2].startswith("CI runners revoked reg_2 - - 2026")
    connections = lines.index("REGISTRATION ID IPV4 IPV6 TUNNEL TYPE PUBLIC KEY")
    assert lines[connections + 1] == f"reg_1 100.96.0.1 fd00::1 wireguard {'A' * 43}="
    assert lines[connections + 2] == f"reg_2 100.96.0.2 fd00::2 masque {'A' * 44}\u2026"
    (asked,) = installation.requests("ListRegistrations")
    assert asked == registry.ListRegistrationsRequest(
        organization_id=ORGANIZATION,
        device_id="dev_1",
        state=registry.REGISTRATION_FILTER_ALL,
        order_by="seen_time desc",
        page_size=51,
    )
    assert len(installation.requests("GetUser")) == 1


def test_a_device_is_one_document_for_programs(run: Run, installation: ScriptedServer) -> None:
    prepare(installation, OF_USER, OF_TOKEN)
    shown = json.loads(run("--json devices show dev_1").stdout)
    assert shown["device"]["claims"]["mac_address"] == "02:42:ac:11:00:02"
    assert [each["registration_id"] for each in shown["registrations"]] == ["reg_1", "reg_2"]
    assert [each["email"] for each in shown["users"]] == ["ada@example.com"]
    assert [each["display_name"] for each in shown["service_tokens"]] == ["CI runners"]


def test_one_who_is_not_shown_has_an_id(run: Run, installation: ScriptedServer) -> None:
    prepare(installation, OF_USER)
    installation.answers["GetUser"] = errors.UserNotFound(USER)
    shown = run("devices show dev_1")
    assert f"{USER}  active" in shown.stdout
    assert json.loads(run("devices show dev_1 --json").stdout)["users"] == []


def test_many_registrations_are_cut_and_said_to_go_on(run: Run, installation: ScriptedServer) -> None:
    prepare(installation, OF_USER, OF_TOKEN)
    shown = run("devices show dev_1 --limit 1")
    assert "reg_2" not in shown.stdout
    assert "guardhouse registrations list --state all --device dev_1" in shown.stderr
    prepare(installation)
    assert "STATE" not in run("devices show dev_1").stdout

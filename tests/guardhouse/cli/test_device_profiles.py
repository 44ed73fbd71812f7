"""Device profiles from flags and files."""

import json
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.cli import output
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.guardhouse.cli.commands import ORGANIZATION, Run, words
from tests.guardhouse.scripted import ScriptedServer

PROFILE = pb.DeviceProfile(
    device_profile_id="dpr_1",
    name="Laptops",
    precedence=20,
    match='os.name == "mac"',
    enabled=True,
    settings=pb.DeviceProfileSettings(
        allow_updates=True,
        auto_connect="10m0s",
        service_mode=pb.ServiceMode(mode=pb.ServiceMode.MODE_PROXY, port=40_000),
        exclude=pb.Routes(routes=[pb.Route(address="10.0.0.0/8", description="Ours")]),
        fallback_domains=pb.FallbackDomains(domains=[pb.FallbackDomain(suffix="corp", dns_servers=["10.0.0.53"])]),
    ),
    create_time=Timestamp(seconds=1),
    etag="now",
)


@pytest.fixture
def server(installation: ScriptedServer) -> ScriptedServer:
    installation.answers["GetDeviceProfile"] = pb.GetDeviceProfileResponse(device_profile=PROFILE)
    installation.answers["ListDeviceProfiles"] = pb.ListDeviceProfilesResponse(device_profiles=[PROFILE])
    installation.answers["CreateDeviceProfile"] = pb.CreateDeviceProfileResponse(device_profile=PROFILE)
    installation.answers["UpdateDeviceProfile"] = pb.UpdateDeviceProfileResponse(
        device_profile=PROFILE, warnings=["match, column 1: it is not anchored"]
    )
    return installation


def test_a_profile_that_was_shown_is_a_file_to_create_one_from(
    run: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    """What the server sets is left out, and what is named beside the file wins."""
    file = tmp_path / "profile.json"
    file.write_text(run(f"profiles show dpr_1 -o {ORGANIZATION} --json").stdout)
    line = f"profiles create Kiosks --file {file} --set auto_connect=5m --exclude 10.1.0.0/16 -o {ORGANIZATION}"
    run(f"{line} --precedence 7")
    sent = server.requests("CreateDeviceProfile")[-1].device_profile
    wanted = pb.DeviceProfile()
    wanted.CopyFrom(PROFILE)
    for name in ("device_profile_id", "create_time", "etag"):
        wanted.ClearField(name)
    wanted.name, wanted.precedence, wanted.settings.auto_connect = "Kiosks", 7, "5m"
    wanted.settings.exclude.CopyFrom(pb.Routes(routes=[pb.Route(address="10.1.0.0/16")]))
    # As JSON has them, empty lists are there.
    assert output.as_dict(sent) == output.as_dict(wanted)


def test_a_file_in_toml_changes_what_it_names(run: Run, server: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    file.write_text('name = "New"\n[settings]\nswitch_locked = true\ninclude.routes = [{host = "a.example"}]\n')
    shown = run(f"profiles update dpr_1 --file {file} --reset captive_portal -o {ORGANIZATION}")
    assert "warning: match, column 1" in shown.stderr
    sent = server.requests("UpdateDeviceProfile")[-1]
    paths = ["name", "settings.switch_locked", "settings.include", "settings.captive_portal"]
    assert list(sent.update_mask.paths) == paths
    assert (sent.device_profile.etag, sent.device_profile.name) == ("now", "New")
    assert sent.device_profile.settings.include.routes[0].host == "a.example"


def test_a_new_profile_comes_behind_all_others(run: Run, server: ScriptedServer) -> None:
    run(f"profiles create New --match 'network == \"office\"' -o {ORGANIZATION}")
    assert server.requests("CreateDeviceProfile")[-1].device_profile.precedence == 30


@pytest.mark.parametrize(
    "line",
    [
        "create x --match y --set colour=blue",
        "create x --match y --set auto_connect",
        "create x --match y --set allow_updates=perhaps",
        "create x --match y --set virtual_networks=a",
        "create x --match y --exclude 10.0.0.0/8 --include a.example",
        "create x --match y --set service_mode=nothing",
        "create x --match y --set tunnel_protocol=nothing",
        "create x --file nowhere.json",
        "update dpr_1",
        "update dpr_1 --reset colour",
        "match reg_1 --email ada@example.com",
    ],
)
def test_what_is_not_clear_is_not_sent(run: Run, server: ScriptedServer, line: str) -> None:
    more = "--precedence 1" if line.startswith("create") else ""
    assert words(run(f"profiles {line} {more} -o {ORGANIZATION}", exit_code=2).stderr)
    changing = ("CreateDeviceProfile", "UpdateDeviceProfile", "MatchDeviceProfile")
    assert not [name for name in changing if server.requests(name)]


def test_a_file_that_is_no_profile_is_refused(run: Run, server: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    for text in ("[]", "{", json.dumps({"colour": "blue"}), json.dumps({"settings": {"auto_connect": 7}})):
        file.write_text(text)
        assert run(f"profiles create x --file {file} --precedence 1 -o {ORGANIZATION}", exit_code=2).stderr
    assert not server.requests("CreateDeviceProfile")


def test_a_list_says_how_far_matching_is(run: Run, server: ScriptedServer) -> None:
    answer = server.answers["ListDeviceProfiles"]
    assert isinstance(answer, pb.ListDeviceProfilesResponse)
    answer.matching.request_time.seconds, answer.matching.registrations_checked = 1, 500
    answer.matching.registrations_moved = 3
    assert "500 registrations so far, of which 3" in run(f"profiles list -o {ORGANIZATION}").stderr
    answer.matching.end_time.seconds = 2
    assert "so far" not in run(f"profiles list -o {ORGANIZATION}").stderr


def test_a_match_ends_with_the_profile_that_somebody_gets(run: Run, server: ScriptedServer) -> None:
    answer = pb.MatchDeviceProfileResponse(device_profile_id="dpr_1", name="Laptops")
    answer.steps.add(device_profile_id="dpr_1", name="Laptops", precedence=20, matched=True, decides=True)
    server.answers["MatchDeviceProfile"] = answer
    shown = run(f"profiles match --network office -o {ORGANIZATION}").stdout.splitlines()
    assert shown[-1] == "dpr_1 Laptops"
    assert "20" in shown[1]

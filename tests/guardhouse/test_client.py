"""guardhouse.connect() and guardhouse.aio.connect(): where they find an installation, and what they offer."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import guardhouse
from guardhouse import aio, client, errors, keys, revisions
from guardhouse.common.v1 import access_pb2
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.enrollment import Enrollment, enroll, enroll_aio, render_wireguard
from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse.profile import SERVICES, Profile, ProfileInvalid, find
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse_services import tls
from tests.clock import FakeClock
from tests.guardhouse.scripted import DeviceRegistry, ScriptedServer

SECRET = "ghk_key_1_of_the_file"
GET_USER = pb.GetUserRequest(organization_id="org_1", user_id="usr_1")


@pytest.fixture(autouse=True)
def answers(installation: ScriptedServer, profile: Profile) -> None:
    installation.answers["GetUser"] = pb.GetUserResponse(user=pb.User(user_id="usr_1"))


def test_the_profile_of_make_run_is_enough(installation: ScriptedServer) -> None:
    with guardhouse.connect() as client:
        assert client.users.GetUser(GET_USER).user.user_id == "usr_1"
    assert installation.calls[0].metadata["authorization"] == f"Bearer {SECRET}"


async def test_the_same_for_asyncio(installation: ScriptedServer) -> None:
    async with guardhouse.aio.connect() as client:
        assert (await client.users.GetUser(GET_USER)).user.user_id == "usr_1"
    assert installation.calls[0].metadata["authorization"] == f"Bearer {SECRET}"


async def test_both_raise_typed_errors(installation: ScriptedServer) -> None:
    installation.answers["GetUser"] = errors.UserNotFound("usr_1")
    with guardhouse.connect() as blocking, pytest.raises(errors.UserNotFound):
        blocking.users.GetUser(GET_USER)
    async with guardhouse.aio.connect() as awaited:
        with pytest.raises(errors.UserNotFound):
            await awaited.users.GetUser(GET_USER)


def test_a_client_reads_its_own_writes_on_every_service(installation: ScriptedServer) -> None:
    text = revisions.encode("identity", "org_1", "first", 7)
    installation.answers["RevokeUser"] = pb.RevokeUserResponse(revision_token=text)
    installation.answers["ListDevices"] = registry.ListDevicesResponse()
    with guardhouse.connect() as client:
        client.users.RevokeUser(pb.RevokeUserRequest(organization_id="org_1", user_id="usr_1"))
        client.devices.ListDevices(registry.ListDevicesRequest(organization_id="org_1"))
    assert list(installation.requests("ListDevices")[0].at_least) == [text]


def test_the_deadline_can_be_chosen(installation: ScriptedServer) -> None:
    with guardhouse.connect(deadline=3.0) as client:
        client.users.GetUser(GET_USER)
    assert 1 < installation.calls[0].seconds_left < 4


@pytest.mark.parametrize("cls", [client.Client, aio.Client])
def test_every_service_that_keys_may_call_is_offered(cls: Any) -> None:
    offered = set()
    for name, stub in vars(cls).items():
        if isinstance(stub, client.Stub):
            made = stub._make(_Paths())
            offered.add(_Paths.of(made))
            assert made is not None, name
    public = set()
    for service in SERVICES:
        contract = importlib.import_module(f"guardhouse.{service}.v1.{service}_pb2").DESCRIPTOR
        for descriptor in contract.services_by_name.values():
            if any(not method.GetOptions().Extensions[access_pb2.access].services for method in descriptor.methods):
                public.add(descriptor.full_name)
    assert offered == public


class _Paths:
    """A channel that gives each method its path."""

    def unary_unary(self, path: str, *_: Any, **__: Any) -> str:
        return path

    stream_stream = unary_unary

    @staticmethod
    def of(stub: Any) -> str:
        return str(next(iter(vars(stub).values()))).split("/")[1]


def test_the_named_profile_wins_over_the_one_that_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Profile(identity="by-environment:1").write(tmp_path / "a.toml")
    Profile(identity="by-path:1").write(tmp_path / "b.toml")
    assert find().identity.startswith("127.0.0.1:")
    monkeypatch.setenv("GUARDHOUSE_PROFILE", str(tmp_path / "a.toml"))
    assert find().identity == "by-environment:1"
    assert find(tmp_path / "b.toml").identity == "by-path:1"


def test_the_environments_key_wins_over_the_files(
    installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDHOUSE_API_KEY", "ghk_of_environment\n")
    assert find().key == "ghk_of_environment"
    with guardhouse.connect(key="ghk_given") as client:
        client.users.GetUser(GET_USER)
    assert installation.calls[0].metadata["authorization"] == "Bearer ghk_given"


def test_what_is_given_wins_over_the_profile(profile: Profile, installation: ScriptedServer) -> None:
    nowhere = Profile(identity="127.0.0.1:1", session="127.0.0.1:1")
    with guardhouse.connect(nowhere, identity=installation.address, ca=profile.ca, key="k") as client:
        client.users.GetUser(GET_USER)
        assert client.profile.session == "127.0.0.1:1"
    assert installation.calls[0].metadata["authorization"] == "Bearer k"


def test_paths_of_a_profile_are_relative_to_it(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'key_file = "keys/admin.key"' in (tmp_path / "var/client.toml").read_text()
    monkeypatch.chdir("/")
    found = find(tmp_path / "var/client.toml")
    assert found.key == SECRET
    assert found.certificates() == profile.certificates()


def test_a_profile_is_written_as_it_is_read(tmp_path: Path) -> None:
    written = Profile(identity='a"b\\ü😀:1', ca=tmp_path / "ca.crt", organization_id="org_1", key="never written")
    written.write(tmp_path / "p.toml")
    assert "never" not in (tmp_path / "p.toml").read_text()
    assert find(tmp_path / "p.toml", key="never written") == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity = ", "is not a profile"),
        ("identiti = 'x'", "no entry 'identiti'; the entries are ca, gateway_endpoint"),
        ("identity = 7401", "identity is a string"),
        ("key_file = 'gone'", "key_file .*gone cannot be read: no such file"),
        ("", "no address is known"),
    ],
)
def test_a_profile_that_cannot_work_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ProfileInvalid, match=message):
        guardhouse.connect(tmp_path / "p.toml")


def test_a_profile_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ProfileInvalid, match=r"profile .*none.toml cannot be read"):
        guardhouse.connect(tmp_path / "none.toml")


def test_an_address_that_is_missing_is_missed_when_it_is_needed(installation: ScriptedServer, profile: Profile) -> None:
    with guardhouse.connect(Profile(identity=installation.address, ca=profile.ca)) as client:
        client.users.GetUser(GET_USER)
        with pytest.raises(ProfileInvalid, match="address of registry"):
            _ = client.devices


def test_a_key_that_no_header_carries_is_refused() -> None:
    with pytest.raises(ProfileInvalid) as raised:
        guardhouse.connect(key="two\nlines")
    assert "two" not in str(raised.value)


def test_secrets_show_in_no_representation() -> None:
    with guardhouse.connect() as client:
        assert SECRET not in repr(client) + repr(vars(client)) + repr(client.profile)
        assert SECRET not in repr(guardhouse.aio.connect())
    made = Enrollment(b"private key", "token", registry.Registration(), registry.Device())
    assert "private key" not in repr(made)
    assert "token='" not in repr(made)


def test_only_the_authority_of_the_profile_is_trusted(profile: Profile, tmp_path: Path) -> None:
    tls.prepare(tmp_path / "other", "guardhouse.local", "127.0.0.1", FakeClock().now())
    with (
        guardhouse.connect(ca=tmp_path / "other" / "ca.crt") as client,
        pytest.raises(errors.ServiceUnavailable, match=rf"identity at {profile.identity} .*CERTIFICATE_VERIFY_FAILED"),
    ):
        client.users.GetUser(GET_USER)


def test_rules_and_errors_load_no_grpc() -> None:
    program = (
        "import sys, guardhouse, guardhouse.errors, guardhouse.decisions, guardhouse.durations, guardhouse.ids\n"
        "assert guardhouse.GuardhouseError is guardhouse.errors.GuardhouseError\n"
        "assert not {'grpc', 'google.protobuf'} & set(sys.modules)\n"
        "assert guardhouse.connect and guardhouse.aio.connect and 'grpc' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


CREDENTIAL = Credential(id_token="signed")
CLAIMS = registry.DeviceClaims(hardware_id="machine")


def test_a_machine_enrolls_with_a_fresh_key_and_proves_it(installation: ScriptedServer) -> None:
    DeviceRegistry(installation)
    with guardhouse.connect() as client:
        made, other = (enroll(client, "org_1", CREDENTIAL, CLAIMS) for _ in range(2))
    assert made.token == "ghr_token"
    assert made.registration.public_key == keys.public_key(made.private_key)
    assert made.private_key != other.private_key
    request = installation.requests("Register")[0]
    assert (request.credential, request.device) == (CREDENTIAL, CLAIMS)
    assert made.wireguard == render_wireguard(made.private_key, "100.96.0.1", "fd00::1")


async def test_a_machine_enrolls_with_asyncio(installation: ScriptedServer) -> None:
    DeviceRegistry(installation)
    async with guardhouse.aio.connect() as client:
        made = await enroll_aio(client, "org_1", CREDENTIAL, CLAIMS, request_id="mine")
    assert made.registration.public_key == keys.public_key(made.private_key)
    assert installation.requests("Register")[0].request_id == "mine"


def test_an_enrollment_is_retried_as_one_request(installation: ScriptedServer) -> None:
    device = DeviceRegistry(installation)
    device.failures = [errors.ServiceUnavailable("no", service="ipam"), errors.EnrollmentAborted("late")]
    with guardhouse.connect() as client:
        enroll(client, "org_1", CREDENTIAL, CLAIMS)
    first, second, third = installation.requests("Register")
    assert first == second == third


def test_the_wireguard_section_is_what_wg_quick_reads() -> None:
    assert render_wireguard(bytes(31) + b"\x40", "100.96.0.1", "fd00::1") == (
        "[Interface]\nPrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\nAddress = 100.96.0.1/32, fd00::1/128\n"
    )

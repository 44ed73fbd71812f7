"""The command line, against a scripted installation."""

import base64
import json
import platform
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from guardhouse import errors
from guardhouse.cli import enroll, invocation, output
from guardhouse.cli.app import app, hoist
from guardhouse.common.v1 import errors_pb2, results_pb2
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.profile import DEFAULT_PATH, Profile
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.scripted import DeviceRegistry, ScriptedServer

ORGANIZATION = "org_" + "1" * 32
USER = "usr_" + "2" * 32
REGISTRATION = "reg_" + "3" * 32
POLICY = "pol_" + "4" * 32
NOON = Timestamp(seconds=1_790_000_000)

Run = Callable[..., Result]


@pytest.fixture
def run(installation: ScriptedServer, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line and checks its exit code."""
    monkeypatch.setenv("COLUMNS", "60")
    one = identity.Organization(organization_id=ORGANIZATION, display_name="Example")
    installation.answers["ListOrganizations"] = identity.ListOrganizationsResponse(organizations=[one])

    def run(line: str, *, exit_code: int = 0, stdin: str = "") -> Result:
        result = CliRunner().invoke(app, line.split(), input=stdin)
        assert result.exit_code == exit_code, result.output
        return result

    return run


@pytest.fixture
def in_tokyo() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


def words(text: str) -> list[str]:
    """The words of a usage error, which is drawn in a box."""
    return [word for word in text.split() if word.strip("│╭╮╰╯─")]


def some_users(count: int) -> list[identity.User]:
    active = identity.SEAT_STATUS_ACTIVE
    return [
        identity.User(user_id=f"usr_{n:032}", email=f"{n}@example.com", seat_status=active, authenticate_time=NOON)
        for n in range(count)
    ]


def paged(users: list[identity.User], size: int) -> Callable[[identity.ListUsersRequest], identity.ListUsersResponse]:
    """A server's list with pages of at most `size`."""

    def answer(request: identity.ListUsersRequest) -> identity.ListUsersResponse:
        start = int(request.page_token or "0")
        end = start + min(size, request.page_size)
        return identity.ListUsersResponse(users=users[start:end], next_page_token=str(end) if end < len(users) else "")

    return answer


@pytest.mark.usefixtures("in_tokyo")
def test_a_list_is_a_table_with_whole_ids_and_local_times(run: Run, installation: ScriptedServer) -> None:
    installation.answers["ListUsers"] = paged(some_users(1), 50)
    header, row = run("users list").stdout.splitlines()
    assert header.split("  ")[0] == "USER ID"
    assert row.split("  ")[0] == f"usr_{0:032}"
    assert "0@example.com" in row
    assert "active" in row
    assert row.endswith("2026-09-21 23:13:20")


def test_a_list_goes_through_all_pages(run: Run, installation: ScriptedServer) -> None:
    installation.answers["ListUsers"] = paged(some_users(25), 10)
    found = json.loads(run("users list --json").stdout)
    assert len(found["users"]) == 25
    assert found["next_page_token"] == ""
    assert len(installation.requests("ListUsers")) == 3


def test_a_list_stops_at_its_limit(run: Run, installation: ScriptedServer) -> None:
    installation.answers["ListUsers"] = paged(some_users(25), 10)
    assert len(run("users list --limit 12").stdout.splitlines()) == 1 + 12
    assert [request.page_size for request in installation.requests("ListUsers")] == [12, 2]


def test_an_empty_list_says_so_beside_the_answer(run: Run, installation: ScriptedServer) -> None:
    installation.answers["ListUsers"] = identity.ListUsersResponse()
    result = run("users list")
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == "There is none.\n"
    assert json.loads(run("users list --json").stdout)["users"] == []


def test_json_is_one_document_with_the_contracts_names(run: Run, installation: ScriptedServer) -> None:
    usage = identity.GetSeatUsageResponse(used=3, purchased=10, available=7)
    installation.answers["GetSeatUsage"] = usage
    result = run("seats --json")
    assert json.loads(result.stdout) == {"purchased": "10", "used": "3", "available": "7"}
    assert result.stderr == ""


def test_a_record_says_what_absence_means(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetOrganization"] = identity.GetOrganizationResponse(
        organization=identity.Organization(organization_id=ORGANIZATION)
    )
    lines = run("organizations show").stdout.splitlines()
    assert f"organization id  {ORGANIZATION}" in lines
    assert "seat limit       unlimited" in lines
    assert "update time      -" in lines


def test_of_a_oneof_only_what_is_set_is_shown(run: Run, installation: ScriptedServer) -> None:
    made = registry.Registration(registration_id=REGISTRATION, service_token_id="svt_1", public_key=bytes(32))
    installation.answers["GetRegistration"] = registry.GetRegistrationResponse(registration=made)
    shown = run(f"registrations show {REGISTRATION}").stdout
    assert "service token id  svt_1\n" in shown
    assert "user id" not in shown
    assert base64.b64encode(bytes(32)).decode() in shown


def test_names_cannot_steer_the_terminal(run: Run, installation: ScriptedServer) -> None:
    user = identity.User(user_id=USER, display_name="\x1b[2J[red]Eve\x07")
    installation.answers["GetUser"] = identity.GetUserResponse(user=user)
    assert "\ufffd[2J[red]Eve\ufffd" in run(f"users show {USER}").stdout
    assert "\x1b" not in run(f"users show {USER} --json").stdout
    installation.answers["GetUser"] = errors.UserNotFound("x", "no \x1b[2J")
    assert "\x1b" not in run(f"users show {USER}", exit_code=1).stderr


def test_the_only_organization_need_not_be_named(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetSeatUsage"] = identity.GetSeatUsageResponse()
    run("seats")
    assert installation.requests("GetSeatUsage")[0].organization_id == ORGANIZATION


def test_a_named_organization_wins(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    installation.answers["GetSeatUsage"] = identity.GetSeatUsageResponse()
    Profile(identity=profile.identity, ca=profile.ca, organization_id="by-profile").write(DEFAULT_PATH)
    run("seats")
    monkeypatch.setenv("GUARDHOUSE_ORGANIZATION", "by-environment")
    run("seats")
    run("-o by-option seats")
    run("seats -oby-option")
    run("seats --organization=by-option")
    names = [request.organization_id for request in installation.requests("GetSeatUsage")]
    assert names == ["by-profile", "by-environment", "by-option", "by-option", "by-option"]
    assert not installation.requests("ListOrganizations")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (identity.ListOrganizationsResponse(), "guardhouse organizations create NAME"),
        (identity.ListOrganizationsResponse(organizations=[identity.Organization()] * 2), "there are several"),
        (errors.AccessDenied("not of the installation"), "this key cannot list the organizations"),
    ],
)
def test_without_one_organization_it_must_be_named(
    run: Run, installation: ScriptedServer, answer: Any, message: str
) -> None:
    installation.answers["ListOrganizations"] = answer
    assert message in " ".join(words(run("seats", exit_code=2).stderr))


def test_global_options_may_stand_anywhere() -> None:
    given = ["users", "list", "--profile", "p", "--email", "e", "--json", "-o", "org", "--", "--json"]
    assert hoist(given) == ["--profile", "p", "--json", "-o", "org", "users", "list", "--email", "e", "--", "--json"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            errors.CredentialsMissing("it needs an API key"),
            "error: it needs an API key [CREDENTIALS_MISSING]; set GUARDHOUSE_API_KEY, or key_file in the profile\n",
        ),
        (
            errors.UserNotFound(USER),
            f"error: no user '{USER}' [USER_NOT_FOUND]; the list command shows what there is\n",
        ),
        (errors.Internal("the server failed"), "error: the server failed [INTERNAL]; request id trace-1\n"),
        (
            errors.RateLimited("too many calls", retry_after=7),
            "error: too many calls [RATE_LIMITED]; try again in 7.0 s\n",
        ),
    ],
)
def test_a_failure_is_one_line_with_its_reason_and_what_to_do(
    run: Run, installation: ScriptedServer, error: errors.GuardhouseError, line: str
) -> None:
    installation.answers["GetUser"] = error
    result = run(f"users show {USER}", exit_code=1)
    assert result.stderr == line
    assert result.stdout == ""


def test_a_server_that_is_down_is_named_with_what_to_do(
    run: Run, installation: ScriptedServer, profile: Profile
) -> None:
    installation.answers["GetUser"] = grpc.StatusCode.UNAVAILABLE
    said = run(f"users show {USER}", exit_code=1).stderr
    assert f"identity at {profile.identity} cannot be reached" in said
    assert "is it running? `make run`" in said


def test_a_missing_profile_is_no_traceback(run: Run) -> None:
    said = run("seats --profile none.toml", exit_code=1).stderr
    assert said == "error: profile none.toml cannot be read: no such file or directory\n"


def test_a_fault_of_ours_is_not_dressed_up(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(output, "print_record", fail)
    installation.answers["GetSeatUsage"] = identity.GetSeatUsageResponse()
    assert isinstance(run("seats", exit_code=1).exception, ZeroDivisionError)


def test_nothing_is_deleted_unasked(run: Run, installation: ScriptedServer) -> None:
    installation.answers["DeletePolicy"] = session.DeletePolicyResponse()
    assert "pass --yes" in " ".join(words(run(f"policies delete {POLICY}", exit_code=2).stderr))
    assert not installation.requests("DeletePolicy")
    assert run(f"policies delete {POLICY} --yes").stdout == f"{POLICY} deleted\n"
    assert installation.requests("DeletePolicy")[0].policy_id == POLICY


def test_whoever_can_be_asked_is_asked(run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "is_interactive", lambda: True)
    installation.answers["DeletePolicy"] = session.DeletePolicyResponse()
    refused = run(f"policies delete {POLICY}", exit_code=1, stdin="n\n")
    assert f"Delete {POLICY}? [y/N]" in refused.stderr
    assert not installation.requests("DeletePolicy")
    run(f"policies delete {POLICY}", stdin="y\n")
    assert len(installation.requests("DeletePolicy")) == 1


def test_every_command_that_destroys_can_be_told_yes() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, commands in group.commands.items():
        for verb, command in getattr(commands, "commands", {}).items():
            destroys = verb in ("delete", "remove") or (name, verb) == ("keys", "revoke")
            assert destroys == any(parameter.name == "yes" for parameter in command.params), f"{name} {verb}"


def test_a_secret_goes_to_stdout_once_with_a_word_beside_it(run: Run, installation: ScriptedServer) -> None:
    made = identity.ApiKey(api_key_id="key_1", display_name="Gateway")
    installation.answers["CreateApiKey"] = identity.CreateApiKeyResponse(api_key=made, secret="ghk_secret")
    result = run("keys create Gateway --role gateway --expires-in 720h")
    assert result.stdout.count("ghk_secret") == 1
    assert "ghk_secret" not in result.stderr
    assert "store it now" in result.stderr
    request = installation.requests("CreateApiKey")[0]
    assert request.organization_id == ORGANIZATION
    assert request.api_key.role == 3
    now = Timestamp()
    now.GetCurrentTime()
    assert request.api_key.expire_time.seconds - now.seconds == pytest.approx(720 * 3600, abs=60)
    run("keys create Everything --role admin --installation")
    assert installation.requests("CreateApiKey")[1].organization_id == ""
    assert "unknown unit 'd'" in " ".join(words(run("keys create X --role admin --expires-in 1d", exit_code=2).stderr))


def test_seat_limits_are_numbers_or_unlimited(run: Run, installation: ScriptedServer) -> None:
    installation.answers["UpdateOrganization"] = lambda request: identity.UpdateOrganizationResponse(
        organization=request.organization
    )
    run("organizations set-seat-limit 25")
    run("organizations set-seat-limit unlimited")
    numbered, unlimited = installation.requests("UpdateOrganization")
    assert numbered.organization.seat_limit == 25
    assert not unlimited.organization.HasField("seat_limit")
    assert list(numbered.update_mask.paths) == list(unlimited.update_mask.paths) == ["seat_limit"]
    run("organizations set-seat-limit many", exit_code=2)


def test_rules_of_an_enrollment_policy_are_written_as_they_are_shown(run: Run, installation: ScriptedServer) -> None:
    behind = identity.EnrollmentPolicy(precedence=30)
    installation.answers["ListEnrollmentPolicies"] = identity.ListEnrollmentPoliciesResponse(
        enrollment_policies=[behind, identity.EnrollmentPolicy(precedence=20)]
    )
    installation.answers["CreateEnrollmentPolicy"] = lambda request: identity.CreateEnrollmentPolicyResponse(
        enrollment_policy=request.enrollment_policy
    )
    shown = run(
        "enrollment-policies create Staff --include email-domain=example.com --include group=a=b"
        " --require everyone --exclude email=eve@example.com"
    ).stdout
    policy = installation.requests("CreateEnrollmentPolicy")[0].enrollment_policy
    assert policy == identity.EnrollmentPolicy(
        display_name="Staff",
        decision=identity.ENROLLMENT_DECISION_ALLOW,
        precedence=40,
        include=[
            identity.EnrollmentRule(email_domain="example.com"),
            identity.EnrollmentRule(group="a=b"),
        ],
        require=[identity.EnrollmentRule(everyone=identity.Everyone())],
        exclude=[identity.EnrollmentRule(email="eve@example.com")],
    )
    assert policy.require[0].HasField("everyone")
    for text in ("email-domain=example.com, group=a=b", "everyone", "email=eve@example.com"):
        assert text in shown
    for wrong in ("nobody", "email", "everyone=yes"):
        run(f"enrollment-policies create X --include {wrong}", exit_code=2)


def test_an_update_names_only_what_changes(run: Run, installation: ScriptedServer) -> None:
    installation.answers["UpdatePolicy"] = lambda request: session.UpdatePolicyResponse(policy=request.policy)
    run(f"policies update {POLICY} --timeout 8h --disable")
    run(f"policies update {POLICY} --no-timeout --filter http")
    shorter, without = installation.requests("UpdatePolicy")
    assert sorted(shorter.update_mask.paths) == ["check_session", "enabled"]
    assert shorter.policy.check_session == session.CheckSession(enforce=True, duration="8h")
    assert shorter.policy.enabled is False
    assert sorted(without.update_mask.paths) == ["check_session", "filter"]
    assert not without.policy.HasField("check_session")
    assert without.policy.filter == session.POLICY_FILTER_HTTP
    run(f"policies update {POLICY}", exit_code=2)
    run(f"policies update {POLICY} --timeout 8h --no-timeout", exit_code=2)


@pytest.mark.usefixtures("in_tokyo")
def test_who_held_an_address_is_asked_in_local_time(run: Run, installation: ScriptedServer) -> None:
    installation.answers["LookupAddress"] = ipam.LookupAddressResponse()
    run("addresses show fd00::1 --at 2026-09-21T23:13:20")
    assert installation.requests("LookupAddress")[0].time == NOON


def test_a_batch_says_what_became_of_each(run: Run, installation: ScriptedServer) -> None:
    failed = results_pb2.ItemError(
        reason=errors_pb2.ERROR_REASON_REGISTRATION_NOT_FOUND, message="no registration 'reg_2'"
    )
    installation.answers["RevokeRegistrations"] = registry.RevokeRegistrationsResponse(
        results=[
            registry.RegistrationResult(registration_id="reg_1", registration=registry.Registration()),
            registry.RegistrationResult(registration_id="reg_2", error=failed),
        ],
        addresses_held=2,
    )
    result = run("registrations revoke reg_1 reg_2", exit_code=1)
    assert result.stdout == "reg_1 revoked\n"
    assert "Addresses that stay held: 2." in result.stderr
    assert "error: reg_2: no registration 'reg_2' [REGISTRATION_NOT_FOUND]\n" in result.stderr
    assert len(json.loads(run("registrations revoke reg_1 reg_2 --json", exit_code=1).stdout)["results"]) == 2


def test_a_removal_is_followed_until_it_is_done(run: Run, installation: ScriptedServer) -> None:
    removal = identity.Removal(removal_id="rmv_1", users=1, seats_freed=1, registrations=2)
    gone = identity.Removal(
        removal_id="rmv_1", users=1, registrations=2, registrations_deleted=2, addresses_released=2, done=True
    )
    installation.answers["RemoveUsers"] = identity.RemoveUsersResponse(removal=removal)
    installation.answers["GetRemoval"] = [
        identity.GetRemovalResponse(removal=removal),
        identity.GetRemovalResponse(removal=gone),
    ]
    result = run(f"users remove {USER} --yes --json")
    assert json.loads(result.stdout)["removal"]["done"] is True
    assert result.stderr == ""
    assert list(installation.requests("RemoveUsers")[0].user_ids) == [USER]
    without = run("users remove --all --no-wait --yes")
    assert installation.requests("RemoveUsers")[1].all
    assert "guardhouse users removal rmv_1" in without.stderr
    run("users remove --yes", exit_code=2)
    run(f"users remove {USER} --all --yes", exit_code=2)


def test_a_check_is_an_answer_also_when_it_refuses(run: Run, installation: ScriptedServer) -> None:
    answer = session.CheckAnswer(
        decision=session.DECISION_REAUTHENTICATE, reason=session.DECISION_REASON_SESSION_EXPIRED
    )
    answer.valid_for.FromMilliseconds(2500)
    installation.answers["CheckSession"] = session.CheckSessionResponse(answer=answer, fresh_as_of=NOON)
    shown = run(f"check {REGISTRATION} {POLICY}").stdout
    for text in ("reauthenticate", "session-expired", "2.5s", "fresh as of", "degraded"):
        assert text in shown
    request = installation.requests("CheckSession")[0]
    assert (request.registration_id, request.policy_id) == (REGISTRATION, POLICY)


def test_a_registration_reauthenticates_with_a_token_from_a_pipe(run: Run, installation: ScriptedServer) -> None:
    installation.answers["Reauthenticate"] = session.ReauthenticateResponse(authenticate_time=NOON)
    run(f"sessions reauthenticate {REGISTRATION} --id-token-file -", stdin="signed\n")
    run(f"sessions reauthenticate {REGISTRATION} --client-id me.access --client-secret s")
    person, machine = (request.credential for request in installation.requests("Reauthenticate"))
    assert person.id_token == "signed"
    assert (machine.service_token.client_id, machine.service_token.client_secret) == ("me.access", "s")
    run(f"sessions reauthenticate {REGISTRATION}", exit_code=2)
    run(f"sessions reauthenticate {REGISTRATION} --client-id me.access", exit_code=2)


def test_status_asks_all_four(run: Run, installation: ScriptedServer, profile: Profile) -> None:
    installation.answers["Check"] = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    lines = run("status").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["identity", "registry", "ipam", "session"]
    assert all(line.split()[1:3] == [profile.identity, "serving"] for line in lines[1:])
    services = json.loads(run("status --json").stdout)["services"]
    assert all(service["latency_ms"] > 0 for service in services)


def test_status_says_who_does_not_answer(run: Run, installation: ScriptedServer, profile: Profile) -> None:
    installation.answers["Check"] = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    Profile(identity=profile.identity, registry="127.0.0.1:1", ca=profile.ca).write(DEFAULT_PATH)
    result = run("status", exit_code=1)
    states = {line.split()[0]: line.split()[2] for line in result.stdout.splitlines()[1:]}
    assert states == {
        "identity": "not-serving",
        "registry": "unreachable",
        "ipam": "unreachable",
        "session": "unreachable",
    }
    assert "registry at 127.0.0.1:1 cannot be reached" in result.stderr
    assert "the address of ipam is not known" in result.stderr
    assert result.stderr.count("make run") == 3  # Twice where no address is known, once for all.


def test_a_machine_enrolls_and_keeps_its_secrets_to_itself(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    DeviceRegistry(installation)
    result = run("enroll --id-token signed --name laptop --wireguard wg/wg0.conf --save keep")
    token, key, wireguard = tmp_path / "keep/reg_1.token", tmp_path / "keep/reg_1.key", tmp_path / "wg/wg0.conf"
    assert token.read_text() == "ghr_token\n"
    assert f"PrivateKey = {key.read_text().strip()}\nAddress = 100.96.0.1/32, fd00::1/128\n" in wireguard.read_text()
    for path in (token, key, wireguard):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for text in ("reg_1", "100.96.0.1", "fd00::1", "keep/reg_1.token", "wg/wg0.conf"):
        assert text in result.stdout
    for answer in (result, run("enroll --id-token signed --save again --json")):
        assert "ghr_token" not in answer.output
        assert key.read_text().strip() not in answer.output
    device = installation.requests("Register")[0].device
    assert (device.hardware_id, device.display_name) == (enroll.machine_id(), "laptop")


def test_an_enrollment_that_could_not_be_kept_is_not_made(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    DeviceRegistry(installation)
    (tmp_path / "wg0.conf").write_text("[Peer]")
    said = " ".join(words(run("enroll --id-token signed --wireguard wg0.conf --save .", exit_code=2).stderr))
    assert "wg0.conf exists" in said
    run("enroll --id-token signed --save wg0.conf/keep", exit_code=1)
    run("enroll --save .", exit_code=2)
    assert not installation.calls


def test_the_hardware_id_stays_the_same_and_gives_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_id = tmp_path / "machine-id"
    monkeypatch.setattr(enroll, "MACHINE_IDS", (tmp_path / "none", machine_id))
    machine_id.write_text("uninitialized\n")
    assert enroll.machine_id() == platform.node()
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    enrolled = enroll.machine_id()
    assert enroll.machine_id() == enrolled
    assert "0123456789" not in enrolled
    machine_id.write_text("1123456789abcdef0123456789abcdef\n")
    assert enroll.machine_id() != enrolled


LISTS: list[tuple[str, Message]] = [
    ("organizations list", identity.ListOrganizationsResponse(organizations=[identity.Organization()])),
    ("keys list --installation", identity.ListApiKeysResponse(api_keys=[identity.ApiKey()])),
    (
        "identity-providers list",
        identity.ListIdentityProvidersResponse(identity_providers=[identity.IdentityProvider()]),
    ),
    ("service-tokens list", identity.ListServiceTokensResponse(service_tokens=[identity.ServiceToken()])),
    (
        "enrollment-policies list",
        identity.ListEnrollmentPoliciesResponse(enrollment_policies=[identity.EnrollmentPolicy()]),
    ),
    ("users list", identity.ListUsersResponse(users=[identity.User()])),
    ("devices list", registry.ListDevicesResponse(devices=[registry.Device()])),
    ("registrations list", registry.ListRegistrationsResponse(registrations=[registry.Registration()])),
    ("addresses list", ipam.ListAddressesResponse(leases=[ipam.Lease()])),
    ("policies list", session.ListPoliciesResponse(policies=[session.Policy()])),
]


def test_every_list_is_known_here() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    lists = [name for name, commands in group.commands.items() if "list" in getattr(commands, "commands", {})]
    assert sorted(lists) == sorted(line.split()[0] for line, _ in LISTS)


@pytest.mark.parametrize(("line", "response"), LISTS, ids=[line for line, _ in LISTS])
def test_every_list_is_a_table_of_what_there_is(
    run: Run, installation: ScriptedServer, line: str, response: Message
) -> None:
    installation.answers[type(response).__name__.removesuffix("Response")] = response
    header, row = run(f"{line} -o {ORGANIZATION}").stdout.splitlines()
    assert header.isupper()
    assert "-" in row.split()


COMMANDS: list[tuple[str, Message]] = [
    (
        "organizations create Example --seat-limit 5",
        identity.CreateOrganizationRequest(organization=identity.Organization(display_name="Example", seat_limit=5)),
    ),
    ("organizations show", identity.GetOrganizationRequest(organization_id=ORGANIZATION)),
    ("keys revoke key_1 --yes", identity.RevokeApiKeyRequest(organization_id=ORGANIZATION, api_key_id="key_1")),
    ("keys revoke key_1 --yes --installation", identity.RevokeApiKeyRequest(api_key_id="key_1")),
    (
        "identity-providers add Sign-in --issuer https://idp.example --client-id a --client-id b",
        identity.CreateIdentityProviderRequest(
            organization_id=ORGANIZATION,
            identity_provider=identity.IdentityProvider(
                display_name="Sign-in", issuer="https://idp.example", client_ids=["a", "b"]
            ),
        ),
    ),
    (
        "identity-providers delete idp_1 -y",
        identity.DeleteIdentityProviderRequest(organization_id=ORGANIZATION, identity_provider_id="idp_1"),
    ),
    (
        "service-tokens create Robot --duration 720h",
        identity.CreateServiceTokenRequest(organization_id=ORGANIZATION, display_name="Robot", duration="720h"),
    ),
    (
        "service-tokens delete svt_1 -y",
        identity.DeleteServiceTokenRequest(organization_id=ORGANIZATION, service_token_id="svt_1"),
    ),
    (
        "enrollment-policies delete enp_1 -y",
        identity.DeleteEnrollmentPolicyRequest(organization_id=ORGANIZATION, enrollment_policy_id="enp_1"),
    ),
    (
        "enrollment-policies test --email eve@example.com --group staff",
        identity.TestEnrollmentRequest(
            organization_id=ORGANIZATION,
            identity=identity.TestIdentity(email="eve@example.com", groups=["staff"]),
        ),
    ),
    (
        "enrollment-policies test --id-token signed",
        identity.TestEnrollmentRequest(organization_id=ORGANIZATION, credential=Credential(id_token="signed")),
    ),
    (
        "users list --email eve@example.com --seat inactive",
        identity.ListUsersRequest(
            organization_id=ORGANIZATION,
            email="eve@example.com",
            seat_status=identity.SEAT_STATUS_INACTIVE,
            page_size=200,
        ),
    ),
    (f"users show {USER}", identity.GetUserRequest(organization_id=ORGANIZATION, user_id=USER)),
    (
        f"users revoke {USER} --registrations",
        identity.RevokeUserRequest(organization_id=ORGANIZATION, user_id=USER, revoke_registrations=True),
    ),
    ("users removal rmv_1", identity.GetRemovalRequest(organization_id=ORGANIZATION, removal_id="rmv_1")),
    ("seats", identity.GetSeatUsageRequest(organization_id=ORGANIZATION)),
    (
        "devices list --active-registrations exclude",
        registry.ListDevicesRequest(
            organization_id=ORGANIZATION,
            active_registrations=registry.ACTIVE_REGISTRATIONS_EXCLUDE,
            page_size=200,
        ),
    ),
    ("devices show dev_1", registry.GetDeviceRequest(organization_id=ORGANIZATION, device_id="dev_1")),
    ("devices delete dev_1 -y", registry.DeleteDeviceRequest(organization_id=ORGANIZATION, device_id="dev_1")),
    (
        f"registrations list --state all --user {USER} --device dev_1",
        registry.ListRegistrationsRequest(
            organization_id=ORGANIZATION,
            state=registry.REGISTRATION_FILTER_ALL,
            user_id=USER,
            device_id="dev_1",
            page_size=200,
        ),
    ),
    (
        "registrations show reg_1",
        registry.GetRegistrationRequest(organization_id=ORGANIZATION, registration_id="reg_1"),
    ),
    (
        "registrations unrevoke reg_1 reg_2",
        registry.UnrevokeRegistrationsRequest(organization_id=ORGANIZATION, registration_ids=["reg_1", "reg_2"]),
    ),
    (
        "registrations delete reg_1 -y",
        registry.DeleteRegistrationsRequest(organization_id=ORGANIZATION, registration_ids=["reg_1"]),
    ),
    (
        "addresses show 100.96.0.1",
        ipam.LookupAddressRequest(organization_id=ORGANIZATION, address="100.96.0.1"),
    ),
    (
        "addresses show fd00::1 --at 2026-09-21T14:13:20+0000",
        ipam.LookupAddressRequest(organization_id=ORGANIZATION, address="fd00::1", time=NOON),
    ),
    (f"policies show {POLICY}", session.GetPolicyRequest(organization_id=ORGANIZATION, policy_id=POLICY)),
    (
        "policies create Wiki --filter http --timeout 8h --description internal --disabled",
        session.CreatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                display_name="Wiki",
                description="internal",
                filter=session.POLICY_FILTER_HTTP,
                action=session.POLICY_ACTION_ALLOW,
                check_session=session.CheckSession(enforce=True, duration="8h"),
            ),
        ),
    ),
    (
        "policies create Open --action block",
        session.CreatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=session.Policy(
                display_name="Open",
                enabled=True,
                filter=session.POLICY_FILTER_L4,
                action=session.POLICY_ACTION_BLOCK,
            ),
        ),
    ),
    (
        f"sessions show {REGISTRATION}",
        session.GetSessionRequest(organization_id=ORGANIZATION, registration_id=REGISTRATION),
    ),
]


@pytest.mark.parametrize(("line", "meant"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_command_asks_for_what_it_says(run: Run, installation: ScriptedServer, line: str, meant: Message) -> None:
    name = meant.DESCRIPTOR.full_name.removesuffix("Request")
    method = name.rpartition(".")[2]
    response = descriptor_pool.Default().FindMessageTypeByName(f"{name}Response")
    installation.answers[method] = GetMessageClass(response)()
    run(f"{line} -o {ORGANIZATION}")
    (sent,) = installation.requests(method)
    if "request_id" in meant.DESCRIPTOR.fields_by_name:
        assert sent.request_id
        sent.ClearField("request_id")
    assert sent == meant

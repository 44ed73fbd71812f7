"""What commands print: tables and records for people, JSON for programs, and nothing that gets in the way."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from guardhouse import errors
from guardhouse.cli import output
from guardhouse.cli.app import COMMANDS, hoist
from guardhouse.cli.options import moment
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import DEFAULT_PATH, Profile
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.cli.commands import NOON, ORGANIZATION, REGISTRATION, USER, Run, words
from tests.guardhouse.scripted import ScriptedServer


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
    assert json.loads(result.stdout) == {"purchased": "10", "used": "3", "available": "7", "seats_per_day": 0.0}
    assert result.stderr == ""


def test_a_record_says_what_absence_means(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetOrganization"] = identity.GetOrganizationResponse(
        organization=identity.Organization(organization_id=ORGANIZATION)
    )
    shown = dict(re.split("  +", line, maxsplit=1) for line in run("organizations show").stdout.splitlines())
    assert shown["organization id"] == ORGANIZATION
    assert shown["seat limit"] == "unlimited"
    assert shown["update time"] == "-"


def test_an_answer_without_an_object_is_a_record_itself(run: Run, installation: ScriptedServer) -> None:
    sign_in = registry.SignIn(display_name="SSO", issuer="https://sso.example.com")
    installation.answers["GetEnrollmentInfo"] = registry.GetEnrollmentInfoResponse(
        sign_ins=[sign_in], challenge="c", challenge_expire_time=NOON
    )
    shown = run("device enrollment-info").stdout
    for text in ("issuer=https://sso.example.com", "challenge ", "challenge expire time"):
        assert text in shown


def test_of_a_oneof_only_what_is_set_is_shown(run: Run, installation: ScriptedServer) -> None:
    made = registry.Registration(registration_id=REGISTRATION, service_token_id="svt_1", public_key=bytes(32))
    installation.answers["GetRegistration"] = registry.GetRegistrationResponse(registration=made)
    shown = run(f"registrations show {REGISTRATION}").stdout
    assert re.search(r"^service token id +svt_1$", shown, re.MULTILINE)
    assert "user id" not in shown
    assert base64.b64encode(bytes(32)).decode() in shown


def test_what_is_waited_for_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that somebody is to enter is the provider's text."""
    file = io.StringIO()
    monkeypatch.setattr(output, "stderr", lambda: Console(file=file, force_terminal=True, width=80))
    with output.waiting("Waiting for [/x] \x1b[2J ...") as say:
        say("Waiting for [bold]A\x1b]0;title\x07 ...")
        time.sleep(0.3)
    assert "[/x] \ufffd[2J" in file.getvalue() or "[bold]A\ufffd]0;title\ufffd" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b]0" not in file.getvalue()


def test_names_cannot_steer_the_terminal(run: Run, installation: ScriptedServer) -> None:
    user = identity.User(user_id=USER, display_name="\x1b[2J[red]Eve\x07")
    installation.answers["GetUser"] = identity.GetUserResponse(user=user)
    assert "\ufffd[2J[red]Eve\ufffd" in run(f"users show {USER}").stdout
    assert "\x1b" not in run(f"users show {USER} --json").stdout
    installation.answers["GetUser"] = errors.UserNotFound("x", "no \x1b[2J")
    assert "\x1b" not in run(f"users show {USER}", exit_code=1).stderr


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
    assert "unknown unit 'd'" in words(run("keys create X --role admin --expires-in 1d", exit_code=2).stderr)


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
    assert message in words(run("seats", exit_code=2).stderr)


def test_global_options_may_stand_anywhere() -> None:
    given = ["users", "list", "--profile", "p", "--email", "e", "--json", "-o", "org", "--", "--json"]
    assert hoist(given) == ["--profile", "p", "--json", "-o", "org", "users", "list", "--email", "e", "--", "--json"]


def test_a_list_says_how_far_it_is_only_to_whoever_looks(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.answers["ListUsers"] = paged(some_users(25), 10)
    assert run("users list --json").stderr == ""
    told: list[str] = []

    @contextmanager
    def waiting(text: str) -> Iterator[Callable[[str], None]]:
        yield told.append

    monkeypatch.setattr(output, "waiting", waiting)
    run("users list")
    assert told == ["Reading ... 10 so far", "Reading ... 20 so far", "Reading ... 25 so far"]


def test_colour_is_for_terminals_that_want_it(
    run: Run, installation: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.answers["ListUsers"] = paged(some_users(1), 10)
    assert "\x1b" not in run("users list").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32mactive\x1b[0m" in run("users list").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("users list").stdout


def test_columns_of_wide_letters_stay_below_each_other(run: Run, installation: ScriptedServer) -> None:
    users = some_users(2)
    users[0].display_name = "\u65e5\u672c"
    installation.answers["ListUsers"] = paged(users, 10)
    header, wide, narrow = run("users list").stdout.splitlines()
    # Two letters that are two columns wide each.
    assert wide.index("active") + 2 == narrow.index("active") == header.index("SEAT STATUS")


GUARDHOUSE = [sys.executable, "-c", "from guardhouse.cli import main; main()"]


@pytest.mark.parametrize("count", [1, 5000])
def test_whoever_stops_reading_ends_it_quietly(
    installation: ScriptedServer, profile: Profile, tmp_path: Path, count: int
) -> None:
    installation.answers["ListUsers"] = paged(some_users(count), 1000)
    command = [*GUARDHOUSE, "users", "list", "-o", ORGANIZATION]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, cwd=tmp_path, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_waits_for_nothing_heavy() -> None:
    """About 0.1 s of imports instead of 0.5 s."""
    code = "import sys; import guardhouse.cli.app; print(*(sys.modules.keys() & {'grpc', 'google.protobuf', 'rich'}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert loaded.stdout == "\n"


def test_help_says_what_every_command_is_for(run: Run) -> None:
    shown = words(run("--help").stdout)
    assert all(name in shown for name in COMMANDS)
    assert "Who did what to which object" in shown


def test_a_missing_extra_is_said(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(name='typer')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*GUARDHOUSE, "--help"], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "pip install 'guardhouse[cli]'" in done.stderr


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(
    "text", ["2026-09-21T14:13:20Z", "2026-09-21T16:13:20+02:00", "2026-09-21 23:13:20", "2026-09-21T23:13:20"]
)
def test_a_time_without_a_zone_is_local(text: str) -> None:
    assert moment(text) == NOON


def test_a_duration_is_a_time_back_from_now() -> None:
    now = Timestamp()
    now.GetCurrentTime()
    assert now.seconds - moment("24h").seconds == pytest.approx(24 * 3600, abs=60)
    with pytest.raises(typer.BadParameter, match="24h"):
        moment("yesterday")

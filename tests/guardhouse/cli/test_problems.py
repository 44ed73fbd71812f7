"""Failures: one line, its reason, and what to do next."""

import dataclasses
import re
from pathlib import Path

import grpc
import pytest

from guardhouse import errors
from guardhouse.cli import output
from guardhouse.cli.explain import WHY
from guardhouse.cli.problems import NEXT, SAID_ALL
from guardhouse.common.v1 import errors_pb2
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import DEFAULT_PATH, Profile
from guardhouse_services import tls
from tests.clock import FakeClock
from tests.guardhouse.cli.commands import USER, Run, commands
from tests.guardhouse.scripted import ScriptedServer


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            errors.CredentialsMissing("it needs an API key"),
            "error: it needs an API key [CREDENTIALS_MISSING]; set GUARDHOUSE_API_KEY, or key_file in the profile\n",
        ),
        (
            errors.UserNotFound(USER),
            f"error: no user '{USER}' [USER_NOT_FOUND]; see guardhouse users list\n",
        ),
        (
            errors.Internal("the server failed"),
            "error: the server failed [INTERNAL]; the services' log says more under the request id trace-1\n",
        ),
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


def test_every_reason_has_a_next_step_or_says_it_all() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert set(NEXT) | SAID_ALL == reasons | {"UNIMPLEMENTED"}
    assert not set(NEXT) & SAID_ALL


def test_a_next_step_names_only_commands_that_there_are() -> None:
    known = {words for words, _ in commands()}
    texts = [*NEXT.values(), *(change for _, change in WHY.values())]
    named = {match for text in texts for match in re.findall(r"guardhouse ([a-z-]+(?: [a-z-]+)?)", text)}
    assert named
    for command in named:
        assert command in known or command.split()[0] in known, command


def test_a_certificate_of_another_authority_is_told_apart_from_no_answer(
    run: Run, profile: Profile, tmp_path: Path
) -> None:
    tls.prepare(tmp_path / "other", "guardhouse.local", "127.0.0.1", FakeClock().now())
    dataclasses.replace(profile, ca=tmp_path / "other" / "ca.crt").write(DEFAULT_PATH)
    said = run(f"users show {USER} -o org_1", exit_code=1).stderr
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert said.endswith("the server's certificate is not of the profile's ca: name the right ca.crt there\n")


def test_nobody_at_the_address_is_said_with_the_address(run: Run, profile: Profile) -> None:
    dataclasses.replace(profile, identity="127.0.0.1:1").write(DEFAULT_PATH)
    said = run(f"users show {USER} -o org_1", exit_code=1).stderr
    assert "identity at 127.0.0.1:1 cannot be reached" in said
    assert "is it running? `make run`" in said


def test_without_a_profile_it_is_said_how_to_get_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "var")
    assert "start with `make run`, which writes var/client.toml, or name a profile" in run("seats", exit_code=1).stderr


def test_an_expired_key_is_replaced_not_explained_away(run: Run, installation: ScriptedServer) -> None:
    installation.answers["GetUser"] = errors.CredentialsInvalid("the key is not known, expired or revoked")
    assert "guardhouse keys create" in run(f"users show {USER}", exit_code=1).stderr


def test_a_server_without_the_method_is_an_older_one(run: Run) -> None:
    assert "the server is older than this command: upgrade it" in run(f"users show {USER}", exit_code=1).stderr

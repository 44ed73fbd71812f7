"""People sign in at a provider that we did not write, and our servers take what it says of them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.idp.processes import Machine, Provider, header

pytestmark = [pytest.mark.idp, pytest.mark.timeout(120)]


def test_a_browser_signs_somebody_in_and_the_machine_is_enrolled(machine: Machine) -> None:
    """RFC 7636 and RFC 8252; the provider's group lets alice in."""
    enrolled = machine.json("enroll", "--sign-in", "browser")["registration"]
    user = machine.json("users", "show", enrolled["user_id"])["user"]
    assert (user["email"], user["display_name"]) == ("alice@example.com", "alice")
    assert user["groups"] == ["staff", "admins"]
    shown = machine.run("device", "reauthenticate", "--sign-in", "browser")
    assert f"{enrolled['registration_id']} authenticated at" in shown.stdout


def test_who_is_in_no_group_that_a_policy_admits_stays_outside(machine: Machine) -> None:
    stranger = replace(machine, person="eve@example.com")
    refused = stranger.run("enroll", "--sign-in", "browser", exit_code=1)
    assert "[ENROLLMENT_REFUSED]" in refused.stderr


def test_a_token_for_a_script_is_the_whole_output(machine: Machine, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(machine.run("login", "--sign-in", "browser").stdout)
    assert token.read_text().count(".") == 2
    machine.run("enroll", "--id-token-file", str(token))
    # Decision 27: it is accepted once.
    assert "[ID_TOKEN_INVALID]" in machine.run("enroll", "--id-token-file", str(token), exit_code=1).stderr


def test_a_link_is_enough_where_no_browser_opens(machine: Machine) -> None:
    process = machine.start("login", "--sign-in", "link")
    assert process.stderr is not None
    assert process.stdout is not None
    (link,) = re.findall(r"http://\S+", process.stderr.readline())
    assert "ssh -L" in process.stderr.readline()
    assert "Go back to the terminal" in machine.browse(link)
    stdout, _ = process.communicate(timeout=20)
    assert (process.returncode, stdout.count(".")) == (0, 2)


def test_a_code_signs_in_where_the_organization_allows_it(machine: Machine) -> None:
    """RFC 8628. It is off until somebody switches it on (threat T-03)."""
    refused = machine.run("enroll", "--sign-in", "device-code", exit_code=2)
    assert "organizations update --device-flow" in " ".join(refused.stderr.replace("│", " ").split())
    machine.run("organizations", "update", "--device-flow")
    process = machine.start("enroll", "--sign-in", "device-code")
    assert process.stderr is not None
    said = re.fullmatch(r"Open (\S+) on any device and enter (\S+)\n", process.stderr.readline())
    assert said is not None
    link, user_code = said.groups()
    machine.browse(link, USER_CODE=user_code)
    stdout, stderr = process.communicate(timeout=40)
    assert process.returncode == 0, stderr
    assert "registration id" in stdout


def test_who_declines_a_code_is_not_signed_in(machine: Machine) -> None:
    machine.run("organizations", "update", "--device-flow")
    process = machine.start("login", "--sign-in", "device-code")
    assert process.stderr is not None
    said = re.fullmatch(r"Open (\S+) on any device and enter (\S+)\n", process.stderr.readline())
    assert said is not None
    machine.browse(said[1], USER_CODE=said[2], ABORT="1")
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "access_denied" in stderr


def test_a_forced_sign_in_counts_only_if_it_was_made_anew(machine: Machine) -> None:
    """Decision 33: the provider says in auth_time when it was."""
    machine.run("enroll", "--sign-in", "browser")
    machine.run("identity-providers", "update", machine.provider_id, "--force-interaction")
    # The browser has a session at the provider, which would let it in without a question.
    silent = machine.run("device", "reauthenticate", "--sign-in", "browser", exit_code=1, SILENT="yes")
    assert "login,password" not in silent.stderr
    assert "[ID_TOKEN_INVALID]" in silent.stderr
    asked = machine.run("device", "reauthenticate", "--sign-in", "browser")
    assert "login,password" in asked.stderr


def test_a_provider_may_change_its_keys_at_any_time(machine: Machine, provider: Provider) -> None:
    """Invariant I-30: a key that is not known yet is looked up, and the one before it counts while it is published."""
    before = machine.run("login", "--sign-in", "browser").stdout.strip()
    machine.run("enroll", "--sign-in", "browser")
    new, old = provider.tell("rotate")
    after = machine.run("login", "--sign-in", "browser").stdout.strip()
    assert header(before)["kid"] == old
    assert header(after)["kid"] == new
    machine.run("device", "reauthenticate", "--id-token", after)
    machine.run("device", "reauthenticate", "--id-token", before)
    assert provider.tell("withdraw") == [new]
    machine.run("device", "reauthenticate", "--sign-in", "browser")


def test_a_provider_may_insist_on_a_secret(machine: Machine, tmp_path: Path) -> None:
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("a secret: of %41 kinds\n")
    wrong.write_text("another")
    machine.run("identity-providers", "update", machine.provider_id, "--client-id", "confidential")
    machine.run("login", "--sign-in", "browser", "--client-secret-file", str(secret))
    for more in ((), ("--client-secret-file", str(wrong))):
        refused = machine.run("login", "--sign-in", "browser", *more, exit_code=1)
        assert "invalid_client" in refused.stderr
        assert "--client-secret-file" in refused.stderr
        assert "another" not in refused.stdout + refused.stderr

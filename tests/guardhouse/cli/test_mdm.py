"""Checking and writing the MDM file."""

import json
import stat
from pathlib import Path

import pytest

from guardhouse import mdm
from guardhouse.mdm import Mdm, PreLogin, Settings
from tests.guardhouse.cli.commands import Run
from tests.guardhouse.scripted import ScriptedServer
from tests.guardhouse.test_mdm import CLIENT_ID, CLIENT_SECRET, MULTI_USER, WITH_PRE_LOGIN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mdm.xml"
    path.touch(mode=0o600)
    return path


def test_a_file_is_explained_without_a_server(run: Run, installation: ScriptedServer, file: Path) -> None:
    file.write_text(WITH_PRE_LOGIN)
    result = run(f"mdm check {file}")
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert ["multi_user", "yes"] in [row[:2] for row in rows]
    assert CLIENT_SECRET not in result.output
    assert not result.stderr
    assert not installation.calls
    settings = json.loads(run(f"mdm check {file} --json").stdout)["settings"]
    assert {"key": "configs[1].organization", "value": "test-org"}.items() <= settings[-2].items()


def test_what_is_probably_not_meant_is_a_warning(run: Run, file: Path) -> None:
    """Decision 19: without a pre-login registration traffic goes on as that of who has logged out."""
    file.write_text(MULTI_USER.replace("<key>organization", "<key>enabled</key><true/><key>organization"))
    said = run(f"mdm check {file}").stderr
    assert "fast user switching" in said
    assert "configs[0].enabled is obsolete" in said
    assert len(json.loads(run(f"mdm check {file} --json").stdout)["warnings"]) == 2


def test_a_secret_that_everybody_may_read_is_a_warning(run: Run, file: Path) -> None:
    file.write_text(WITH_PRE_LOGIN)
    file.chmod(0o644)
    assert "everybody on this machine may read it" in run(f"mdm check {file}").stderr
    file.write_text(MULTI_USER)
    assert "may read it" not in run(f"mdm check {file}").stderr


def test_every_fault_of_an_invalid_file_is_told(run: Run, file: Path) -> None:
    file.write_text(
        "<dict><key>organisation</key><string>acme</string><key>auto_connect</key><integer>-5</integer></dict>"
    )
    said = run(f"mdm check {file}", exit_code=1).stderr
    assert "error: organisation: there is no such key; is organization meant?" in said
    assert "error: auto_connect: " in said
    file.write_text("")
    assert "the file is empty" in run(f"mdm check {file}", exit_code=1).stderr
    run("mdm check nowhere.xml", exit_code=2)


def test_the_examples_are_rendered_from_flags(run: Run, tmp_path: Path) -> None:
    """Decision 19."""
    shown = run("mdm render your-team-name=Default --multi-user").stdout
    assert mdm.parse(shown.encode()) == mdm.parse(MULTI_USER.encode())
    secret = tmp_path / "secret"
    secret.write_text(f"{CLIENT_SECRET}\n")
    target = tmp_path / "mdm.xml"
    line = (
        "mdm render mycompany='Production environment' test-org='Test environment' --multi-user --pre-login mycompany"
        f" --client-id {CLIENT_ID} --client-secret-file {secret}"
    )
    assert not run(f"{line} --output {target}").stdout
    assert mdm.parse(target.read_bytes()) == mdm.parse(WITH_PRE_LOGIN.encode())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "File exists" in run(f"{line} --output {target}", exit_code=1).stderr
    assert mdm.parse(json.loads(run(f"{line} --json").stdout)["mdm"].encode()).pre_login == PreLogin(
        "mycompany", CLIENT_ID, CLIENT_SECRET
    )


def test_settings_are_those_of_every_organization(run: Run) -> None:
    shown = run(
        f"mdm render a=A b=B --client-id {CLIENT_ID} --client-secret s --set auto_connect=10 --set switch_locked=true"
        " --set service_mode=proxy"
    ).stdout
    of_all = {"auth_client_id": CLIENT_ID, "auth_client_secret": "s", "auto_connect": 10, "switch_locked": True}
    assert mdm.parse(shown.encode()) == Mdm(
        configs=tuple(
            Settings(organization=it, display_name=it.upper(), service_mode="proxy", **of_all)  # type: ignore[arg-type]
            for it in ("a", "b")
        )
    )
    assert "<key>configs</key>" not in run("mdm render acme").stdout


@pytest.mark.parametrize(
    ("line", "exit_code"),
    [
        ("mdm render acme --set auto_connect=never", 1),
        ("mdm render acme --set auto_connect=" + "9" * 30, 1),
        ("mdm render acme --multi-user", 1),
        ("mdm render acme --set auto_conect=5", 2),
        ("mdm render acme --set auto_connect", 2),
        ("mdm render acme=Acme --pre-login acme", 2),
        (f"mdm render acme=Acme --client-id {CLIENT_ID}", 2),
        ("mdm render", 2),
    ],
)
def test_what_clients_would_refuse_is_not_rendered(run: Run, line: str, exit_code: int) -> None:
    assert not run(line, exit_code=exit_code).stdout

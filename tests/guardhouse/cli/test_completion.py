"""Completion, as a shell asks for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guardhouse import errors
from guardhouse.cli.app import app
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import DEFAULT_PATH
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import ORGANIZATION, POLICY
from tests.guardhouse.scripted import ScriptedServer

BIN = Path(sys.executable).parent

Offered = Callable[[str], set[str]]


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """What we answer a shell for the last word of a line, in a folder where there may be a profile."""
    monkeypatch.chdir(tmp_path)

    def offered(line: str) -> set[str]:
        asked = {"COMP_WORDS": f"guardhouse {line}", "COMP_CWORD": str(len(line.split()))}
        result = CliRunner().invoke(app, prog_name="guardhouse", env={"_GUARDHOUSE_COMPLETE": "complete_bash", **asked})
        assert result.exit_code == 0
        assert result.stderr == ""
        return set(result.stdout.split())

    return offered


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("enr", {"enroll", "enrollment-policies"}),
        ("policies d", {"delete"}),
        ("policies update --st", {"--staleness"}),
        (f"-o {ORGANIZATION} devices list --platform c", {"chromeos"}),
        ("audit tail --service i", {"identity", "ipam"}),
        ("policies show pol", set()),
        ("users list --email '' --se", {"--seat"}),
    ],
)
def test_commands_options_and_values_are_completed_without_a_server(
    offered: Offered, line: str, words: set[str]
) -> None:
    assert offered(line) == words


@pytest.mark.usefixtures("profile")
def test_ids_are_completed_from_the_server(offered: Offered, installation: ScriptedServer) -> None:
    found = [session.Policy(policy_id=POLICY, display_name="wiki"), session.Policy(policy_id="pol_5")]
    installation.answers["ListPolicies"] = session.ListPoliciesResponse(policies=found)
    assert offered(f"-o {ORGANIZATION} policies show pol_4") == {POLICY}
    assert offered(f"-o {ORGANIZATION} check reg_1 pol_5") == {"pol_5"}
    assert {request.organization_id for request in installation.requests("ListPolicies")} == {ORGANIZATION}
    one = session.List(list_id="lst_1", name="wiki")
    installation.answers["ListLists"] = session.ListListsResponse(lists=[one])
    assert offered(f"-o {ORGANIZATION} lists show ls") == {"lst_1"}


@pytest.mark.usefixtures("profile")
def test_what_goes_wrong_while_completing_is_nobodys_business(
    offered: Offered, installation: ScriptedServer, tmp_path: Path
) -> None:
    installation.answers["ListOrganizations"] = identity.ListOrganizationsResponse()
    assert offered("users show usr") == set()
    installation.answers["ListUsers"] = errors.AccessDenied("no")
    assert offered(f"-o {ORGANIZATION} users show usr") == set()
    (tmp_path / DEFAULT_PATH).write_text("nonsense")
    assert offered("users show usr") == set()


def test_completion_installs_itself_and_works_in_bash(tmp_path: Path) -> None:
    script = """
        touch .bashrc
        guardhouse --install-completion >&2
        . ./.bashrc
        COMP_WORDS=(guardhouse registrations un) COMP_CWORD=2
        _guardhouse_completion guardhouse
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "completion installed in" in done.stderr
    assert done.stdout == "unrevoke\n"

"""Running a command line, against a scripted installation or a real one."""

import asyncio
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from guardhouse.cli import invocation
from guardhouse.cli.app import app
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import DEFAULT_PATH, KEY_VARIABLE, PROFILE_VARIABLE, SERVICES, Profile
from tests.guardhouse.cli.commands import ORGANIZATION, Run, RunPlane
from tests.guardhouse.scripted import ScriptedServer
from tests.plane import Plane
from tests.system.people import World


@pytest.fixture
def run(installation: ScriptedServer, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line and checks its exit code."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("HOME", str(profile.key_file.parents[2]) if profile.key_file else "")
    one = identity.Organization(organization_id=ORGANIZATION, display_name="Example")
    installation.answers["ListOrganizations"] = identity.ListOrganizationsResponse(organizations=[one])

    def run(line: str, *, exit_code: int = 0, stdin: str = "") -> Result:
        result = CliRunner().invoke(app, shlex.split(line), input=stdin)
        assert result.exit_code == exit_code, result.output
        return result

    return run


@pytest.fixture
def somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions can be asked."""
    monkeypatch.setattr(invocation, "is_interactive", lambda: True)


@pytest.fixture
def in_tokyo() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def engine() -> str:
    """The command line does not see the database: one engine is enough."""
    return "sqlite"


@pytest.fixture
def world(plane: Plane) -> World:
    return World(plane, plane.organization)


@pytest.fixture
def run_plane(plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlane:
    """Runs a command line against a real control plane, in a thread beside it, and checks its exit code."""
    for variable in (PROFILE_VARIABLE, "GUARDHOUSE_ORGANIZATION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(KEY_VARIABLE, plane.admin_key)
    monkeypatch.chdir(tmp_path)
    addresses: dict[str, Any] = {name: f"127.0.0.1:{plane.settings.public_port(name)}" for name in SERVICES}
    ca = plane.settings.tls_path / "ca.crt"
    Profile(**addresses, ca=ca, organization_id=plane.organization).write(DEFAULT_PATH)

    async def run(line: str, *, exit_code: int = 0, stdin: str = "") -> Result:
        result = await asyncio.to_thread(CliRunner().invoke, app, shlex.split(line), input=stdin)
        assert result.exit_code == exit_code, (result.output, result.exception)
        return result

    return run

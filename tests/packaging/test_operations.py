"""What docs/operations.md says to type, run as it stands there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.plane import ControlPlane
from guardhouse.client import connect
from guardhouse.errors import EpochChanged
from guardhouse.identity.v1 import identity_pb2

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS: list[list[str]] = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
# What only a machine of its own can run. test_wheel.py and test_deploy.py try most of it in their own way.
ELSEWHERE = re.compile(r"uv |install |systemd-sysusers|systemctl |tar |psql |pg_dump |runuser |docker |GUARDHOUSE_\w+=")


def block_with(text: str) -> list[str]:
    return next(block for block in BLOCKS if block[0].startswith(text))


def run(plane: ControlPlane, lines: list[str], folder: Path | None = None, key: str = "") -> str:
    """Runs lines of the page with the plane's settings, on its ports."""
    script = "\n".join(["set -eu", *lines]).replace("127.0.0.1:74", f"127.0.0.1:{plane.port_base // 100}")
    settings = {"GUARDHOUSE_VAR": str(plane.var), "GUARDHOUSE_PROFILE": str(plane.profile), "GUARDHOUSE_API_KEY": key}
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **settings},
        cwd=folder or plane.var.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def restarted(plane: ControlPlane) -> ControlPlane:
    """The plane, which makes its profile when it serves."""
    plane.profile.unlink(missing_ok=True)
    return plane


def organizations(plane: ControlPlane, key: str = "") -> list[str]:
    listed = json.loads(run(plane, ["guardhouse --json organizations list"], key=key))
    return sorted(it["display_name"] for it in listed.get("organizations", []))


def test_each_block_is_tried_here_or_takes_another_machine() -> None:
    here = ("guardhouse", "openssl", "curl")
    for block in BLOCKS:
        assert block[0].startswith(here) or all(ELSEWHERE.match(line) for line in block), block


@pytest.mark.parametrize("line", re.findall(r"`(guardhouse(?:-server)? [a-z][^`]*)`", PAGE))
def test_a_command_in_the_text_exists(line: str) -> None:
    """With its options."""
    program, *words = line.split()
    subprocess.run([str(BIN / program), *words, "--help"], check=True, capture_output=True, timeout=60)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_looking_after_a_plane(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        run(plane, ["guardhouse organizations create Example"])
        for first in (
            "guardhouse-server settings",
            "curl",
            "guardhouse status",
            "guardhouse audit",
            "guardhouse keys create",
        ):
            run(plane, block_with(first))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_restored_backup_is_another_history(tmp_path: Path) -> None:
    """I-25; what the backup has is there, what came after it is not."""
    plane = ControlPlane(tmp_path)
    with plane:
        run(plane, ["guardhouse organizations create Before"])
    shutil.copytree(plane.var, tmp_path / "backup")
    with restarted(plane):
        made = json.loads(run(plane, ["guardhouse --json organizations create After"]))
        assert organizations(plane) == ["After", "Before"]
    shutil.rmtree(plane.var)
    (tmp_path / "backup").rename(plane.var)
    run(plane, block_with("guardhouse-server new-epoch"))
    with restarted(plane):
        assert organizations(plane) == ["Before"]
        lost = identity_pb2.ListOrganizationsRequest(at_least=[made["revision_token"]])
        with connect(plane.profile) as client, pytest.raises(EpochChanged):
            client.organizations.ListOrganizations(lost)
        run(plane, ["guardhouse organizations create Again", "guardhouse status"])


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_lost_admin_key_comes_back(tmp_path: Path) -> None:
    """To whoever has the installation's key and identity's database, and once it is revoked as another one."""
    plane = ControlPlane(tmp_path)
    with plane:
        first = (plane.var / "admin.key").read_text().strip()
    printed, another = run(plane, block_with("guardhouse-server admin-key")).split()
    assert printed == first != another
    with restarted(plane):
        assert organizations(plane, key=another) == []
        revoke = f"guardhouse keys revoke --installation {first[4:40]} --yes"
        run(plane, [revoke], key=another)
        records = run(plane, ["guardhouse --json audit tail --installation"], key=another)
        assert '"actor": "console"' in records
    with pytest.raises(AssertionError, match="has been revoked and does not come back; try --new"):
        run(plane, block_with("guardhouse-server admin-key"))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_leaked_key_of_the_installation_is_replaced(tmp_path: Path) -> None:
    """What was derived from it, which is the first ADMIN key before all else, opens nothing any more."""
    plane = ControlPlane(tmp_path)
    with plane:
        run(plane, block_with("guardhouse keys revoke"))
    (plane.var / "keys" / "installation.key").unlink()
    another = run(plane, block_with("guardhouse-server prepare")).split()[-1]
    with restarted(plane):
        run(plane, ["guardhouse organizations create Example", *block_with("guardhouse keys list")], key=another)
        with pytest.raises(AssertionError, match="CREDENTIALS_INVALID"):
            organizations(plane)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_database_that_was_restored_without_its_key_is_not_served(tmp_path: Path) -> None:
    """And nobody is given an ADMIN key that opens nothing."""
    plane = ControlPlane(tmp_path)
    files = plane.var / "keys" / "installation.key", plane.var / "admin.key"
    with plane:
        made, first = (file.read_text() for file in files)
    files[0].unlink()
    refusal = "this is not the installation's key of this database"
    with pytest.raises(RuntimeError, match=refusal), restarted(plane):
        pass
    with pytest.raises(AssertionError, match=refusal):
        run(plane, ["guardhouse-server admin-key"])
    assert files[1].read_text() == first
    files[0].write_text(made)
    with restarted(plane):
        assert organizations(plane) == []


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_ca_of_their_own_and_its_rotation(tmp_path: Path) -> None:
    """Services with certificates of either CA trust each other while `ca.crt` has both."""
    plane = ControlPlane(tmp_path, GUARDHOUSE_TLS_FOLDER=str(tmp_path / "old"))
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder in folders:
        folder.mkdir()
        run(plane, block_with("openssl req"), folder)
    old, new = folders
    with plane:
        run(plane, ["guardhouse organizations create Example", "guardhouse policies list"])
    with (old / "ca.crt").open("a") as bundle:
        bundle.write((new / "ca.crt").read_text())
    for service in ("identity", "session"):
        for suffix in ("crt", "key"):
            shutil.copy(new / f"{service}.{suffix}", old)
    with restarted(plane):
        run(plane, ["guardhouse status", "guardhouse policies list", "guardhouse registrations list"])

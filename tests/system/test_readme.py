"""What the README says to type, run as it stands there."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.issuer import Issuer, Person
from demo.plane import ControlPlane
from guardhouse.client import connect
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.enrollment import enroll
from guardhouse.identity.v1 import identity_pb2
from guardhouse.registry.v1 import registry_pb2

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("readme")) as plane:
        yield plane


def block_with(text: str) -> list[str]:
    """The lines of the shell block that has the text."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return next(block.splitlines() for block in blocks if text in block)


def run(plane: ControlPlane, lines: list[str], **variables: str) -> str:
    """Runs lines of the README beside the plane's var folder, on the plane's ports."""
    script = "\n".join(["set -eu", *lines]).replace("localhost:74", f"localhost:{plane.port_base // 100}")
    environment = {**os.environ, **variables, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env=environment,
        cwd=plane.var.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_buf_curl_lines_work(plane: ControlPlane) -> None:
    key, curl, services, methods, create, info, policy, check = block_with("buf curl")
    listed = run(plane, [key, curl, services])
    assert "guardhouse.registry.v1.EnrollmentService" in listed.split()
    assert "guardhouse.session.v1.CheckService/CheckSession" in run(plane, [key, curl, methods]).split()
    made = json.loads(run(plane, [key, curl, create]))
    organization = made["organization"]["organizationId"]
    assert json.loads(run(plane, [key, curl, info], ORGANIZATION=organization))["challenge"]
    answer = json.loads(run(plane, [key, curl, policy], ORGANIZATION=organization))
    assert answer["policy"]["checkSession"]["duration"] == "1h30m0s"
    with Issuer([Person("alice@example.com")]) as issuer, connect(plane.profile) as client:
        client.identity_providers.CreateIdentityProvider(
            identity_pb2.CreateIdentityProviderRequest(
                organization_id=organization,
                identity_provider=identity_pb2.IdentityProvider(
                    display_name="SSO", issuer=issuer.url, client_ids=[issuer.client_id]
                ),
            )
        )
        everyone = identity_pb2.EnrollmentRule(everyone=identity_pb2.Everyone())
        client.enrollment_policies.CreateEnrollmentPolicy(
            identity_pb2.CreateEnrollmentPolicyRequest(
                organization_id=organization,
                enrollment_policy=identity_pb2.EnrollmentPolicy(
                    display_name="all",
                    decision=identity_pb2.ENROLLMENT_DECISION_ALLOW,
                    precedence=1,
                    include=[everyone],
                ),
            )
        )
        credential = Credential(id_token=issuer.sign_in("alice@example.com"))
        device = registry_pb2.DeviceClaims(hardware_id="laptop")
        registration = enroll(client, organization, credential, device).registration
    ids = {
        "ORGANIZATION": organization,
        "REGISTRATION": registration.registration_id,
        "POLICY": answer["policy"]["policyId"],
    }
    checked = json.loads(run(plane, [key, curl, check], **ids))
    assert checked["answer"]["reason"] == "DECISION_REASON_SESSION_FRESH"
    one_request_id_crosses_the_services(plane)


def one_request_id_crosses_the_services(plane: ControlPlane) -> None:
    """The enrollment above is one story in the log of all four services."""
    ids: dict[str, set[str]] = {}
    end = time.monotonic() + 20
    # Each service writes its lines a moment later.
    while not ids.keys() >= {"Register", "AuthorizeEnrollment", "ReserveAddresses"} and time.monotonic() < end:
        ids.clear()
        for line in plane.log.read_text().splitlines():
            if line.startswith('{"event":"call"') and line.endswith("}"):
                call = json.loads(line)
                ids.setdefault(call["method"].rpartition("/")[2], set()).add(call["request_id"])
        time.sleep(0.05)
    assert len(ids["Register"]) == 1
    assert ids["Register"] == ids["AuthorizeEnrollment"] == ids["ReserveAddresses"]


def test_the_commands_work(plane: ControlPlane, tmp_path: Path) -> None:
    """Those that nobody signs in for; the rest is what `make demo` shows."""
    export, *commands = block_with("guardhouse status")
    export = export.replace("PATH=$PWD/.venv/bin:$PATH", "")
    wanted = [line for line in commands if not re.search(r"REGISTRATION_ID|guardhouse enroll ", line)]
    assert len(wanted) == 6
    profile = tmp_path / "organization"
    made = json.loads(run(plane, [export, "guardhouse --json organizations create Other"]))
    profile.write_text(made["organization"]["organization_id"])
    organization = {"GUARDHOUSE_ORGANIZATION": profile.read_text()}
    for line in wanted:
        run(plane, [export, line], **organization)


def test_the_settings_are_documented() -> None:
    done = subprocess.run(
        [BIN / "guardhouse-server", "settings", "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    rows = json.loads(done.stdout)
    assert {"GUARDHOUSE_VAR", "GUARDHOUSE_PORT_BASE", "GUARDHOUSE_DATABASE_URL"} <= {row["variable"] for row in rows}
    assert all(row["meaning"] for row in rows)

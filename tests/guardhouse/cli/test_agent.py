"""The agent on the command line: as a process, beside another, told what happens, and left."""

import asyncio
import json
import os
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from flask import request
from flask.typing import ResponseReturnValue

from guardhouse import mdm
from guardhouse.agent.folder import Folder
from guardhouse.common.v1.credential_pb2 import ServiceTokenCredential
from guardhouse.gateway.claim import claimed
from guardhouse.gateway.uapi import Interface
from guardhouse.profile import DEFAULT_PATH, KEY_VARIABLE
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.guardhouse.cli.commands import ORGANIZATION, Run, RunPlane, words
from tests.plane import Plane
from tests.system.people import World
from tests.wireguard import become

PROGRAM = "import sys; from guardhouse.cli import main; sys.exit(main())"
KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


@pytest.fixture
async def token(world: World) -> ServiceTokenCredential:
    return (await world.service_token()).service_token


@pytest.fixture
def enrolling(token: ServiceTokenCredential, tmp_path: Path) -> str:
    """The options of a machine with a service token."""
    secret = tmp_path / "secret"
    secret.write_text(token.client_secret)
    return f"--client-id {token.client_id} --client-secret-file {secret} --state {tmp_path}/state"


async def test_once_enrolls_says_how_it_is_and_leaves(
    run_plane: RunPlane, world: World, enrolling: str, tmp_path: Path
) -> None:
    said = (await run_plane(f"agent run --once {enrolling} --hardware-id m1")).stdout
    (held,) = await world.live()
    assert f"{held.registration_id} is registered; no interface is set up" in words(said)
    assert held.ipv4 in said
    said = (await run_plane(f"agent status --state {tmp_path}/state --json", exit_code=1)).stdout
    shown = json.loads(said)
    assert not shown["ok"]
    assert "the agent is not running" in shown["sentence"]
    assert shown["registrations"][0]["registration_id"] == held.registration_id
    # What is kept is what `guardhouse device` takes.
    assert held.ipv4 in (await run_plane(f"device show --from {tmp_path}/state")).stdout
    await run_plane(f"agent leave --state {tmp_path}/state --yes")
    assert not await world.live()
    assert "no registration is kept" in (
        await run_plane(f"agent leave --state {tmp_path}/state --yes", exit_code=1)
    ).stderr.replace("\n", " ")


async def test_what_cannot_be_done_is_told_and_exits_with_1(
    run_plane: RunPlane, world: World, enrolling: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    await run_plane(f"agent run --once {enrolling} --hardware-id m1")
    (key,) = state.glob("*.key")
    key.chmod(0o644)
    said = (await run_plane(f"agent run --once {enrolling}", exit_code=1)).stderr
    assert "can be read by others (mode 0644)" in said
    key.chmod(0o600)
    key.write_text("?")
    said = (await run_plane(f"agent run --once {enrolling}", exit_code=1)).stderr
    assert "holds no private key" in said
    for path in state.iterdir():
        path.unlink()
    # Nobody is there to sign in.
    said = (await run_plane(f"agent run --once --state {state}", exit_code=1)).stdout
    assert "a credential is needed" in words(said)
    with Folder(state).locked():
        said = (await run_plane(f"agent run --once {enrolling}", exit_code=1)).stderr
        assert f"another agent has {state} (process {os.getpid()}): stop it first" in said
        assert "another agent has" in (await run_plane(f"agent leave --state {state}", exit_code=1)).stderr
    assert len(await world.live()) == 1


@pytest.mark.timeout(120)
async def test_it_runs_until_it_is_stopped_and_hears_what_it_is_told(
    plane: Plane, world: World, run_plane: RunPlane, tmp_path: Path
) -> None:
    """As systemd runs it. A second one is refused; a person who has signed in elsewhere is taken."""
    state = tmp_path / "state"
    line = f"--profile {DEFAULT_PATH} agent run --state {state} --heartbeat 1s --hardware-id m1"
    environment = {key: value for key, value in os.environ.items() if key != KEY_VARIABLE}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *line.split(), env=environment, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        await become((state / "agent.sock").exists, 40)
        said = (await run_plane(f"agent run {line.partition('run ')[2]}", exit_code=1)).stderr
        assert f"(process {process.pid})" in said
        (tmp_path / "id_token").write_text(world.id_token("alice").id_token)
        async with asyncio.timeout(20):
            # Until it has tried, it says that it is about to.
            while "guardhouse login | guardhouse agent tell sign-in" not in words(said):
                said = (await run_plane(f"agent status --state {state}", exit_code=1)).stdout
        await run_plane(f"agent tell sign-in --id-token-file {tmp_path}/id_token --state {state}")
        await _until(world.live)
        await become(lambda: json.loads((state / "status.json").read_text())["registrations"][0]["current"])
        assert "is registered" in (await run_plane(f"agent status --state {state}")).stdout
        answer = await run_plane(f"agent tell lock --state {state}", exit_code=1)
        assert "not in multi-user mode" in answer.stderr
        process.terminate()
        _, log = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, log
    assert b"enrolled as reg_" in log
    assert world.id_token("alice").id_token.encode()[:40] not in log
    assert "no agent runs here" in (await run_plane(f"agent tell lock --state {state}", exit_code=1)).stderr


async def test_a_person_signs_in_where_the_agent_was_started(
    plane: Plane, run_plane: RunPlane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a browser, with PKCE; of an agent that already is enrolled nothing is asked."""
    opened = []

    def sign_in(link: str) -> bool:
        opened.append(link)
        with httpx.Client(verify=False, trust_env=False, follow_redirects=True) as browser:
            return browser.get(f"{link}&login_hint=alice@example.com").is_success

    monkeypatch.setenv("BROWSER", "some")
    monkeypatch.setattr(webbrowser, "open", sign_in)
    for _ in range(2):
        await run_plane(f"agent run --once --sign-in browser --state {tmp_path}/state --hardware-id m1")
        assert len(await world.live()) == len(opened) == 1
    plane.issuer.__exit__(None, None, None)
    said = (await run_plane(f"agent run --once --sign-in browser --state {tmp_path}/other", exit_code=1)).stdout
    assert "does not answer" in words(said)
    assert "tries again" in words(said)


class Codes:
    """Lets people sign in with a code (RFC 8628) at the provider of a control plane."""

    def __init__(self, plane: Plane, sign_in: Callable[[], str]) -> None:
        self.forms: list[dict[str, str]] = []
        """What the token endpoint was asked with."""
        self.declined = False
        self._url = plane.issuer.url
        self._sign_in = sign_in
        plane.issuer.interfere = self.answer

    def answer(self, path: str) -> ResponseReturnValue | None:
        match path:
            case "/.well-known/openid-configuration":
                names = {"authorization": "authorize", "token": "token", "device_authorization": "device"}
                endpoints = {f"{name}_endpoint": f"{self._url}/{at}" for name, at in names.items()}
                return {"issuer": self._url, "jwks_uri": f"{self._url}/jwks", **endpoints}
            case "/device":
                code = {"device_code": "d", "user_code": "WXYZ", "verification_uri": f"{self._url}/enter"}
                return {**code, "interval": 0.05, "expires_in": 60}
            case "/token":
                self.forms.append(request.form.to_dict())
                if self.declined:
                    return {"error": "access_denied"}, 400
                if len(self.forms) % 2:
                    return {"error": "authorization_pending"}, 400
                return {"access_token": "a", "token_type": "Bearer", "id_token": self._sign_in()}
        return None


async def test_a_person_signs_in_with_a_code_on_another_device(
    plane: Plane, run_plane: RunPlane, world: World, tmp_path: Path
) -> None:
    """Where the organization allows it (threat T-03), to enroll, and again when the session was revoked."""
    codes = Codes(plane, lambda: world.id_token("alice").id_token)
    line = f"agent run --once --sign-in device-code --state {tmp_path}/state --hardware-id m1"
    said = words((await run_plane(line, exit_code=1)).stdout)
    assert "guardhouse organizations update --device-flow" in said
    await run_plane("organizations update --device-flow")
    codes.declined = True
    said = words((await run_plane(f"{line}-other", exit_code=1)).stdout)
    assert "whoever signed in may not, or has declined" in said
    assert await world.live() == []
    codes.declined, codes.forms = False, []
    made = await run_plane(line)
    assert f"Open {plane.issuer.url}/enter on any device and enter WXYZ" in words(made.stderr)
    (held,) = await world.live()
    assert f"{held.registration_id} is registered" in words(made.stdout)
    assert [form["device_code"] for form in codes.forms] == ["d", "d"]
    # Who is enrolled is asked for nothing, until the session has to begin anew.
    assert "WXYZ" not in (await run_plane(line)).stderr
    await run_plane(f"sessions revoke {held.registration_id}")
    assert "enter WXYZ" in words((await run_plane(line)).stderr)
    shown = json.loads((await run_plane(f"sessions show {held.registration_id} --json")).stdout)
    assert not shown["session"]["revoked"]
    assert len(codes.forms) == 4


async def test_an_interface_has_one_keeper(run_plane: RunPlane, enrolling: str, tmp_path: Path) -> None:
    tunnel = f"--interface wg0 --sockets {tmp_path} --gateway-public-key {KEY} --gateway-endpoint 192.0.2.1:51820"
    with claimed(Interface("wg0", tmp_path)):
        said = (await run_plane(f"agent run --once {enrolling} {tunnel}", exit_code=1)).stderr
        assert f"process {os.getpid()} keeps" in said
    # Without an interface it enrolls, and says what is missing.
    said = (await run_plane(f"agent run --once {enrolling} {tunnel}", exit_code=1)).stdout
    assert "start it: wireguard-go wg0" in words(said)


async def test_an_administrators_file_sets_a_machine_up(
    run_plane: RunPlane, world: World, token: ServiceTokenCredential, tmp_path: Path
) -> None:
    settings = mdm.Settings(
        organization=world.organization_id, auth_client_id=token.client_id, auth_client_secret=token.client_secret
    )
    file = tmp_path / "mdm.xml"
    file.write_bytes(mdm.render(mdm.Mdm(configs=(settings,))))
    file.chmod(0o644)
    made = await run_plane(f"agent run --once --mdm {file} --state {tmp_path}/state")
    assert f"chmod 600 {file}" in made.stderr
    (held,) = await world.live()
    assert held.managed
    # Decision 18: what an administrator has enrolled cannot leave.
    said = await run_plane(f"agent leave --state {tmp_path}/state --yes", exit_code=1)
    assert "LEAVE_NOT_ALLOWED" in said.stderr
    assert list((tmp_path / "state").glob("reg_*.key"))


def test_what_the_file_lacks_is_told(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mdm.xml"
    names = (ORGANIZATION, "org_" + "2" * 32)
    several = tuple(mdm.Settings(organization=it, display_name=it) for it in names)
    file.write_bytes(mdm.render(mdm.Mdm(configs=several)))
    said = run(f"agent run --once --mdm {file} --state {tmp_path}/s -o org_other", exit_code=2).stderr
    assert "has several organizations" in words(said)
    file.write_text("<dict><key>what</key><true/></dict>")
    assert "what" in words(run(f"agent run --mdm {file}", exit_code=2).stderr)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--interface wg0", "the gateway's key is needed"),
        (f"--interface wg0 --gateway-public-key {KEY}", "where the gateway is has to be said"),
        ("--interface wg0 --gateway-public-key x", "standard base64"),
        (f"--interface wg0 --gateway-public-key {KEY} --gateway-endpoint host", "is no HOST:PORT"),
        ("--multi-user --id-token x", "guardhouse agent tell sign-in"),
    ],
)
def test_what_the_options_lack_is_told(run: Run, options: str, said: str) -> None:
    assert said in words(run(f"agent run --once {options}", exit_code=2).stderr)


def test_how_often_has_bounds(run: Run) -> None:
    assert "heartbeat is 1s to 24h0m0s" in run("agent run --heartbeat 1ms", exit_code=1).stderr
    assert "rotate_key is 1m0s to" in run("agent run --rotate-key 1s", exit_code=1).stderr


async def _until(ask: Callable[[], Awaitable[list[pb.Registration]]]) -> None:
    async with asyncio.timeout(20):
        while not await ask():  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.05)

"""Signing in at a terminal, and what takes the place of an ID token by hand."""

import json
import os
import webbrowser
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from typer import FileText

from demo.issuer import Issuer, Person
from guardhouse import openid
from guardhouse.cli import invocation
from guardhouse.cli.login import How
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import NOON, REGISTRATION, Run, words
from tests.guardhouse.scripted import DeviceRegistry, ScriptedServer

ALICE = "alice@example.com"


@pytest.fixture(autouse=True)
def _one_authority(tls_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here meets TLS, so none waits until all the authorities of the world are read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_folder / "ca.crt"))


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer([Person(ALICE, "Alice")]) as issuer:
        yield issuer


@pytest.fixture
def provided(installation: ScriptedServer, issuer: Issuer) -> registry.GetEnrollmentInfoResponse:
    """What the installation says of where to sign in; a test may change it."""
    DeviceRegistry(installation)
    info = installation.answers["GetEnrollmentInfo"]
    assert isinstance(info, registry.GetEnrollmentInfoResponse)
    info.sign_ins.add(
        identity_provider_id="idp_1", display_name="Example", issuer=issuer.url, client_ids=[issuer.client_id, "other"]
    )
    return info


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The links that a browser has opened; Alice signs in there at once."""
    opened: list[str] = []

    def sign_in(link: str) -> bool:
        opened.append(link)
        os.write(1, b"Opening in existing browser session.\n")
        with httpx.Client(verify=False, trust_env=False, follow_redirects=True) as browser:
            return browser.get(f"{link}&login_hint={ALICE}").is_success

    monkeypatch.setenv("BROWSER", "some")
    monkeypatch.setattr(webbrowser, "open", sign_in)
    return opened


def claims(id_token: str) -> dict[str, str]:
    return openid._claims(id_token)


def test_a_person_enrolls_by_signing_in(
    run: Run, installation: ScriptedServer, provided: registry.GetEnrollmentInfoResponse, links: list[str]
) -> None:
    assert "Sign in in your browser" in run("enroll --sign-in browser --save keep").stderr
    (request,) = installation.requests("Register")
    assert claims(request.credential.id_token)["sub"] == ALICE
    assert len(links) == 1


def test_who_sits_at_a_terminal_need_not_ask_for_it(
    run: Run, installation: ScriptedServer, provided: object, links: list[str], somebody_looks: None
) -> None:
    run("enroll --save keep")
    assert claims(installation.requests("Register")[0].credential.id_token)["sub"] == ALICE


def test_where_nobody_sits_a_credential_is_asked_for_at_once(run: Run, provided: object, links: list[str]) -> None:
    for line in ("enroll --save keep", f"sessions reauthenticate {REGISTRATION}", f"sessions refresh {REGISTRATION}"):
        assert "a credential is needed" in words(run(line, exit_code=2).stderr)
    assert links == []


def test_an_id_token_for_a_script_is_all_that_is_said(
    run: Run, provided: object, links: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """What the browser says goes elsewhere."""
    token = run("login").stdout
    assert claims(token.strip())["sub"] == ALICE
    assert claims(json.loads(run("login --json").stdout)["id_token"])["sub"] == ALICE
    said = capfd.readouterr()
    assert said.out == ""
    assert "existing browser session" in said.err


def test_asking_for_it_counts_more_than_what_the_environment_holds(
    run: Run, installation: ScriptedServer, provided: object, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDHOUSE_ID_TOKEN", "old")
    run("enroll --sign-in browser --save keep")
    assert claims(installation.requests("Register")[0].credential.id_token)["sub"] == ALICE


def test_of_several_providers_one_is_named_or_asked_for(
    run: Run,
    provided: registry.GetEnrollmentInfoResponse,
    issuer: Issuer,
    links: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"issuer": "https://idp.invalid", "client_ids": ["x"]}
    provided.sign_ins.add(identity_provider_id="idp_2", display_name="Elsewhere", **other)
    said = words(run("login", exit_code=2).stderr)
    assert "Example (idp_1), Elsewhere (idp_2)" in said
    assert "none of" in words(run("login --provider Nowhere", exit_code=2).stderr)
    for name in ("Example", "idp_1"):
        assert claims(run(f"login --provider {name}").stdout.strip())["iss"] == issuer.url
    monkeypatch.setattr(invocation, "is_interactive", lambda: True)
    asked = run("login", stdin="9\n1\n")
    assert "a number from 1 to 2 is wanted" in asked.stderr
    assert claims(asked.stdout.strip())["iss"] == issuer.url
    del provided.sign_ins[:]
    assert "guardhouse identity-providers" in words(run("login", exit_code=2).stderr)


def test_where_no_browser_opens_the_link_is_printed(
    run: Run, provided: object, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid, "SECONDS", 0.01)
    for variable in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    for line in ("login", "login --sign-in link"):
        if "link" in line:  # A browser would open now.
            monkeypatch.setenv("BROWSER", "some")
        said = run(line, exit_code=1).stderr
        assert "Open this link in a browser on this machine: http://127.0.0.1:" in said
        assert "ssh -L" in said
        assert "nobody has signed in within" in said
    assert links == []


def test_a_code_is_refused_while_the_organization_does_not_allow_it(
    run: Run, provided: registry.GetEnrollmentInfoResponse
) -> None:
    """Threat T-03."""
    said = words(run("login --sign-in device-code", exit_code=2).stderr)
    assert "guardhouse organizations update --device-flow" in said
    provided.device_flow = True
    assert (
        "has no sign-in with a code; sign in with --sign-in browser"
        in run("login --sign-in device-code", exit_code=1).stderr
    )


def test_a_clients_secret_is_there_for_every_sign_in() -> None:
    """An agent has somebody sign in again a month later, and what it was given is read to its end."""
    how = How("browser", FileText(BytesIO(b"secret\n")), 0)
    assert (how.secret, how.secret) == ("secret", "secret")


@pytest.fixture
def begun(installation: ScriptedServer, issuer: Issuer) -> session.StartReauthenticationResponse:
    """Where the holder of a registration signs in again."""
    installation.answers["Reauthenticate"] = session.ReauthenticateResponse(authenticate_time=NOON)
    installation.answers["RefreshIdentity"] = session.RefreshIdentityResponse(authenticate_time=NOON)
    sign_in = session.SignIn(issuer=issuer.url, client_ids=[issuer.client_id])
    answer = session.StartReauthenticationResponse(sign_in=sign_in, challenge="1.mac", expire_time=NOON)
    installation.answers["StartReauthentication"] = answer
    return answer


@pytest.mark.parametrize(
    ("line", "method"),
    [
        (f"sessions reauthenticate {REGISTRATION}", "Reauthenticate"),
        (f"sessions refresh {REGISTRATION}", "RefreshIdentity"),
        ("device reauthenticate --from keep", "Reauthenticate"),
    ],
)
def test_the_holder_of_a_registration_signs_in_where_they_enrolled(
    run: Run,
    installation: ScriptedServer,
    begun: session.StartReauthenticationResponse,
    provided: object,
    links: list[str],
    line: str,
    method: str,
) -> None:
    """Decisions 27 and 33: the challenge goes along, and they are asked to sign in anew only if they must."""
    run("enroll --id-token signed --save keep")
    for forced in (False, True):
        begun.sign_in.force_interaction = forced
        run(f"{line} --sign-in browser")
        request = installation.requests(method)[-1]
        assert (claims(request.credential.id_token)["sub"], request.challenge) == (ALICE, "1.mac")
        assert ("prompt=login" in links[-1]) == forced


def test_a_machine_signs_in_nowhere(run: Run, begun: session.StartReauthenticationResponse, links: list[str]) -> None:
    """Decision 34."""
    begun.ClearField("sign_in")
    said = words(run(f"sessions reauthenticate {REGISTRATION} --sign-in browser", exit_code=2).stderr)
    assert "a machine signs in nowhere" in said
    assert links == []


def test_a_provider_that_is_down_is_an_error_with_a_next_step(
    run: Run, provided: registry.GetEnrollmentInfoResponse, links: list[str]
) -> None:
    provided.sign_ins[0].issuer = "http://127.0.0.1:9"
    (line,) = run("login", exit_code=1).stderr.splitlines()
    assert line.startswith("error: 127.0.0.1 does not answer")
    assert "check the network" in line

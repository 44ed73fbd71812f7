"""Applications: where their policies come from, and what somebody who signs in is shown."""

import json
from typing import Any

import pytest

from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import NOON, Run, RunPlane, words
from tests.guardhouse.scripted import ScriptedServer
from tests.system.people import World

STAFF = session.ApplicationPolicy(
    display_name="Staff",
    decision=session.APPLICATION_DECISION_ALLOW,
    include=[session.ApplicationRule(group="staff"), session.ApplicationRule(everyone=session.Everyone())],
    session_duration="1h",
)


@pytest.fixture
def applications(installation: ScriptedServer) -> ScriptedServer:
    wiki = session.Application(application_id="app_1", display_name="Wiki", policies=[STAFF], etag="now")
    installation.answers["GetApplication"] = session.GetApplicationResponse(application=wiki)
    installation.answers["CreateApplication"] = session.CreateApplicationResponse()
    installation.answers["UpdateApplication"] = session.UpdateApplicationResponse()
    return installation


def test_policies_are_written_as_they_are_read(run: Run, applications: ScriptedServer) -> None:
    shown = run("applications show app_1 --json").stdout
    policies = json.dumps(json.loads(shown)["application"]["policies"])
    run("applications create Other --policies -", stdin=policies)
    run("applications update app_1 --policies -", stdin=policies)
    run("applications update app_1 --policies -", stdin="[]")
    (made,) = applications.requests("CreateApplication")
    changed, emptied = applications.requests("UpdateApplication")
    assert list(made.application.policies) == list(changed.application.policies) == [STAFF]
    assert list(changed.update_mask.paths) == list(emptied.update_mask.paths) == ["policies"]
    assert not emptied.application.policies


def test_people_read_whom_a_policy_is_for(run: Run, applications: ScriptedServer) -> None:
    shown = run("applications show app_1").stdout
    assert "decision=allow include=group=staff, everyone session-duration=1h" in shown


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "Staff"}]', '[{"decision": "PERMIT"}]'])
def test_what_is_no_list_of_policies_is_refused(run: Run, applications: ScriptedServer, text: str) -> None:
    assert "--policies" in words(run("applications create Wiki --policies -", stdin=text, exit_code=2).stderr)
    assert not applications.calls


@pytest.mark.parametrize(
    "line",
    [
        "applications create Wiki --allow everyone --policies -",
        "applications create Wiki --allow nobody",
        "applications update app_1",
        "applications update app_1 --identity-provider idp_1 --any-identity-provider",
        "applications update app_1 --device-session --default-device-session",
        "applications log-in app_1",
        "device-sessions update",
        "device-sessions update --session-duration 1h --no-session-duration",
        "signing-keys rotate --revoke-previous",
    ],
)
def test_what_contradicts_itself_or_says_nothing_is_refused(run: Run, applications: ScriptedServer, line: str) -> None:
    run(line, exit_code=2, stdin="[]")
    assert not applications.calls


def test_whoever_signs_in_is_shown_what_they_get(run: Run, installation: ScriptedServer) -> None:
    answer = session.CheckAnswer(decision=session.DECISION_ALLOW, reason=session.DECISION_REASON_SESSION_FRESH)
    allowed = session.LogInResponse(
        answer=answer,
        session_token="the-session",
        application_token="the.token",
        application_token_expire_time=NOON,
    )
    refused = session.LogInResponse(
        answer=session.CheckAnswer(decision=session.DECISION_BLOCK, reason=session.DECISION_REASON_POLICY_BLOCK)
    )
    installation.answers["LogIn"] = allowed
    shown = run("applications log-in app_1 --id-token signed").stdout
    assert "the-session" in shown
    assert "the.token" in shown
    installation.answers["LogIn"] = refused
    shown = run("applications log-in app_1 --id-token signed").stdout
    assert "policy-block" in shown
    assert "session token" not in shown


def test_whoever_is_not_signed_in_is_shown_where_they_can(run: Run, installation: ScriptedServer) -> None:
    answer = session.CheckAnswer(decision=session.DECISION_REAUTHENTICATE, reason=session.DECISION_REASON_NO_SESSION)
    sign_in = session.SignIn(issuer="https://idp.example", client_ids=["a", "b"])
    installation.answers["CheckApplication"] = session.CheckApplicationResponse(answer=answer, sign_ins=[sign_in])
    shown = run("checks application app_1").stdout
    assert "no-session" in shown
    assert "issuer=https://idp.example client-ids=a, b" in shown
    assert "application token" not in shown


async def test_an_application_is_made_used_and_deleted(run_plane: RunPlane, world: World) -> None:
    """Against a control plane: somebody signs in, and is let in by what they were given."""

    async def answered(line: str, **about: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await run_plane(f"{line} --json", **about)).stdout)
        return found

    made = await answered("applications create Wiki --allow email-domain=example.com --binding-cookie")
    application_id = made["application"]["application_id"]
    credential = world.id_token("alice").id_token
    begun = await answered(f"applications log-in {application_id} --id-token-file -", stdin=credential)
    assert begun["answer"]["decision"] == "DECISION_ALLOW"
    held = f"--session-token {begun['session_token']} --binding {begun['binding']}"
    shown = (await run_plane(f"checks application {application_id} {held}")).stdout
    assert "session-fresh" in shown
    assert "application token" in shown
    shown = (await run_plane(f"checks application {application_id}")).stdout
    assert f"issuer={world.plane.issuer.url}" in shown
    (first,) = (await answered("signing-keys list"))["signing_keys"]
    second = (await answered("signing-keys rotate"))["signing_key"]
    assert second["key_id"] != first["key_id"]
    await run_plane("device-sessions update --session-duration 24h --apply-by-default")
    assert "24h0m0s" in (await run_plane("device-sessions show")).stdout
    await run_plane(f"applications delete {application_id} --yes")
    refused = await run_plane(f"applications show {application_id}", exit_code=1)
    assert "[APPLICATION_NOT_FOUND]; see guardhouse applications list" in refused.stderr

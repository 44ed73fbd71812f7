"""Policies: their order, what is warned about, their hours, and trying them."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import NOON, POLICY, REGISTRATION, Run, RunPlane, words
from tests.guardhouse.scripted import ScriptedServer
from tests.system.people import World

L4, HTTP, DNS = session.POLICY_FILTER_L4, session.POLICY_FILTER_HTTP, session.POLICY_FILTER_DNS


@pytest.mark.parametrize("option", ["", "--json", "--limit 3"])
def test_policies_are_listed_as_they_are_evaluated(run: Run, installation: ScriptedServer, option: str) -> None:
    """Decision 29, on however many pages they come; and one without a precedence, of an older server, is the last."""
    policies = [
        session.Policy(policy_id="fourth", filter=DNS, precedence=1),
        session.Policy(policy_id="third", filter=HTTP),
        session.Policy(policy_id="second", filter=HTTP, precedence=20, traffic='http.request.host == "wiki.example"'),
        session.Policy(policy_id="first", filter=L4, precedence=300),
    ]
    pages = [session.ListPoliciesResponse(policies=policies[:1], next_page_token="2")]
    installation.answers["ListPolicies"] = [*pages, session.ListPoliciesResponse(policies=policies[1:])]
    shown = run(f"policies list {option}").stdout
    places = [shown.find(name) for name in ("first", "second", "third", "fourth")]
    assert places[:3] == sorted(places[:3])
    assert (places[3] == -1) if option == "--limit 3" else (places[3] > places[2])
    assert "wiki.example" in shown


def test_what_is_probably_not_meant_is_said_beside_the_answer(run: Run, installation: ScriptedServer) -> None:
    """Decisions 29 and 30a."""
    warnings = [
        session.PolicyWarning(field="identity", column=16, message="end it with $"),
        session.PolicyWarning(field="traffic", message="it covers idp.example"),
    ]
    installation.answers["CreatePolicy"] = session.CreatePolicyResponse(warnings=warnings)
    installation.answers["UpdatePolicy"] = session.UpdatePolicyResponse(warnings=warnings[:1])
    said = "warning: identity, column 16: end it with $\n"
    created = run("policies create Wiki --json")
    assert created.stderr == f"{said}warning: traffic: it covers idp.example\n"
    assert len(json.loads(created.stdout)["warnings"]) == 2
    assert run(f"policies update {POLICY} --enable --etag e1").stderr == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--schedule mon=08:00-17:00", "say where: --time-zone"),
        ("--time-zone UTC", "it is the place of a --schedule"),
        ("--time-zone UTC --schedule mon", "'mon' is no DAYS=HOURS"),
        ("--time-zone UTC --schedule mo=08:00-17:00", "'mo' is no day"),
        ("--time-zone UTC --schedule fri-=08:00-17:00 --schedule mon-x=1", "'x' is no day"),
        ("--expire-time tomorrow", "nor a duration from now"),
        ("--precedence 0", "greater than or equal to 1"),
        ("--precedence 1000001", "less than or equal to 1000000"),
    ],
)
def test_what_cannot_be_meant_is_not_asked_for(
    run: Run, installation: ScriptedServer, options: str, message: str
) -> None:
    assert message in words(run(f"policies create Pages --filter dns {options}", exit_code=2).stderr)
    assert not installation.calls


def test_an_update_empties_only_what_it_does_not_set(run: Run, installation: ScriptedServer) -> None:
    installation.answers["UpdatePolicy"] = session.UpdatePolicyResponse()
    pairs = ["traffic x", "identity x", "device-posture x", "timeout 8h", "expire-time 1h"]
    pairs += ["schedule mon=08:00-09:00 --time-zone UTC"]
    for pair in pairs:
        option = pair.split()[0]
        said = words(run(f"policies update {POLICY} --{pair} --no-{option} --etag e1", exit_code=2).stderr)
        assert f"it contradicts --no-{option}" in said
    assert not installation.calls
    run(f"policies update {POLICY} {' '.join(f'--no-{pair.split()[0]}' for pair in pairs)} --etag e1")
    (request,) = installation.requests("UpdatePolicy")
    fields = ["check_session", "device_posture", "expire_time", "identity", "schedule", "traffic"]
    assert sorted(request.update_mask.paths) == fields
    assert not any(request.policy.HasField(name) for name in ("check_session", "schedule", "expire_time"))


def test_a_policy_expires_a_while_from_now(run: Run, installation: ScriptedServer) -> None:
    installation.answers["CreatePolicy"] = session.CreatePolicyResponse()
    now = Timestamp()
    now.GetCurrentTime()
    run("policies create Pages --filter dns --expire-time 24h")
    (request,) = installation.requests("CreatePolicy")
    assert request.policy.expire_time.seconds - now.seconds == pytest.approx(24 * 3600, abs=60)


RESULT = session.TrafficTestResult(
    answer=session.CheckAnswer(
        decision=session.DECISION_REAUTHENTICATE,
        reason=session.DECISION_REASON_SESSION_EXPIRED,
        session_expire_time=NOON,
    ),
    steps=[
        session.PolicyStep(policy_id=POLICY, display_name="Wiki", failed=["identity"], missing=["identity.email"]),
        session.PolicyStep(
            display_name="New",
            matched=True,
            decides=True,
            decision=session.DECISION_REAUTHENTICATE,
            reason=session.DECISION_REASON_SESSION_EXPIRED,
        ),
    ],
    present_answer=session.CheckAnswer(
        decision=session.DECISION_ALLOW, reason=session.DECISION_REASON_NO_POLICY_MATCHED
    ),
    newly_refused=True,
)


@pytest.mark.usefixtures("in_tokyo")
def test_a_trial_shows_the_decision_and_what_each_policy_makes_of_it(
    run: Run, installation: ScriptedServer, tmp_path: Path
) -> None:
    """Decision 30a: also which fields nobody gave."""
    installation.answers["TestPolicies"] = session.TestPoliciesResponse(results=[RESULT])
    proposal = tmp_path / "proposal.json"
    proposal.write_text(
        '{"proposed_policies": [{"display_name": "New", "action": 1}], "deleted_policy_ids": ["pol_9"]}'
    )
    shown = run(
        "policies test --kind connection net.dst.ip=10.0.0.1 --email eve@example.com --name Eve --group a --group b"
        " --oidc-claim team=x"
        " --passed disk --failed firewall --session-age 9h --posture-age 30m"
        f" --at 2026-09-21T14:13:20Z --with {proposal}"
    ).stdout.splitlines()
    rows = [re.split(" {2,}", line) for line in shown if line]
    assert rows == [
        ["decision", "reauthenticate (session-expired), expired at 2026-09-21 23:13:20"],
        ["at present", "allow (no-policy-matched)"],
        ["newly refused", "yes"],
        ["POLICY ID", "DISPLAY NAME", "MATCHED", "DECIDES", "DECISION", "REASON", "FAILED", "MISSING"],
        [POLICY, "Wiki", "no", "no", "-", "-", "identity", "identity.email"],
        ["proposed", "New", "yes", "yes", "reauthenticate", "session-expired", "-", "-"],
    ]
    (request,) = installation.requests("TestPolicies")
    (test,) = request.tests
    assert test.test_subject == session.TestSubject(
        email="eve@example.com",
        display_name="Eve",
        groups=["a", "b"],
        passed_checks=["disk"],
        failed_checks=["firewall"],
        session_age="9h",
        posture_age="30m",
        oidc_claims=["team=x"],
    )
    assert test.traffic == session.Traffic(fields={"net.dst.ip": "10.0.0.1"})
    assert request.time == NOON
    assert [policy.display_name for policy in request.proposed_policies] == ["New"]
    assert list(request.deleted_policy_ids) == ["pol_9"]


def test_a_trial_is_about_a_registration_or_about_somebody(run: Run, installation: ScriptedServer) -> None:
    installation.answers["TestPolicies"] = session.TestPoliciesResponse(results=[session.TrafficTestResult()])
    run(f"policies test --kind query dns.fqdn=a.example --registration {REGISTRATION}")
    run("policies test --kind query --json")
    about, nobody = (request.tests[0] for request in installation.requests("TestPolicies"))
    assert about.registration_id == REGISTRATION
    assert nobody.test_subject == session.TestSubject()
    for wrong in (f"--registration {REGISTRATION} --email eve@example.com", "dns.fqdn", "=x", "--at nowhere"):
        run(f"policies test --kind query {wrong}", exit_code=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Failed to load JSON"),
        ("{}", "there is nothing in it"),
        ('{"organization_id": "org_1"}', "it has organization_id"),
        ('{"proposed_policies": [{"nothing": 1}]}', "nothing"),
    ],
)
def test_a_proposal_that_is_none_is_refused(run: Run, installation: ScriptedServer, text: str, message: str) -> None:
    said = words(run("policies test --kind query --with -", exit_code=2, stdin=text).stderr)
    assert message in said
    assert not installation.calls


async def test_a_policy_is_written_tried_and_obeyed(run_plane: RunPlane, world: World, tmp_path: Path) -> None:
    """Against a control plane: a list, a policy that uses it, the same traffic tried and then decided on."""
    held = (await world.enroll("eve")).registration
    await run_plane("lists create ssh-hosts --type ip 10.1.0.0/16")
    wrong = await run_plane("policies create SSH --traffic 'net.dst.ip = 10.1.2.3'", exit_code=1)
    assert "policy.traffic: column 12" in wrong.stderr
    proposal = tmp_path / "proposal.json"
    proposed = {"display_name": "SSH", "enabled": True, "filter": "POLICY_FILTER_L4", "action": "POLICY_ACTION_BLOCK"}
    proposed |= {"traffic": "net.dst.ip in $ssh-hosts"}
    proposal.write_text(json.dumps({"proposed_policies": [proposed]}))
    traffic = "--kind connection net.dst.ip=10.1.2.3 net.dst.port=22"
    tried = words((await run_plane(f"policies test {traffic} --email eve@example.com --with {proposal}")).stdout)
    assert "decision block (policy-block) at present allow (no-policy-matched) newly refused yes" in tried
    assert "allow (no-policy-matched)" in words((await run_plane(f"policies test {traffic}")).stdout)
    made = await run_plane(
        "policies create SSH --action block --traffic 'net.dst.ip in $ssh-hosts'"
        " --identity 'identity.email matches \".*@example.com\"' --json"
    )
    assert "warning: identity, column 1: " in made.stderr
    policy_id = json.loads(made.stdout)["policy"]["policy_id"]
    # Each command is a process of its own and knows nothing of what the one before has changed.
    replica = world.plane.nodes["session"].servicer.session.replica  # type: ignore[attr-defined]
    assert await replica.own.fresh(world.plane.clock.steady(), timeout=30)
    for subject in (held.registration_id, held.ipv4, held.ipv6):
        decided = (await run_plane(f"checks traffic {subject} {traffic}")).stdout
        assert policy_id in decided
        assert "policy-block" in decided
    listed = (await run_plane("lists list --json")).stdout
    (kept,) = json.loads(listed)["lists"]
    refused = await run_plane(f"lists delete {kept['list_id']} --yes", exit_code=1)
    assert "[LIST_IN_USE]" in refused.stderr
    await run_plane(f"lists update {kept['list_id']} --remove 10.1.0.0/16")
    assert await replica.own.fresh(world.plane.clock.steady(), timeout=30)
    assert "no-policy-matched" in (await run_plane(f"checks traffic {held.ipv4} {traffic}")).stdout

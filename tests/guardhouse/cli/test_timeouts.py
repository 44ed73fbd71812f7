"""`guardhouse policies set-timeout`: one duration for some policies or for all (decision 28)."""

import json

import pytest

from guardhouse.errors import EtagMismatch
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import Run
from tests.guardhouse.scripted import ScriptedServer


def policy(name: str, duration: str = "", **fields: object) -> session.Policy:
    values = {"filter": session.POLICY_FILTER_HTTP, "action": session.POLICY_ACTION_ALLOW, "etag": f"of {name}"}
    made = session.Policy(policy_id=name, display_name=name.title(), enabled=True, **values | fields)  # type: ignore[arg-type]
    if duration:
        made.check_session.enforce = True
        made.check_session.duration = duration
    return made


POLICIES = [
    policy("wiki", "8h0m0s"),
    policy("ssh", filter=session.POLICY_FILTER_L4),
    policy("mail", "12h0m0s"),
    policy("names", filter=session.POLICY_FILTER_DNS),
    policy("ads", action=session.POLICY_ACTION_BLOCK),
]


@pytest.fixture
def policies(installation: ScriptedServer) -> ScriptedServer:
    installation.answers["ListPolicies"] = session.ListPoliciesResponse(policies=POLICIES)
    installation.answers["GetPolicy"] = lambda request: session.GetPolicyResponse(
        policy=next(each for each in POLICIES if each.policy_id == request.policy_id)
    )
    installation.answers["UpdatePolicy"] = lambda request: session.UpdatePolicyResponse(policy=request.policy)
    return installation


def changed(policies: ScriptedServer) -> dict[str, str]:
    """The new duration by what was changed."""
    requests = policies.requests("UpdatePolicy")
    for request in requests:
        assert list(request.update_mask.paths) == ["check_session"]
        assert request.policy.check_session.enforce
        # Nobody else's change is undone.
        assert request.policy.etag == f"of {request.policy.policy_id}"
    return {request.policy.policy_id: request.policy.check_session.duration for request in requests}


def test_the_global_timeout_is_the_same_on_every_policy_that_may_have_one(run: Run, policies: ScriptedServer) -> None:
    """Decision 28. What has it already stays as it is."""
    assert "2 policies changed to 12h0m0s" in run("policies set-timeout --all 12h").stdout
    assert changed(policies) == {"wiki": "12h0m0s", "ssh": "12h0m0s"}


def test_some_policies_can_be_named(run: Run, policies: ScriptedServer) -> None:
    answer = json.loads(run("--json policies set-timeout 90m wiki mail").stdout)
    assert [each["policy_id"] for each in answer["policies"]] == ["wiki", "mail"]
    assert changed(policies) == {"wiki": "1h30m0s", "mail": "1h30m0s"}


@pytest.mark.parametrize("line", ["12h", "--all 12h wiki", "--all 0s", "--all 12", "--all 87601h"])
def test_what_is_meant_must_be_clear(run: Run, policies: ScriptedServer, line: str) -> None:
    run(f"policies set-timeout {line}", exit_code=2)
    assert not policies.calls


def test_what_would_be_changed_can_be_seen_before(run: Run, policies: ScriptedServer) -> None:
    shown = run("policies set-timeout --all 1h --dry-run")
    assert [name in shown.stdout for name in ("wiki", "ssh", "mail", "names", "ads")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert "would set 1h0m0s on 3 policies" in shown.stderr
    assert changed(policies) == {}


def test_an_error_on_the_way_says_how_far_it_came(run: Run, policies: ScriptedServer) -> None:
    first = session.UpdatePolicyResponse(policy=POLICIES[0])
    policies.answers["UpdatePolicy"] = [first, EtagMismatch("somebody has changed it meanwhile")]
    said = run("policies set-timeout --all 1h", exit_code=1).stderr
    assert "1 of 3 were changed, and ssh was not" in said

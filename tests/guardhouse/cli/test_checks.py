"""Decisions on the command line: one, many, a stream, and why."""

import io
import json
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from guardhouse import errors
from guardhouse.cli.checks import Item, waiting_items
from guardhouse.cli.explain import WHY
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session
from tests.guardhouse.cli.commands import NOON, POLICY, REGISTRATION, USER, Run, words
from tests.guardhouse.scripted import ScriptedServer

ALLOWED = session.CheckAnswer(decision=session.DECISION_ALLOW, reason=session.DECISION_REASON_SESSION_FRESH)
REFUSED = session.CheckAnswer(decision=session.DECISION_BLOCK, reason=session.DECISION_REASON_REGISTRATION_UNKNOWN)


def test_a_check_is_an_answer_also_when_it_refuses(run: Run, installation: ScriptedServer) -> None:
    answer = session.CheckAnswer(
        decision=session.DECISION_REAUTHENTICATE, reason=session.DECISION_REASON_SESSION_EXPIRED
    )
    answer.valid_for.FromMilliseconds(2500)
    installation.answers["CheckSession"] = session.CheckSessionResponse(answer=answer, fresh_as_of=NOON)
    shown = run(f"check {REGISTRATION} {POLICY}").stdout
    for text in ("reauthenticate", "session-expired", "2.5s", "fresh as of", "degraded"):
        assert text in shown
    request = installation.requests("CheckSession")[0]
    assert (request.registration_id, request.policy_id) == (REGISTRATION, POLICY)


def decide(request: session.BatchCheckSessionsRequest) -> session.BatchCheckSessionsResponse:
    """Allows what is asked about reg_1 only; each batch is a second fresher than the one before."""
    return session.BatchCheckSessionsResponse(
        answers=[ALLOWED if item.registration_id == "reg_1" else REFUSED for item in request.items],
        fresh_as_of=Timestamp(seconds=NOON.seconds - len(request.items)),
    )


def test_a_file_of_checks_is_a_table_of_decisions(run: Run, installation: ScriptedServer, tmp_path: Path) -> None:
    installation.answers["BatchCheckSessions"] = decide
    file = tmp_path / "checks"
    file.write_text("reg_1 pol_1\n\nreg_2,pol_1\n")
    _, first, second = run(f"checks batch {file}").stdout.splitlines()
    assert first.split()[:4] == ["reg_1", "pol_1", "allow", "session-fresh"]
    assert second.split()[:4] == ["reg_2", "pol_1", "block", "registration-unknown"]


def test_a_batch_takes_only_the_fields_that_are_wanted(run: Run, installation: ScriptedServer) -> None:
    installation.answers["BatchCheckSessions"] = decide
    shown = run("checks batch - --read-mask decision", stdin="reg_1 pol_1\n").stdout
    assert shown.split() == ["REGISTRATION", "ID", "POLICY", "ID", "DECISION", "reg_1", "pol_1", "allow"]
    assert list(installation.requests("BatchCheckSessions")[0].read_mask.paths) == ["decision"]


def test_many_checks_are_one_answer_that_is_as_fresh_as_its_oldest_part(run: Run, installation: ScriptedServer) -> None:
    installation.answers["BatchCheckSessions"] = decide
    lines = "".join(f"reg_{n} pol_1\n" for n in range(2001))
    found = json.loads(run("checks batch - --json", stdin=lines).stdout)
    assert [answer["decision"] == "DECISION_ALLOW" for answer in found["answers"]].index(True) == 1
    assert len(found["answers"]) == 2001
    assert found["fresh_as_of"] == Timestamp(seconds=NOON.seconds - 1000).ToJsonString()


@pytest.mark.parametrize("text", ["", "reg_1\n", "reg_1 pol_1 and more\n"])
def test_a_line_that_asks_for_no_check_is_named(run: Run, installation: ScriptedServer, text: str) -> None:
    assert "A line for each check" in words(run("checks batch -", exit_code=2, stdin=text).stderr)
    assert not installation.requests("BatchCheckSessions")


TRAFFIC = """
{"registration_id": "reg_1", "kind": "TRAFFIC_KIND_CONNECTION", "traffic": {"fields": {"net.dst.ip": "10.0.0.1"}}}
{"address": "100.96.0.1", "kind": 3, "traffic": {"lists": {"app.ids": {"values": ["17"]}}}}
"""


def test_a_file_of_traffic_is_a_table_of_decisions(run: Run, installation: ScriptedServer) -> None:
    refused = session.CheckAnswer(
        decision=session.DECISION_BLOCK, reason=session.DECISION_REASON_POLICY_BLOCK, policy_id=POLICY
    )
    answer = session.BatchCheckTrafficResponse(answers=[ALLOWED, refused], fresh_as_of=NOON)
    installation.answers["BatchCheckTraffic"] = answer
    shown = run("checks traffic-batch -", stdin=TRAFFIC)
    header, first, second = (line.split() for line in shown.stdout.splitlines())
    assert header[:5] == ["SUBJECT", "KIND", "DECISION", "REASON", "POLICY"]
    assert first[:5] == ["reg_1", "connection", "allow", "session-fresh", "-"]
    assert second[:5] == ["100.96.0.1", "query", "block", "policy-block", POLICY]
    assert "Fresh as of" in shown.stderr
    (request,) = installation.requests("BatchCheckTraffic")
    connection, query = request.items
    assert connection.traffic == session.Traffic(fields={"net.dst.ip": "10.0.0.1"})
    assert query.traffic == session.Traffic(lists={"app.ids": session.TrafficValues(values=["17"])})
    found = json.loads(run("checks traffic-batch - --json --read-mask decision", stdin=TRAFFIC).stdout)
    assert [each["decision"] for each in found["answers"]] == ["DECISION_ALLOW", "DECISION_BLOCK"]
    assert list(installation.requests("BatchCheckTraffic")[1].read_mask.paths) == ["decision"]


@pytest.mark.parametrize("text", ["", "reg_1 connection\n", '{"registration": "reg_1"}\n', '{"kind": "query"}\n'])
def test_a_line_that_asks_for_no_traffic_is_named(run: Run, installation: ScriptedServer, text: str) -> None:
    said = words(run("checks traffic-batch -", exit_code=2, stdin=text).stderr)
    assert "A line for each check, as JSON" in said
    assert ("line 1" in said) == bool(text)
    assert not installation.calls


def answer_stream(request: session.StreamCheckSessionsRequest) -> session.StreamCheckSessionsResponse:
    return session.StreamCheckSessionsResponse(nonce=request.nonce, answers=[ALLOWED] * len(request.items))


def test_a_stream_of_checks_answers_line_by_line(run: Run, installation: ScriptedServer) -> None:
    installation.answers["StreamCheckSessions"] = answer_stream
    assert run("checks stream", stdin="reg_1 pol_1\nreg_2 pol_1").stdout.splitlines() == [
        "reg_1 pol_1 allow session-fresh",
        "reg_2 pol_1 allow session-fresh",
    ]
    lines = run("checks stream --json", stdin="reg_1 pol_1\nreg_2 pol_2\n").stdout.splitlines()
    assert [(one["registration_id"], one["policy_id"]) for one in map(json.loads, lines)] == [
        ("reg_1", "pol_1"),
        ("reg_2", "pol_2"),
    ]


def test_a_stream_answers_what_came_before_a_line_that_is_none(run: Run, installation: ScriptedServer) -> None:
    installation.answers["StreamCheckSessions"] = answer_stream
    result = run("checks stream", exit_code=2, stdin="reg_1 pol_1\n" * 1500 + "nonsense\nreg_1 pol_1\n")
    assert "line 1501 is 'nonsense'" in words(result.stderr)
    assert result.stdout.count("allow") == 1500


def test_a_stream_that_ends_says_why(run: Run, installation: ScriptedServer) -> None:
    installation.answers["StreamCheckSessions"] = errors.CredentialsInvalid("the key was revoked")
    said = run("checks stream", exit_code=1, stdin="reg_1 pol_1\n").stderr
    assert "the key was revoked [CREDENTIALS_INVALID]" in said


class Pipe:
    """Standard input whose blocks come when they are put into it."""

    def __init__(self) -> None:
        self.buffer = self
        self.blocks: queue.Queue[bytes] = queue.Queue()

    def read1(self) -> bytes:
        return self.blocks.get(timeout=30)


def test_a_stream_asks_at_once_for_whatever_has_come() -> None:
    """Whoever writes a line and waits for the answer gets it; whoever writes many has them asked together."""
    pipe = Pipe()
    found: Iterator[list[Item]] = waiting_items(pipe)
    pipe.blocks.put(b"reg_1 pol_1\nreg_2")
    assert next(found) == [Item("reg_1", "pol_1")]
    pipe.blocks.put(b" pol_2\n" + b"reg_3 pol_3\n" * 1001)
    assert [len(next(found)), len(next(found))] == [1000, 2]
    pipe.blocks.put(b"")
    assert list(found) == []
    with pytest.raises(typer.BadParameter):
        list(waiting_items(io.TextIOWrapper(io.BytesIO(b"reg_1"))))


@pytest.fixture
def facts(installation: ScriptedServer) -> ScriptedServer:
    """A session of 9 hours, where 8 are allowed."""
    answer = session.CheckAnswer(
        decision=session.DECISION_REAUTHENTICATE,
        reason=session.DECISION_REASON_SESSION_EXPIRED,
        session_expire_time=Timestamp(seconds=NOON.seconds - 3600),
    )
    answer.valid_for.FromSeconds(10)
    policy = session.Policy(
        display_name="wiki",
        enabled=True,
        filter=session.POLICY_FILTER_HTTP,
        action=session.POLICY_ACTION_ALLOW,
        check_session=session.CheckSession(enforce=True, duration="8h0m0s"),
    )
    active = registry.REGISTRATION_STATE_ACTIVE
    registration = registry.Registration(device_id="dev_1", user_id=USER, state=active)
    user = identity.User(user_id=USER, email="eve@example.com", seat_status=identity.SEAT_STATUS_ACTIVE)
    began = session.Session(authenticate_time=Timestamp(seconds=NOON.seconds - 9 * 3600))
    answers: dict[str, Message] = {
        "CheckSession": session.CheckSessionResponse(answer=answer, fresh_as_of=NOON),
        "GetPolicy": session.GetPolicyResponse(policy=policy),
        "GetRegistration": registry.GetRegistrationResponse(registration=registration),
        "GetUser": identity.GetUserResponse(user=user),
        "GetSession": session.GetSessionResponse(session=began),
    }
    installation.answers.update(answers)
    return installation


@pytest.mark.usefixtures("in_tokyo")
def test_a_check_is_explained_step_by_step(run: Run, facts: ScriptedServer) -> None:
    assert run(f"explain check {REGISTRATION} {POLICY}").stdout.splitlines() == [
        "policy        'wiki' allows http, sessions of at most 8h0m0s",
        "registration  active, on dev_1",
        "user          eve@example.com, holds a seat",
        "session       authenticated at 2026-09-21 14:13:20, 9h0m0s before the check; expired at 2026-09-21 22:13:20",
        "freshness     as of 2026-09-21 23:13:20; the answer may be kept for 10s",
        "decision      reauthenticate (session-expired)",
        "because       the session is older than the policy allows",
        f"to change it  its holder signs in again: guardhouse sessions reauthenticate {REGISTRATION}",
    ]


def test_what_there_is_not_is_part_of_the_explanation(run: Run, facts: ScriptedServer) -> None:
    facts.answers["CheckSession"] = session.CheckSessionResponse(answer=REFUSED)
    facts.answers["GetPolicy"] = errors.PolicyNotFound(POLICY)
    facts.answers["GetRegistration"] = errors.RegistrationNotFound(REGISTRATION)
    shown = run(f"explain check {REGISTRATION} {POLICY}").stdout
    assert f"policy        {POLICY} does not exist\n" in shown
    assert f"registration  {REGISTRATION} does not exist\n" in shown
    assert "freshness     never proven" in shown
    assert not facts.requests("GetSession")
    found = json.loads(run(f"explain check {REGISTRATION} {POLICY} --json").stdout)
    assert found["policy"] is found["registration"] is found["user"] is found["session"] is None
    assert found["answer"]["reason"] == "DECISION_REASON_REGISTRATION_UNKNOWN"
    assert found["because"].startswith("there is no such registration")
    assert found["what_would_change_it"].startswith("the machine enrolls")


STEPS = [
    session.PolicyStep(policy_id="pol_9", display_name="Games", failed=["traffic"]),
    session.PolicyStep(
        policy_id=POLICY,
        display_name="wiki",
        matched=True,
        decides=True,
        decision=session.DECISION_REAUTHENTICATE,
        reason=session.DECISION_REASON_SESSION_EXPIRED,
    ),
    session.PolicyStep(policy_id="pol_2", display_name="all", matched=True, missing=["identity.email"]),
]


@pytest.fixture
def traffic(facts: ScriptedServer) -> ScriptedServer:
    """The same session, asked for by what the traffic is; the holder of the address is found by the check."""
    asked = facts.answers["CheckSession"]
    assert isinstance(asked, session.CheckSessionResponse)
    answer = session.CheckAnswer(policy_id=POLICY, registration_id=REGISTRATION)
    answer.MergeFrom(asked.answer)
    facts.answers["CheckTraffic"] = session.CheckTrafficResponse(answer=answer, fresh_as_of=NOON)
    results = [session.TrafficTestResult(steps=STEPS)]
    facts.answers["TestPolicies"] = session.TestPoliciesResponse(results=results)
    return facts


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize("subject", [REGISTRATION, "100.96.0.1"])
def test_traffic_is_explained_up_to_the_policies_that_cover_it(run: Run, traffic: ScriptedServer, subject: str) -> None:
    shown = run(f"explain traffic {subject} --kind connection net.dst.port=443").stdout.splitlines()
    assert shown[:8] == [
        "registration  active, on dev_1",
        "user          eve@example.com, holds a seat",
        "session       authenticated at 2026-09-21 14:13:20, 9h0m0s before the check; expired at 2026-09-21 22:13:20",
        "freshness     as of 2026-09-21 23:13:20; the answer may be kept for 10s",
        "decision      reauthenticate (session-expired)",
        "because       the session is older than the policy allows",
        f"to change it  its holder signs in again: guardhouse sessions reauthenticate {REGISTRATION}",
        "asks again    now",
    ]
    assert [line.split() for line in shown[10:]] == [
        [POLICY, "wiki", "yes", "yes", "reauthenticate", "session-expired", "-", "-"],
        ["pol_2", "all", "yes", "no", "-", "-", "-", "identity.email"],
    ]
    (check,), (tried,) = traffic.requests("CheckTraffic"), traffic.requests("TestPolicies")
    assert subject in (check.registration_id, check.address)
    (test,) = tried.tests
    assert test.registration_id == REGISTRATION
    assert (test.kind, test.traffic) == (check.kind, check.traffic)
    assert check.traffic == session.Traffic(fields={"net.dst.port": "443"})
    found = json.loads(run(f"explain traffic {subject} --kind connection --json").stdout)
    assert found["answer"]["policy_id"] == POLICY
    assert found["registration"]["device_id"] == "dev_1"
    assert [step["display_name"] for step in found["steps"]] == ["wiki", "all"]


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(("ends", "again"), [(NOON, "2026-09-21 23:13:20"), (None, "never")])
def test_traffic_that_is_allowed_says_when_somebody_is_asked_again(
    run: Run, traffic: ScriptedServer, ends: Timestamp | None, again: str
) -> None:
    answer = session.CheckAnswer(
        decision=session.DECISION_ALLOW, reason=session.DECISION_REASON_SESSION_FRESH, session_expire_time=ends
    )
    traffic.answers["CheckTraffic"] = session.CheckTrafficResponse(answer=answer, fresh_as_of=NOON)
    traffic.answers["TestPolicies"] = errors.StateStale("this replica has lost touch")
    shown = run(f"explain traffic {REGISTRATION} --kind connection").stdout
    assert shown.endswith(f"asks again    {again}\n"), "and what cannot be told is left out"


def test_traffic_of_nobody_is_explained(run: Run, traffic: ScriptedServer) -> None:
    traffic.answers["CheckTraffic"] = session.CheckTrafficResponse(answer=REFUSED, fresh_as_of=NOON)
    shown = run("explain traffic 100.96.0.9 --kind connection").stdout
    assert "registration  nobody holds 100.96.0.9\n" in shown
    assert "asks again" not in shown
    assert not traffic.requests("GetRegistration")
    assert not traffic.requests("TestPolicies")


def test_every_reason_of_a_decision_is_explained() -> None:
    assert {int(reason) for reason in WHY} == {number for _, number in session.DecisionReason.items() if number}
    refusals = [reason for reason, (_, change) in WHY.items() if not change]
    assert {session.DecisionReason.Name(reason) for reason in refusals} == {
        "DECISION_REASON_POLICY_ALLOW",
        "DECISION_REASON_NO_POLICY_MATCHED",
        "DECISION_REASON_SIGN_IN_HOST",
        "DECISION_REASON_POLICY_BYPASS",
    }

"""How an agent is, in a sentence."""

import re
from typing import Any

import pytest

from guardhouse.agent.report import HEADINGS, judge, rows
from guardhouse.durations import MINUTE, SECOND

NOW = 1_790_000_000 * SECOND
REGISTRATION: dict[str, Any] = {
    "registration_id": "reg_1",
    "os_user": "",
    "pre_login": False,
    "standing": "active",
    "current": True,
    "ipv4": "100.96.0.1",
    "ipv6": "fd00::1",
    "heard_time": NOW - 5 * SECOND,
    "key_time": 0,
    "asked": False,
    "waits_for_person": False,
    "waits": False,
    "problems": [],
}
SAID: dict[str, Any] = {
    "time": NOW - 2 * SECOND,
    "interface": "wg0",
    "gateway": "gateway.example.com:51820",
    "tunneled": True,
    "handshake_time": NOW // SECOND - 12,
    "interface_problem": None,
    "unused_hosts": [],
    "asks_to_register": False,
    "os_user": "",
    "registrations": [REGISTRATION],
}
AWAY = {"task": "heartbeat", "reason": "SERVICE_UNAVAILABLE", "message": "registry cannot be reached"}
REFUSED = {"task": "enroll", "reason": "ENROLLMENT_REFUSED", "message": "no policy admits this identity"}


def said(registration: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {**SAID, "registrations": [{**REGISTRATION, **(registration or {})}], **more}


@pytest.mark.parametrize(
    ("facts", "ok", "sentence"),
    [
        (SAID, True, "connected as reg_1; the gateway answered 12s ago"),
        (said(unused_hosts=["a.example.com"]), True, "1 host name is passed over"),
        (said(handshake_time=0), False, "has not answered yet: check that it runs, that UDP gets through"),
        (said(handshake_time=NOW // SECOND - 600), False, "has not answered since 10m0s ago"),
        (said(interface=None), True, "no interface is set up"),
        (said(tunneled=False), True, "its profile sends nothing through a tunnel"),
        (said(interface_problem="there is no interface wg0"), False, "there is no interface wg0"),
        (
            said({"standing": "revoked"}),
            False,
            "an administrator can restore it .guardhouse registrations unrevoke reg_1",
        ),
        (said({"standing": "none", "waits": True}), False, "was deleted: sign in to enroll anew .guardhouse login"),
        (said({"standing": "none", "problems": [REFUSED]}), False, "tries again: no policy admits this identity"),
        (
            said({"standing": "none", "problems": [REFUSED], "waits": True}),
            False,
            "no policy admits this .* tell sign-in",
        ),
        (said({"standing": "none"}), False, "is being made"),
        (said({"asked": True, "waits_for_person": True}), False, "the session has to begin anew: sign in"),
        (said({"asked": True}), True, "connected"),
        (said({"problems": [AWAY]}), False, "cannot be reached .last heard of 3s ago.; the tunnel goes on"),
        (said({"problems": [AWAY], "heard_time": 0}, interface=None), False, "^registry cannot be reached$"),
        (said({"current": False}), True, "nobody's registration is current"),
        (said({"os_user": "ada", "standing": "revoked"}), False, "the registration of ada is revoked"),
        (
            said(asks_to_register=True, os_user="ben"),
            False,
            "ben has no registration on this machine: guardhouse login",
        ),
        (said(time=NOW - 3 * MINUTE), False, "has said nothing since 3m0s ago: restart it"),
    ],
)
def test_it_says_what_is_wrong_and_what_to_do(facts: dict[str, Any], ok: bool, sentence: str) -> None:
    found = judge(facts, NOW, is_running=True)
    assert found.ok == ok
    assert re.search(sentence, found.sentence), found.sentence


def test_an_agent_that_does_not_run_says_nothing() -> None:
    assert judge(None, NOW, is_running=False).sentence == "no agent has run here yet: guardhouse agent run"
    found = judge(SAID, NOW, is_running=False)
    assert not found.ok
    assert "not running: start it" in found.sentence
    assert rows(None) == []


def test_the_registrations_are_a_table() -> None:
    (row,) = rows(said({"os_user": "ada"}))
    assert dict(zip(HEADINGS, row, strict=True))["account"] == "ada"
    (row,) = rows(said({"pre_login": True, "registration_id": "", "ipv4": "", "ipv6": "", "heard_time": 0}))
    assert row == ("-", "login screen", "active", "yes", "-", "-", "-")

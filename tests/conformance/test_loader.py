"""The loader refuses what docs/conformance.md does not know: a case that is misread proves nothing."""

from pathlib import Path

import pytest

from tests.conformance.loader import FileInvalid, read

FILE = """
about: A file.
given:
  users:
    alice: {email: alice@example.com}
scenarios:
  - name: one
    source: decision 27
    registrations:
      laptop: {user: alice}
    policies:
      - {display_name: all, enabled: true, filter: POLICY_FILTER_L4, action: POLICY_ACTION_ALLOW}
    applications:
      - {display_name: wiki}
    checks:
      - name: first
        session: {registration: laptop, policy: all}
        expect: {decision: ALLOW, reason: NO_SESSION_LIMIT}
      - name: second
        application: {name: wiki, sign_in: {service_token: ci}}
        expect: {decision: BLOCK, reason: NO_POLICY_MATCHED}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    (scenario,) = read(written(tmp_path, FILE))
    check, of_application = scenario.steps[0].checks
    assert (scenario.name, check.name, check.time) == ("one", "first", scenario.now)
    assert (of_application.name, of_application.time) == ("second", scenario.now)
    assert check.expected == {"decision": "ALLOW", "reason": "NO_SESSION_LIMIT", "degraded": False}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("about: A file.", "about: A file.\nmore: of it"),
        ("given:\n", "given:\n  checks: []\n"),
        ("email: alice@example.com", "mail: alice@example.com"),
        ("email: alice@example.com", "email: a@example.com, email: b@example.com"),
        ("source: decision 27", "since: decision 27"),
        ("source: decision 27", "source: decision 27\n    max_staleness: 30"),
        ("{user: alice}", "{user: alice, status: ACTIVE}"),
        ("{user: alice}", "{user: bob}"),
        ("{user: alice}", "{user: alice, service_token: ci}"),
        ("{user: alice}", "{user: alice, state: GONE}"),
        ("laptop: {user", "unknown: {user"),
        ("display_name: all", "name: all"),
        ("display_name: all,", "display_name: all, precedence: low,"),
        ("POLICY_FILTER_L4", "POLICY_FILTER_L5"),
        ("- name: first", "- name: first\n        traffic: {registration: laptop, kind: CONNECTION}"),
        ("- name: first", "- name: first\n        when: 1h"),
        ("policy: all}", "policy: any}"),
        ("policy: all}", "policy: all, kind: REQUEST}"),
        ("decision: ALLOW", "decision: PERMIT"),
        ("reason: NO_SESSION_LIMIT", "reason: NO_LIMIT"),
        ("reason: NO_SESSION_LIMIT", "reason: NO_SESSION_LIMIT, time: 1h"),
        ("reason: NO_SESSION_LIMIT", "reason: NO_SESSION_LIMIT, policy: any"),
        ("{display_name: wiki}", "{display_name: wiki, owner: bob}"),
        ("{display_name: wiki}", "{display_name: wiki, identity_provider_ids: ['https://login.example.com']}"),
        ("{name: wiki,", "{name: vault,"),
        ("{name: wiki,", "{application: wiki,"),
        ("{name: wiki,", "{name: wiki, registration: laptop, address: 100.96.0.1,"),
        ("{service_token: ci}", "{}"),
        ("{service_token: ci}", "{service_token: ci, user: alice}"),
        ("{service_token: ci}", "{user: bob}"),
        ("{service_token: ci}", "{user: alice, issuer: 'https://login.example.com'}"),
        ("{service_token: ci}", "{service_token: ci, binding: true}"),
    ],
)
def test_what_is_not_in_the_format_is_refused(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in FILE
    with pytest.raises(FileInvalid):
        read(written(tmp_path, FILE.replace(right, wrong)))


@pytest.mark.parametrize("text", ["no", "off", "08:00", "12:30:45", "2026-01-01", "1_000"])
def test_texts_are_those_of_yaml_1_2(tmp_path: Path, text: str) -> None:
    """An older library takes them for truth values, times and numbers."""
    (scenario,) = read(written(tmp_path, FILE.replace("email: alice@example.com", f"display_name: {text}")))
    assert scenario.steps[0].identity[0].user.user.display_name == text

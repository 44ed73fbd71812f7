"""The decision on an application (decision 31): whose session is judged, which policy decides, and where it ends."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from guardhouse.applications import (
    MACHINE_DURATION,
    MAX_DURATION,
    ONCE,
    ONCE_WITHIN,
    Application,
    Device,
    DeviceSessionSettings,
    Outcome,
    Policy,
    PolicyDecision,
    Session,
    decide,
)
from guardhouse.decisions import (
    MAX_VALID_FOR,
    Decision,
    Profile,
    Reason,
    Registration,
    RegistrationState,
    User,
)
from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.replica import IdentityState
from guardhouse.rules import Client, Identity, Rule, RuleKind

THEN = 1_790_000_000_000_000
MAX_STALENESS = 30 * SECOND
MILLISECOND = 1000
SSO, OTHER_SSO = "idp_1", "idp_2"
ALLOW, BLOCK, REAUTHENTICATE = Decision

EVERYONE = Rule(RuleKind.EVERYONE)
ALL = Policy("Everyone", PolicyDecision.ALLOW, (EVERYONE,))
NOBODY = Policy("Nobody", PolicyDecision.BLOCK, (EVERYONE,))
MACHINES = Policy("Machines", PolicyDecision.SERVICE_AUTH, (Rule(RuleKind.ANY_SERVICE_TOKEN),))
ANYBODY = Policy("Anybody", PolicyDecision.BYPASS, (EVERYONE,))
WIKI = Application("app_1", session_duration=HOUR, policies=(ALL,))
ADA = User("usr_1", profile=Profile("Ada@Example.com", "Ada", ("staff",), ("department=engineering",)))
SESSION = Session("usr_1", "", SSO, THEN, 20, ADA)
OF_MACHINE = Session("", "svt_1", "", THEN, 20)
LAPTOP = Registration("reg_1", RegistrationState.ACTIVE, "usr_1", "", THEN, 20, 10)
DEVICE = Device(LAPTOP, ADA, SSO, ("disk",))
NO_DEVICES = DeviceSessionSettings()
DEVICES = DeviceSessionSettings(2 * HOUR, apply_by_default=True)


def judge(
    application: Application | None = WIKI,
    session: Session | None = SESSION,
    device: Device | None = None,
    settings: DeviceSessionSettings = NO_DEVICES,
    client: Client = Client(),  # noqa: B008  # it is immutable
    now: int = THEN + 1,
    **fields: Any,
) -> Outcome:
    staleness = fields.pop("staleness", 0)
    return decide(application, settings, device, session, client, now, staleness, MAX_STALENESS, **fields)


def check(*arguments: Any, **fields: Any) -> tuple[Decision, Reason]:
    verdict = judge(*arguments, **fields).verdict
    return verdict.decision, verdict.reason


def having(*policies: Policy, **fields: Any) -> Application:
    return replace(WIKI, policies=policies, **fields)


def test_rules_in_order_of_precedence() -> None:
    """Decision 31: each step repairs the rule that applied, and the next one shows. All faults are there at first."""
    expired, ada = THEN + HOUR, structs.replace(ADA, removed_revision=20, revoked_revision=20)
    session = SESSION._replace(user=ada)
    application = having(NOBODY, binding_cookie=True, identity_provider_ids=(OTHER_SSO,))
    revoked = Device(structs.replace(LAPTOP, state=RegistrationState.REVOKED), ADA)
    assert check(None, None, Device(None), now=expired, staleness=None) == (BLOCK, Reason.STATE_STALE)
    assert check(None, None, Device(None), now=expired, staleness=MAX_STALENESS + 1) == (BLOCK, Reason.STATE_STALE)
    assert check(None, None, Device(None), now=expired) == (BLOCK, Reason.APPLICATION_UNKNOWN)
    assert check(application, None, Device(None), now=expired) == (BLOCK, Reason.REGISTRATION_UNKNOWN)
    assert check(application, None, Device(LAPTOP, None), now=expired) == (BLOCK, Reason.REGISTRATION_UNKNOWN)
    assert check(application, None, Device(LAPTOP, ada), now=expired) == (BLOCK, Reason.USER_REMOVED)
    assert check(application, None, revoked, now=expired) == (BLOCK, Reason.REGISTRATION_REVOKED)
    assert check(application, None, now=expired) == (REAUTHENTICATE, Reason.NO_SESSION)
    assert check(application, session._replace(user=None), now=expired) == (REAUTHENTICATE, Reason.NO_SESSION)
    assert check(application, session, now=expired) == (REAUTHENTICATE, Reason.SESSION_NOT_BOUND)
    session = session._replace(bound=True)
    assert check(application, session, now=expired) == (BLOCK, Reason.USER_REMOVED)
    session = session._replace(user=structs.replace(ada, removed_revision=19))
    assert check(application, session, now=expired) == (REAUTHENTICATE, Reason.LOGIN_METHOD)
    application = replace(application, identity_provider_ids=(OTHER_SSO, SSO))
    assert check(application, session, now=expired) == (BLOCK, Reason.POLICY_BLOCK)
    assert check(replace(application, policies=()), session, now=expired) == (BLOCK, Reason.NO_POLICY_MATCHED)
    application = replace(application, policies=(ALL,))
    assert check(application, session, now=expired) == (REAUTHENTICATE, Reason.SESSION_REVOKED)
    session = session._replace(user=structs.replace(ADA, removed_revision=19, revoked_revision=19))
    assert check(application, session, now=expired) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    assert check(application, session) == (ALLOW, Reason.SESSION_FRESH)


def test_bypass_and_service_auth_come_first_and_then_the_first_match_decides() -> None:
    """Decision 31."""
    for session in (None, SESSION, OF_MACHINE):
        assert check(having(NOBODY, ANYBODY), session) == (ALLOW, Reason.POLICY_BYPASS)
    assert judge(having(ANYBODY)).verdict.session_expire_time is None
    assert judge(having(NOBODY, MACHINES, ANYBODY), OF_MACHINE).policy == "Machines"
    assert judge(having(NOBODY, ANYBODY, MACHINES), OF_MACHINE).policy == "Anybody"
    assert judge(having(ALL, NOBODY)).policy == "Everyone"
    assert judge(having(NOBODY, ALL)).policy == "Nobody"


def test_bypass_lets_anybody_in_and_sees_nobody() -> None:
    """Who they are changes nothing, so neither does a device that is revoked."""
    revoked = Device(structs.replace(LAPTOP, state=RegistrationState.REVOKED), ADA)
    assert check(having(ANYBODY), None, revoked) == (ALLOW, Reason.POLICY_BYPASS)
    staff = replace(ANYBODY, include=(Rule(RuleKind.GROUP, "staff"),))
    assert check(having(staff)) == (BLOCK, Reason.NO_POLICY_MATCHED)


def test_people_and_machines_meet_policies_of_their_own_only() -> None:
    """Decisions 12 and 31."""
    assert check(having(ALL), OF_MACHINE) == (BLOCK, Reason.NO_POLICY_MATCHED)
    assert check(having(MACHINES)) == (BLOCK, Reason.NO_POLICY_MATCHED)
    everyone = replace(MACHINES, include=(EVERYONE,))
    assert check(having(everyone)) == (BLOCK, Reason.NO_POLICY_MATCHED)
    assert check(having(everyone), OF_MACHINE) == (ALLOW, Reason.SESSION_FRESH)


@pytest.mark.parametrize(
    ("kind", "matching", "other"),
    [
        (RuleKind.EMAIL, "aDa@example.COM", "eve@example.com"),
        (RuleKind.EMAIL_DOMAIN, "EXAMPLE.com", "example.com.evil.org"),
        (RuleKind.EMAIL_DOMAIN, "@example.com", "ample.com"),
        (RuleKind.GROUP, "staff", "Staff"),
        (RuleKind.LOGIN_METHOD, SSO, OTHER_SSO),
        (RuleKind.IP_RANGE, "192.0.2.0/24", "192.0.3.0/24"),
        (RuleKind.IP_RANGE, "192.0.2.7", "::/0"),
        (RuleKind.COUNTRY, "de", "FR"),
        (RuleKind.OIDC_CLAIM, "department=engineering", "department=Engineering"),
        (RuleKind.POSTURE_CHECK, "disk", "firewall"),
    ],
)
def test_a_rule_matches_what_it_names(kind: RuleKind, matching: str, other: str) -> None:
    client = Client.of("::ffff:192.0.2.7", "De")
    for value, expected in ((matching, ALLOW), (other, BLOCK)):
        application = having(replace(ALL, include=(Rule(kind, value),)))
        assert judge(application, SESSION, DEVICE, client=client).verdict.decision is expected
    # What is not known does not match.
    unknown = SESSION._replace(user=User("usr_1"), identity_provider_id="")
    assert judge(having(replace(ALL, include=(Rule(kind, matching),))), unknown).verdict.decision is BLOCK


def test_include_is_an_or_require_an_and_exclude_a_not() -> None:
    """Decision 12."""
    staff, admins = Rule(RuleKind.GROUP, "staff"), Rule(RuleKind.GROUP, "admins")
    ada = Identity(groups=("staff",))
    policy = replace(ALL, include=(admins, staff))
    assert policy.matches(ada, Client(), ())
    assert not replace(policy, require=(staff, admins)).matches(ada, Client(), ())
    assert not replace(policy, exclude=(admins, staff)).matches(ada, Client(), ())
    assert not replace(policy, include=()).matches(ada, Client(), ())


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        Rule(RuleKind.IP_RANGE, "example.com")


def test_a_session_ends_to_the_microsecond() -> None:
    """The policy's duration, else the application's; nothing that began in the future proves a session."""
    longer = replace(ALL, session_duration=2 * HOUR)
    for application, duration in ((WIKI, HOUR), (having(longer), 2 * HOUR)):
        end = THEN + duration
        last = judge(application, now=end - 1).verdict
        assert (last.decision, last.session_expire_time, last.valid_for) == (ALLOW, end, 1)
        assert check(application, now=end) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    assert judge(now=THEN).verdict.valid_for == MAX_VALID_FOR
    assert check(now=THEN - 1) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    assert check(now=THEN - 1, signing_in=True) == (ALLOW, Reason.SESSION_FRESH)


def test_no_session_of_a_login_outlives_what_its_token_is_good_for() -> None:
    """A machine's ends after 15 minutes, because a service token that is revoked must stop."""
    for_ever = having(ALL, MACHINES, session_duration=10 * MAX_DURATION)
    for session, longest in ((SESSION, MAX_DURATION), (OF_MACHINE, MACHINE_DURATION)):
        assert check(for_ever, session, now=THEN + longest - 1) == (ALLOW, Reason.SESSION_FRESH)
        assert check(for_ever, session, now=THEN + longest) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)


def test_a_duration_of_nothing_means_every_time() -> None:
    """Decision 30: only signing in is let in, once, for a minute, by a sign-in that just happened."""
    every_time = replace(WIKI, session_duration=0)
    assert check(every_time, now=THEN) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    verdict = judge(every_time, now=THEN + MINUTE, signing_in=True).verdict
    assert (verdict.decision, verdict.session_expire_time, verdict.valid_for) == (ALLOW, THEN + MINUTE + ONCE, 0)
    late = THEN + ONCE_WITHIN
    assert check(every_time, now=late, signing_in=True) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)


def test_the_session_of_a_device_overrides_every_duration() -> None:
    """Decision 31: it decides whether there is a login or not, in both directions."""
    strict = having(replace(ALL, session_duration=0), session_duration=0)
    old = structs.replace(LAPTOP, authenticate_time=THEN - 2 * HOUR + 2)
    for session in (SESSION, None):
        outcome = judge(strict, session, DEVICE._replace(registration=old), DEVICES)
        assert (outcome.verdict.decision, outcome.of_device) == (ALLOW, True)
        assert outcome.verdict.session_expire_time == THEN + 2
        expired = judge(WIKI, session, DEVICE._replace(registration=old), DEVICES, now=THEN + 2)
        assert expired.verdict.reason is Reason.SESSION_EXPIRED


@pytest.mark.parametrize(
    ("application", "settings"),
    [
        (WIKI, NO_DEVICES),
        (WIKI, DeviceSessionSettings(2 * HOUR)),
        (WIKI, DeviceSessionSettings(None, apply_by_default=True)),
        (replace(WIKI, device_session=True), NO_DEVICES),
        (replace(WIKI, device_session=False), DEVICES),
        (replace(WIKI, device_session=True, binding_cookie=True), DEVICES),
        (having(ALL, MACHINES), DEVICES),
        (having(ALL, replace(ANYBODY, include=(Rule(RuleKind.COUNTRY, "FR"),)), device_session=True), DEVICES),
    ],
)
def test_the_session_of_a_device_is_enough_only_where_it_is_taken(
    application: Application, settings: DeviceSessionSettings
) -> None:
    """Decision 31."""
    assert check(application, None, DEVICE, settings) == (REAUTHENTICATE, Reason.NO_SESSION)


def test_an_application_overrides_the_default_of_device_sessions() -> None:
    """Decision 31."""
    application = replace(WIKI, device_session=True)
    assert check(application, None, DEVICE, DeviceSessionSettings(2 * HOUR)) == (ALLOW, Reason.SESSION_FRESH)


def test_the_device_of_a_machine_has_no_session_for_applications() -> None:
    device = Device(structs.replace(LAPTOP, user_id="", service_token_id="svt_1"))
    assert check(WIKI, None, device, DEVICES) == (REAUTHENTICATE, Reason.NO_SESSION)
    assert judge(WIKI, SESSION, device, DEVICES).verdict.decision is ALLOW


def test_a_device_of_another_provider_lets_another_sign_in_decide() -> None:
    application = replace(WIKI, identity_provider_ids=(OTHER_SSO,))
    assert check(application, None, DEVICE, DEVICES) == (REAUTHENTICATE, Reason.LOGIN_METHOD)
    elsewhere = SESSION._replace(identity_provider_id=OTHER_SSO)
    outcome = judge(application, elsewhere, DEVICE, DEVICES)
    assert (outcome.verdict.decision, outcome.of_device) == (ALLOW, False)


def test_a_device_that_is_revoked_uses_nothing_by_a_login_either() -> None:
    """Decision 16."""
    device = DEVICE._replace(registration=structs.replace(LAPTOP, state=RegistrationState.REVOKED))
    assert check(WIKI, SESSION, device) == (BLOCK, Reason.REGISTRATION_REVOKED)


def test_a_revocation_ends_the_session_of_a_device() -> None:
    """Decision 35."""
    device = DEVICE._replace(user=structs.replace(ADA, revoked_revision=20))
    assert check(WIKI, None, device, DEVICES) == (REAUTHENTICATE, Reason.SESSION_REVOKED)
    newer = device._replace(registration=structs.replace(LAPTOP, authenticate_revision=21))
    assert check(WIKI, None, newer, DEVICES) == (ALLOW, Reason.SESSION_FRESH)
    alone = DEVICE._replace(registration=structs.replace(LAPTOP, session_revoked=True))
    assert check(WIKI, None, alone, DEVICES) == (REAUTHENTICATE, Reason.SESSION_REVOKED)
    assert check(WIKI, SESSION, alone) == (ALLOW, Reason.SESSION_FRESH)


def test_no_answer_holds_longer_than_the_facts() -> None:
    assert judge(staleness=MAX_STALENESS - SECOND).verdict.valid_for == SECOND
    assert judge(None, staleness=MAX_STALENESS).verdict.valid_for == 0


def test_claims_come_by_the_feed_of_identity() -> None:
    state = IdentityState("org_1")
    user = identity.User(user_id="usr_1", oidc_claims=["department=engineering"])
    state.apply(identity.Event(user=identity.UserRecord(user=user)))
    profile = state.users["usr_1"].profile
    assert profile is not None
    assert profile.claims == ("department=engineering",)

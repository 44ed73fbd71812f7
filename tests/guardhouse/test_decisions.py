"""The decision on a session: which rule comes first, and where exactly a session ends."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from guardhouse.decisions import (
    MAX_VALID_FOR,
    Decision,
    Policy,
    PolicyAction,
    PolicyFilter,
    Reason,
    Registration,
    RegistrationState,
    User,
    Verdict,
    check_session,
)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
THEN = 1_790_000_000_000_000
MAX_STALENESS = 30 * SECOND

REGISTRATION = Registration("reg_1", RegistrationState.ACTIVE, "usr_1", "", THEN, 20, 10)
OF_TOKEN = structs.replace(REGISTRATION, user_id="", service_token_id="svt_1")
REVOKED = structs.replace(REGISTRATION, state=RegistrationState.REVOKED)
USER = User("usr_1")
POLICY = Policy("pol_1", True, PolicyFilter.L4, PolicyAction.ALLOW, HOUR)

ALLOW, BLOCK, REAUTHENTICATE = Decision


def check(
    registration: Registration | None = REGISTRATION,
    user: User | None = USER,
    policy: Policy | None = POLICY,
    now: int = THEN + 1,
) -> tuple[Decision, Reason]:
    verdict = check_session(registration, user, policy, now, 0, MAX_STALENESS)
    return verdict.decision, verdict.reason


def test_rules_in_order_of_precedence() -> None:
    """Decisions 5, 16, 28, 35 and 36: each step repairs the rule that applied, and the next one shows.

    The facts begin with every fault at once.
    """
    expired = THEN + 2 * HOUR
    user = User("usr_1", removed_revision=10, revoked_revision=20)
    policy = replace(POLICY, enabled=False, action=PolicyAction.BLOCK)
    assert check(None, None, None, expired) == (BLOCK, Reason.REGISTRATION_UNKNOWN)
    assert check(REVOKED, user, None, expired) == (BLOCK, Reason.POLICY_UNKNOWN)
    assert check(REVOKED, user, policy, expired) == (BLOCK, Reason.USER_REMOVED)
    assert check(REVOKED, None, policy, expired) == (BLOCK, Reason.REGISTRATION_UNKNOWN)
    user = structs.replace(user, removed_revision=0)
    assert check(REVOKED, user, policy, expired) == (BLOCK, Reason.REGISTRATION_REVOKED)
    assert check(REGISTRATION, user, policy, expired) == (BLOCK, Reason.POLICY_DISABLED)
    policy = replace(policy, enabled=True)
    assert check(REGISTRATION, user, policy, expired) == (BLOCK, Reason.POLICY_BLOCK)
    policy = replace(policy, action=PolicyAction.ALLOW)
    assert check(REGISTRATION, user, replace(policy, timeout=None), expired) == (ALLOW, Reason.NO_SESSION_LIMIT)
    assert check(REGISTRATION, user, policy, expired) == (REAUTHENTICATE, Reason.SESSION_REVOKED)
    user = structs.replace(user, revoked_revision=0)
    assert check(REGISTRATION, user, policy, expired) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    assert check(REGISTRATION, user, policy, THEN + 1) == (ALLOW, Reason.SESSION_FRESH)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (THEN - HOUR, (REAUTHENTICATE, Reason.SESSION_EXPIRED)),
        (THEN - 1, (REAUTHENTICATE, Reason.SESSION_EXPIRED)),
        (THEN, (ALLOW, Reason.SESSION_FRESH)),
        (THEN + 1, (ALLOW, Reason.SESSION_FRESH)),
        (THEN + HOUR - 1, (ALLOW, Reason.SESSION_FRESH)),
        (THEN + HOUR, (REAUTHENTICATE, Reason.SESSION_EXPIRED)),
        (THEN + HOUR + 1, (REAUTHENTICATE, Reason.SESSION_EXPIRED)),
    ],
)
@pytest.mark.parametrize("policy_filter", [PolicyFilter.L4, PolicyFilter.HTTP])
def test_a_session_is_fresh_for_exactly_its_timeout(
    policy_filter: PolicyFilter, now: int, expected: tuple[Decision, Reason]
) -> None:
    """Decision 28: ALLOW only if 0 <= now - authenticate_time < timeout, to the microsecond."""
    assert check(policy=replace(POLICY, filter=policy_filter), now=now) == expected


@pytest.mark.parametrize("timeout", [None, 1, HOUR])
def test_dns_is_never_affected(timeout: int | None) -> None:
    """Decision 28: neither by the timeout nor, having none, by a revoked user."""
    policy = replace(POLICY, filter=PolicyFilter.DNS, timeout=timeout)
    revoked = structs.replace(USER, revoked_revision=30)
    assert check(user=revoked, policy=policy, now=THEN + 2 * HOUR) == (ALLOW, Reason.NO_SESSION_LIMIT)
    assert check(registration=REVOKED, policy=policy) == (BLOCK, Reason.REGISTRATION_REVOKED)


@pytest.mark.parametrize("timeout", [1, HOUR, None])
def test_an_unlimited_policy_outlives_every_age(timeout: int | None) -> None:
    """Decision 28: no check_session is unlimited; any is not."""
    decision, _ = check(policy=replace(POLICY, timeout=timeout), now=THEN + 100 * 365 * 24 * HOUR)
    assert (decision is ALLOW) == (timeout is None)


@pytest.mark.parametrize(
    ("removed_revision", "reason"),
    [(0, Reason.SESSION_FRESH), (9, Reason.SESSION_FRESH), (10, Reason.USER_REMOVED), (11, Reason.USER_REMOVED)],
)
def test_a_removal_touches_what_was_authorized_before(removed_revision: int, reason: Reason) -> None:
    """Decision 5: at or before the removal's revision, and nothing that was enrolled after it."""
    assert check(user=User("usr_1", removed_revision=removed_revision))[1] is reason


@pytest.mark.parametrize(
    ("revoked_revision", "expected"),
    [
        (0, (ALLOW, Reason.SESSION_FRESH)),
        (19, (ALLOW, Reason.SESSION_FRESH)),
        (20, (REAUTHENTICATE, Reason.SESSION_REVOKED)),
        (21, (REAUTHENTICATE, Reason.SESSION_REVOKED)),
    ],
)
def test_a_revoked_user_authenticates_again(revoked_revision: int, expected: tuple[Decision, Reason]) -> None:
    """Decision 35: every enforced policy answers REAUTHENTICATE until the next authentication, and no other does."""
    user = User("usr_1", revoked_revision=revoked_revision)
    assert check(user=user) == expected
    assert check(user=user, policy=replace(POLICY, timeout=None)) == (ALLOW, Reason.NO_SESSION_LIMIT)
    again = structs.replace(REGISTRATION, authenticate_revision=revoked_revision + 1)
    assert check(registration=again, user=user) == (ALLOW, Reason.SESSION_FRESH)


@pytest.mark.parametrize(("registration", "user"), [(REGISTRATION, USER), (OF_TOKEN, None)])
def test_a_revoked_session_begins_anew(registration: Registration, user: User | None) -> None:
    """As decision 35 has it of all that a user has; of a machine's too."""
    revoked = structs.replace(registration, session_revoked=True)
    assert check(revoked, user) == (REAUTHENTICATE, Reason.SESSION_REVOKED)
    assert check(revoked, user, replace(POLICY, timeout=None)) == (ALLOW, Reason.NO_SESSION_LIMIT)


def test_a_registration_without_an_authentication_is_as_old_as_can_be() -> None:
    """Decision 27: without a known authentication there is nothing fresh, and no revocation to have come after it."""
    registration = structs.replace(REGISTRATION, authenticate_time=0, authenticate_revision=0)
    assert check(registration=registration) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)
    assert check(registration=structs.replace(registration, authorize_revision=0)) == (
        REAUTHENTICATE,
        Reason.SESSION_EXPIRED,
    )


def test_a_service_token_has_a_timer_and_no_user() -> None:
    """Decision 34: its registration's timer runs like any other."""
    assert check(OF_TOKEN, None) == (ALLOW, Reason.SESSION_FRESH)
    assert check(OF_TOKEN, None, now=THEN + HOUR) == (REAUTHENTICATE, Reason.SESSION_EXPIRED)


@pytest.mark.parametrize("timeout", [None, HOUR])
def test_a_registration_whose_owner_is_not_known_is_refused(timeout: int | None) -> None:
    """Decision 5: whether its user was removed cannot be told. Missing state refuses."""
    policy = replace(POLICY, timeout=timeout)
    assert check(REGISTRATION, None, policy) == (BLOCK, Reason.REGISTRATION_UNKNOWN)
    assert check(structs.replace(OF_TOKEN, service_token_id=""), None, policy) == (BLOCK, Reason.REGISTRATION_UNKNOWN)


@pytest.mark.parametrize("policy_filter", PolicyFilter)
@pytest.mark.parametrize("timeout", [None, HOUR])
def test_a_disabled_policy_allows_nothing(policy_filter: PolicyFilter, timeout: int | None) -> None:
    """Decision 28: disabling a policy is not a way to lift its timeout."""
    assert check(policy=replace(POLICY, enabled=False, filter=policy_filter, timeout=timeout)) == (
        BLOCK,
        Reason.POLICY_DISABLED,
    )


def test_the_answer_to_a_fresh_session() -> None:
    """Decision 36: a check is answered in full."""
    assert check_session(REGISTRATION, USER, POLICY, THEN + 1, 0, MAX_STALENESS) == Verdict(
        decision=ALLOW,
        reason=Reason.SESSION_FRESH,
        session_expire_time=THEN + HOUR,
        valid_for=MAX_VALID_FOR,
        degraded=False,
    )


def test_the_answers_to_what_is_not_known() -> None:
    """Decision 36: an unknown policy or registration is an answer for that item."""
    for registration, policy, reason in (
        (None, POLICY, Reason.REGISTRATION_UNKNOWN),
        (REGISTRATION, None, Reason.POLICY_UNKNOWN),
    ):
        verdict = check_session(registration, USER, policy, THEN, 0, MAX_STALENESS)
        assert verdict == Verdict(BLOCK, reason, None, MAX_VALID_FOR, False)


@pytest.mark.parametrize(
    ("policy", "now", "session_expire_time"),
    [
        (POLICY, THEN + HOUR - 1, THEN + HOUR),
        (POLICY, THEN + HOUR, THEN + HOUR),
        (replace(POLICY, timeout=None), THEN, None),
        (replace(POLICY, filter=PolicyFilter.DNS), THEN, None),
        (replace(POLICY, action=PolicyAction.BLOCK), THEN, None),
    ],
)
def test_the_end_of_a_session_is_told_where_one_was_judged(
    policy: Policy, now: int, session_expire_time: int | None
) -> None:
    """Decision 28: absent is unlimited, or not judged."""
    assert check_session(REGISTRATION, USER, policy, now, 0, MAX_STALENESS).session_expire_time == session_expire_time


@pytest.mark.parametrize(
    ("now", "left", "valid_for"),
    [
        (THEN, MAX_STALENESS, MAX_VALID_FOR),
        (THEN, MAX_VALID_FOR + 1, MAX_VALID_FOR),
        (THEN, MAX_VALID_FOR - 1, MAX_VALID_FOR - 1),
        (THEN, 0, 0),
        (THEN + HOUR - MAX_VALID_FOR - 1, MAX_STALENESS, MAX_VALID_FOR),
        (THEN + HOUR - MAX_VALID_FOR + 1, MAX_STALENESS, MAX_VALID_FOR - 1),
        (THEN + HOUR - 1, MAX_STALENESS, 1),
        (THEN + HOUR - 5, 3, 3),
        (THEN + HOUR, MAX_STALENESS, MAX_VALID_FOR),
    ],
)
def test_an_answer_is_valid_while_nothing_it_rests_on_ends(now: int, left: int, valid_for: int) -> None:
    """Decision 28: the least of ten seconds, what is left of the session, and what is left of the facts' freshness."""
    policy = replace(POLICY, timeout=HOUR)
    assert check_session(REGISTRATION, USER, policy, now, MAX_STALENESS - left, MAX_STALENESS).valid_for == valid_for
    # The same holds of what is left of max_open, once the facts are no longer fresh.
    policy = replace(policy, max_open=HOUR)
    verdict = check_session(REGISTRATION, USER, policy, now, HOUR - left, MAX_STALENESS)
    assert (verdict.valid_for, verdict.degraded) == (valid_for, True)


STALE = Verdict(BLOCK, Reason.STATE_STALE, None, 0, False)
MILLISECOND = 1_000


@pytest.mark.parametrize("max_open", [0, 10 * MINUTE, 24 * HOUR])
@pytest.mark.parametrize("off", [-MILLISECOND, -1, 0, 1, MILLISECOND])
def test_old_facts_decide_for_exactly_as_long_as_a_policy_is_open(max_open: int, off: int) -> None:
    """I-16, section 6.5: until max_staleness as ever, then degraded until max_open, and then no more; CLOSED is never
    open. The session's own end is not moved by that."""
    now, policy = THEN + 1, replace(POLICY, max_open=max_open, timeout=100 * HOUR)
    verdict = check_session(REGISTRATION, USER, policy, now, MAX_STALENESS + off, MAX_STALENESS)
    if off <= 0:
        assert (verdict.decision, verdict.valid_for, verdict.degraded) == (ALLOW, -off, False)
    elif max_open:
        assert (verdict.decision, verdict.valid_for, verdict.degraded) == (ALLOW, MAX_VALID_FOR, True)
    else:
        assert verdict == STALE
    if max_open:
        verdict = check_session(REGISTRATION, USER, policy, now, max_open + off, MAX_STALENESS)
        assert verdict == (STALE if off > 0 else (ALLOW, Reason.SESSION_FRESH, THEN + 100 * HOUR, -off, True))


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (THEN + HOUR - MILLISECOND, ALLOW),
        (THEN + HOUR - 1, ALLOW),
        (THEN + HOUR, REAUTHENTICATE),
        (THEN + HOUR + MILLISECOND, REAUTHENTICATE),
    ],
)
def test_a_session_ends_in_an_open_policy_as_in_any(now: int, decision: Decision) -> None:
    """Section 6.5: ALLOW only if the session is inside its timeout, which is arithmetic and needs no feed."""
    verdict = check_session(REGISTRATION, USER, replace(POLICY, max_open=24 * HOUR), now, 2 * HOUR, MAX_STALENESS)
    assert (verdict.decision, verdict.degraded) == (decision, True)


times = st.integers(THEN - 3 * HOUR, THEN + 3 * HOUR)
timeouts = st.integers(1, 3 * HOUR)
registrations = st.builds(
    Registration,
    registration_id=st.just("reg_1"),
    state=st.sampled_from(RegistrationState),
    user_id=st.sampled_from(["", "usr_1"]),
    service_token_id=st.sampled_from(["", "svt_1"]),
    authenticate_time=times,
    authenticate_revision=st.integers(0, 3),
    authorize_revision=st.integers(0, 3),
)
users = st.builds(User, st.just("usr_1"), st.integers(0, 3), st.integers(0, 3))
policies = st.builds(
    Policy,
    policy_id=st.just("pol_1"),
    enabled=st.booleans(),
    filter=st.sampled_from(PolicyFilter),
    action=st.sampled_from(PolicyAction),
    timeout=st.none() | timeouts,
    max_open=st.integers(0, 120).map(lambda minutes: minutes * MINUTE),
)


@given(registrations, st.none() | users, policies, times)
def test_never_allow_when_expired(registration: Registration, user: User | None, policy: Policy, now: int) -> None:
    """Decision 28: whatever else holds, an enforced timeout that has run out allows nothing."""
    assume(policy.timeout is not None and policy.filter is not PolicyFilter.DNS)
    verdict = check_session(registration, user, policy, now, 0, MAX_STALENESS)
    assert policy.timeout is not None
    if not 0 <= now - registration.authenticate_time < policy.timeout:
        assert verdict.decision is not ALLOW
    assert (verdict.reason is Reason.SESSION_FRESH) == (verdict.decision is ALLOW)


@given(registrations, st.none() | users, policies, times)
def test_only_what_is_in_order_is_allowed(
    registration: Registration, user: User | None, policy: Policy, now: int
) -> None:
    """Decisions 5 and 16: a removed user, a revoked registration and a missing owner never pass."""
    if check_session(registration, user, policy, now, 0, MAX_STALENESS).decision is ALLOW:
        assert registration.state is RegistrationState.ACTIVE
        assert policy.enabled
        assert policy.action is PolicyAction.ALLOW
        assert user is not None or (not registration.user_id and registration.service_token_id)
        assert user is None or not user.removed_revision or user.removed_revision < registration.authorize_revision


@given(times, timeouts, timeouts)
def test_shortening_a_timeout_acts_at_once(now: int, timeout: int, shorter: int) -> None:
    """Decision 28: a timeout is judged at check time, and a shorter one never allows more."""
    assume(shorter < timeout)
    before = check_session(REGISTRATION, USER, replace(POLICY, timeout=timeout), now, 0, MAX_STALENESS)
    after = check_session(REGISTRATION, USER, replace(POLICY, timeout=shorter), now, 0, MAX_STALENESS)
    assert (after.decision is ALLOW) == (before.decision is ALLOW and now - THEN < shorter)


@given(registrations, st.none() | users, policies, times, st.integers(0, 3 * HOUR))
def test_time_never_makes_a_session_fresh_again(
    registration: Registration, user: User | None, policy: Policy, now: int, later: int
) -> None:
    """Decision 27: from the authentication on, only another authentication turns a refusal into an answer to allow."""
    assume(now >= registration.authenticate_time)
    first = check_session(registration, user, policy, now, 0, MAX_STALENESS)
    second = check_session(registration, user, policy, now + later, 0, MAX_STALENESS)
    assert first.decision is ALLOW or second.decision is not ALLOW


ages = st.none() | st.integers(0, 1440).map(lambda five_seconds: five_seconds * 5 * SECOND)


@given(registrations, st.none() | users, policies, times, ages, st.floats(0, 1, exclude_max=True))
def test_an_answer_to_allow_holds_for_as_long_as_it_says(
    registration: Registration, user: User | None, policy: Policy, now: int, age: int | None, part: float
) -> None:
    """Decision 28: whoever reuses an answer within valid_for allows nothing that a new check would refuse."""
    verdict = check_session(registration, user, policy, now, age, MAX_STALENESS)
    assert 0 <= verdict.valid_for <= MAX_VALID_FOR
    if verdict.decision is ALLOW and verdict.valid_for:
        assert age is not None
        later = int(part * verdict.valid_for)
        again = check_session(registration, user, policy, now + later, age + later, MAX_STALENESS)
        assert again.decision is ALLOW


@given(st.none() | registrations, st.none() | users, st.none() | policies, times, ages)
def test_old_facts_allow_nothing_that_fresh_ones_refuse(
    registration: Registration | None, user: User | None, policy: Policy | None, now: int, age: int | None
) -> None:
    """I-16, section 6.5: what was never proven decides nothing, and what is too old decides as if it were fresh or not
    at all; never beyond max_open, and it says so."""
    verdict = check_session(registration, user, policy, now, age, MAX_STALENESS)
    fresh = check_session(registration, user, policy, now, 0, MAX_STALENESS)
    if age is None or age > max(MAX_STALENESS, policy.max_open if policy else 0):
        assert verdict == STALE
    else:
        assert verdict[:3] == fresh[:3]
        assert verdict.degraded == (age > MAX_STALENESS)
    assert not fresh.degraded


def test_values_are_those_of_the_contract() -> None:
    """Decision 36: the numbers go over the wire."""
    assert [decision.name for decision in sorted(Decision)] == ["ALLOW", "BLOCK", "REAUTHENTICATE"]
    assert [reason.name for reason in sorted(Reason)] == [
        "POLICY_ALLOW",
        "SESSION_FRESH",
        "NO_SESSION_LIMIT",
        "NO_POLICY_MATCHED",
        "POLICY_BLOCK",
        "SESSION_EXPIRED",
        "SESSION_REVOKED",
        "REGISTRATION_REVOKED",
        "REGISTRATION_UNKNOWN",
        "USER_REMOVED",
        "STATE_STALE",
        "POLICY_UNKNOWN",
        "POLICY_DISABLED",
        "SIGN_IN_HOST",
        "APPLICATION_UNKNOWN",
        "POLICY_BYPASS",
        "NO_SESSION",
        "SESSION_NOT_BOUND",
        "LOGIN_METHOD",
    ]
    assert [min(Decision), max(Decision), min(Reason), max(Reason)] == [1, 3, 1, 19]

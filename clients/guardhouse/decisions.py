"""The one decision on a registration's session, for the session server and the checker that is built into a gateway.

It is a pure function of replicated facts and a time. Times and durations are microseconds, times since the Unix epoch;
revisions are those of the identity service, which order an authentication against a revocation without comparing the
clocks of two machines. A refusal is an answer like any other, never an error (decision 36).

What a replica has a million of is a msgspec.Struct that Python's collector does not know (gc=False): the collector
would look at each, again and again, and everything else would wait. None of them may be in a cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from msgspec import Struct

MAX_VALID_FOR: Final = 10_000_000
"""The longest that a caller may reuse an answer: a revocation reaches callers that keep answers within this time."""


class Decision(IntEnum):
    """What to do with the traffic; the values of guardhouse.session.v1.Decision."""

    ALLOW = 1
    BLOCK = 2
    REAUTHENTICATE = 3


class Reason(IntEnum):
    """Why; the values of guardhouse.session.v1.DecisionReason."""

    POLICY_ALLOW = 1
    SESSION_FRESH = 2
    NO_SESSION_LIMIT = 3
    NO_POLICY_MATCHED = 4
    POLICY_BLOCK = 5
    SESSION_EXPIRED = 6
    SESSION_REVOKED = 7
    REGISTRATION_REVOKED = 8
    REGISTRATION_UNKNOWN = 9
    USER_REMOVED = 10
    STATE_STALE = 11
    POLICY_UNKNOWN = 12
    POLICY_DISABLED = 13
    SIGN_IN_HOST = 14
    APPLICATION_UNKNOWN = 15
    POLICY_BYPASS = 16
    NO_SESSION = 17
    SESSION_NOT_BOUND = 18
    LOGIN_METHOD = 19


class RegistrationState(IntEnum):
    ACTIVE = 1
    REVOKED = 2


class PolicyFilter(IntEnum):
    L4 = 1
    HTTP = 2
    DNS = 3


class PolicyAction(IntEnum):
    ALLOW = 1
    BLOCK = 2


class Profile(Struct, frozen=True, gc=False):
    """Who a user is, as the newest ID token said. Groups are whatever the provider gives: names, ids or addresses;
    claims, those that are kept of it, are `name=value`."""

    email: str
    display_name: str
    groups: tuple[str, ...]
    claims: tuple[str, ...] = ()


class Registration(Struct, gc=False):
    """What a replica knows of a registration. It belongs to a user or to a service token; the other id is empty.

    `authenticate_time` is that of the newest authentication made for this registration and `authenticate_revision` its
    revision; both are 0 while none is known, which is as old as can be. `authorize_revision` is the revision at which
    the enrollment was authorized. `session_revoked` says that the session was revoked at or after that authentication.
    """

    registration_id: str
    state: RegistrationState
    user_id: str
    service_token_id: str
    authenticate_time: int
    authenticate_revision: int
    authorize_revision: int
    session_revoked: bool = False


class User(Struct, gc=False):
    """What a replica knows of a user: the revisions of the newest removal and the newest revocation, 0 for never.

    A replica changes it in place, so whatever has been put together with it stays right.
    """

    user_id: str
    removed_revision: int = 0
    revoked_revision: int = 0
    profile: Profile | None = None
    issuer: str = ""
    """The identity provider's where the user signs in. No decision asks for it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a decision needs of a Gateway policy.

    `timeout` is the duration of its check_session; None, if it has none or does not enforce it, is unlimited.
    `max_open` is how old the facts may be for a decision when they are too old to count as fresh; 0 is CLOSED.
    """

    policy_id: str
    enabled: bool
    filter: PolicyFilter
    action: PolicyAction
    timeout: int | None
    max_open: int = 0


class Verdict(NamedTuple):
    """An answer.

    `session_expire_time` is when the session ends, or ended; it is None where no timeout was judged. `valid_for` is
    for how many microseconds the caller may reuse the answer: never past the end of the session. `degraded` says that
    the facts were too old to count as fresh, and the policy let them decide all the same.
    """

    decision: Decision
    reason: Reason
    session_expire_time: int | None
    valid_for: int
    degraded: bool


_PASSES: Final = Policy("", True, PolicyFilter.HTTP, PolicyAction.ALLOW, None)
"""What lets everybody pass who may pass anywhere."""

# Read once here, because reading a member from its enum costs a tenth of a decision each time.
_ALLOW, _BLOCK, _REAUTHENTICATE = Decision.ALLOW, Decision.BLOCK, Decision.REAUTHENTICATE
_ACTIVE, _DNS, _POLICY_ALLOWS = RegistrationState.ACTIVE, PolicyFilter.DNS, PolicyAction.ALLOW
_SESSION_FRESH, _NO_SESSION_LIMIT = Reason.SESSION_FRESH, Reason.NO_SESSION_LIMIT
# What Verdict(...) does, without its Python function, which would be a fifth of a decision.
_new = tuple.__new__


def check_session(
    registration: Registration | None,
    user: User | None,
    policy: Policy | None,
    now: int,
    staleness: int | None,
    max_staleness: int,
) -> Verdict:
    """Judge whether a registration's session is fresh enough for one policy.

    `user` is the registration's, and None for a service token's. `staleness` is how long ago the facts were last proven
    to be all that there is; None is never.

    The first that applies:
    - facts that were never proven, or longer than `max_staleness` ago: BLOCK, STATE_STALE, unless the policy's
      `max_open` reaches as far. Then the rest applies as ever, and the verdict is `degraded`: what the facts refuse or
      do not know is refused.
    - an unknown registration or policy: BLOCK. Missing state refuses.
    - a user removed at or after the enrollment's revision: BLOCK, whatever the registration's own state (decision 5).
    - a registration whose user is not known, or that has no owner: BLOCK, REGISTRATION_UNKNOWN. Users and registrations
      come by different feeds, and until the user's has arrived nobody can tell whether it was removed.
    - a registration that is not ACTIVE: BLOCK (decision 16).
    - a disabled policy: BLOCK. The caller enforces a policy that no longer holds, so what it knows is out of date; to
      allow would let switching a policy off lift its timeout. Whoever wants that removes check_session.
    - a policy whose action is not ALLOW: BLOCK.
    - a policy without a timeout, or for DNS: ALLOW (decision 28).
    - a session that was revoked, or a user at or after the newest authentication's revision: REAUTHENTICATE (decision
      35).
    - otherwise ALLOW if 0 <= now - authenticate_time < timeout, and REAUTHENTICATE if not. An authentication in the
      future comes from a clock that is wrong, and proves no freshness. The timeout is the policy's present one, so
      shortening it acts on sessions that exist (decision 28).
    """
    if staleness is None:
        return Verdict(_BLOCK, Reason.STATE_STALE, None, 0, False)
    left, degraded = max_staleness - staleness, False
    if left < 0:
        left, degraded = policy.max_open - staleness if policy is not None else left, True
        if left < 0:
            return Verdict(_BLOCK, Reason.STATE_STALE, None, 0, False)
    valid_for = min(MAX_VALID_FOR, left)
    if registration is None:
        return Verdict(_BLOCK, Reason.REGISTRATION_UNKNOWN, None, valid_for, degraded)
    if policy is None:
        return Verdict(_BLOCK, Reason.POLICY_UNKNOWN, None, valid_for, degraded)
    if user is None:
        if registration.user_id or not registration.service_token_id:
            return Verdict(_BLOCK, Reason.REGISTRATION_UNKNOWN, None, valid_for, degraded)
    elif user.removed_revision and user.removed_revision >= registration.authorize_revision:
        return Verdict(_BLOCK, Reason.USER_REMOVED, None, valid_for, degraded)
    if registration.state is not _ACTIVE:
        return Verdict(_BLOCK, Reason.REGISTRATION_REVOKED, None, valid_for, degraded)
    if not policy.enabled:
        return Verdict(_BLOCK, Reason.POLICY_DISABLED, None, valid_for, degraded)
    if policy.action is not _POLICY_ALLOWS:
        return Verdict(_BLOCK, Reason.POLICY_BLOCK, None, valid_for, degraded)
    timeout = policy.timeout
    if timeout is None or policy.filter is _DNS:
        return _new(Verdict, (_ALLOW, _NO_SESSION_LIMIT, None, valid_for, degraded))
    if registration.session_revoked or (
        user is not None and user.revoked_revision and user.revoked_revision >= registration.authenticate_revision
    ):
        return Verdict(_REAUTHENTICATE, Reason.SESSION_REVOKED, None, valid_for, degraded)
    authenticate_time = registration.authenticate_time
    expire_time = authenticate_time + timeout
    if not authenticate_time <= now < expire_time:
        return Verdict(_REAUTHENTICATE, Reason.SESSION_EXPIRED, expire_time, valid_for, degraded)
    if expire_time - now < valid_for:
        valid_for = expire_time - now
    return _new(Verdict, (_ALLOW, _SESSION_FRESH, expire_time, valid_for, degraded))


def check_traffic(
    registration: Registration | None,
    user: User | None,
    policies: Sequence[Policy],
    default: PolicyAction,
    now: int,
    staleness: int | None,
    max_staleness: int,
) -> tuple[Verdict, Policy | None]:
    """Judge a registration's traffic by the policies that decide on it, in order, and say which one's verdict it is.

    The first that does not allow has the word. If all allow, it is the one whose session ends first. Where no policy
    decides, the organization's `default` does (decision 29): NO_POLICY_MATCHED, once it is certain that the
    registration may pass anywhere.
    """
    strictest: tuple[Verdict, Policy] | None = None
    for policy in policies:
        verdict = check_session(registration, user, policy, now, staleness, max_staleness)
        if verdict.decision is not _ALLOW:
            return verdict, policy
        if strictest is None or _ends(verdict) < _ends(strictest[0]):
            strictest = verdict, policy
    if strictest is not None:
        return strictest
    verdict = check_anywhere(registration, user, Reason.NO_POLICY_MATCHED, now, staleness, max_staleness)
    if verdict.decision is _ALLOW and default is not _POLICY_ALLOWS:
        verdict = verdict._replace(decision=_BLOCK)
    return verdict, None


def check_anywhere(
    registration: Registration | None,
    user: User | None,
    reason: Reason,
    now: int,
    staleness: int | None,
    max_staleness: int,
) -> Verdict:
    """Judge whether a registration may pass where no policy has a say, for this reason."""
    verdict = check_session(registration, user, _PASSES, now, staleness, max_staleness)
    return verdict._replace(reason=reason) if verdict.decision is _ALLOW else verdict


def _ends(verdict: Verdict) -> float:
    return _NEVER if verdict.session_expire_time is None else verdict.session_expire_time


_NEVER: Final = float("inf")

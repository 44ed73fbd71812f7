"""The one decision on an Access application: who may use it, and whose session is young enough (decision 31).

It is a pure function of replicated facts and a time, as guardhouse.decisions is for registrations. Times and durations
are microseconds, times since the Unix epoch.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from guardhouse import rules
from guardhouse.decisions import MAX_VALID_FOR, Decision, Reason, Registration, User, Verdict, check_anywhere
from guardhouse.durations import HOUR, MINUTE
from guardhouse.rules import Client, Identity, Rule

DEFAULT_DURATION: Final = 24 * HOUR
MAX_DURATION: Final = 744 * HOUR
"""The longest that a session of LogIn is good for."""
MACHINE_DURATION: Final = 15 * MINUTE
"""The longest for a service token's: one that is revoked stops within this time."""
ONCE: Final = MINUTE
"""How long signing in is good for where every use asks for it, with a duration of 0."""
ONCE_WITHIN: Final = 5 * MINUTE
"""And how long ago the provider may have seen the person: as long as an ID token is accepted (decision 27)."""


class PolicyDecision(IntEnum):
    """What a policy does with whom it is for; the values of guardhouse.session.v1.ApplicationDecision."""

    ALLOW = 1
    BLOCK = 2
    SERVICE_AUTH = 3
    BYPASS = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """`include` is an OR, `require` an AND, `exclude` a NOT. Without a duration the application's holds."""

    display_name: str
    decision: PolicyDecision
    include: tuple[Rule, ...]
    require: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()
    session_duration: int | None = None

    def matches(self, who: Identity, client: Client, passed: tuple[str, ...]) -> bool:
        """Whether it is for somebody of the kind that its decision is about."""
        return rules.matches(self, who, client, passed)


@dataclass(frozen=True, slots=True)
class Application:
    """An application, with its policies in their order. Without identity providers people use any."""

    application_id: str
    display_name: str = ""
    description: str = ""
    session_duration: int = DEFAULT_DURATION
    policies: tuple[Policy, ...] = ()
    identity_provider_ids: tuple[str, ...] = ()
    binding_cookie: bool = False
    device_session: bool | None = None
    """None: as the settings say, where it can take the session of a device."""
    create_time: int = 0
    update_time: int = 0

    @property
    def can_take_devices(self) -> bool:
        """Whether the session of a device could be enough: it knows no binding cookie, and is about people only."""
        about_people = (PolicyDecision.ALLOW, PolicyDecision.BLOCK)
        return not self.binding_cookie and all(policy.decision in about_people for policy in self.policies)

    def takes(self, identity_provider_id: str) -> bool:
        """Whether people may use it who signed in with this provider."""
        return not self.identity_provider_ids or identity_provider_id in self.identity_provider_ids


@dataclass(frozen=True, slots=True)
class DeviceSessionSettings:
    """When the session of a device is enough. Without a duration it is for no application."""

    session_duration: int | None = None
    apply_by_default: bool = False
    update_time: int | None = None

    def duration_for(self, application: Application) -> int | None:
        """How old the session of a device may be for an application; None: it takes none."""
        asked = self.apply_by_default if application.device_session is None else application.device_session
        return self.session_duration if asked and application.can_take_devices else None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key for application tokens: since when it signs, and when it leaves the key set; None is not yet known."""

    key_id: str
    create_time: int
    sign_time: int
    expire_time: int | None = None


class Device(NamedTuple):
    """The registration that is used, None for one that is not known, its user, the provider that enrolled them, and the
    posture checks that it passed."""

    registration: Registration | None
    user: User | None = None
    identity_provider_id: str = ""
    passed: tuple[str, ...] = ()


class Session(NamedTuple):
    """What LogIn began, of a user or a service token, and the user as known now. `bound`: its binding came along.

    `authenticate_revision` is that of identity, as a registration has it. Who signs in for the first time has no id
    yet.
    """

    user_id: str
    service_token_id: str
    identity_provider_id: str
    authenticate_time: int
    authenticate_revision: int
    user: User | None = None
    bound: bool = False
    revoked: bool = False
    """By itself, as a device's may be."""


class Outcome(NamedTuple):
    """A verdict, the name of the policy that it is by, and whose session was judged, if one was."""

    verdict: Verdict
    policy: str = ""
    session: Session | None = None
    of_device: bool = False


def decide(
    application: Application | None,
    settings: DeviceSessionSettings,
    device: Device | None,
    session: Session | None,
    client: Client,
    now: int,
    staleness: int | None,
    max_staleness: int,
    signing_in: bool = False,
) -> Outcome:
    """Judge whether somebody may use an application (decision 31).

    `device` is None where none is named, `session` where none that is ours was sent. `signing_in` says that the session
    begins by this very question. The first that applies:

    - facts that are too old: BLOCK, STATE_STALE. An unknown application: BLOCK.
    - a BYPASS policy for the client's network or country that no SERVICE_AUTH policy for the machine precedes: ALLOW.
    - a device that is not known, is revoked, or whose user is removed: as in guardhouse.decisions, whichever session is
      judged.
    - the session of the device where the application takes it and a person has it, else that of LogIn. Where there is
      none, or it lacks its binding, or its provider is not the application's: REAUTHENTICATE. A user removed at or
      after its revision: BLOCK.
    - the policies, by what is known now: BLOCK unless the first that matches lets somebody in.
    - a device's session that was revoked, or a user at or after the session's revision: REAUTHENTICATE (decision 35).
    - a session older than the settings say for devices, the policy's, or the application's: REAUTHENTICATE. One that
      began in the future proves nothing, unless somebody is signing in: then two clocks differ.
    """
    if staleness is None or staleness > max_staleness:
        return Outcome(Verdict(Decision.BLOCK, Reason.STATE_STALE, None, 0, False))
    valid_for = min(MAX_VALID_FOR, max_staleness - staleness)

    def refuse(decision: Decision, reason: Reason, expire_time: int | None = None, policy: str = "") -> Outcome:
        return Outcome(Verdict(decision, reason, expire_time, valid_for, False), policy, judged, of_device)

    judged, of_device = session, False
    if application is None:
        return refuse(Decision.BLOCK, Reason.APPLICATION_UNKNOWN)
    device_duration = None
    refusal: tuple[Decision, Reason] | None = None
    if device is not None:
        usable = check_anywhere(device.registration, device.user, Reason.POLICY_ALLOW, now, staleness, max_staleness)
        if usable.decision is not Decision.ALLOW:
            refusal = usable.decision, usable.reason
        device_duration = settings.duration_for(application)
        if device_duration is not None and (own := _of_device(device)) is not None:
            # With a provider that the application does not take, the device has no session for it: whoever signs in
            # with another must not be asked for ever.
            of_device = session is None or application.takes(own.identity_provider_id)
            judged = own if of_device else session
    refusal = refusal or _lacks(application, judged, of_device)
    who = _identity(judged) if judged is not None and refusal is None else None
    passed = device.passed if device is not None else ()
    policy = _first(application, who, client, passed)
    if policy is not None and policy.decision is PolicyDecision.BYPASS:
        verdict = Verdict(Decision.ALLOW, Reason.POLICY_BYPASS, None, valid_for, False)
        return Outcome(verdict, policy.display_name, judged if refusal is None else None, of_device)
    if refusal is not None or judged is None:
        return refuse(*(refusal or _NO_SESSION))
    if policy is None:
        return refuse(Decision.BLOCK, Reason.NO_POLICY_MATCHED)
    name = policy.display_name
    if policy.decision is PolicyDecision.BLOCK:
        return refuse(Decision.BLOCK, Reason.POLICY_BLOCK, policy=name)
    if judged.revoked or (judged.user is not None and _ends(judged.user.revoked_revision, judged)):
        return refuse(Decision.REAUTHENTICATE, Reason.SESSION_REVOKED, policy=name)
    if of_device and device_duration is not None:
        duration = device_duration
    else:
        duration = application.session_duration if policy.session_duration is None else policy.session_duration
        duration = min(duration, MACHINE_DURATION if judged.service_token_id else MAX_DURATION)
    began = judged.authenticate_time
    expire_time = began + duration
    if signing_in and duration == 0 and now - began < ONCE_WITHIN:
        # The answer is for this once, and may not be given again.
        expire_time, valid_for = now + ONCE, 0
    if now >= expire_time or (began > now and not signing_in):
        return refuse(Decision.REAUTHENTICATE, Reason.SESSION_EXPIRED, expire_time, name)
    valid_for = min(valid_for, expire_time - now)
    verdict = Verdict(Decision.ALLOW, Reason.SESSION_FRESH, expire_time, valid_for, False)
    return Outcome(verdict, name, judged, of_device)


_NO_SESSION: Final = Decision.REAUTHENTICATE, Reason.NO_SESSION


def _of_device(device: Device) -> Session | None:
    """A person's session; a machine's device has none."""
    registration = device.registration
    if registration is None or not registration.user_id:
        return None
    return Session(
        registration.user_id,
        "",
        device.identity_provider_id,
        registration.authenticate_time,
        registration.authenticate_revision,
        device.user,
        revoked=registration.session_revoked,
    )


def _lacks(application: Application, session: Session | None, of_device: bool) -> tuple[Decision, Reason] | None:
    """Why a session is none for the application, whatever its policies and its age."""
    if session is None or (session.user is None and not session.service_token_id):
        # Without the user nobody can tell who it is, or whether it was removed.
        return _NO_SESSION
    if application.binding_cookie and not session.bound:
        return Decision.REAUTHENTICATE, Reason.SESSION_NOT_BOUND
    user = session.user
    # A device's user was judged by the enrollment's revision.
    if user is not None and not of_device and _ends(user.removed_revision, session):
        return Decision.BLOCK, Reason.USER_REMOVED
    if user is not None and not application.takes(session.identity_provider_id):
        return Decision.REAUTHENTICATE, Reason.LOGIN_METHOD
    return None


def _ends(revision: int, session: Session) -> bool:
    """Whether a removal or revocation, 0 for none, ends a session: as ever it is by revisions, not by clocks."""
    return revision != 0 and revision >= session.authenticate_revision


def _identity(session: Session) -> Identity:
    profile = session.user.profile if session.user is not None else None
    if profile is None:
        return Identity(session.service_token_id, identity_provider_id=session.identity_provider_id)
    return Identity("", profile.email, profile.groups, profile.claims, session.identity_provider_id)


def _first(application: Application, who: Identity | None, client: Client, passed: tuple[str, ...]) -> Policy | None:
    """The policy that decides: BYPASS and SERVICE_AUTH come before ALLOW and BLOCK, each in the application's order."""
    latter = (PolicyDecision.ALLOW, PolicyDecision.BLOCK)
    for policy in sorted(application.policies, key=lambda it: it.decision in latter):
        match policy.decision:
            case PolicyDecision.BYPASS:
                matches = policy.matches(Identity(), client, ())
            case PolicyDecision.SERVICE_AUTH:
                matches = who is not None and bool(who.service_token_id) and policy.matches(who, client, passed)
            case _:
                matches = who is not None and not who.service_token_id and policy.matches(who, client, passed)
        if matches:
            return policy
    return None

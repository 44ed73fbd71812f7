"""What a replica knows of registrations, from the registry's feed."""

from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

from guardhouse.decisions import MAX_VALID_FOR, Policy, Profile, Registration, RegistrationState, User, Verdict
from guardhouse.durations import SECOND
from guardhouse.expressions import POSTURE_AGE, Traffic, identity_facts
from guardhouse.policies import NEVER, PolicySet
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica.arrivals import Arrivals
from guardhouse.replica.people import Authentication
from guardhouse.replica.sharing import shared
from guardhouse.times import from_timestamp

_MAPPED: Final = bytes(10) + b"\xff\xff"
_ALWAYS: Final = 0, NEVER
_ACTIVE, _REVOKED = RegistrationState.ACTIVE, RegistrationState.REVOKED

Posture = tuple[tuple[str, ...], tuple[str, ...], int | None] | None
"""The checks that the device passed and failed, and when it said so, if it did."""
Asked = Policy | tuple[Policy, ...]
"""The policy that a session was checked for, or those that decided on traffic."""


class Subject(Registration, eq=False, gc=False):
    """A registration with its newest authentication and its user, once a check has put them together, and with the
    newest answer that allowed it something.

    They come by different feeds, in any order, so only a check finds them all. Finding a user among a million costs as
    much as all the rest of a decision.
    """

    # First what every check reads: among a million, most of what a check takes is memory that is not in a cache.
    authentication: Authentication | None = None
    """The one that is taken into account."""
    user: User | None = None
    users: dict[str, User] | None = None
    """Among whom the user was found. A snapshot of identity replaces them all."""
    asked: Asked | None = None
    """What the newest answer that is kept was asked about. It follows from that, from what is here, and from `removed`
    and `revoked`; see `until` for how long."""
    removed: int = 0
    revoked: int = 0
    """The user's removed_revision and revoked_revision, -1 for no user."""
    answer: Any = None
    """What is kept, as the checker answers it, or in the server's `form` of it, as it sends it."""
    form: object = None
    allowed_by: Policy | None = None
    """The policy whose verdict it is."""
    mask: int = 0
    """The policies whose identity and device posture hold."""
    matched: PolicySet | None = None
    """Of which `mask` is."""
    matched_profile: Profile | None = None
    unchanged: tuple[int, int] = _ALWAYS
    """The times between which `mask` is right if nothing happens, the second excluded."""
    enroll_time: int = 0
    ipv4: bytes = b""
    """In network byte order; empty for one that is none."""
    ipv6: bytes = b""
    token_hash: bytes = b""
    """SHA-256 of the token that its device calls with."""
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    report_time: int | None = None
    """When the device said which checks it passed and failed, if it did."""

    @property
    def posture(self) -> Posture:
        return None if self.report_time is None else (self.passed, self.failed, self.report_time)

    def copy(self) -> Registration:
        """What it is now, for who waits while holding it."""
        return Registration(
            self.registration_id,
            self.state,
            self.user_id,
            self.service_token_id,
            self.authenticate_time,
            self.authenticate_revision,
            self.authorize_revision,
            self.session_revoked,
        )

    def join(self, users: dict[str, User]) -> User | None:
        """The user, if there is one and it has come."""
        if self.users is not users:
            self.user = user = users.get(self.user_id)
            self.users = None
            if user is not None:
                self.users = users
                # One text for both.
                self.user_id = user.user_id
        return self.user

    def renew(self, authentication: Authentication | None) -> None:
        """Takes this for the newest authentication, unless the enrollment is newer by identity's revision."""
        self.authentication = authentication
        if authentication is not None and authentication.revision >= self.authorize_revision:
            self.authenticate_time, self.authenticate_revision = authentication.time, authentication.revision
        else:
            self.authenticate_time, self.authenticate_revision = self.enroll_time, self.authorize_revision
        revoked = authentication.revoked_revision if authentication is not None else 0
        self.session_revoked = revoked != 0 and revoked >= self.authenticate_revision
        self.asked = None

    def who(self, policies: PolicySet, users: dict[str, User], now: int) -> int:
        """The policies whose identity and device posture hold, asked once for as long as nothing of it changes."""
        user = self.user if self.users is users else self.join(users)
        profile = user.profile if user is not None else None
        since, until = self.unchanged
        if self.matched is not policies or self.matched_profile is not profile or not since <= now < until:
            mask = policies.identity_mask(identity_facts(profile))
            self.mask = mask and mask & policies.posture_mask(posture_facts(self.posture, now))
            self.matched, self.matched_profile = policies, profile
            self.unchanged = self._span(policies, now)
        return self.mask

    def keep(
        self,
        asked: Asked,
        verdict: Verdict,
        policy: Policy,
        removed: int,
        revoked: int,
        answer: Any,
        form: object = None,
    ) -> None:
        """Keeps the answer that a verdict of this policy is, which allows, by facts that are fresh."""
        is_limited = verdict.session_expire_time is not None
        if verdict.valid_for == MAX_VALID_FOR and is_limited is (policy.timeout is not None):
            self.asked, self.allowed_by, self.removed, self.revoked = asked, policy, removed, revoked
            self.answer, self.form = answer, form

    def until(self) -> int:
        """How long what is kept is the answer: within MAX_VALID_FOR of a session's end no two are the same."""
        timeout = self.allowed_by.timeout if self.allowed_by is not None else None
        return NEVER if timeout is None else self.authenticate_time + timeout - MAX_VALID_FOR

    def _span(self, policies: PolicySet, now: int) -> tuple[int, int]:
        if (time := self.report_time) is None or not policies.asks_for_age:
            return _ALWAYS
        return now, min(NEVER, time + policies.next_age(_age(time, now)) * SECOND)


def _subject(record: registry.RegistrationRecord, registration_id: str, addresses: tuple[bytes, bytes]) -> Subject:
    """Its timer is that of the enrollment. A state that a newer registry may know refuses, as REVOKED does."""
    of = record.registration
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    report_time: int | None = None
    if record.HasField("posture"):
        posture = record.posture
        passed, failed = shared(tuple(posture.passed)), shared(tuple(posture.failed))
        # A registry that does not say when it was reported says since when it is so, which is longer ago.
        reported = posture.report_time if posture.HasField("report_time") else posture.change_time
        report_time = from_timestamp(reported)
    enroll_time, authorize_revision = from_timestamp(record.authenticate_time), record.authorize_revision
    return Subject(
        registration_id,
        _ACTIVE if of.state == registry.REGISTRATION_STATE_ACTIVE else _REVOKED,
        of.user_id,
        of.service_token_id,
        enroll_time,
        authorize_revision,
        authorize_revision,
        enroll_time=enroll_time,
        ipv4=addresses[0],
        ipv6=addresses[1],
        token_hash=record.token_hash,
        passed=passed,
        failed=failed,
        report_time=report_time,
    )


class RegistryState:
    """One organization's part of the registry's feed."""

    def __init__(self, organization_id: str) -> None:
        self.organization_id = organization_id
        self.registrations: dict[str, Subject] = {}
        self.arrivals = Arrivals()
        self.holders: dict[bytes, str] = {}
        """The registration that holds an address. It is the same for a registration's whole life."""

    def apply(self, event: registry.Event) -> None:
        match event.WhichOneof("kind"):
            case "registration":
                record = event.registration
                registration_id = record.registration.registration_id
                before = self.registrations.get(registration_id)
                if before is not None:
                    addresses = before.ipv4, before.ipv6
                    # The text that is the key already.
                    registration_id = before.registration_id
                else:
                    addresses = _addresses(record.registration)
                    for address in filter(None, addresses):
                        self.holders[address] = registration_id
                    self.arrivals.note(registration_id)
                self.registrations[registration_id] = _subject(record, registration_id, addresses)
            case "registration_deleted":
                gone = self.registrations.pop(event.registration_deleted, None)
                for address in (gone.ipv4, gone.ipv6) if gone is not None else ():
                    # Another may hold it already: the events of two registrations come in no order.
                    if self.holders.get(address) == event.registration_deleted:
                        del self.holders[address]

    def holder(self, address: str) -> Subject | None:
        """Whoever holds an address, in any of its forms. Raises OSError for what is none."""
        registration_id = self.holders.get(_packed(address))
        return self.registrations.get(registration_id) if registration_id is not None else None


def posture_facts(posture: Posture, now: int) -> Traffic:
    """What `device_posture` asks about, at a time."""
    if posture is None:
        return {}
    passed, failed, time = posture
    facts = {"device_posture.checks.passed": passed, "device_posture.checks.failed": failed}
    return facts if time is None else {**facts, POSTURE_AGE: _age(time, now)}


def _age(time: int, now: int) -> int:
    """In seconds. What was said a moment ago by another machine's clock may lie ahead."""
    return max(0, now - time) // SECOND


def _addresses(of: registry.Registration) -> tuple[bytes, bytes]:
    return inet_pton(AF_INET, of.ipv4) if of.ipv4 else b"", inet_pton(AF_INET6, of.ipv6) if of.ipv6 else b""


def _packed(address: str) -> bytes:
    if ":" not in address:
        return inet_pton(AF_INET, address)
    packed = inet_pton(AF_INET6, address)
    # As a socket that listens to both families says IPv4 (RFC 4291, section 2.5.5.2).
    return packed[12:] if packed.startswith(_MAPPED) else packed

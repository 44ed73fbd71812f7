"""What a replica knows of registrations, from the registry's feed."""

from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

from guardhouse.decisions import Profile, Registration, RegistrationState, User
from guardhouse.durations import SECOND
from guardhouse.expressions import POSTURE_AGE, Traffic
from guardhouse.policies import NEVER, PolicySet
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.replica.people import identity_facts
from guardhouse.times import from_timestamp

_MAPPED: Final = bytes(10) + b"\xff\xff"

Kept = tuple[int, int, tuple[Any, ...], Any]
"""An answer in its final form, which holds from a time up to another, both included, as long as what it follows from is
the same."""
Addresses = tuple[bytes, bytes]
"""IPv4 and IPv6, in network byte order; empty for one that is none."""
Posture = tuple[tuple[str, ...], tuple[str, ...], int | None] | None
"""The checks that the device passed and failed, and when it said so, if it did."""
Matching = tuple[PolicySet, Profile | None, int]
"""What a mask was made of, and the mask."""


class Subject:
    """A registration, and its user once a check has put the two together.

    Finding a user among a million costs as much as all the rest of a decision.
    """

    __slots__ = (
        *("addresses", "kept", "matching", "posture", "registration", "token_hash"),
        *("unchanged_since", "unchanged_until", "user", "users"),
    )

    def __init__(self, registration: Registration, token_hash: bytes, addresses: Addresses, posture: Posture) -> None:
        self.registration = registration
        self.token_hash = token_hash
        """SHA-256 of the token that its device calls with."""
        self.addresses = addresses
        self.posture = posture
        self.kept: Kept | None = None
        """The newest answer that allows it something."""
        self.matching: Matching | None = None
        self.unchanged_since, self.unchanged_until = 0, NEVER
        """The times between which `matching` is right if nothing happens, the second excluded."""
        self.user: User | None = None
        self.users: dict[str, User] | None = None
        """Among whom the user was found. A snapshot of identity replaces them all."""

    def join(self, users: dict[str, User]) -> User | None:
        """The user, if there is one and it has come."""
        if self.users is not users:
            self.user = users.get(self.registration.user_id)
            self.users = users if self.user is not None else None
        return self.user

    def who(self, policies: PolicySet, users: dict[str, User], now: int) -> int:
        """The policies whose identity and device posture hold, asked once for as long as nothing of it changes."""
        user = self.user if self.users is users else self.join(users)
        profile = user.profile if user is not None else None
        matching = self.matching
        if (
            matching is None
            or matching[0] is not policies
            or matching[1] is not profile
            or not self.unchanged_since <= now < self.unchanged_until
        ):
            identity_mask = policies.identity_mask(identity_facts(profile))
            mask = identity_mask and identity_mask & policies.posture_mask(posture_facts(self.posture, now))
            self.matching = matching = policies, profile, mask
            self.unchanged_since, self.unchanged_until = self._span(policies, now)
        return matching[2]

    def _span(self, policies: PolicySet, now: int) -> tuple[int, int]:
        posture = self.posture
        if posture is None or (time := posture[2]) is None or not policies.asks_for_age:
            return 0, NEVER
        return now, min(NEVER, time + policies.next_age(_age(time, now)) * SECOND)


class RegistryState:
    """One organization's part of the registry's feed."""

    def __init__(self, organization_id: str) -> None:
        self.organization_id = organization_id
        self.registrations: dict[str, Subject] = {}
        self.holders: dict[bytes, str] = {}
        """The registration that holds an address. It is the same for a registration's whole life."""

    def apply(self, event: registry.Event) -> None:
        match event.WhichOneof("kind"):
            case "registration":
                record = event.registration
                registration = _registration(record)
                registration_id = registration.registration_id
                before = self.registrations.get(registration_id)
                addresses = _addresses(record.registration) if before is None else before.addresses
                posture = None
                if record.HasField("posture"):
                    posture = _posture(record.posture)
                self.registrations[registration_id] = Subject(registration, record.token_hash, addresses, posture)
                if before is None:
                    for address in addresses:
                        self.holders[address] = registration_id
            case "registration_deleted":
                gone = self.registrations.pop(event.registration_deleted, None)
                for address in gone.addresses if gone is not None else ():
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


def _posture(of: registry.DevicePosture) -> Posture:
    """A registry that does not say when it was reported says since when it is so, which is longer ago."""
    reported = of.report_time if of.HasField("report_time") else of.change_time
    return tuple(of.passed), tuple(of.failed), from_timestamp(reported)


def _addresses(of: registry.Registration) -> Addresses:
    return inet_pton(AF_INET, of.ipv4) if of.ipv4 else b"", inet_pton(AF_INET6, of.ipv6) if of.ipv6 else b""


def _packed(address: str) -> bytes:
    if ":" not in address:
        return inet_pton(AF_INET, address)
    packed = inet_pton(AF_INET6, address)
    # As a socket that listens to both families says IPv4 (RFC 4291, section 2.5.5.2).
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _registration(record: registry.RegistrationRecord) -> Registration:
    """Its timer is that of the enrollment. A state that a newer registry may know refuses, as REVOKED does."""
    of, revision = record.registration, record.authorize_revision
    active = of.state == registry.REGISTRATION_STATE_ACTIVE
    state = RegistrationState.ACTIVE if active else RegistrationState.REVOKED
    # By position, which takes half the time: a follower makes one for every event.
    return Registration(
        of.registration_id,
        state,
        of.user_id,
        of.service_token_id,
        from_timestamp(record.authenticate_time),
        revision,
        revision,
    )

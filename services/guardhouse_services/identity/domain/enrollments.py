"""Enrollments as identity sees them: what an intent has reserved, and the registrations that came of them."""

from dataclasses import dataclass
from enum import IntEnum

from guardhouse_services.identity.domain.credentials import NOBODY, Profile


class IntentState(IntEnum):
    """RESERVED becomes one of the others, REMOVED becomes CANCELLED, and HELD and CANCELLED stay."""

    RESERVED = 1
    """Authorized; what becomes of it is the registry's to decide. Its user's seat is counted."""
    HELD = 2
    """It became a registration, and its user holds a seat for good."""
    CANCELLED = 3
    """It is off for good, and refused from now on."""
    REMOVED = 4
    """Its user was removed meanwhile; whether a registration came of it is not known yet. It has no seat."""


UNDECIDED = (IntentState.RESERVED, IntentState.REMOVED)
"""What becomes of such an intent is still the registry's to tell."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One attempt to enroll; its id is the registration id that comes of it. A user's or a service token's."""

    intent_id: str
    state: IntentState
    create_time: int
    ask_time: int | None = None
    """From when on the registry is asked what has become of it; None: that is known."""
    user_id: str = ""
    service_token_id: str = ""
    enrollment_policy_id: str = ""
    profile: Profile = NOBODY
    authenticate_time: int = 0
    authorize_revision: int = 0
    """A removal at or behind this revision hits the enrollment."""
    expire_after: int | None = None
    """How long the registration may be silent. None: for ever."""

    @property
    def is_undecided(self) -> bool:
        return self.state in UNDECIDED

    @property
    def refused(self) -> bool:
        return self.state in (IntentState.CANCELLED, IntentState.REMOVED)


@dataclass(frozen=True, slots=True)
class Registration:
    """What identity keeps of a registration of the registry's."""

    registration_id: str
    user_id: str = ""
    service_token_id: str = ""
    authorize_revision: int = 0
    """0: only its end was seen."""
    authenticate_time: int = 0
    """Of the enrollment."""
    lease_id: str = ""
    delete_time: int | None = None
    release_time: int | None = None
    """When its addresses were given back, or handed over to the registration that replaced it."""
    enrollment_policy_id: str = ""
    """The policy that admitted it; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """The newest authentication for a registration after its enrollment."""

    registration_id: str
    authenticate_time: int
    """0, at revision 0: there was none."""
    revision: int
    revoked_revision: int = 0
    """The revision at which the registration's session was revoked last. 0: never."""

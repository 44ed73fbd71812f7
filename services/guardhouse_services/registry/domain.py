"""What the registry knows, and the rules that need nothing else."""

from dataclasses import dataclass
from enum import StrEnum

from guardhouse.errors import (
    DeviceHeldByAnotherRegistration,
    DeviceHeldByAnotherUser,
    EnrollmentAborted,
    GuardhouseError,
    UserRemoved,
)

SECOND = 1_000_000
DEADLINE = 30 * SECOND
"""How long an enrollment may stay undecided."""
KEEP_ENDED = 25 * 3600 * SECOND
"""How long an aborted or deleted registration is remembered: longer than a request may be repeated."""


class State(StrEnum):
    """Of a registration. PENDING is an enrollment under way; the last two are remembered for a while, never listed."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"
    ABORTED = "ABORTED"
    DELETED = "DELETED"


LIVE = (State.PENDING, State.ACTIVE, State.REVOKED)
"""States that hold their key."""
LISTED = (State.ACTIVE, State.REVOKED)
"""States that callers see."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a device says about itself."""

    hardware_id: str
    display_name: str
    platform: int
    os_version: str
    client_version: str
    serial_number: str
    model: str
    manufacturer: str


@dataclass(frozen=True, slots=True)
class Device:
    """A machine. `create_time` is None until an enrollment on it succeeds; such a device is never listed."""

    organization_id: str
    device_id: str
    claims: Claims
    create_time: int | None
    active_registrations: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a registration is: a user or a service token; the other is empty."""

    user_id: str = ""
    service_token_id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """A pair of addresses, as ipam reserved it."""

    lease_id: str = ""
    ipv4: str = ""
    ipv6: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What identity answered to an enrollment."""

    holder: Holder
    authenticate_time: int
    authorize_revision: int
    identity_token: str


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration, or the intent of one. Times are microseconds since the Unix epoch."""

    organization_id: str
    registration_id: str
    device_id: str
    state: State
    key_type: int
    public_key: bytes
    request_id: str
    fingerprint: bytes
    deadline: int
    holder: Holder = Holder()
    lease: Lease = Lease()
    authenticate_time: int = 0
    authorize_revision: int = 0
    identity_token: str = ""
    token_hash: bytes = b""
    create_time: int | None = None
    revoke_time: int | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """The newest removal and revocation of a user's registrations that the registry knows, as revisions of identity."""

    removed_revision: int = 0
    revoked_revision: int = 0

    def check(self, authorize_revision: int) -> None:
        """Refuses an enrollment that was authorized before the user was removed or revoked."""
        if self.removed_revision >= authorize_revision:
            raise UserRemoved("the user was removed while enrolling; enroll again if that is still allowed")
        if self.revoked_revision >= authorize_revision:
            raise EnrollmentAborted("the user's registrations were revoked while enrolling; try again")


def held(present: Registration, user_id: str) -> GuardhouseError:
    """Why a registration of the user cannot become active on a device where `present` is (decision 18)."""
    if present.holder.user_id == user_id:
        return DeviceHeldByAnotherRegistration(
            "the user has a newer active registration on this device; delete that one first",
            registration_id=present.registration_id,
        )
    return DeviceHeldByAnotherUser(
        "another user's registration is active on this device; an admin can revoke or delete it",
        device_id=present.device_id,
    )
